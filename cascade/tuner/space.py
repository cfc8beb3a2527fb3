"""Which cascades to try: stated in a YAML file, or derived from what was recorded.

::

    version: 1
    retrievers: [[bm25], [bm25, dense]]      # each list one choice; several are fused
    retrieve: [100, 400]                     # top_k of each fused retriever
    fusions: [{method: rrf}, {method: weighted, normalise: min_max}]
    rerankers: [[], [colbert], [colbert, cross-encoder]]
    depths: [10, 20, 50, 100, 200]           # documents that a reranker receives, falling along a chain
    budgets_ms: [null, 50]                   # of the whole query
    stage_budgets_ms: {colbert: [null, 20]}  # of single rerankers, under a budget of the whole query
    slack: [carry, drop]                     # matters where stages have budgets of their own
    on_overrun: [partial, skip]
    top_k: 10                                # documents of an answer, at most

Names are those of recorded stages. What is left out is derived.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import ConfigError, InputError, Problem
from cascade.explain import explain
from cascade.load import read_yaml
from cascade.planner import plan
from cascade.registry import Registry
from cascade.schema import CascadeConfig, CascadeSettings, Slack, StageEntry
from cascade.stage import OnOverrun, StageSettings, Work
from cascade.tuner.format import RecordedUnit
from cascade.tuner.point import First, Limits, Point
from cascade.tuner.recording import ACTION, Recording
from cascade.tuner.stages import Meter, RecordedCollection, find_unit, open_recorded
from cascade.yamltree import parse_yaml, render

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
RETRIEVE = (100, 200, 400, 1000)
LONGEST_CHAIN = 3
MOST_COUNTED = 1_000_000

_COMMON = frozenset(StageSettings.model_fields)

Depth = Annotated[int, Field(ge=1)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BudgetsMs = Annotated[list[Milliseconds | None], Field(min_length=1)]


class SpaceSettings(BaseModel):
    """What a file may say of a search space; what it leaves out is derived."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    retrievers: list[list[str]] = Field([], min_length=1, description="names of retrievers, fused if several")
    retrieve: list[Depth] = Field([], min_length=1, description="top_k of each fused retriever")
    fusions: list[dict[str, Any]] = Field([], min_length=1, description="settings of the fusion stage")
    rerankers: list[list[str]] = Field([], min_length=1, description="names of rerankers, one after the other")
    depths: list[Depth] = Field([], min_length=1, description="documents that a reranker receives")
    budgets_ms: BudgetsMs = Field([], description="of the whole query; null for none")
    stage_budgets_ms: dict[str, BudgetsMs] = Field({}, description="of single rerankers; null for none")
    slack: list[Slack] = Field([], min_length=1, description="carry or drop")
    on_overrun: list[OnOverrun] = Field([], min_length=1, description="partial, skip or fail")
    top_k: int = Field(10, ge=1, description="documents of an answer, at most")


class Choose(Protocol):
    """An optimiser's choice: one of ``count`` possibilities of a named decision."""

    def __call__(self, name: str, count: int) -> int:
        """Its number, from 0."""
        ...


