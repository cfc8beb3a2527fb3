"""What does the engine itself cost per query? Four stages that score for free, so that all time is the engine's.

    python -m benchmarks.overhead --out benchmarks/results/overhead.json

A query searches 4 ranges and scores candidates at three depths, some 15 batches and 4 encodings in all, under a budget
of 50 ms. It is answered in three ways: a ``QueryRun`` driven in a loop, the live ``Executor`` with one worker and one
client, and the simulator with many clients. Beside them stand the decisions alone: the calls that one query makes of
``cascade.scheduler`` and of the cost model, made again without what turns them into rankings and traces. Processor time
is given next to wall time, because a busy machine adds more to the latter; through the executor it includes waking a
thread twice.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from benchmarks.common import machine_record, print_table
from cascade import cost, scheduler
from cascade.clock import Deadline, MonotonicClock
from cascade.cost import Cost, CostModel, CostProfile, Rates, machine
from cascade.engine import QueryRun
from cascade.executor import Executor
from cascade.health import CircuitBreaker
from cascade.index import MemoryPassages
from cascade.io import write_json_atomic
from cascade.planner import Plan, PlannedStage
from cascade.schema import PassageSettings
from cascade.simulator import NoisySeconds, Simulator, poisson
from cascade.stage import Batch, Reranker, Retriever, StageKind, StageSettings, Work
from cascade.tasks import OpenedCascade, OpenedStage, Task
from cascade.types import Document, Query, Ranking, Rows, Scores
from cascade.workqueue import call, outcomes

BUDGET_S = 0.05
PASSAGES = 20_000
RANGES = 4
RERANKERS = (("late", 400, 32_000), ("cross", 100, 5_000), ("last", 32, 2_000))
"""Name, candidates and batch tokens of each."""
TOP_K = 10
QUERY = Query("q", "why do cats purr")
RATES = Rates(fixed_s=0.0002, token_s=2e-7)
SIMULATED_LOAD = 0.7


class FreeRetriever(Retriever):
    """Gives the same rows every time, without a search."""

    def __init__(self) -> None:
        step = PASSAGES // RANGES
        self._ranges = [(start, start + step) for start in range(0, PASSAGES, step)]
        found = RERANKERS[0][1]
        self._rows = {start: np.arange(start, start + found, dtype=np.int32) for start, _ in self._ranges}
        self._scores = np.linspace(9, 1, found, dtype=np.float32)

    def ranges(self) -> Sequence[tuple[int, int]]:
        """Equal parts."""
        return self._ranges

    def search(self, query: Any, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The first rows of the range."""
        return self._rows[start], self._scores


class FreeReranker(Reranker):
    """Looks its scores up."""

    def __init__(self, lengths: npt.NDArray[np.int32], scores: Scores, batch_tokens: int) -> None:
        self._lengths = lengths
        self._scores = scores
        self.batch_tokens = batch_tokens

    def lengths(self, query: Any, rows: Rows) -> npt.NDArray[np.int32]:
        """As given."""
        found: npt.NDArray[np.int32] = self._lengths[rows]
        return found

    def score(self, batch: Batch) -> Scores:
        """As given."""
        found: Scores = self._scores[batch.rows]
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3000, help="queries in each way")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    opened = free_cascade()
    ranking = drive(opened, known(opened))
    ways = {
        "decisions alone": decisions(opened, arguments.queries),
        "inline": inline(opened, arguments.queries),
        "executor": executor(opened, arguments.queries),
        "simulator": simulator(opened, arguments.queries),
    }
    for way in ways.values():
        way["processor time, share of the budget"] = way["processor ms"] / 1000 / BUDGET_S
    batches = sum(stage.batches for stage in ranking.trace.stages)
    figures = {"budget ms": BUDGET_S * 1000, "stages": len(opened.stages), "batches": batches, "ways": ways}
    write_json_atomic(arguments.out, {"machine": machine_record(), "queries": arguments.queries, **figures})
    columns = list(ways["inline"])
    rows = [[name, *(f"{way[column]:.4f}" for column in columns)] for name, way in ways.items()]
    print_table([f"{batches} batches, through", *columns], rows)
    return 0


