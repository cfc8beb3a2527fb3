"""From a checked configuration to a ``Plan``: an immutable list of stages with budgets in seconds.

Planning loads no model. Opening the plan's stages over an index is the engine's work.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from cascade.schema import CascadeConfig, Overload, PassageSettings, Slack, StageEntry
from cascade.stage import OnError, OnOverrun, Role, StageKind, StageSettings


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage as the engine runs it.

    Args:
        name: unique in the plan.
        kind: its kind.
        settings: its settings.
        role: what it opens to.
        top_k: documents it passes on.
        budget_s: seconds of its own; inf without a limit.
        on_overrun: what to do when its time ends.
        on_error: what to do when it raises.
        cost_key: identifies everything that decides what its work costs on a given machine.
        retrievers: of a fuser, what it fuses.
        combine: weights by name of the stages whose scores make up its own; None to take its own as they are.
        combined_later: whether a later stage combines its scores with others.
        adaptive: how sure to be that nothing left enters the ``top_k``, to stop before all is scored; None for never.
    """

    name: str
    kind: StageKind
    settings: StageSettings
    role: Role
    top_k: int
    budget_s: float
    on_overrun: OnOverrun
    on_error: OnError
    cost_key: str
    retrievers: tuple[PlannedStage, ...] = ()
    combine: Mapping[str, float] | None = None
    combined_later: bool = False
    adaptive: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A cascade ready to be opened.

    Args:
        name: of the cascade.
        budget_s: seconds for the whole query; inf without a limit.
        slack: whether later stages get what earlier ones leave.
        quantile: at which work must end within its predicted time.
        overload: what a query meets that cannot be answered in time.
        max_waiting: queries that may wait at once.
        passages: how documents are split.
        stages: in order, the first a retriever or fuser.
    """

    name: str
    budget_s: float
    slack: Slack
    quantile: float
    overload: Overload
    max_waiting: int
    passages: PassageSettings
    stages: tuple[PlannedStage, ...]

    def units(self) -> Iterator[PlannedStage]:
        """Every stage that is loaded and opened by itself: fused retrievers before their fuser."""
        for stage in self.stages:
            yield from stage.retrievers
            yield stage


def plan(config: CascadeConfig) -> Plan:
    """The plan of a configuration."""
    top = config.settings
    combined = {name for entry in config.stages for name in entry.settings.combine or () if name != entry.settings.name}
    return Plan(
        name=top.name,
        budget_s=_seconds(top.budget_ms),
        slack=top.slack,
        quantile=top.quantile,
        overload=top.overload,
        max_waiting=top.max_waiting,
        passages=top.passages,
        stages=tuple(_planned(entry, top.on_overrun, combined) for entry in config.stages),
    )


def _planned(entry: StageEntry, on_overrun: OnOverrun, combined: Collection[str]) -> PlannedStage:
    settings = entry.settings
    own = settings.on_overrun
    return PlannedStage(
        name=settings.name,
        kind=entry.kind,
        settings=settings,
        role=entry.role,
        top_k=settings.top_k,
        budget_s=_seconds(settings.budget_ms),
        on_overrun=on_overrun if own is None else own,
        on_error=settings.on_error,
        cost_key=_cost_key(settings),
        retrievers=tuple(_planned(inner, on_overrun, combined) for inner in entry.retrievers),
        combine=settings.combine,
        combined_later=settings.name in combined,
        adaptive=settings.adaptive,
    )


def _cost_key(settings: StageSettings) -> str:
    """Kind and a hash of the settings that are its own: names, cuts and budgets do not change what work costs."""
    own = settings.model_dump(mode="json", exclude=set(StageSettings.model_fields))
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    return f"{settings.kind}-{digest[:12]}"


def _seconds(milliseconds: float | None) -> float:
    return math.inf if milliseconds is None else milliseconds / 1000
