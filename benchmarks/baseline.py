r"""Against what one would write without an engine: who is late, who comes back empty, and whose answers are better?

    cascade index --config configs/default.yaml --corpus DATA/npl --index IDX
    python -m benchmarks.baseline --model bundled:cross-encoder --index IDX --data DATA/npl \\
        --budgets 50 100 --queries 500 --out benchmarks/results/baseline.json

The same models everywhere: BM25 and dense retrieval fused, then a cross-encoder over the first candidates.

- *cascade*: this engine, told the budget.
- *fixed depth*: bm25s, one matrix product, and a loop over padded batches of pairs, in the manner of
  sentence-transformers. It reads a fixed number of candidates, found beforehand: the most whose latency meets the
  budget with one client, once by its mean and once by its 99th percentile.
- *timeout*: the same with a timeout on its future. When reranking takes too long, the answer is the order of the first
  stage, or nothing; nothing, too, when retrieval takes too long. Both ways are measured. A thread cannot be stopped, so
  its work goes on and delays others.

One client, then Poisson arrivals at a share (``--load``) of what the fixed depth that meets the budget by its mean can
do one query after the other; every system meets the same arrivals. An answer is late when it is over its budget by more
than the machine lost meanwhile (``stalls.py``). For nDCG@10 a late answer counts in full, which favours those that
wait. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.common import add_collection_arguments, is_missing, machine_record, ndcg_of_each, print_cells
from benchmarks.deadlines import Timed, poisson
from benchmarks.plain import NOTHING, TOP_K, Ask, Pipeline, Program, Reply, with_fixed_depth, with_timeout
from benchmarks.stalls import Stalls, heartbeat
from cascade.api import Cascade
from cascade.errors import Overloaded
from cascade.evaluation import bootstrap_interval, judged_queries
from cascade.index import Index
from cascade.io import read_qrels, read_queries, write_json_atomic
from cascade.load import parse_config
from cascade.schema import CascadeConfig
from cascade.types import Qrel, Query

CONFIG = """
version: 1
name: cascade
budget_ms: 100
stages:
  - name: hybrid
    kind: fusion
    method: weighted
    weights: {{bm25: 0.3, dense: 0.7}}
    top_k: {candidates}
    retrievers:
      - {{name: bm25, kind: bm25, top_k: 200}}
      - {{name: dense, kind: dense, model: bundled:bi-encoder, top_k: 200}}
  - {{name: cross-encoder, kind: cross_encoder, model: {model}, runtime: {runtime}, top_k: 10}}