def free_cascade() -> OpenedCascade:
    """A retriever and three rerankers over passages of some 90 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.normal(90, 15, PASSAGES).clip(40, 140).astype(np.int32)
    stages = [_stage("bm25", FreeRetriever(), RERANKERS[0][1])]
    passed_on = [candidates for _, candidates, _ in RERANKERS[1:]]
    for (name, _, batch_tokens), top_k in zip(RERANKERS, [*passed_on, TOP_K], strict=True):
        scores = rng.random(PASSAGES).astype(np.float32)
        stages.append(_stage(name, FreeReranker(lengths, scores, batch_tokens), top_k))
    planned = tuple(stage.planned for stage in stages)
    plan = Plan("free", BUDGET_S, "carry", 0.99, "degrade", 1000, PassageSettings(), planned)
    passages = MemoryPassages([Document(str(i), f"text {i}") for i in range(PASSAGES)])
    return OpenedCascade(plan, passages, tuple(stages))


def _stage(name: str, opened: Retriever | Reranker, top_k: int) -> OpenedStage:
    role = "retriever" if isinstance(opened, Retriever) else "reranker"
    kind = StageKind("free", role, StageSettings, _never_loaded)  # type: ignore[arg-type]
    settings = StageSettings(name=name, kind="free", top_k=top_k)
    planned = PlannedStage(name, kind, settings, kind.role_of(settings), top_k, math.inf, "partial", "degrade", name)
    return OpenedStage(planned, opened, name)


def _never_loaded(settings: Any, context: Any) -> Any:
    raise NotImplementedError


def rates_of(opened: OpenedCascade) -> dict[str, Rates]:
    """What the stages are said to cost; all of a query fits into its budget."""
    encode, search = Rates(fixed_s=5e-5), Rates(fixed_s=1e-4, pair_s=1e-8)
    rates = {stage.key("encode"): encode for stage in opened.stages}
    rates.update({stage.key("score"): RATES for stage in opened.stages[1:]})
    return {**rates, opened.stages[0].key("search"): search}


def known(opened: OpenedCascade) -> CostModel:
    costs = {
        key: Cost(rates, 1.2, 100, typical_s=rates.seconds(Work(1000.0))) for key, rates in rates_of(opened).items()
    }
    return CostModel(CostProfile(opened.plan.quantile, machine(), costs))


def drive(opened: OpenedCascade, costs: CostModel) -> Ranking:
    """One query, from its arrival to its answer, in this thread."""
    clock = MonotonicClock()
    health = CircuitBreaker(clock)
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline.after(clock, BUDGET_S), costs=costs, health=health)
    task = run.start()
    while task is not None:
        began = clock.now()
        values, error = call([task])
        (outcome,) = outcomes([task], values, error, began, clock.now(), costs, health)
        task = run.advance(outcome)
    return run.result(TOP_K)


def inline(opened: OpenedCascade, queries: int) -> dict[str, float]:
    costs = known(opened)
    return _medians(lambda: drive(opened, costs), queries, time.thread_time)


def decisions(opened: OpenedCascade, queries: int) -> dict[str, float]:
    """The scheduler's decisions and the cost model's predictions and corrections, and nothing else."""
    costs = known(opened)
    calls = decisions_of_one_query(opened, costs)

    def decide() -> None:
        for function, arguments in calls:
            function(*arguments)

    return _medians(decide, queries, time.thread_time)


def decisions_of_one_query(opened: OpenedCascade, costs: CostModel) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """What a query calls of the public functions of ``cascade.scheduler`` and the cost model, from outside of them."""
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    within = False

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call_it(*arguments: Any) -> Any:
            nonlocal within
            if within:
                return function(*arguments)
            calls.append((function, arguments))
            within = True
            try:
                return function(*arguments)
            finally:
                within = False

        return call_it

    places: list[tuple[Any, str]] = [(owner, name) for owner in (scheduler, CostModel) for name in vars(owner)]
    places.append((scheduler.Lengths, "only"))
    with ExitStack() as patched:
        for place, name in places:
            function = getattr(place, name)
            own = isinstance(function, FunctionType) and function.__module__ in (scheduler.__name__, cost.__name__)
            if own and not name.startswith("_"):
                patched.enter_context(mock.patch.object(place, name, noted(function)))
        drive(opened, costs)
    return calls


def executor(opened: OpenedCascade, queries: int) -> dict[str, float]:
    """One client that waits for each answer, as ``Cascade.search`` does."""
    costs, clock = known(opened), MonotonicClock()
    with Executor(costs, clock=clock) as live:

        def ask() -> Ranking:
            deadline = Deadline.after(clock, BUDGET_S)
            run = QueryRun(opened, QUERY, clock=clock, deadline=deadline, costs=costs, health=live.health)
            live.submit(run).wait()
            return run.result(TOP_K)

        return _medians(ask, queries, time.process_time)


def _medians(answer: Callable[[], object], queries: int, processor: Callable[[], float]) -> dict[str, float]:
    wall_s, processor_s = [], []
    for _ in range(queries):
        began, busy = time.perf_counter(), processor()
        answer()
        processor_s.append(processor() - busy)
        wall_s.append(time.perf_counter() - began)
    return {"wall ms": statistics.median(wall_s) * 1000, "processor ms": statistics.median(processor_s) * 1000}


def simulator(opened: OpenedCascade, queries: int) -> dict[str, float]:
    """Means, since its queries overlap: Poisson arrivals at a load at which most of a query's work gets done."""
    rates = rates_of(opened)
    alone_s = _simulated_s(opened, rates)
    arrivals = poisson([QUERY], SIMULATED_LOAD / alone_s, BUDGET_S, np.random.default_rng(0), queries)
    simulated = Simulator(opened, known(opened), NoisySeconds(rates, np.random.default_rng(1), 0.1))
    began, busy = time.perf_counter(), time.process_time()
    for _ in simulated.run(arrivals):
        pass
    processor_s, wall_s = time.process_time() - busy, time.perf_counter() - began
    return {"wall ms": wall_s / queries * 1000, "processor ms": processor_s / queries * 1000}


def _simulated_s(opened: OpenedCascade, rates: Mapping[str, Rates]) -> float:
    """Simulated seconds of a query that is alone."""

    def seconds(task: Task, work: Work, now: float) -> float:
        return rates[task.cost_key].seconds(work)

    arrivals = poisson([QUERY], 1.0, BUDGET_S, np.random.default_rng(0), 1)
    (record,) = Simulator(opened, known(opened), seconds).run(arrivals)
    return record.answered_s - record.arrival.at_s


if __name__ == "__main__":
    sys.exit(main())
