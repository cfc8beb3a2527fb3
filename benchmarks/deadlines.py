r"""Are answers on time, and what is in them? One client, 70 % and 150 % of capacity, at several budgets.

    python -m benchmarks.deadlines --config configs/default.yaml --index IDX --data DATA/npl \\
        --queries-at-70 10000 --out benchmarks/results/deadlines.json

DATA is a BEIR-style folder and IDX its index. Capacity, at a budget, is how many answers a second one client gets that
always asks the next question at once: work that can be cut short has no other. Beside it stands how many whole answers
a second there are without a budget, many queries under way at once. Arrivals are Poisson, from an asyncio loop; a
query's time runs from the moment it was due to arrive. A heartbeat notes what the machine itself loses (``stalls.py``),
so that an answer that is late by that can be told from one that is late by our doing.

How much of its budget an answer used is asked only of degraded ones, since the others had no more work to do: once with
the time that it stood in the queue, and once of what the queue had left it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common import add_collection_arguments, is_missing, machine_record, ndcg_of_each, print_cells
from benchmarks.stalls import Stalls, busy_loss, heartbeat
from cascade.api import Cascade
from cascade.errors import Overloaded
from cascade.evaluation import judged_queries
from cascade.io import read_qrels, read_queries, write_json_atomic
from cascade.trace import StageTrace
from cascade.types import Qrel, Query, Ranking

A = TypeVar("A")
BUDGETS_MS = (25.0, 50.0, 100.0, 200.0)
MOST_LATE, OF_QUERIES = 4, 10_000
"""The goals: at most so many late answers of so many, those by the machine left out; and at least these shares."""
LEAST_USED = 0.8
LEAST_GOODPUT = 0.8


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
        waited_s: seconds in the queue.
        reasons: why it is degraded or was refused.
    """

    doc_ids: tuple[str, ...] | None = None
    degraded: bool = False
    scored: tuple[tuple[str, int], ...] = ()
    waited_s: float = 0.0
    reasons: tuple[str, ...] = ()


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
    with heartbeat() as stalls, Cascade.from_yaml(arguments.config, index=arguments.index) as engine:
        busy = busy_loss(stalls)
        documents = len(set(engine.index.doc_ids(range(len(engine.index))))) if engine.index is not None else 0
        used = runtimes(engine, queries[0])
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
                cells.append(summary(share_of_capacity(load), budget_ms, answers, qrels, stalls))
                print(cells[-1], file=sys.stderr)
        costs = engine.costs.profile.source
    reached = goals(cells, arguments.main_budget)
    write_json_atomic(
        arguments.out,
        {
            "machine": machine_record(),
            "documents": documents,
            "config": str(arguments.config),
            "costs": costs,
            "runtimes": used,
            "whole answers per s": whole,
            "lost beside loops that count": busy,
            "heartbeat has real-time priority": stalls.real_time,
            "cells": cells,
            "goals": reached,
        },
    )
    print_cells([{key: value for key, value in cell.items() if not isinstance(value, dict)} for cell in cells])
    if reached:
        print()
        print_cells(reached)
    return 0


def runtimes(engine: Cascade, query: Query) -> dict[str, str]:
    """What runs the model of each stage that offers a choice, by the stage's name."""
    (run,) = engine.runs([query])
    chosen = {stage.planned.name: getattr(stage.opened, "runtime", None) for stage in run.cascade.stages}
    return {name: type(runtime).__name__ for name, runtime in chosen.items() if runtime is not None}


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
        answers.append(kept(query, due_s, engine.search(query, budget_ms=budget_ms)))
    return answers


def kept(query: Query, due_s: float, ranking: Ranking) -> Answer:
    done_s, trace = time.perf_counter(), ranking.trace
    scored = tuple((stage.name, stage.scored) for stage in trace.stages)
    waited_s = sum(stage.waited_s for stage in trace.stages)
    doc_ids, reasons = tuple(hit.doc_id for hit in ranking), tuple(why(trace.stages))
    return Answer(query.query_id, due_s, done_s, doc_ids, trace.degraded, scored, waited_s, reasons)


def why(stages: Iterable[StageTrace]) -> Iterator[str]:
    """Why each degraded stage, and each degraded retriever of a fusion, did less than it should."""
    for stage in stages:
        yield from why(stage.retrievers)
        if stage.quarantined:
            yield f"{stage.name}: scores that were not finite"
        if stage.reason not in ("complete", "saturated"):
            yield f"{stage.name}: {stage.reason}, {stage.detail}".removesuffix(", ")


