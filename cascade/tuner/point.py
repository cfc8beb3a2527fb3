"""One cascade of a search space, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from cascade.index.manifest import digest
from cascade.schema import CascadeConfig, Slack
from cascade.stage import OnOverrun


class First(NamedTuple):
    """How candidates are found.

    Args:
        retrievers: recorded retrievers, fused if several.
        retrieve: top_k of each fused retriever; 0 for a single one, whose top_k follows from the rest.
        fusion: position of the fusion settings in the space; 0 for a single retriever.
    """

    retrievers: tuple[str, ...]
    retrieve: int = 0
    fusion: int = 0


class Limits(NamedTuple):
    """How time is limited.

    Args:
        budget_ms: of the whole query; None for no limit.
        stage_budgets_ms: of each reranker; None for no limit of its own.
        slack: whether later stages get what earlier ones leave.
        on_overrun: what a stage does when its time ends.
    """

    budget_ms: float | None = None
    stage_budgets_ms: tuple[float | None, ...] = ()
    slack: Slack = "carry"
    on_overrun: OnOverrun = "partial"


@dataclass(frozen=True, slots=True)
class Point:
    """One cascade.

    Args:
        first: how candidates are found.
        rerankers: recorded rerankers in order.
        depths: documents that each of them receives, falling.
        limits: of time.
        given: the configuration itself where it is not one of the space; then all else only describes it.
    """

    first: First
    rerankers: tuple[str, ...]
    depths: tuple[int, ...]
    limits: Limits
    given: CascadeConfig | None = None

    @property
    def key(self) -> str:
        """Identifies the point."""
        parts = [self.first, self.rerankers, self.depths, self.limits]
        if self.given is None:
            return json.dumps(parts)
        own = self.given.settings.model_dump(mode="json", exclude={"name"})
        stages = [entry.settings.model_dump(mode="json") for entry in self.given.entries()]
        return json.dumps([*parts, digest([own, stages])])

    def label(self) -> str:
        """For people: ``bm25+dense 400 > colbert 100 > cross-encoder 20, 50 ms``."""
        found = "" if self.given is None else f"{self.given.settings.name}: "
        found += "+".join(self.first.retrievers) + (f" {self.first.retrieve}" if self.first.retrieve else "")
        found += f" fusion {self.first.fusion + 1}" if self.first.fusion else ""
        budgets_ms = self.limits.stage_budgets_ms or (None,) * len(self.rerankers)
        chain = [
            f"{name} {depth}" + ("" if own is None else f" ({own:g} ms)")
            for name, depth, own in zip(self.rerankers, self.depths, budgets_ms, strict=True)
        ]
        if self.limits.budget_ms is None:
            return " > ".join([found, *chain])
        limit = f", {self.limits.budget_ms:g} ms"
        limit += "" if self.limits.on_overrun == "partial" else f" {self.limits.on_overrun}"
        limit += "" if self.limits.slack == "carry" else " drop"
        return " > ".join([found, *chain]) + limit

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            **self.first._asdict(),
            "rerankers": list(self.rerankers),
            "depths": list(self.depths),
            **self.limits._asdict(),
            "given": None if self.given is None else self.given.settings.name,
        }