@dataclass(frozen=True)
class SearchSpace:
    """All cascades to choose from.

    Args:
        recording: whose stages they consist of.
        settings: every choice, none left open.
        registry: the kinds of stage.
        source: where it came from, for messages.
    """

    recording: Recording
    settings: SpaceSettings
    registry: Registry
    source: str = "the search space"

    @classmethod
    def of(
        cls,
        recording: Recording,
        settings: SpaceSettings | None = None,
        *,
        budgets_ms: Sequence[float] = (),
        registry: Registry | None = None,
        source: str = "the search space",
    ) -> SearchSpace:
        """A space whose open choices are derived from the recording.

        Args:
            recording: of the stages.
            settings: choices that are made.
            budgets_ms: budgets to try besides none, where the settings leave them open.
            registry: the kinds of stage; the installed ones by default.
            source: what messages call it.

        Raises:
            InputError: the settings name stages that were not recorded, or ask for more than was recorded.
        """
        whole = _derived(recording, budgets_ms)
        if settings is not None:
            whole = whole.model_copy(update={name: getattr(settings, name) for name in settings.model_fields_set})
        space = cls(recording, whole, Registry() if registry is None else registry, source)
        space._check()
        return space

    @classmethod
    def load(
        cls, path: Path, recording: Recording, *, budgets_ms: Sequence[float] = (), registry: Registry | None = None
    ) -> SearchSpace:
        """A space from a YAML file; otherwise as ``of``.

        Raises:
            ConfigError: the file is not a search space.
            InputError: it does not fit the recording.
        """
        tree = parse_yaml(read_yaml(path), str(path))
        problems, settings = list(tree.problems), None
        try:
            settings = SpaceSettings.model_validate(tree.data)
        except ValidationError as error:
            for detail in error.errors():
                where, message = explain(detail, SpaceSettings, ())
                problems.append(Problem(render(where), message, tree.line(where)))
        if problems:
            raise ConfigError(str(path), problems)
        return cls.of(recording, settings, budgets_ms=budgets_ms, registry=registry, source=str(path))

    @cached_property
    def size(self) -> int:
        """How many different cascades there are; counting stops at a million."""
        return sum(1 for _ in itertools.islice(self.points(), MOST_COUNTED))

    def points(self) -> Iterator[Point]:
        """Every cascade once, those that begin alike next to each other."""
        for first in self._firsts():
            for chain in self.settings.rerankers:
                limits = self._limits(chain)
                for depths in itertools.combinations(self._depths(first), len(chain)):
                    for limit in limits:
                        yield Point(first, tuple(chain), depths, limit)

    def sample(self, choose: Choose) -> Point:
        """One cascade by the choices of an optimiser; different choices may give the same one."""
        chains = [chain for chain in self.settings.rerankers if len(chain) <= len(self.settings.depths)]
        firsts = [first for first in self._firsts() if len(self._depths(first)) >= max(map(len, chains))]
        first = firsts[choose("first", len(firsts))]
        chain = chains[choose("rerankers", len(chains))]
        possible = self._depths(first)
        chosen: list[int] = []
        for position in range(len(chain)):
            left = [depth for depth in possible if depth not in chosen]
            chosen.append(left[choose(f"depth {position}", len(self.settings.depths)) % len(left)])
        limits = self._limits(chain)
        limit = limits[choose("limits", max(len(self._limits(names)) for names in chains)) % len(limits)]
        return Point(first, tuple(chain), tuple(sorted(chosen, reverse=True)), limit)

    def config(self, point: Point, name: str = "tuned") -> CascadeConfig:
        """The configuration of a point, checked like one from a file but for what only its models can tell."""
        if point.given is not None:
            return replace(point.given, settings=point.given.settings.model_copy(update={"name": name}))
        limits, recorded = point.limits, self.recording.header
        top = {"name": name, "budget_ms": limits.budget_ms, "slack": limits.slack, "on_overrun": limits.on_overrun}
        settings = CascadeSettings.model_validate_json(json.dumps({**recorded.settings, **top}))
        answer = min([self.settings.top_k, *point.depths[-1:]])
        first_k, *cuts = [*point.depths, answer]
        budgets_ms = limits.stage_budgets_ms or (None,) * len(cuts)
        stages = [self._first(point.first, first_k)]
        names = {entry.settings.name for entry in (*stages[0].retrievers, stages[0])}
        for reranker, top_k, own_ms in zip(point.rerankers, cuts, budgets_ms, strict=True):
            unit = recorded.unit(reranker)
            names.add(reranker)
            changes = {"top_k": top_k, "budget_ms": own_ms, "combine": _combination(unit, names)}
            stages.append(self._entry(unit, changes))
        return CascadeConfig(self.source, Path(), settings, tuple(stages))

    def seed(self, config: CascadeConfig) -> Point:
        """A configuration of recorded stages as a point to try, whether or not the space has it.

        Raises:
            InputError: a stage was not recorded, or not deeply enough.
        """
        planned = plan(config)
        open_recorded(self.recording, planned, config, Meter(), RecordedCollection(self.recording))
        names = {
            unit.name: find_unit(self.recording, unit, config.source).unit.name
            for unit in planned.units()
            if unit.role != "fuser"
        }
        first, *rerankers = config.stages
        retrievers = first.retrievers or (first,)
        retrieve = max((entry.settings.top_k for entry in first.retrievers), default=0)
        found = First(tuple(names[entry.settings.name] for entry in retrievers), retrieve)
        chain = tuple(names[entry.settings.name] for entry in rerankers)
        depths = tuple(entry.settings.top_k for entry in config.stages[:-1])
        top, budgets_ms = config.settings, tuple(entry.settings.budget_ms for entry in rerankers)
        return Point(found, chain, depths, Limits(top.budget_ms, budgets_ms, top.slack, top.on_overrun), config)

    def recorded(self) -> CascadeConfig:
        """The configuration that was recorded, as one cascade."""
        header, entries = self.recording.header, []
        inner: list[StageEntry] = []
        for unit in header.units:
            entry = self._entry(unit, unit.settings)
            if unit.role == "fuser":
                entry, inner = replace(entry, retrievers=tuple(inner)), []
            if unit.role == "retriever":
                inner.append(entry)
            else:
                entries.append(entry)
        settings = CascadeSettings.model_validate_json(json.dumps(header.settings))
        return CascadeConfig(self.recording.source, Path(), settings, (*inner, *entries))

    def _first(self, first: First, top_k: int) -> StageEntry:
        units = [self.recording.header.unit(name) for name in first.retrievers]
        if len(units) == 1:
            return self._entry(units[0], {"top_k": top_k})
        chosen = dict(self.settings.fusions[first.fusion])
        if chosen.get("weights") is not None:
            chosen["weights"] = {name: chosen["weights"].get(name, 0.0) for name in first.retrievers}
        unit = _fuser(self.recording)
        common = {key: value for key, value in unit.settings.items() if key in _COMMON}
        bare = unit.model_copy(update={"settings": common})
        fuser = self._entry(bare, {**chosen, "retrievers": list(first.retrievers), "top_k": top_k})
        return replace(fuser, retrievers=tuple(self._entry(part, {"top_k": first.retrieve}) for part in units))

    def _entry(self, unit: RecordedUnit, changes: Mapping[str, Any]) -> StageEntry:
        kind = self.registry.get(unit.kind)
        values = {**unit.settings, "budget_ms": None, "on_overrun": None, **changes}
        try:
            return StageEntry(kind, kind.settings.model_validate_json(json.dumps(values)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"{self.source}: stage {unit.name!r}: {place}: {first['msg']}; correct it") from error

    def _firsts(self) -> Iterator[First]:
        for names in self.settings.retrievers:
            if len(names) == 1:
                yield First(tuple(names))
            else:
                for top_k, fusion in itertools.product(self.settings.retrieve, range(len(self.settings.fusions))):
                    yield First(tuple(names), top_k, fusion)

    def _depths(self, first: First) -> list[int]:
        """Depths that the first stage can supply, falling."""
        offered = first.retrieve * len(first.retrievers) if first.retrieve else self.recording.header.depth
        return sorted({depth for depth in self.settings.depths if depth <= offered}, reverse=True)

    def _limits(self, chain: Sequence[str]) -> list[Limits]:
        space, found = self.settings, []
        own = [space.stage_budgets_ms.get(name, [None]) for name in chain]
        for budget_ms in space.budgets_ms:
            if budget_ms is None:  # then no policy has anything to decide
                found.append(Limits(None, (None,) * len(chain), space.slack[0], space.on_overrun[0]))
                continue
            for parts in itertools.product(*own):
                given = [part for part in parts if part is not None]
                if sum(given) <= budget_ms:
                    slacks = space.slack if given else space.slack[:1]
                    policies = itertools.product(slacks, space.on_overrun)
                    found += [Limits(budget_ms, parts, slack, on_overrun) for slack, on_overrun in policies]
        return found

    def _check(self) -> None:
        """Makes sure that the recording has what the space asks for.

        Raises:
            InputError: it has not.
        """
        space, roles = self.settings, {unit.name: unit.role for unit in self.recording.header.units}
        self._check_names("retrievers", space.retrievers, ("retriever",))
        self._check_names("rerankers", [*space.rerankers, list(space.stage_budgets_ms)], ("reranker", "listwise"))
        if any(not names for names in space.retrievers):
            raise InputError(f"{self.source}: retrievers: expected at least one in each list, got an empty list")
        if any(len(names) > 1 for names in space.retrievers) and "fuser" not in roles.values():
            raise InputError(f"{self.source}: retrievers: no fusion stage was recorded; name one in each list")
        if max(space.retrieve) > self.recording.header.depth:
            got = f"expected at most {self.recording.header.depth}, as recorded, got {max(space.retrieve)}"
            raise InputError(f"{self.source}: retrieve: {got}; lower it, or record with a larger --depth")
        if self.size == 0:
            raise InputError(
                f"{self.source}: no cascade fits it: expected depths of at most {self.recording.header.depth}, the "
                f"recorded depth, and as many as the longest list of rerankers; got {space.depths}"
            )

    def _check_names(self, field: str, lists: Sequence[Sequence[str]], roles: Sequence[str]) -> None:
        known = sorted(unit.name for unit in self.recording.header.units if unit.role in roles)
        for name in itertools.chain.from_iterable(lists):
            if name not in known:
                got = f"expected names of recorded {field} ({', '.join(known) or 'none'}), got {name!r}"
                raise InputError(f"{self.source}: {field}: {got}; correct it, or record that stage, too")
        if any(len(set(names)) < len(names) for names in lists):
            raise InputError(f"{self.source}: {field}: expected each stage once in a list; remove the second")


def _derived(recording: Recording, budgets_ms: Sequence[float]) -> SpaceSettings:
    header = recording.header
    retrievers = [unit.name for unit in header.units if unit.role == "retriever"]
    fused = any(unit.role == "fuser" for unit in header.units)
    sizes = range(1, len(retrievers) + 1) if fused else (1,)
    rerankers = [unit for unit in header.units if unit.role in ("reranker", "listwise")]
    rerankers.sort(key=lambda unit: _pair_s(recording, unit))
    chains = [
        [unit.name for unit in chain]
        for length in range(min(LONGEST_CHAIN, len(rerankers)) + 1)
        for chain in itertools.combinations(rerankers, length)
    ]
    fusion = _fuser(recording).settings if fused else {}
    return SpaceSettings(
        retrievers=[list(names) for size in sizes for names in itertools.combinations(retrievers, size)],
        retrieve=[top_k for top_k in RETRIEVE if top_k <= header.depth] or [header.depth],
        fusions=[{key: value for key, value in fusion.items() if key not in {*_COMMON, "retrievers"}}],
        rerankers=chains,
        depths=[depth for depth in DEPTHS if depth <= header.depth] or [header.depth],
        budgets_ms=[None, *map(float, budgets_ms)],
        stage_budgets_ms={},
        slack=[header.settings["slack"]],
        on_overrun=[header.settings["on_overrun"]],
        top_k=header.units[-1].settings["top_k"],
    )


def _combination(unit: RecordedUnit, names: Container[str]) -> dict[str, float] | None:
    """The recorded weights of those stages that the cascade has; None where that leaves nothing to combine."""
    weights = {name: weight for name, weight in (unit.settings.get("combine") or {}).items() if name in names}
    return weights if len(weights) > 1 and any(weights.values()) else None


def _fuser(recording: Recording) -> RecordedUnit:
    return next(unit for unit in recording.header.units if unit.role == "fuser")


def _pair_s(recording: Recording, unit: RecordedUnit) -> float:
    """Typical seconds of 32 pairs of 128 tokens, which decide the reranker that comes first."""
    rates = recording.rates.get(f"{unit.cost_key}/{ACTION[unit.role]}")
    return 0.0 if rates is None else rates.seconds(Work(32.0, 32 * 128.0, 32 * 128.0 * 128.0))
