r"""Are answers on time, and what is in them? One client, 70 % and 150 % of capacity, at several budgets.

    python -m benchmarks.deadlines --config configs/default.yaml --index IDX --data DATA/npl \\
        --queries-at-70 10000 --out benchmarks/results/deadlines.json

DATA is a BEIR-style folder and IDX its index. Capacity, at a budget, is how many answers a second one client gets that
always asks the next question at once: work that can be cut short has no other. Beside it stands how many whole answers
a second there are without a budget, many queries under way at once. Arrivals are Poisson, from an asyncio loop; a
query's time runs from the moment it was due to arrive. A heartbeat in a process of its own notes every stall of the
machine, so that a late answer during one can be told from a late answer of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import multiprocessing.synchronize
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common import add_collection_arguments, is_missing, machine_record, ndcg_of_each, print_cells
from cascade.api import Cascade
from cascade.errors import Overloaded
from cascade.evaluation import judged_queries
from cascade.io import read_qrels, read_queries, write_json_atomic
from cascade.types import Qrel, Query, Ranking

A = TypeVar("A")
BUDGETS_MS = (25.0, 50.0, 100.0, 200.0)
STALL_S = 0.002
BEAT_S = 0.001


@dataclass(frozen=True, slots=True)
class Timed:
    """One query as its client saw it; times of ``time.perf_counter``, which all processes share."""

    query_id: str
    due_s: float
    done_s: float


@dataclass(frozen=True, slots=True)
class Answer(Timed):
    """What is kept of an answer: as little as there can be, since garbage collection stops for everything that is.

    Args:
        doc_ids: documents, best first; None if the query was refused.
        degraded: whether it is less than it would be without a budget.
        scored: how many candidates each stage scored, by its name.
    """

    doc_ids: tuple[str, ...] | None = None
    degraded: bool = False
    scored: tuple[tuple[str, int], ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    add_collection_arguments(parser, queries=500)
    parser.add_argument("--queries-at-70", type=int, default=0, help="queries at 70 %% load and --main-budget instead")
    parser.add_argument("--main-budget", type=float, default=50.0, metavar="MS")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS_MS), metavar="MS")
    arguments = parser.parse_args()
    if is_missing(arguments.data):
        return 0
    queries, qrels = judged_queries(read_queries(arguments.data), read_qrels(arguments.data / "qrels" / "test.tsv"))
    cells = []
    with Cascade.from_yaml(arguments.config, index=arguments.index) as engine, heartbeat() as stalls:
        documents = len(set(engine.index.doc_ids(range(len(engine.index))))) if engine.index is not None else 0
        whole = whole_answers_per_s(engine, queries, arguments.queries)
        for budget_ms in arguments.budgets:
            alone = one_client(engine, queries, budget_ms, arguments.queries)
            cells.append(summary("one client", budget_ms, alone, qrels, stalls))
            capacity = len(alone) / (alone[-1].done_s - alone[0].due_s)
            for load in (0.7, 1.5):
                count = arguments.queries
                if load == 0.7 and budget_ms == arguments.main_budget and arguments.queries_at_70:
                    count = arguments.queries_at_70
                answers = asyncio.run(arrivals(engine, queries, budget_ms, load * capacity, count))
                cells.append(summary(f"{load:.0%} of capacity", budget_ms, answers, qrels, stalls))
                print(cells[-1], file=sys.stderr)
    write_json_atomic(
        arguments.out,
        {
            "machine": machine_record(),
            "documents": documents,
            "config": str(arguments.config),
            "whole answers per s": whole,
            "cells": cells,
        },
    )
    print_cells([{key: value for key, value in cell.items() if not isinstance(value, dict)} for cell in cells])
    return 0


def whole_answers_per_s(engine: Cascade, queries: list[Query], count: int) -> float:
    """Complete answers a second when there is always more to do."""
    began = time.perf_counter()
    for ranking in engine.stream(itertools.islice(itertools.cycle(queries), count)):
        if ranking.degraded:
            raise RuntimeError(f"an answer without a budget is not whole:\n{ranking.trace}")
    return count / (time.perf_counter() - began)


def one_client(engine: Cascade, queries: list[Query], budget_ms: float, count: int) -> list[Answer]:
    """One query after the other."""
    answers = []
    for query in itertools.islice(itertools.cycle(queries), count):
        due_s = time.perf_counter()
        answers.append(_answer(query, due_s, engine.search(query, budget_ms=budget_ms)))
    return answers


def _answer(query: Query, due_s: float, ranking: Ranking) -> Answer:
    done_s, trace = time.perf_counter(), ranking.trace
    scored = tuple((stage.name, stage.scored) for stage in trace.stages)
    return Answer(query.query_id, due_s, done_s, tuple(hit.doc_id for hit in ranking), trace.degraded, scored)


async def arrivals(engine: Cascade, queries: list[Query], budget_ms: float, rate: float, count: int) -> list[Answer]:
    """Poisson arrivals at ``rate`` queries a second."""

    async def ask(query: Query, due_s: float) -> Answer:
        late_ms = (time.perf_counter() - due_s) * 1000  # the client's own lateness comes out of the budget
        try:
            ranking = await engine.asearch(query, budget_ms=max(0.0, budget_ms - late_ms))
        except Overloaded:
            return Answer(query.query_id, due_s, time.perf_counter())
        return _answer(query, due_s, ranking)

    return await poisson(ask, itertools.islice(itertools.cycle(queries), count), rate)


async def poisson(
    ask: Callable[[Query, float], Coroutine[Any, Any, A]], queries: Iterable[Query], rate: float
) -> list[A]:
    """Asks every query, given when it is due, at random times, so many a second on average."""
    random, due_s = np.random.default_rng(0), time.perf_counter() + 0.05
    tasks: list[asyncio.Task[A]] = []
    for query in queries:
        due_s += random.exponential(1 / rate)
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(query, due_s)))
    return await asyncio.gather(*tasks)


def summary(load: str, budget_ms: float, answers: list[Answer], qrels: list[Qrel], stalls: Stalls) -> dict[str, object]:
    """One row of the table; for nDCG@10, every answer counts, and one that was refused counts 0."""
    taken_s = np.array([answer.done_s - answer.due_s for answer in answers])
    over_s = taken_s - budget_ms / 1000
    answered = [answer for answer in answers if answer.doc_ids is not None]
    late = [answer for answer, over in zip(answers, over_s, strict=True) if over > 0]
    ours = [answer for answer in late if answer.done_s - answer.due_s - stalls.between(answer) > budget_ms / 1000]
    used = [answer.done_s - answer.due_s for answer in answered]
    depths: dict[str, float] = {}
    for name, _ in answered[0].scored if answered else ():
        depths[name] = round(statistics.fmean(dict(answer.scored)[name] for answer in answered), 1)
    found = [(answer.query_id, answer.doc_ids or ()) for answer in answers]
    span_s = max(answer.done_s for answer in answers) - min(answer.due_s for answer in answers)
    return {
        "load": load,
        "budget ms": budget_ms,
        "queries": len(answers),
        "queries per s": len(answers) / span_s,
        "over budget": len(late),
        "of these not in a stall": len(ours),
        "overshoot p99 ms": float(np.quantile(np.maximum(over_s, 0), 0.99)) * 1000,
        "budget used": statistics.fmean(used) / (budget_ms / 1000) if used else 0.0,
        "refused": len(answers) - len(answered),
        "degraded": sum(answer.degraded for answer in answered),
        "goodput per s": (len(answered) - len(late)) / span_s,
        "empty": sum(not answer.doc_ids for answer in answered),
        "nDCG@10": float(ndcg_of_each(found, qrels).mean()),
        "mean depth": depths,
        "late": {
            "after s": [round(answer.due_s - answers[0].due_s, 1) for answer in late],
            "by ms": [round((answer.done_s - answer.due_s) * 1000 - budget_ms, 2) for answer in late],
            "of these stalled ms": [round(stalls.between(answer) * 1000, 2) for answer in late],
        },
    }


class Stalls:
    """When the machine stood still: (start, seconds) of every heartbeat that came late."""

    def __init__(self, shared: multiprocessing.queues.SimpleQueue[tuple[float, float]]) -> None:
        self._shared = shared
        self._seen: list[tuple[float, float]] = []

    def between(self, answer: Timed) -> float:
        """Seconds of stalls while a query was under way."""
        while not self._shared.empty():
            self._seen.append(self._shared.get())
        return sum(
            max(0.0, min(answer.done_s, start + seconds) - max(answer.due_s, start)) for start, seconds in self._seen
        )


@contextlib.contextmanager
def heartbeat() -> Iterator[Stalls]:
    """A process that sleeps a millisecond at a time and notes when it wakes late."""
    context = multiprocessing.get_context("spawn")
    shared: multiprocessing.queues.SimpleQueue[tuple[float, float]] = context.SimpleQueue()
    process = context.Process(target=_beat, args=(shared,), daemon=True)
    process.start()
    try:
        yield Stalls(shared)
    finally:
        process.terminate()
        process.join()


def _beat(shared: multiprocessing.queues.SimpleQueue[tuple[float, float]]) -> None:
    while True:
        before = time.perf_counter()
        time.sleep(BEAT_S)
        late = time.perf_counter() - before - BEAT_S
        if late > STALL_S:
            shared.put((before, late))


if __name__ == "__main__":
    sys.exit(main())
