"""What happened to a query: for each stage what was planned, scored and skipped, why, and how long it took."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

TRACE_VERSION = 1

Reason: TypeAlias = Literal["complete", "budget", "saturated", "skipped", "failed", "cancelled"]
"""Why a stage ended.

complete: it did all it was planned to do. budget: its time ended first. saturated: what was left could not have changed
its cut. skipped: it was left out, on purpose or because nothing would have fitted. failed: it raised, hung or returned
nonsense. cancelled: the caller withdrew the query.
"""


@dataclass(frozen=True, slots=True)
class StageTrace:
    """One stage's part in one query.

    Args:
        name: the stage.
        kind: its kind.
        received: candidates it was given; for a retriever, all of the collection. Candidates are passages: a document
            that had to be split counts as often as it has passages among them.
        planned: candidates that the scheduler expected to fit before the stage began.
        scored: candidates it scored in time.
        passed: candidates handed to the next stage.
        batches: calls of the model.
        predicted_s: what the planned work was predicted to take; nan without a cost model.
        waited_s: seconds it stood in the queue.
        seconds: from its first to its last action, waiting included.
        budget_s: seconds it was granted; inf without a limit.
        slack_s: seconds of its grant that it left to others.
        saved_s: predicted seconds of the work that a saturated stage left undone.
        reason: why it ended.
        detail: what went wrong, or why it was skipped; empty otherwise.
        quarantined: scores that were not finite and were thrown away.
        combined: names of the stages whose scores made up its own; empty where it took its own as they were.
        retrievers: of a fusion stage, the traces of its retrievers.
    """

    name: str
    kind: str
    received: int
    planned: int
    scored: int
    passed: int
    batches: int
    predicted_s: float
    waited_s: float
    seconds: float
    budget_s: float
    slack_s: float
    reason: Reason
    saved_s: float = 0.0
    detail: str = ""
    quarantined: int = 0
    combined: tuple[str, ...] = ()
    retrievers: tuple[StageTrace, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether it did less than its settings asked for."""
        ended_early = self.reason in ("budget", "skipped", "failed", "cancelled")
        return ended_early or self.quarantined > 0 or any(part.degraded for part in self.retrievers)


@dataclass(frozen=True, slots=True)
class Trace:
    """One query's way through the cascade.

    Args:
        cascade: name of the cascade.
        budget_s: seconds granted to the whole query; inf without a limit.
        seconds: what it took, waiting included.
        waited_s: seconds before its first work began.
        stages: one for each stage, in order, up to the one that ended the query where one did.
        costs: where predicted times came from: calibrated, warm-up, or none; several joined by " + ".
    """

    cascade: str
    budget_s: float
    seconds: float
    waited_s: float
    stages: tuple[StageTrace, ...]
    costs: str = "none"

    @property
    def degraded(self) -> bool:
        """Whether any stage did less than its settings asked for."""
        return any(stage.degraded for stage in self.stages)

    @property
    def overshoot_s(self) -> float:
        """Seconds past the budget; 0 in time."""
        return max(0.0, self.seconds - self.budget_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, times in milliseconds; ``version`` changes when a key changes its meaning."""
        return {
            "version": TRACE_VERSION,
            "cascade": self.cascade,
            "budget_ms": _ms(self.budget_s),
            "ms": _ms(self.seconds),
            "waited_ms": _ms(self.waited_s),
            "overshoot_ms": _ms(self.overshoot_s),
            "degraded": self.degraded,
            "costs": self.costs,
            "stages": [_stage_dict(stage) for stage in self.stages],
        }

    def to_json(self) -> str:
        """``to_dict`` as one line of JSON."""
        return json.dumps(self.to_dict())


def _stage_dict(stage: StageTrace) -> dict[str, Any]:
    return {
        "name": stage.name,
        "kind": stage.kind,
        "in": stage.received,
        "planned": stage.planned,
        "scored": stage.scored,
        "out": stage.passed,
        "batches": stage.batches,
        "predicted_ms": _ms(stage.predicted_s),
        "waited_ms": _ms(stage.waited_s),
        "ms": _ms(stage.seconds),
        "budget_ms": _ms(stage.budget_s),
        "slack_ms": _ms(stage.slack_s),
        "saved_ms": _ms(stage.saved_s),
        "reason": stage.reason,
        "detail": stage.detail,
        "quarantined": stage.quarantined,
        "combined": list(stage.combined),
        "retrievers": [_stage_dict(part) for part in stage.retrievers],
    }


def _ms(seconds: float) -> float | None:
    """Milliseconds to the microsecond; None where there is no finite number, since JSON has no infinity."""
    return round(seconds * 1000, 3) if math.isfinite(seconds) else None
