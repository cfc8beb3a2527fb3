"""From a YAML file to a checked ``CascadeConfig``: every problem at once, each with its line.

Nothing here imports torch or opens a model.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

from cascade.errors import ConfigError, InputError, Problem, UnknownKind
from cascade.explain import explain
from cascade.registry import Registry
from cascade.resources import config_path
from cascade.schema import CascadeConfig, CascadeSettings, StageEntry
from cascade.stage import Context, StageKind
from cascade.yamltree import MAX_BYTES, Location, Tree, parse_yaml, render, show, too_large

BUNDLED = "bundled:"
ROUNDING = 1e-9
"""Relative; three times 0.1 ms is a little more than 0.3 ms in floating point."""


def load_config(path: str | Path, registry: Registry | None = None) -> CascadeConfig:
    """Reads and checks a configuration file; ``bundled:NAME`` is one that comes with the package.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    if str(path).startswith(BUNDLED):
        try:
            path = config_path(str(path).removeprefix(BUNDLED) + ".yaml")
        except InputError as error:
            raise ConfigError(str(path), [Problem("", str(error))]) from error
    path = Path(path)
    return parse_config(read_yaml(path), source=str(path), folder=path.parent, registry=registry)


def read_yaml(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(source, [Problem("", f"cannot be read: {reason}; expected a YAML file")]) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(source, [too_large()])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(source, [Problem("", f"expected UTF-8, got byte 0x{raw[error.start]:02x}", line)]) from error


def parse_config(
    text: str, *, source: str = "<string>", folder: Path | None = None, registry: Registry | None = None
) -> CascadeConfig:
    """Checks a configuration given as text.

    Args:
        text: the YAML.
        source: what messages call it.
        folder: what relative paths in it start from; the working directory by default.
        registry: the kinds of stage it may use; the installed ones by default.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    tree = parse_yaml(text, source)
    check = _Check(
        tree=tree,
        registry=Registry() if registry is None else registry,
        context=Context(folder=Path() if folder is None else folder),
    )
    settings, stages = check.document()
    if check.problems:
        raise ConfigError(source, check.problems)
    assert settings is not None  # no problems: every part was built
    return CascadeConfig(source=source, folder=check.context.folder, settings=settings, stages=tuple(stages))


@dataclass(slots=True)
class _Check:
    """Builds the typed configuration from a tree, collecting every problem on the way."""

    tree: Tree
    registry: Registry
    context: Context
    guessed: dict[int, tuple[BaseModel, frozenset[str]]] = field(default_factory=dict)
    problems: list[Problem] = field(init=False)

    def __post_init__(self) -> None:
        self.problems = self.tree.problems

    def report(self, where: Location, message: str) -> None:
        """Notes a problem."""
        self.problems.append(Problem(render(where), message, self.tree.line(where)))

    def document(self) -> tuple[CascadeSettings | None, list[StageEntry]]:
        """The whole file."""
        data = self.tree.data
        if not isinstance(data, dict):
            self.report((), f"expected a mapping with version, name and stages, got {show(data)}")
            return None, []
        top = {key: value for key, value in data.items() if key != "stages"}
        settings = self.model(CascadeSettings, top, (), {"version": 1, "name": "unnamed"}, also=("stages",))
        raw = data.get("stages")
        if not isinstance(raw, list) or not raw:
            got = "nothing" if "stages" not in data else show(raw)
            self.report(("stages",), f"expected a list of at least one stage, got {got}")
            return settings, []
        built = [self.stage(entry, ("stages", i)) for i, entry in enumerate(raw)]
        self.roles(built)
        self.names(built)
        self.cuts(built)
        self.combinations(raw, built)
        self.early_ends(built)
        self.probabilities(built)
        if settings is not None:
            self.budgets(built, ("budget_ms",), settings.budget_ms, ("stages",))
        return settings, [entry for entry in built if entry is not None]

    def stage(self, raw: Any, where: Location) -> StageEntry | None:
        """One stage, with its retrievers if it fuses some; None after reporting what is wrong with it."""
        if not isinstance(raw, dict):
            self.report(where, f"expected a mapping with name, kind and top_k, got {show(raw)}")
            return None
        if not isinstance(name := raw.get("kind"), str):
            got = "nothing" if "kind" not in raw else show(name)
            self.report((*where, "kind"), f"expected a kind of stage ({', '.join(self.registry.names())}), got {got}")
            return None
        try:
            kind = self.registry.get(name)
        except UnknownKind as error:
            self.report((*where, "kind"), str(error))
            return None
        if kind.role == "fuser":
            return self.fuser(kind, raw, where)
        return self.entry(kind, raw, where, ())

    def fuser(self, kind: StageKind, raw: Mapping[str, Any], where: Location) -> StageEntry | None:
        """A stage that merges the rankings of the retrievers nested in it."""
        inner, at = raw.get("retrievers"), (*where, "retrievers")
        if not isinstance(inner, list) or len(inner) < 2:
            got = "nothing" if "retrievers" not in raw else show(inner)
            self.report(at, f"expected a list of at least two retrievers to fuse, got {got}")
            built: list[StageEntry | None] = [None]
        else:
            built = [self.stage(entry, (*at, i)) for i, entry in enumerate(inner)]
        for i, entry in enumerate(built):
            if entry is not None and entry.role != "retriever":
                self.report((*at, i, "kind"), f"expected a retriever, got {entry.kind.kind!r}, a {entry.role}")
        entries = tuple(entry for entry in built if entry is not None)
        names = tuple(entry.settings.name for entry in entries)
        if len(entries) < len(built):  # what can be said of its own settings, without them all
            self.model(kind.settings, {**raw, "retrievers": names}, where, {})
            return None
        stage = self.entry(kind, {**raw, "retrievers": names}, where, entries)
        if stage is not None:
            self.budgets(built, (*where, "budget_ms"), stage.settings.budget_ms, at)
            offered = sum(entry.settings.top_k for entry in entries)
            known = all(self.knows(entry, "top_k") for entry in (stage, *entries))
            if known and stage.settings.top_k > offered:
                got = f"{stage.settings.top_k} where the retrievers pass on {offered} in all"
                self.report((*where, "top_k"), f"top_k cannot grow: expected at most {offered}, got {got}")
        return stage

    def entry(
        self, kind: StageKind, raw: Mapping[str, Any], where: Location, retrievers: tuple[StageEntry, ...]
    ) -> StageEntry | None:
        """A stage whose kind is known."""
        settings = self.model(kind.settings, raw, where, {"name": f"unnamed-{len(self.guessed)}", "top_k": 1})
        if settings is None:
            return None
        try:
            for name, message in kind.check(settings, self.context):
                self.report((*where, name) if name else where, message)
        except Exception as error:  # anybody's code, and what it meets on the way to a model may be anything
            self.report(where, f"{kind.kind!r} could not be checked: {error}")
        return StageEntry(kind, settings, retrievers)

    def model(
        self,
        model: type[BaseModel],
        raw: Mapping[str, Any],
        where: Location,
        stand_ins: Mapping[str, Any],
        also: Iterable[str] = (),
    ) -> Any:
        """A pydantic model from plain data, after reporting what is wrong with it.

        Wrong fields are left out then, or given a value of ``stand_ins``, so that the other fields can still be checked
        against each other; None where that is not enough.
        """
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            wrong = set()
            for detail in error.errors():
                place, message = explain(detail, model, tuple(also))
                self.report((*where, *place), message)
                wrong.add(detail["loc"][0] if detail["loc"] else "")
        guessed = {name: value for name, value in stand_ins.items() if name in wrong}
        try:
            mended = model.model_validate({**{key: raw[key] for key in raw if key not in wrong}, **guessed})
        except ValidationError:
            return None
        self.guessed[id(mended)] = (mended, frozenset(guessed))
        return mended

    def knows(self, entry: StageEntry | None, name: str) -> TypeGuard[StageEntry]:
        """Whether a field of a stage is as the file says, not a stand-in."""
        if entry is None:
            return False
        guessed = self.guessed.get(id(entry.settings))
        return guessed is None or name not in guessed[1]

    def roles(self, built: Sequence[StageEntry | None]) -> None:
        """A retriever or fuser first, rerankers after it."""
        for i, entry in enumerate(built):
            if entry is None:
                continue
            place = ("stages", i, "kind")
            if i == 0 and entry.role not in ("retriever", "fuser"):
                got = f"{entry.kind.kind!r}, a reranker; put a stage that finds candidates before it"
                self.report(place, f"expected a retriever or a fusion of retrievers in first place, got {got}")
            if i > 0 and entry.role not in ("reranker", "listwise"):
                got = f"{entry.kind.kind!r}, a {entry.role}; several retrievers go into one fusion stage"
                self.report(place, f"expected a reranker after the first place, got {got}")

    def names(self, built: Sequence[StageEntry | None]) -> None:
        """No two stages of one name."""
        seen: dict[str, str] = {}
        for i, entry in enumerate(built):
            if entry is None:
                continue
            for where, stage in _parts(entry, i):
                place, name = (*where, "name"), stage.settings.name
                if self.knows(stage, "name") and name in seen:
                    self.report(place, f"expected a name of its own, got {name!r}, which {seen[name]} has already")
                seen.setdefault(name, render(where))

    def cuts(self, built: Sequence[StageEntry | None]) -> None:
        """A stage cannot pass on more than it gets."""
        smallest: tuple[int, str] | None = None
        for i, entry in enumerate(built):
            if not self.knows(entry, "top_k"):
                continue
            top_k = entry.settings.top_k
            if smallest is not None and top_k > smallest[0]:
                got = f"{top_k} after {smallest[1]} passed on {smallest[0]}"
                self.report(("stages", i, "top_k"), f"top_k cannot grow: expected at most {smallest[0]}, got {got}")
            if smallest is None or top_k < smallest[0]:
                smallest = (top_k, entry.settings.name)

    def combinations(self, raw: Sequence[Any], built: Sequence[StageEntry | None]) -> None:
        """Only rerankers combine scores: their own and those of stages before them."""
        for i, (stage, entry) in enumerate(zip(raw, built, strict=True)):
            for where, part in _parts(entry, i):
                if part.settings.combine is not None and part.role in ("retriever", "fuser"):
                    got = f"expected none for a {part.role}: only rerankers combine scores; remove it"
                    self.report((*where, "combine"), got)
            if isinstance(stage, dict) and isinstance(stage.get("combine"), dict):
                before = [name for earlier in raw[:i] for name in _names(earlier)]
                later = [name for other in raw[i + 1 :] for name in _names(other)]
                self.combination(stage, ("stages", i, "combine"), before, later)

    def combination(self, stage: Mapping[str, Any], where: Location, before: list[str], later: list[str]) -> None:
        """One stage's weights, as far as their values are weights at all.

        Args:
            stage: as it is in the file, whatever else is wrong with it.
            where: the weights are.
            before: names of the stages before it.
            later: names of those after it.
        """
        weights, own = stage["combine"], stage.get("name")
        known = [*before, own] if isinstance(own, str) else before
        for name in weights:
            if name in known:
                continue
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected names of: {', '.join(known)}"
            fault = f"{name!r} comes after this stage" if name in later else f"no stage is called {name!r}"
            self.report((*where, name), f"{fault}; {hint}")
        if isinstance(own, str) and own not in weights:
            self.report(where, f"expected a weight of {own!r} itself, too, got none; 0 leaves its score out")
        if weights and all(type(weight) in (int, float) and weight == 0 for weight in weights.values()):
            self.report(where, "expected at least one weight above 0, got none")

    def early_ends(self, built: Sequence[StageEntry | None]) -> None:
        """Only a stage whose scores stay as they are, whatever else is scored, can tell that the rest do not matter."""
        for i, entry in enumerate(built):
            for where, part in _parts(entry, i):
                if part.settings.adaptive is None:
                    continue
                if part.role != "reranker":
                    fault = f"expected none for a {part.role}: only what scores candidates one by one can stop early"
                    self.report((*where, "adaptive"), f"{fault}; remove it")
                elif part.settings.combine is not None:
                    fault = "expected none beside combine, whose scores move with every candidate more; remove either"
                    self.report((*where, "adaptive"), fault)

    def probabilities(self, built: Sequence[StageEntry | None]) -> None:
        """Probabilities are of scores that mean the same for every query, and that an answer can have."""
        for i, entry in enumerate(built):
            if entry is None:
                continue
            at: Location = ("stages", i)
            settings = entry.settings
            if settings.probability is not None and settings.combine is not None:
                fault = "expected none beside combine, whose scores compare candidates of one query only; remove either"
                self.report((*at, "probability"), fault)
            if settings.min_probability is not None and (*at, "probability") not in self.tree.lines:
                fault = "expected a probability, too, which says what a score is worth, got none"
                self.report((*at, "min_probability"), f"{fault}; fit one with 'cascade eval --calibrate'")
            names = ("probability", "min_probability")
            inner = [(j, name, part.settings) for j, part in enumerate(entry.retrievers) for name in names]
            for j, name, theirs in inner:
                if getattr(theirs, name) is not None:
                    fault = "expected none for a retriever that is fused: answers have the fusion's scores; remove it"
                    self.report((*at, "retrievers", j, name), fault)

    def budgets(
        self, built: Sequence[StageEntry | None], where: Location, whole_ms: float | None, part: Location
    ) -> None:
        """The parts of a budget add up to no more than the whole."""
        if whole_ms is None:
            return
        parts = [ms for entry in built if entry is not None and (ms := _granted_ms(entry)) is not None]
        total_ms = sum(parts)
        if total_ms > whole_ms * (1 + ROUNDING):
            sums = " + ".join(f"{ms:g}" for ms in parts)
            self.report(
                where, f"expected at least what {render(part)} add up to, {sums} = {total_ms:g}, got {whole_ms:g}"
            )


def _parts(entry: StageEntry | None, number: int) -> list[tuple[Location, StageEntry]]:
    """A stage and the retrievers nested in it, with their places in the file."""
    if entry is None:
        return []
    at: Location = ("stages", number)
    return [(at, entry), *(((*at, "retrievers", j), inner) for j, inner in enumerate(entry.retrievers))]


def _names(raw: Any) -> list[str]:
    """What a stage in a file and the retrievers nested in it are called, whatever else is wrong with them."""
    if not isinstance(raw, dict):
        return []
    inner, own = raw.get("retrievers"), raw.get("name")
    names = [name for nested in (inner if isinstance(inner, list) else ()) for name in _names(nested)]
    return [*names, own] if isinstance(own, str) else names


def _granted_ms(entry: StageEntry) -> float | None:
    """A stage's own budget, or else what its retrievers are granted together; None for neither."""
    if entry.settings.budget_ms is not None:
        return entry.settings.budget_ms
    inner = [ms for retriever in entry.retrievers if (ms := retriever.settings.budget_ms) is not None]
    return sum(inner) if inner else None