async def arrivals(engine: Cascade, queries: list[Query], budget_ms: float, rate: float, count: int) -> list[Answer]:
    """Poisson arrivals at ``rate`` queries a second."""

    async def ask(query: Query, due_s: float) -> Answer:
        late_ms = (time.perf_counter() - due_s) * 1000  # the client's own lateness comes out of the budget
        try:
            ranking = await engine.asearch(query, budget_ms=max(0.0, budget_ms - late_ms))
        except Overloaded as error:
            return Answer(query.query_id, due_s, time.perf_counter(), reasons=(type(error).__name__,))
        return kept(query, due_s, ranking)

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
    lost_s = [stalls.between(answer.due_s, answer.done_s) for answer in late]
    over_by_s = over_s[over_s > 0].tolist()
    depths: dict[str, float] = {}
    for name, _ in answered[0].scored if answered else ():
        depths[name] = round(statistics.fmean(dict(answer.scored)[name] for answer in answered), 1)
    found = [(answer.query_id, answer.doc_ids or ()) for answer in answers]
    began_s, ended_s = min(answer.due_s for answer in answers), max(answer.done_s for answer in answers)
    span_s = ended_s - began_s
    return {
        "load": load,
        "budget ms": budget_ms,
        "queries": len(answers),
        "queries per s": len(answers) / span_s,
        "over budget": len(late),
        "of these not by the machine": sum(over > lost for over, lost in zip(over_by_s, lost_s, strict=True)),
        "lost by the machine": stalls.between(began_s, ended_s) / span_s,
        "overshoot p99 ms": float(np.quantile(np.maximum(over_s, 0), 0.99)) * 1000,
        **budget_used(answers, budget_ms / 1000),
        "refused": len(answers) - len(answered),
        "degraded": sum(answer.degraded for answer in answered),
        "goodput per s": (len(answered) - len(late)) / span_s,
        "empty": sum(not answer.doc_ids for answer in answered),
        "nDCG@10": float(ndcg_of_each(found, qrels).mean()),
        "without a reason": sum((answer.degraded or not answer.doc_ids) and not answer.reasons for answer in answers),
        "mean depth": depths,
        "reasons": dict(Counter(reason for answer in answers for reason in answer.reasons).most_common()),
        "late": {
            "after s": [round(answer.due_s - answers[0].due_s, 1) for answer in late],
            "by ms": [round(seconds * 1000, 2) for seconds in over_by_s],
            "the machine lost ms": [round(seconds * 1000, 2) for seconds in lost_s],
        },
    }


def budget_used(answers: Sequence[Answer], budget_s: float) -> dict[str, float | None]:
    """Shares of their budget that degraded answers took; None if there are none, a late one counts as one in time."""
    degraded = [answer for answer in answers if answer.degraded]
    taken_s = [min(budget_s, answer.done_s - answer.due_s) for answer in degraded]
    waited_s = [min(taken, answer.waited_s) for answer, taken in zip(degraded, taken_s, strict=True)]
    whole_s = budget_s * len(degraded)
    left_s = whole_s - sum(waited_s)
    return {
        "budget used": sum(taken_s) / whole_s if whole_s > 0 else None,
        "used of what the queue left": (sum(taken_s) - sum(waited_s)) / left_s if left_s > 0 else None,
    }


def goals(cells: Sequence[Mapping[str, Any]], main_budget_ms: float) -> list[dict[str, Any]]:
    """What was wanted and what was measured: late answers at the main budget, the rest at every one.

    Lateness is shown only over enough queries. Capacity is what one client gets at the same budget.
    """
    found = []

    def add(cell: Mapping[str, Any], goal: str, measured: float, wanted: str, met: bool) -> None:
        head = {"load": cell["load"], "budget ms": cell["budget ms"]}
        found.append({**head, "goal": goal, "measured": measured, "wanted": wanted, "met": met})

    capacity = {cell["budget ms"]: cell["queries per s"] for cell in cells if cell["load"] == "one client"}
    for cell in cells:
        if cell["load"] == share_of_capacity(0.7):
            if cell["budget ms"] == main_budget_ms:
                late, queries = cell["of these not by the machine"], cell["queries"]
                met = queries >= OF_QUERIES and late * OF_QUERIES <= MOST_LATE * queries
                wanted = f"at most {MOST_LATE} of {OF_QUERIES:,}"
                add(cell, f"over budget and not by the machine, of {queries:,}", late, wanted, met)
            for what in ("budget used", "used of what the queue left"):
                if cell[what] is not None:
                    add(cell, what, cell[what], f"at least {LEAST_USED}", cell[what] >= LEAST_USED)
        elif cell["load"] == share_of_capacity(1.5):
            share = cell["goodput per s"] / capacity[cell["budget ms"]]
            add(cell, "goodput, of capacity", share, f"at least {LEAST_GOODPUT}", share >= LEAST_GOODPUT)
            unsaid = cell["without a reason"]
            add(cell, "degraded, refused or empty without a reason", unsaid, "0", unsaid == 0)
    return found


def share_of_capacity(load: float) -> str:
    """The name of a load."""
    return f"{load:.0%} of capacity"


if __name__ == "__main__":
    sys.exit(main())
