"""Runs a cascade over many queries and keeps what each of its stages made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from cascade.api import Cascade
from cascade.arguments import Budget
from cascade.engine import QueryRun
from cascade.errors import DeadlineExceeded, InputError
from cascade.evaluation.runs import StagedRun, StageRun
from cascade.planner import PlannedStage
from cascade.ranking import best_passages
from cascade.trace import StageTrace
from cascade.types import Candidates, Qrel, Query

DEPTH = 1000
"""Documents kept of each order."""


@dataclass(slots=True)
class _Column:
    """What is collected of one stage."""

    inputs: tuple[str, ...]
    holds_inputs: bool
    ranked: dict[str, list[str]] = field(default_factory=dict)
    survivors: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)
    granted_s: dict[str, float] = field(default_factory=dict)
    shortfalls: dict[str, str] = field(default_factory=dict)

    def add(self, query_id: str, trace: StageTrace | None, ranked: list[str], survivors: list[str]) -> None:
        """What the stage made of one more query; no trace where the query ended before its turn."""
        self.ranked[query_id] = ranked
        self.survivors[query_id] = survivors
        if trace is None:
            self.seconds[query_id], self.scored[query_id], self.shortfalls[query_id] = 0.0, 0, "skipped"
            return
        self.seconds[query_id] = trace.seconds
        self.scored[query_id] = trace.scored
        if trace.budget_s != math.inf and trace.reason != "skipped":
            self.granted_s[query_id] = trace.budget_s
        if trace.reason not in ("complete", "saturated"):
            self.shortfalls[query_id] = trace.reason
        elif trace.quarantined:
            self.shortfalls[query_id] = "quarantined"


def judged_queries(queries: Sequence[Query], qrels: Sequence[Qrel]) -> tuple[list[Query], list[Qrel]]:
    """The queries that have judgments, and the judgments of those queries.

    Raises:
        InputError: they have no query in common.
    """
    judged, asked = {qrel.query_id for qrel in qrels}, {query.query_id for query in queries}
    if not judged & asked:
        raise InputError(
            f"queries and judgments: expected some query_ids in both, got {sorted(asked)[:3]} and "
            f"{sorted(judged)[:3]}; take files of the same collection"
        )
    return [query for query in queries if query.query_id in judged], [q for q in qrels if q.query_id in asked]


def run_staged(
    engine: Cascade,
    queries: Sequence[Query],
    budget_ms: Budget = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    observe: Callable[[QueryRun], None] = lambda run: None,
) -> StagedRun:
    """Answers every query and records the order after each stage.

    Without a budget, the stages' seconds are those of queries that share batches: totals are right, single ones are
    not what one client would see. A query that ends because a stage says ``on_overrun: fail`` has no answer: from that
    stage on its rankings are empty.

    Args:
        engine: open over an index.
        queries: with distinct ids.
        budget_ms: milliseconds for each; None for full depth.
        progress: told how many of how many queries are done.
        observe: shown every run that has an answer.

    Raises:
        InputError: without queries, or when two have the same id.
        StageError: when a stage with ``on_error: fail`` failed.
    """
    if len({query.query_id for query in queries}) != len(queries) or not queries:
        raise InputError(f"queries: expected at least one, with distinct ids, got {len(queries)}; give each its own id")
    columns: dict[str, _Column] = {}
    seconds: dict[str, float] = {}
    unanswered: list[str] = []
    for done, (query, run) in enumerate(zip(queries, engine.runs(queries, budget_ms), strict=True), start=1):
        if _answered(run):
            observe(run)
        else:
            unanswered.append(query.query_id)
        seconds[query.query_id] = run.trace.seconds
        for planned, inputs, trace, order, passed in _stages_of(run):
            column = columns.setdefault(planned.name, _Column(inputs, holds_inputs=bool(planned.retrievers)))
            survivors = _doc_ids(run, passed)
            column.add(query.query_id, trace, _doc_ids(run, order)[: max(DEPTH, len(survivors))], survivors)
        progress(done, len(queries))
    stages = tuple(
        StageRun(
            name=name,
            ranked=column.ranked,
            survivors=column.survivors,
            seconds=column.seconds,
            scored=column.scored,
            inputs=column.inputs,
            holds_inputs=column.holds_inputs,
            granted_s=column.granted_s,
            shortfalls=column.shortfalls,
        )
        for name, column in columns.items()
    )
    granted_s = run.deadline.at - run.entered
    config = {"name": engine.plan.name, "source": engine.config.source, "budget_ms": _ms(granted_s)}
    return StagedRun(stages, seconds, _limit(granted_s), config, tuple(unanswered))


def _answered(run: QueryRun) -> bool:
    """Whether there is an answer; raises what else the cascade was told to raise."""
    try:
        run.result(top_k=0)
    except DeadlineExceeded:
        return False
    return True


def _stages_of(
    run: QueryRun,
) -> Iterator[tuple[PlannedStage, tuple[str, ...], StageTrace | None, Candidates, Candidates]]:
    """Every stage, its inputs, trace, order and survivors; fused retrievers before their fusion.

    From the stage on that ended the query there is no order, and after it no trace.
    """
    before: tuple[str, ...] = ()
    ended = False
    for position, (planned, trace) in enumerate(zip_longest(run.cascade.plan.stages, run.trace.stages)):
        traces = {} if trace is None else {part.name: part for part in trace.retrievers}
        ended = ended or trace is None or _overran(planned, trace)
        for part in planned.retrievers:
            found = run.retrieved.get(part.name, Candidates.empty())
            yield part, (), traces.get(part.name), found, found
        inputs = tuple(part.name for part in planned.retrievers) or before
        if ended:
            yield planned, inputs, trace, Candidates.empty(), Candidates.empty()
        else:
            yield planned, inputs, trace, run.order_after(position), run.passed_by(position)
        before = (planned.name,)


def _overran(planned: PlannedStage, trace: StageTrace) -> bool:
    """Whether the stage, or a retriever of it, ran out of time and is to end the query then."""
    parts = [(planned, trace), *zip(planned.retrievers, trace.retrievers, strict=False)]
    return any(unit.on_overrun == "fail" and part.reason == "budget" for unit, part in parts)


def _doc_ids(run: QueryRun, candidates: Candidates) -> list[str]:
    collection = run.cascade.collection
    return collection.doc_ids(best_passages(candidates, collection, None).rows)


def _limit(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


def _ms(seconds: float) -> float | None:
    return None if seconds == float("inf") else round(seconds * 1000, 3)