"""
WARM_UP = 10
FITTED_ON = 100
Seconds: TypeAlias = npt.NDArray[np.float64]
FITS: dict[str, Callable[[Seconds], float]] = {
    "mean": lambda taken: float(taken.mean()),
    "p99": lambda taken: float(np.quantile(taken, 0.99)),
}
TIMES_FEWER = 10
"""How many times fewer late or empty answers are wanted."""


@dataclass(frozen=True, slots=True)
class Asked(Timed):
    """One query as its client saw it."""

    reply: Reply = NOTHING


@dataclass(frozen=True, slots=True)
class Cell:
    """One system under one load: its row of the table, and nDCG@10 of every answer."""

    row: dict[str, Any]
    query_ids: tuple[str, ...]
    gains: npt.NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:cross-encoder", help="what a configuration's model: may say")
    parser.add_argument("--runtime", default="torch", choices=("torch", "openvino", "auto"), help="of all systems")
    add_collection_arguments(parser, queries=500)
    parser.add_argument("--budgets", type=float, nargs="+", default=[50.0, 100.0], metavar="MS")
    parser.add_argument("--load", type=float, default=0.7, help="share of capacity at which queries arrive")
    parser.add_argument("--candidates", type=int, default=100, help="most that are handed to the cross-encoder")
    parser.add_argument("--threads", type=int, help="of each task; by default all cores")
    arguments = parser.parse_args()
    if is_missing(arguments.data):
        return 0
    queries, qrels = judged_queries(read_queries(arguments.data), read_qrels(arguments.data / "qrels" / "test.tsv"))
    config = cascade(arguments.model, arguments.runtime, arguments.candidates)
    index = Index.open(arguments.index)
    with Cascade(config, index=index, threads=arguments.threads) as engine, heartbeat() as stalls:
        engine.calibrate()
        program = Program(config, index)
        cells = []
        for budget_ms in arguments.budgets:
            cells += _under(budget_ms / 1000, engine, program, queries, qrels, stalls, arguments)
    goals = compared(cells)
    write_json_atomic(
        arguments.out,
        {
            "machine": machine_record(),
            "documents": index.manifest.corpus.documents,
            "model": arguments.model,
            "runtime": arguments.runtime,
            "candidates": arguments.candidates,
            "cells": [cell.row for cell in cells],
            "goals": goals,
        },
    )
    print_cells([cell.row for cell in cells])
    print()
    print_cells(goals)
    return 0


def cascade(model: str, runtime: str, candidates: int) -> CascadeConfig:
    """What all systems run, as a configuration."""
    return parse_config(CONFIG.format(model=json.dumps(model), runtime=runtime, candidates=candidates))


def _under(
    budget_s: float,
    engine: Cascade,
    program: Program,
    queries: list[Query],
    qrels: list[Qrel],
    stalls: Stalls,
    arguments: argparse.Namespace,
) -> list[Cell]:
    """Every system under one budget, with one client and under load."""
    taken_s = stopwatch(program, queries[:FITTED_ON])
    depths = {fit: deepest(taken_s, of, budget_s, arguments.candidates) for fit, of in FITS.items()}
    capacity = 1 / float(taken_s(depths["mean"]).mean())
    chosen = list(itertools.islice(itertools.cycle(queries), arguments.queries))
    cells = []
    rate_per_s = arguments.load * capacity
    loads = (("one client", None), (f"{arguments.load:.0%} of capacity, {rate_per_s:.3g} per s", rate_per_s))
    for load, rate in loads:
        for name, system in systems(engine, program, depths):
            with system as ask:
                asyncio.run(drive(ask, chosen[:WARM_UP], budget_s, None))
                answers = asyncio.run(drive(ask, chosen, budget_s, rate))
            head = {"load": load, "budget ms": budget_s * 1000, "system": name}
            cells.append(summary(head, answers, budget_s, qrels, stalls))
            print(cells[-1].row, file=sys.stderr)
    return cells


def stopwatch(program: Pipeline, queries: Sequence[Query]) -> Callable[[int], Seconds]:
    """Seconds of every query at a depth, float64 [queries]; each depth is measured once."""

    @functools.cache
    def taken_s(depth: int) -> Seconds:
        taken = []
        for query in [*queries[:WARM_UP], *queries]:
            began = time.perf_counter()
            program.best(program.rerank(query, program.find(query), depth))
            taken.append(time.perf_counter() - began)
        return np.array(taken[-len(queries) :])

    return taken_s


def deepest(
    taken_s: Callable[[int], Seconds], statistic: Callable[[Seconds], float], budget_s: float, most: int
) -> int:
    """The largest depth up to ``most`` at which a statistic of the latency is within the budget; 0 if there is none.

    Latency is taken to grow with depth, so that few depths are asked for.
    """
    found = bisect.bisect_right(range(most + 1), budget_s, key=lambda depth: statistic(taken_s(depth)))
    return max(0, found - 1)


def systems(
    engine: Cascade, program: Pipeline, depths: dict[str, int]
) -> Iterator[tuple[str, contextlib.AbstractContextManager[Ask]]]:
    """Every system with its name, one at a time."""
    yield "cascade", contextlib.nullcontext(with_engine(engine))
    for fit, depth in depths.items():
        yield f"fixed depth {depth} ({fit} in budget)", with_fixed_depth(program, depth)
        for fall_back, otherwise in ((True, "first stage"), (False, "nothing")):
            name = f"timeout, else {otherwise}, depth {depth} ({fit} in budget)"
            yield name, with_timeout(program, depth, fall_back=fall_back)


def with_engine(engine: Cascade) -> Ask:
    """This engine."""

    async def ask(query: Query, left_s: float) -> Reply:
        try:
            ranking = await engine.asearch(query, top_k=TOP_K, budget_ms=max(0.0, left_s * 1000))
        except Overloaded:
            return NOTHING
        return Reply(tuple(hit.doc_id for hit in ranking), ranking.trace.stages[-1].scored)

    return ask


async def drive(ask: Ask, queries: Sequence[Query], budget_s: float, rate: float | None) -> list[Asked]:
    """All queries: at random times, so many a second on average, or without a rate one after the other."""

    async def one(query: Query, due_s: float) -> Asked:
        reply = await ask(query, due_s + budget_s - time.perf_counter())  # the client's own lateness counts
        return Asked(query.query_id, due_s, time.perf_counter(), reply)

    if rate is None:
        return [await one(query, time.perf_counter()) for query in queries]
    return await poisson(one, queries, rate)


def summary(head: dict[str, Any], answers: Sequence[Asked], budget_s: float, qrels: list[Qrel], stalls: Stalls) -> Cell:
    """The row of a system under a load."""
    taken_s = np.array([answer.done_s - answer.due_s for answer in answers])
    stalled_s = np.array([stalls.between(answer.due_s, answer.done_s) for answer in answers])
    late = taken_s - stalled_s > budget_s
    empty = np.array([not answer.reply.doc_ids for answer in answers])
    gains = ndcg_of_each([(answer.query_id, answer.reply.doc_ids) for answer in answers], qrels)
    row = {
        **head,
        "queries": len(answers),
        "late": int(late.sum()),
        "late by the machine": int((taken_s > budget_s).sum() - late.sum()),
        "empty": int(empty.sum()),
        "late or empty": float((late | empty).mean()),
        "first stage only": sum(answer.reply.scored == 0 for answer in answers) - int(empty.sum()),
        "mean depth": statistics.fmean(answer.reply.scored for answer in answers),
        "nDCG@10": float(gains.mean()),
        "nDCG@10 in time": float(np.where(late, 0.0, gains).mean()),
        **{f"p{p} ms": float(np.quantile(taken_s, p / 100)) * 1000 for p in (50, 95, 99)},
    }
    return Cell(row, tuple(answer.query_id for answer in answers), gains)


def compared(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each system beside the cascade under the same load and budget, and whether the goal is met.

    The goal: ten times fewer late or empty answers, at a mean nDCG@10 that is not lower. None of ours counts as one, so
    that a single one of the others is no proof. The interval is a bootstrap of the difference at 95 %, over queries.
    """
    own = {(cell.row["load"], cell.row["budget ms"]): cell for cell in cells if cell.row["system"] == "cascade"}
    found = []
    for cell in cells:
        ours = own[cell.row["load"], cell.row["budget ms"]]
        if cell is ours:
            continue
        by_query: dict[str, list[float]] = {}
        for query_id, difference in zip(cell.query_ids, (ours.gains - cell.gains).tolist(), strict=True):
            by_query.setdefault(query_id, []).append(difference)
        low, high = bootstrap_interval([statistics.fmean(values) for values in by_query.values()])
        our_share, share = ours.row["late or empty"], cell.row["late or empty"]
        times = share / max(our_share, 1 / ours.row["queries"])
        difference = float((ours.gains - cell.gains).mean())
        found.append(
            {
                "load": cell.row["load"],
                "budget ms": cell.row["budget ms"],
                "system": cell.row["system"],
                "late or empty": share,
                "ours": our_share,
                "times fewer": times,
                "nDCG@10 gained": difference,
                "low": low,
                "high": high,
                "met": times >= TIMES_FEWER and difference >= 0,
            }
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
