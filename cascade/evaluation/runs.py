"""What a cascade did with many queries, stage by stage: what the reports are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cascade.errors import InputError
from cascade.evaluation.measures import Run


@dataclass(frozen=True, slots=True)
class StageRun:
    """What one stage made of every query.

    Args:
        name: of the stage.
        ranked: all documents in the stage's order, before its cut.
        survivors: the documents within its cut, which it passes on.
        seconds: spent on each query; 0 where the stage was skipped.
        scored: documents it scored for each query.
        inputs: names of the stages whose survivors it received; none for a retriever.
        holds_inputs: whether its seconds hold those of its inputs, as those of a fusion do.
        granted_s: seconds that each query granted it; none where it never had a limit.
        shortfalls: why it did less than it was asked to, for each query where it did, as traces name the reasons.
    """

    name: str
    ranked: Run
    survivors: Run
    seconds: Mapping[str, float]
    scored: Mapping[str, int]
    inputs: tuple[str, ...] = ()
    holds_inputs: bool = False
    granted_s: Mapping[str, float] = field(default_factory=dict)
    shortfalls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StagedRun:
    """A cascade's work over many queries, stage by stage.

    Args:
        stages: in the order in which they ran.
        seconds: from each query's arrival to its answer.
        budget_s: seconds that a query may take; None for no limit.
        config: what the report should say of the cascade; anything that JSON can hold.
        unanswered: queries that ended without an answer, since a stage that says ``on_overrun: fail`` ran out of time;
            the rankings of that stage and of those after it are empty.

    Raises:
        InputError: the stages do not speak of the same queries, or not of each other.
    """

    stages: tuple[StageRun, ...]
    seconds: Mapping[str, float]
    budget_s: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.stages or not self.seconds:
            raise InputError("staged run: expected at least one stage and one query, got none; run some queries first")
        seen: set[str] = set()
        for stage in self.stages:
            _check_stage(stage, self.seconds, seen)
            seen.add(stage.name)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds: the mean, and nearest-rank percentiles, so that each was really measured."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency:
        """Of at least one value, in seconds."""
        milliseconds = 1000.0 * np.fromiter(seconds, np.float64)
        p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99], method="inverted_cdf")
        return cls(float(milliseconds.mean()), float(p50), float(p95), float(p99))

    def to_json(self) -> dict[str, float]:
        """The record as JSON holds it."""
        return {"mean": self.mean, "p50": self.p50, "p95": self.p95, "p99": self.p99}


def share_over(seconds: Mapping[str, float], granted_s: Mapping[str, float]) -> float:
    """Share of queries that took longer than they were granted; one that was granted nothing had no limit."""
    return float(np.mean([value > granted_s.get(query_id, math.inf) for query_id, value in seconds.items()]))


def _check_stage(stage: StageRun, queries: Mapping[str, float], seen: set[str]) -> None:
    if stage.name in seen:
        raise InputError(f"staged run: expected each stage once, got {stage.name!r} twice; rename one")
    unknown = [name for name in stage.inputs if name not in seen]
    if unknown:
        raise InputError(
            f"staged run: {stage.name}: expected inputs among the earlier stages {sorted(seen)}, got {unknown}; "
            "put the stages in the order in which they ran"
        )
    for part in ("ranked", "survivors", "seconds", "scored"):
        if getattr(stage, part).keys() != queries.keys():
            raise InputError(
                f"staged run: {stage.name}.{part}: expected the {len(queries)} queries of the run, "
                f"got {len(getattr(stage, part))}, or others; record every query for every stage"
            )
    for query_id, survivors in stage.survivors.items():
        if not set(survivors) <= set(stage.ranked[query_id]):
            raise InputError(
                f"staged run: {stage.name}: query {query_id!r}: expected survivors among the ranked documents, got "
                "others; record the order before the cut"
            )
