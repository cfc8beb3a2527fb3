"""Runs a cascade over many queries and keeps what each of its stages made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cascade.api import Budget, Cascade
from cascade.engine import QueryRun
from cascade.errors import InputError
from cascade.evaluation.gap import StagedRun, StageRun
from cascade.ranking import best_passages
from cascade.trace import StageTrace
from cascade.types import Candidates, Query

DEPTH = 1000
"""Documents kept of each order."""


@dataclass(slots=True)
class _Column:
    """What is collected of one stage."""

    inputs: tuple[str, ...]
    ranked: dict[str, list[str]] = field(default_factory=dict)
    survivors: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)


def run_staged(
    engine: Cascade,
    queries: Sequence[Query],
    budget_ms: Budget = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StagedRun:
    """Answers every query and records the order after each stage.

    Without a budget, the stages' seconds are those of queries that share batches: totals are right, single ones are
    not what one client would see.

    Args:
        engine: open over an index.
        queries: with distinct ids.
        budget_ms: milliseconds for each; None for full depth.
        progress: told how many of how many queries are done.

    Raises:
        InputError: without queries, or when two have the same id.
    """
    if len({query.query_id for query in queries}) != len(queries) or not queries:
        raise InputError(f"queries: expected at least one, with distinct ids, got {len(queries)}; give each its own id")
    columns: dict[str, _Column] = {}
    seconds: dict[str, float] = {}
    for done, (query, run) in enumerate(zip(queries, engine.runs(queries, budget_ms), strict=True), start=1):
        run.result()  # raises what the cascade was told to raise
        seconds[query.query_id] = run.trace.seconds
        for name, inputs, trace, order, passed in _stages_of(run):
            column = columns.setdefault(name, _Column(inputs))
            column.ranked[query.query_id] = _doc_ids(run, order)[:DEPTH]
            column.survivors[query.query_id] = _doc_ids(run, passed)
            column.seconds[query.query_id] = trace.seconds
            column.scored[query.query_id] = trace.scored
        progress(done, len(queries))
    limits = {unit.name: unit.budget_s for unit in engine.plan.units()}
    stages = tuple(
        StageRun(
            name=name,
            ranked=column.ranked,
            survivors=column.survivors,
            seconds=column.seconds,
            scored=column.scored,
            inputs=column.inputs,
            budget_s=_limit(limits[name]),
        )
        for name, column in columns.items()
    )
    granted_s = run.deadline.at - run.entered
    config = {"name": engine.plan.name, "source": engine.config.source, "budget_ms": _ms(granted_s)}
    return StagedRun(stages=stages, seconds=seconds, budget_s=_limit(granted_s), config=config)


def _stages_of(run: QueryRun) -> Iterator[tuple[str, tuple[str, ...], StageTrace, Candidates, Candidates]]:
    """Name, inputs, trace, order and survivors of every stage, fused retrievers before their fusion."""
    before: tuple[str, ...] = ()
    for position, trace in enumerate(run.trace.stages):
        for part in trace.retrievers:
            found = run.retrieved[part.name]
            yield part.name, (), part, found, found
        inputs = tuple(part.name for part in trace.retrievers) or before
        yield trace.name, inputs, trace, run.order_after(position), run.passed_by(position)
        before = (trace.name,)


def _doc_ids(run: QueryRun, candidates: Candidates) -> list[str]:
    collection = run.cascade.collection
    return collection.doc_ids(best_passages(candidates, collection, None).rows)


def _limit(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


def _ms(seconds: float) -> float | None:
    return None if seconds == float("inf") else round(seconds * 1000, 3)
