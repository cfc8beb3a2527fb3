"""Stages of one reader: a query is read once, and what that saves is planned with."""

from __future__ import annotations

import numpy as np
import pytest

from cascade.clock import Deadline, VirtualClock
from cascade.cost import Rates
from cascade.engine import QueryRun
from cascade.health import CircuitBreaker
from cascade.tasks import Outcome
from cascade.types import Candidates
from tests.fakes import (
    QUERY,
    FakeFuser,
    FakeReranker,
    FakeRetriever,
    ReadingReranker,
    ReadingRetriever,
    answer,
    cascade,
    costs_of,
    model,
    no_fault,
    raises,
    stage,
    varied_lengths,
)

N = 60
LENGTHS = varied_lengths(N)


def opened(fault=no_fault, late="minilm", **plan):
    """Two retrievers, of which the second reads with minilm, and two rerankers, of which the first may."""
    pair = [stage("words", FakeRetriever(N), 30), stage("meaning", ReadingRetriever(N, "minilm", fault), 30)]
    return cascade(
        stage("rrf", FakeFuser(), 40, retrievers=pair),
        stage("late", ReadingReranker(LENGTHS, late), 20),
        stage("ce", FakeReranker(LENGTHS), 10),
        passages=N,
        **plan,
    )


def encodings(run: QueryRun) -> dict[str, str]:
    """The query-side action of every stage, in the order of execution."""
    found, task = {}, run.start()
    while task is not None:
        if task.action.startswith("encode"):
            found[task.stage.planned.name] = task.cost_key.split("/")[1]
        try:
            outcome = Outcome(task.call(), None, 0.0, 0.0)
        except (RuntimeError, AssertionError) as error:
            outcome = Outcome(None, error, 0.0, 0.0)
        task = run.advance(outcome)
    return found


def started(stages, **more) -> QueryRun:
    costs = model(costs_of(stages))
    return QueryRun(stages, QUERY, clock=VirtualClock(), deadline=Deadline.never(), costs=costs, **more)


def counts(stages) -> list[tuple[int, int]]:
    return [(unit.read, unit.encoded) for unit in (stages.stages[0].retrievers[1].opened, stages.stages[1].opened)]


def test_a_query_is_read_once_for_all_stages_of_a_reader():
    stages = opened()
    run = started(stages)
    assert encodings(run) == {"words": "encode", "meaning": "encode", "late": "encode_read", "ce": "encode"}
    assert counts(stages) == [(1, 1), (0, 1)]
    assert [trace.reason for trace in run.trace.stages] == ["complete"] * 3


def test_stages_of_other_readers_read_for_themselves():
    stages = opened(late="other")
    assert encodings(started(stages))["late"] == "encode"
    assert counts(stages) == [(1, 1), (1, 1)]


def test_what_failed_to_read_leaves_it_to_the_next():
    stages = opened(raises)
    run = started(stages)
    assert encodings(run)["late"] == "encode"
    assert counts(stages) == [(1, 0), (1, 1)]
    assert run.trace.stages[0].retrievers[1].reason == "failed"
    assert run.trace.stages[1].reason == "complete"


def test_what_the_first_could_not_encode_is_read_anew_by_the_next():
    stages = opened(lambda words: words[:-1])  # which it notices, as it would notice that a state is not finite
    run = started(stages)
    assert encodings(run)["late"] == "encode"
    assert run.trace.stages[0].retrievers[1].reason == "failed"
    assert run.trace.stages[1].reason == "complete"


def test_a_reader_that_was_left_out_is_not_counted_on():
    """The cross-encoder's least is only kept back where late interaction can do with what is left."""
    breaker = CircuitBreaker(VirtualClock())
    for _ in range(3):
        breaker.failed("meaning", "out of memory")
    stages = opened()
    rates = costs_of(stages) | {"late/encode": Rates(fixed_s=0.008), "late/encode_read": Rates(fixed_s=0.0005)}
    rates["ce/encode"] = Rates(fixed_s=0.005)
    trace = answer(stages, 0.0155, real=rates, health=breaker).trace
    assert trace.stages[0].retrievers[1].reason == "skipped"
    assert trace.stages[1].scored > 0


def test_retrievers_of_one_reader_foresee_each_other():
    def least_s(second: str) -> float:
        pair = [stage("one", ReadingRetriever(N, "minilm"), 30), stage("two", ReadingRetriever(N, second), 30)]
        stages = cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), passages=N, overload="refuse")
        rates = costs_of(stages) | {"two/encode": Rates(fixed_s=0.005), "two/encode_read": Rates(fixed_s=0.001)}
        costs = model(rates)
        run = QueryRun(stages, QUERY, clock=VirtualClock(), deadline=Deadline.never(), costs=costs)
        return run.minimum_s

    assert least_s("other") - least_s("minilm") == pytest.approx(0.004)


def test_nobody_has_read_for_a_stage_that_comes_first():
    stages = opened()
    run = started(stages, candidates=Candidates.unscored(np.arange(5, dtype=np.int32)))
    assert encodings(run) == {"late": "encode", "ce": "encode"}


def test_the_least_that_later_stages_need_counts_on_what_was_read_before():
    saved_s = []
    for late in ("minilm", "other"):
        stages = opened(late=late, overload="refuse")
        rates = costs_of(stages) | {"late/encode": Rates(fixed_s=0.005), "late/encode_read": Rates(fixed_s=0.001)}
        run = QueryRun(stages, QUERY, clock=VirtualClock(), deadline=Deadline.never(), costs=model(rates))
        saved_s.append(run.minimum_s)
    assert saved_s[1] - saved_s[0] == pytest.approx(0.004)


def test_time_that_reading_would_have_taken_goes_to_scoring():
    scored = []
    for late in ("minilm", "other"):
        stages = opened(late=late)
        rates = costs_of(stages) | {"late/encode": Rates(fixed_s=0.008), "late/encode_read": Rates(fixed_s=0.001)}
        scored.append(answer(stages, 0.03, real=rates).trace.stages[1].scored)
    assert scored[0] > scored[1] > 0
