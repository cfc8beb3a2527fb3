from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cascade.clock import Deadline, VirtualClock
from cascade.cost import Cost, CostModel, Rates
from cascade.engine import QueryRun
from cascade.errors import Cancelled, DeadlineExceeded, StageError
from cascade.health import CircuitBreaker
from cascade.scheduler import TYPICAL_TOKENS
from cascade.schema import PassageSettings
from cascade.stage import Work
from cascade.tasks import Outcome
from cascade.types import Candidates
from tests.fakes import (
    QUERY,
    FakeFuser,
    FakeListwise,
    FakeReranker,
    FakeRetriever,
    all_nan,
    answer,
    cascade,
    costs_of,
    model,
    no_fault,
    raises,
    relevance,
    stage,
    varied_lengths,
    wrong_shape,
)

N = 100
LENGTHS = varied_lengths(N)


def two_stages(reranker=None, **settings):
    """Retrieves 50 of 100 passages, scores them, returns 10."""
    opened = FakeReranker(LENGTHS) if reranker is None else reranker
    return cascade(stage("bm25", FakeRetriever(N, 25), 50), stage("ce", opened, 10, **settings), passages=N)


def by(seed: int, rows) -> list[int]:
    rows = np.asarray(rows, np.int32)
    return rows[np.argsort(-relevance(seed, rows), kind="stable")].tolist()


def test_without_a_budget_every_stage_does_everything():
    run = answer(two_stages())
    first = by(1, np.arange(N))[:50]
    assert run.passed_by(0).rows.tolist() == first
    assert run.passed_by(1).rows.tolist() == by(2, first)[:10]
    assert [hit.stage for hit in run.result()] == ["ce"] * 10
    assert not run.trace.degraded
    assert [trace.reason for trace in run.trace.stages] == ["complete", "complete"]


def test_what_was_scored_comes_first_the_rest_in_its_earlier_order():
    run = answer(two_stages(), 0.03)
    trace = run.trace.stages[1]
    assert 5 < trace.scored < 50
    assert trace.reason == "budget"
    assert trace.detail == f"{trace.scored} of 50 candidates scored"
    first = run.passed_by(0).rows.tolist()
    assert run.order_after(1).rows.tolist()[:50] == by(2, first[: trace.scored]) + first[trace.scored :]
    assert run.result().degraded


def test_asking_for_more_than_the_last_stage_passes_on_appends_what_was_cut():
    run = answer(two_stages())
    hits = run.result(top_k=60).hits
    assert len(hits) == 50
    assert [hit.stage for hit in hits[:50]] == ["ce"] * 50
    assert len({hit.doc_id for hit in hits}) == 50
    assert len(run.result(top_k=0)) == 0


@pytest.mark.parametrize("budget_s", [0.0, 0.001, 0.002, 0.003, 0.005])
def test_tiny_budgets_are_kept_and_the_trace_says_what_was_left_out(budget_s):
    run = answer(two_stages(), budget_s)
    assert run.trace.overshoot_s == 0.0
    assert run.trace.degraded
    assert len(run.trace.stages) == 2
    assert all(trace.detail or trace.received == 0 for trace in run.trace.stages if trace.reason != "complete")
    run.result()


def test_given_candidates_are_reranked_and_retrievers_passed_over():
    given = Candidates.unscored(np.array([7, 3, 9], np.int32))
    run = answer(two_stages(), candidates=given)
    assert [trace.name for trace in run.trace.stages] == ["ce"]
    assert run.order_after(0).rows.tolist() == by(2, [7, 3, 9])


def test_no_candidates_give_an_empty_answer():
    run = answer(two_stages(), candidates=Candidates.empty())
    assert run.result().hits == ()
    assert not run.trace.degraded


# What a stage does when its time ends


def test_skip_leaves_no_sign_of_the_stage_and_spends_nothing_on_it():
    reranker = FakeReranker(LENGTHS)
    run = answer(two_stages(reranker, on_overrun="skip"), 0.03)
    trace = run.trace.stages[1]
    assert reranker.calls == []
    assert trace.reason == "skipped"
    assert trace.detail.startswith("only ")
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]


def test_skip_on_a_machine_slower_than_predicted_throws_its_scores_away():
    run = answer(two_stages(on_overrun="skip"), 0.08, factor=3.0)
    assert run.trace.stages[1].reason == "budget"
    assert run.trace.stages[1].scored > 0
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]


def test_skip_runs_what_fits():
    assert answer(two_stages(on_overrun="skip"), 1.0).trace.stages[1].reason == "complete"


def test_fail_raises_with_the_ranking_so_far():
    run = answer(two_stages(on_overrun="fail"), 0.03)
    with pytest.raises(DeadlineExceeded, match=r"stage 'ce' ran out of time .*on_overrun: fail") as caught:
        run.result()
    ranking = caught.value.ranking
    assert len(ranking) == 10
    assert ranking.trace.stages[1].scored > 0


def test_fail_raises_even_where_the_stage_never_began():
    """Not where its candidates were found too late, and not where none were found in time."""
    for budget_s in (0.0, 0.001, 0.002):
        run = answer(two_stages(on_overrun="fail"), budget_s)
        with pytest.raises(DeadlineExceeded):
            run.result()


def test_fail_is_not_for_a_stage_that_has_nothing_to_do():
    opened = two_stages(on_overrun="fail")
    sick = CircuitBreaker(VirtualClock())
    for _ in range(100):
        sick.failed("bm25", "no words today")
    run = answer(opened, 1.0, health=sick)
    assert run.trace.stages[0].reason == "skipped"
    assert len(run.result()) == 0


# Stopping when the rest does not matter


class Agrees(FakeReranker):
    """Scores that fall with the logarithm of the place that a ``FakeRetriever`` gives."""

    def score(self, batch):
        self.calls.append(batch.rows)
        place = 1 + len(self._lengths) * (1 - relevance(1, batch.rows))
        return self.fault((0.2 * relevance(5, batch.rows) - np.log(place)).astype(np.float32))


def agreeing(adaptive, top_k=10, per_document=1, seed=None, fault=no_fault, budget_s=math.inf, **plan):
    """200 of 400 passages, scored in up to 25 batches."""
    lengths = varied_lengths(400, low=50, high=60)
    settings = {"fault": fault, "batch_tokens": 500}
    reranker = Agrees(lengths, **settings) if seed is None else FakeReranker(lengths, seed, **settings)
    stages = [
        stage("bm25", FakeRetriever(400), 200),
        stage("ce", reranker, top_k, adaptive=adaptive, budget_s=budget_s),
    ]
    return cascade(*stages, passages=400, per_document=per_document, **plan)


@pytest.mark.parametrize("budget_s", [math.inf, 0.1])
def test_a_stage_stops_where_the_rest_would_change_nothing(budget_s):
    plain, early = answer(agreeing(None)), answer(agreeing(0.95), budget_s)
    assert early.passed_by(1).rows.tolist() == plain.passed_by(1).rows.tolist()
    whole, part = plain.trace.stages[1], early.trace.stages[1]
    assert (whole.reason, whole.saved_s) == ("complete", 0.0)
    assert (part.reason, part.detail, part.degraded) == ("saturated", "", False)
    assert 10 < part.scored < 100
    if budget_s == math.inf:
        assert part.seconds + part.saved_s == pytest.approx(whole.seconds)
    else:
        assert part.planned < 200  # what was not planned for is saved, too
        assert part.saved_s > 0.1


def test_a_stage_goes_on_where_the_rest_might_matter():
    trace = answer(agreeing(0.95, seed=2)).trace.stages[1]
    assert (trace.reason, trace.scored, trace.saved_s) == ("complete", 200, 0.0)


def test_a_stage_that_passes_everything_on_never_stops_early():
    assert answer(agreeing(0.01, top_k=200)).trace.stages[1].reason == "complete"


def test_of_documents_of_several_passages_all_that_are_passed_on_have_to_be_settled():
    one, four = (answer(agreeing(0.95, 15, per_document)).trace.stages[1] for per_document in (1, 4))
    assert one.reason == four.reason == "saturated"
    assert 15 < one.scored < four.scored
    assert four.scored > 15 * PassageSettings().per_document


def test_scores_that_are_not_finite_do_not_stop_a_stage():
    def some_nan(scores):
        return np.where(np.arange(len(scores)) == 0, np.nan, scores).astype(np.float32)

    trace = answer(agreeing(0.95, fault=some_nan)).trace.stages[1]
    assert (trace.reason, trace.scored + trace.quarantined) == ("complete", 200)


def test_what_a_stage_saves_goes_to_the_next():
    last = stage("last", FakeReranker(varied_lengths(400)), 5, budget_s=0.005)
    stages = [*agreeing(0.95, budget_s=0.3).stages, last]
    saved, scored = [], []
    for slack in ("carry", "drop"):
        trace = answer(cascade(*stages, passages=400, slack=slack)).trace
        saved.append(trace.stages[1].slack_s)
        scored.append(trace.stages[2].scored)
    assert saved[0] > 0.1
    assert scored[0] == 10 > scored[1]


# What a stage's time is


def test_slack_is_carried_to_later_stages_or_dropped():
    def stages(slack: str):
        opened = cascade(
            stage("bm25", FakeRetriever(N), 50, budget_s=0.05),
            stage("ce", FakeReranker(LENGTHS), 10, budget_s=0.02),
            passages=N,
            slack=slack,
        )
        return answer(opened).trace.stages

    assert stages("drop")[1].budget_s == pytest.approx(0.02)
    first, second = stages("carry")
    assert first.slack_s == pytest.approx(0.05 - first.seconds)
    assert second.budget_s == pytest.approx(0.02 + first.slack_s)


def test_a_stage_leaves_its_successors_the_least_that_they_need():
    opened = cascade(
        stage("bm25", FakeRetriever(N), 50),
        stage("slow", FakeReranker(LENGTHS), 20),
        stage("last", FakeReranker(LENGTHS, seed=9), 10),
        passages=N,
    )
    trace = answer(opened, 0.03).trace
    assert trace.stages[1].reason == "budget"
    assert trace.stages[2].scored >= 1
    assert trace.overshoot_s == 0


def test_batches_take_about_a_tenth_of_the_stage_and_four_fifths_of_it_are_used():
    reranker = FakeReranker(LENGTHS)
    trace = answer(two_stages(reranker), 0.04).trace
    assert trace.stages[1].batches >= 8
    assert trace.seconds > 0.8 * 0.04


def test_time_that_was_predicted_and_not_needed_goes_to_more_candidates():
    opened = two_stages()
    pessimist = model(costs_of(opened), spread=2.0)
    trace = answer(opened, 0.04, known=pessimist).trace
    assert trace.stages[1].scored > 1.5 * trace.stages[1].planned
    assert trace.seconds > 0.8 * 0.04


def test_a_stage_turned_ten_times_slower_ends_on_time_within_one_batch():
    opened = two_stages()
    trace = answer(opened, 0.1, factor=10.0).trace
    assert trace.stages[1].reason == "budget"
    assert trace.seconds < 0.1 + 10 * 0.01


def test_a_stage_that_was_priced_out_comes_back():
    opened = two_stages()
    costs = model(costs_of(opened))
    for _ in range(3):
        answer(opened, known=costs, factor=100.0)
    assert answer(opened, 0.02, known=costs).trace.stages[1].scored == 0
    depths = [answer(opened, 0.02, known=costs).trace.stages[1].scored for _ in range(50)]
    assert depths[-1] > 8


# Listwise


def test_a_window_that_does_not_fit_whole_is_not_begun():
    listwise = FakeListwise(np.full(N, 50, np.int32), window=10)
    opened = cascade(stage("bm25", FakeRetriever(N), 50), stage("llm", listwise, 10), passages=N)
    rates = costs_of(opened, Rates(fixed_s=0.002, token_s=1e-5))  # 7 ms a window
    trace = answer(opened, 0.02, real=rates).trace.stages[1]
    assert (trace.planned, trace.scored, trace.batches) == (20, 20, 2)
    assert [len(rows) for rows in listwise.calls] == [10, 10]
    assert answer(opened, 0.007, real=rates).trace.stages[1].reason == "skipped"
    assert len(listwise.calls) == 2


# Retrievers


def test_a_retriever_keeps_the_ranges_it_had_time_for():
    opened = cascade(stage("bm25", FakeRetriever(N, 10), 50), passages=N)
    rates = costs_of(opened) | {"bm25/search": Rates(fixed_s=0.001)}
    run = answer(opened, 0.005, real=rates)
    trace = run.trace.stages[0]
    assert (trace.received, trace.planned, trace.scored, trace.reason) == (100, 40, 40, "budget")
    assert run.order_after(0).rows.tolist() == by(1, np.arange(40))


def test_a_fusion_goes_on_with_what_its_retrievers_give():
    def fused(fault):
        pair = [stage("x", FakeRetriever(N, 25, 1, fault), 30), stage("y", FakeRetriever(N, 25, 2), 30)]
        return cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), passages=N)

    whole, halved = answer(fused(lambda value: value)), answer(fused(raises))
    assert whole.trace.stages[0].reason == "complete"
    assert [trace.name for trace in whole.trace.stages[0].retrievers] == ["x", "y"]
    assert whole.retrieved["y"].rows.tolist() == by(2, np.arange(N))[:30]
    assert halved.trace.stages[0].retrievers[0].reason == "failed"
    assert halved.trace.degraded
    assert halved.order_after(0).rows.tolist() == by(2, np.arange(N))[:30]


@pytest.mark.parametrize("fault", [raises, wrong_shape, lambda value: (value[0][1:], value[1][1:]), lambda value: None])
def test_a_fuser_that_fails_loses_no_candidate(fault):
    pair = [stage("x", FakeRetriever(N, 25, 1), 30), stage("y", FakeRetriever(N, 25, 2), 30)]
    run = answer(cascade(stage("rrf", FakeFuser(fault), 100, retrievers=pair), passages=N))
    expected = {*by(1, np.arange(N))[:30], *by(2, np.arange(N))[:30]}
    assert set(run.order_after(0).rows.tolist()) == expected
    assert run.trace.stages[0].reason == "failed"


def slow_pair(on_overrun="partial", on_error="degrade"):
    pair = [stage("x", FakeRetriever(N, 25, 1), 30), stage("y", FakeRetriever(N, 25, 2), 30)]
    fusion = stage("rrf", FakeFuser(), 40, retrievers=pair, on_overrun=on_overrun, on_error=on_error)
    return cascade(fusion, passages=N)


def test_a_fusion_whose_retrievers_had_no_time_has_not_failed():
    run = answer(slow_pair(on_error="fail"), 0.0)
    assert run.trace.stages[0].reason == "skipped"
    assert "x: no time to encode" in run.trace.stages[0].detail
    assert len(run.result()) == 0
    with pytest.raises(DeadlineExceeded, match="stage 'rrf' ran out of time"):
        answer(slow_pair("fail"), 0.0).result()


def test_a_fusion_that_lacks_a_retriever_for_want_of_time_has_run_out_of_time():
    opened = slow_pair()
    rates = costs_of(opened) | {"y/encode": Rates(fixed_s=1.0)}
    trace = answer(opened, 0.1, real=rates).trace.stages[0]
    assert [inner.reason for inner in trace.retrievers] == ["complete", "skipped"]
    assert (trace.reason, trace.detail) == ("budget", "a retriever was cut short")
    with pytest.raises(DeadlineExceeded):
        answer(slow_pair("fail"), 0.1, real=rates).result()


def test_what_no_answer_can_be_without_is_tried_if_it_ends_in_time_on_average():
    """At the quantile, not even one range fits; the first is searched all the same, the second is not."""
    opened = cascade(stage("bm25", FakeRetriever(N, 50), 50), passages=N)
    rates = costs_of(opened) | {"bm25/search": Rates(fixed_s=0.001)}
    trace = answer(opened, 0.005, real=rates, known=model(rates, spread=10.0)).trace.stages[0]
    assert (trace.planned, trace.scored, trace.reason) == (50, 50, "budget")
    assert trace.predicted_s == pytest.approx(0.001 + 0.0002)
    assert answer(opened, 0.001, real=rates, known=model(rates, spread=10.0)).trace.stages[0].scored == 0


def test_time_kept_for_other_retrievers_is_the_first_one_s_until_it_has_found_something():
    """It takes longer than most searches, and would be cut off for the sake of one that could do nothing either."""
    pair = [stage("x", FakeRetriever(N, 100, 1), 30), stage("y", FakeRetriever(N, 100, 2), 30)]
    opened = cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), passages=N)
    rates = costs_of(opened) | {"x/search": Rates(fixed_s=0.005), "y/encode": Rates(fixed_s=0.004)}
    profile = model(rates).profile
    known = CostModel(
        replace(profile, costs={**profile.costs, "x/search": replace(profile.costs["x/search"], typical_s=0.001)})
    )
    trace = answer(opened, 0.007, real=rates, known=known).trace.stages[0]
    assert [inner.scored for inner in trace.retrievers] == [100, 0]
    assert trace.retrievers[1].detail == "no time to encode the query"


def test_where_the_first_retriever_fails_the_next_one_has_to_find_something():
    pair = [stage("x", FakeRetriever(N, 100, 1, raises), 30), stage("y", FakeRetriever(N, 100, 2), 30)]
    opened = cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), passages=N)
    rates = costs_of(opened) | {"y/search": Rates(fixed_s=0.002)}
    trace = answer(opened, 0.01, real=rates, known=model(rates, spread=10.0)).trace.stages[0]
    assert [(inner.scored, inner.reason) for inner in trace.retrievers] == [(0, "failed"), (100, "complete")]


def test_a_retriever_without_which_there_is_to_be_no_answer_ends_its_fusion_too():
    pair = [stage("x", FakeRetriever(N, 25, 1), 30), stage("y", FakeRetriever(N, 25, 2), 30, on_overrun="fail")]
    opened = cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), passages=N)
    run = answer(opened, 0.1, real=costs_of(opened) | {"y/encode": Rates(fixed_s=1.0)})
    assert run.overran
    assert [(trace.name, trace.reason) for trace in run.trace.stages] == [("rrf", "budget")]
    with pytest.raises(DeadlineExceeded, match="stage 'y' ran out of time"):
        run.result()


def test_a_fusion_whose_retrievers_all_failed_has_failed():
    pair = [stage("x", FakeRetriever(N, fault=raises), 30), stage("y", FakeRetriever(N, fault=raises), 30)]
    opened = cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), passages=N)
    assert answer(opened, 1.0).trace.stages[0].reason == "failed"


# Stages that fail


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (raises, "RuntimeError: out of memory"),
        (wrong_shape, "ValueError: expected"),
        (lambda value: None, "expected"),
        (lambda value: ["a"] * len(value), "ValueError"),
        (lambda value: value[:, None], "expected"),
    ],
)
def test_a_stage_that_fails_leaves_the_earlier_order(fault, detail):
    run = answer(two_stages(FakeReranker(LENGTHS, fault=fault)))
    trace = run.trace.stages[1]
    assert trace.reason == "failed"
    assert detail in trace.detail
    assert run.result().degraded
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]


def test_a_stage_that_fails_late_does_not_leave_half_its_scores():
    calls = iter(range(100))
    fails_third = FakeReranker(LENGTHS, batch_tokens=500, fault=lambda v: raises(v) if next(calls) == 2 else v)
    run = answer(two_stages(fails_third))
    assert run.trace.stages[1].batches == 3
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_scores_that_are_not_finite_are_quarantined(bad):
    def spoil(scores):
        spoilt = scores.astype(np.float64)
        spoilt[0] = bad
        return spoilt

    run = answer(two_stages(FakeReranker(LENGTHS, fault=spoil)))
    trace = run.trace.stages[1]
    assert trace.quarantined == trace.batches > 0
    assert trace.scored == 50 - trace.quarantined
    assert trace.degraded
    order = run.order_after(1)
    assert np.isfinite(order.scores).all()
    assert sorted(order.rows.tolist()) == sorted(run.passed_by(0).rows.tolist())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_candidates_whose_retriever_s_scores_are_not_finite_are_quarantined(bad):
    def spoil(value):
        rows, scores = value
        return rows, np.where(np.arange(len(rows)) == 0, bad, scores.astype(np.float64))

    run = answer(cascade(stage("bm25", FakeRetriever(N, 25, fault=spoil), 100), passages=N))
    trace = run.trace.stages[0]
    assert (trace.quarantined, trace.passed, trace.reason) == (4, 96, "complete")
    assert trace.degraded
    assert np.isfinite(run.order_after(0).scores).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_a_fuser_that_gives_scores_that_are_not_finite_has_failed(bad):
    def spoil(value):
        rows, scores = value
        return rows, np.where(np.arange(len(rows)) == 0, bad, scores.astype(np.float64))

    pair = [stage("x", FakeRetriever(N, 25, 1), 30), stage("y", FakeRetriever(N, 25, 2), 30)]
    run = answer(cascade(stage("rrf", FakeFuser(spoil), 100, retrievers=pair), passages=N))
    assert run.trace.stages[0].reason == "failed"
    assert "finite" in run.trace.stages[0].detail
    expected = {*by(1, np.arange(N))[:30], *by(2, np.arange(N))[:30]}
    assert set(run.order_after(0).rows.tolist()) == expected
    assert np.isfinite(run.order_after(0).scores).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_scores_of_a_window_that_are_not_finite_are_quarantined(bad):
    class Spoilt(FakeListwise):
        def score_window(self, query, rows):
            scores = super().score_window(query, rows).astype(np.float64)
            scores[0] = bad
            return scores

    run = answer(two_stages(Spoilt(LENGTHS)))
    trace = run.trace.stages[1]
    assert trace.quarantined == trace.batches == 5
    assert trace.scored == 45
    assert np.isfinite(run.order_after(1).scores).all()
    assert sorted(run.order_after(1).rows.tolist()) == sorted(run.passed_by(0).rows.tolist())


def no_memory(value):
    raise MemoryError


@pytest.mark.parametrize("place", ["retriever", "fuser", "reranker", "listwise"])
def test_a_stage_without_memory_fails_like_any_other(place):
    class Greedy(FakeListwise):
        def score_window(self, query, rows):
            raise MemoryError

    pair = [
        stage("x", FakeRetriever(N, 25, 1, no_memory if place == "retriever" else no_fault), 30),
        stage("y", FakeRetriever(N, 25, 2), 30),
    ]
    opened = cascade(
        stage("rrf", FakeFuser(no_memory if place == "fuser" else no_fault), 40, retrievers=pair),
        stage("ce", FakeReranker(LENGTHS, fault=no_memory if place == "reranker" else no_fault), 20),
        stage("llm", Greedy(LENGTHS) if place == "listwise" else FakeListwise(LENGTHS), 10),
        passages=N,
    )
    run = answer(opened)
    failed = [trace for trace in (run.trace.stages[0].retrievers[0], *run.trace.stages) if trace.reason == "failed"]
    assert [trace.detail for trace in failed] == ["MemoryError"]
    assert len(run.result()) == 10
    assert run.result().degraded


def test_nothing_but_nan_is_the_earlier_order():
    run = answer(two_stages(FakeReranker(LENGTHS, fault=all_nan)))
    assert run.trace.stages[1].quarantined == 50
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]


@pytest.mark.parametrize(
    "fault",
    [
        raises,
        wrong_shape,
        lambda value: (value[0] + 1000, value[1]),
        lambda value: (value[0] * 0 + value[0][0], value[1]),
        lambda value: (value[0].astype(float), value[1]),
        lambda value: None,
    ],
)
def test_a_retriever_that_fails_gives_an_empty_answer_not_an_exception(fault):
    opened = cascade(
        stage("bm25", FakeRetriever(N, 25, fault=fault), 50), stage("ce", FakeReranker(LENGTHS), 10), passages=N
    )
    run = answer(opened)
    assert run.trace.stages[0].reason == "failed"
    assert run.result().hits == ()


def test_on_error_fail_raises():
    run = answer(two_stages(FakeReranker(LENGTHS, fault=raises), on_error="fail"))
    with pytest.raises(StageError, match="stage 'ce' failed: RuntimeError: out of memory; its settings say on_error"):
        run.result()


def test_a_stage_that_keeps_failing_is_left_out():
    clock = VirtualClock()
    health = CircuitBreaker(clock)
    for fault in (raises, all_nan, wrong_shape):
        reranker = FakeReranker(LENGTHS, fault=fault)
        opened = two_stages(reranker)
        for _ in range(5):
            run = answer(opened, health=health, clock=clock)
        assert run.trace.stages[1].reason == "skipped"
        assert "left out" in run.trace.stages[1].detail
        clock.advance(1000)
        reranker.fault = lambda value: value
        assert answer(opened, health=health, clock=clock).trace.stages[1].reason == "complete"


def test_a_stage_left_out_fails_the_query_where_the_settings_want_no_answer_without_it():
    clock = VirtualClock()
    health = CircuitBreaker(clock)
    health.failed("ce", "hung", hung=True)
    run = answer(two_stages(on_error="fail"), health=health, clock=clock)
    with pytest.raises(StageError, match="left out for"):
        run.result()


def test_a_fault_of_the_engine_reaches_the_caller_and_ends_the_run():
    class Broken:
        def blocked(self, stage: str) -> str:
            raise LookupError("a bug")

    run = answer(two_stages(), health=Broken())
    assert run.done
    with pytest.raises(LookupError, match="a bug"):
        run.result()


# Ended from outside


def started(budget_s: float = math.inf, steps: int = 3, **settings):
    opened = two_stages(**settings)
    clock = VirtualClock()
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline.after(clock, budget_s), costs=model(costs_of(opened)))
    task = run.start()
    for _ in range(steps):
        began = clock.now()
        clock.advance(0.001)
        task = run.advance(Outcome(task.call(), None, began, clock.now()))
    return run, clock


@pytest.mark.parametrize("steps", range(10))
def test_an_abandoned_run_is_complete_at_every_step(steps):
    run, _ = started(1.0, steps)
    run.abandon("budget", "the deadline came")
    assert run.done
    assert run.pending is None
    assert len(run.trace.stages) == 2
    assert run.result().degraded
    assert run.advance(Outcome(None, None, 0.0, 0.0)) is None
    run.abandon("cancelled")
    assert run.result().degraded


def test_a_withdrawn_run_raises_cancelled():
    run, _ = started()
    run.abandon("cancelled", "withdrawn by the caller")
    with pytest.raises(Cancelled, match="withdrawn"):
        run.result()


def test_a_task_not_started_in_time_makes_its_stage_decide_anew():
    run, clock = started(0.05, steps=7)
    assert run.pending.action == "score"
    clock.advance(0.03)
    assert run.advance(None) is None or run.pending.predicted_s <= 0.05
    run2, clock2 = started(0.05, steps=7)
    clock2.advance(1.0)
    assert run2.advance(None) is None
    assert run2.trace.stages[1].reason == "budget"


def test_what_was_executed_when_the_deadline_came_was_not_waited_for():
    run, clock = started(1.0, steps=7)
    waited_s = run.trace.waited_s
    clock.advance(0.1)
    run.begun_at = clock.now()
    clock.advance(0.4)
    run.abandon()
    assert run.trace.stages[1].waited_s == pytest.approx(0.1)
    assert run.trace.waited_s == waited_s
    idle, clock = started(1.0, steps=7)
    clock.advance(0.5)
    idle.abandon()
    assert idle.trace.stages[1].waited_s == pytest.approx(0.5)


def test_a_query_is_charged_for_its_share_of_a_call():
    run, clock = started()
    task, before_s = run.pending, run.served_s
    run.advance(Outcome(task.call(), None, clock.now(), clock.now() + 0.4, 0.25))
    assert run.served_s == pytest.approx(before_s + 0.1)


def test_a_run_withdrawn_by_its_own_thread_within_a_step_goes_on():
    """As a garbage collection may do it that finds an iterator over answers that nobody wants any more."""

    class Collects(VirtualClock):
        run: QueryRun | None = None

        def now(self) -> float:
            run, self.run = self.run, None
            if run is not None:
                run.abandon("cancelled", "found in a cycle")
            return super().now()

    opened, clock = two_stages(), Collects()
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline.never(), costs=model(costs_of(opened)))
    run.start()
    task = run.pending
    clock.run = run
    task = run.advance(Outcome(task.call(), None, 0.0, 0.0))
    assert clock.run is None
    while task is not None:
        task = run.advance(Outcome(task.call(), None, 0.0, 0.0))
    assert len(run.result()) == 10


def test_what_fruitless_plans_predict_does_not_add_up():
    opened = two_stages()
    rates = costs_of(opened)
    clock, costs = VirtualClock(), model(rates)
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline(0.05), costs=costs)
    task = run.start()
    while task is not None and task.action != "score":
        task = run.advance(Outcome(task.call(), None, 0.0, 0.0))
    for _ in range(4):  # a moment too late each time
        assert run.pending.action == "score"
        clock.advance(0.001)
        run.advance(None)
    assert run.done
    assert 0.0 < run.trace.stages[1].predicted_s <= 0.05


def test_a_trial_is_only_used_up_by_a_query_that_has_time_for_it():
    clock = VirtualClock()
    health = CircuitBreaker(clock)
    health.failed("ce", "hung", hung=True)
    clock.advance(6.0)
    assert answer(two_stages(), 0.002, health=health, clock=clock).trace.stages[1].batches == 0
    assert answer(two_stages(), 1.0, health=health, clock=clock).trace.stages[1].reason == "complete"


def test_waiting_is_counted_for_the_query_and_its_stage():
    opened = two_stages()
    clock = VirtualClock()
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline.never(), costs=model(costs_of(opened)))
    task = run.start()
    clock.advance(2.0)
    while task is not None:
        began = clock.now()
        clock.advance(0.001)
        if task.action == "score":
            clock.advance(0.5)
            began += 0.5
        task = run.advance(Outcome(task.call(), None, began, clock.now()))
    trace = run.trace
    assert trace.waited_s == pytest.approx(2.0)
    assert trace.stages[0].waited_s == pytest.approx(2.0)
    assert trace.stages[1].waited_s == pytest.approx(0.5 * trace.stages[1].batches)
    assert trace.seconds == pytest.approx(clock.now())


def test_a_query_that_must_yield_ends_early_and_says_so():
    opened = two_stages()
    clock = VirtualClock()
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline.after(clock, 1.0), costs=model(costs_of(opened)))
    run.yield_at = 0.02
    task = run.start()
    while task is not None:
        began = clock.now()
        clock.advance(task.predicted_s)
        task = run.advance(Outcome(task.call(), None, began, clock.now()))
    assert clock.now() <= 0.02
    assert 0 < run.trace.stages[1].scored < 50
    assert run.trace.stages[1].reason == "budget"


def test_a_stage_is_not_charged_for_the_time_that_it_waits():
    opened = cascade(
        stage("bm25", FakeRetriever(N, 50), 50, budget_s=0.005),
        stage("ce", FakeReranker(LENGTHS), 10, budget_s=0.02),
        passages=N,
    )
    alone = answer(opened, 1.0).trace.stages
    clock, rates = VirtualClock(), costs_of(opened)
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline(1.0), costs=model(rates))
    task, number = run.start(), 0
    while task is not None:
        clock.advance(0.05 if number % 2 == 0 else 0.0)
        began, number = clock.now(), number + 1
        clock.advance(rates[task.cost_key].seconds(task.work))
        task = run.advance(Outcome(task.call(), None, began, clock.now()))
    busy = run.trace.stages
    assert busy[0].waited_s >= 0.1
    assert [trace.scored for trace in busy] == [trace.scored for trace in alone]
    assert [trace.reason for trace in busy] == [trace.reason for trace in alone] == ["complete", "budget"]


def test_the_query_s_deadline_counts_what_was_waited():
    opened = cascade(stage("bm25", FakeRetriever(N, 50), 50, budget_s=0.005), passages=N)
    clock, rates = VirtualClock(), costs_of(opened)
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline(0.1), costs=model(rates))
    task = run.start()
    clock.advance(0.0997)
    task = run.advance(Outcome(task.call(), None, clock.now(), clock.now()))
    assert task is None
    assert run.trace.stages[0].detail == "0 of 100 rows searched"


def test_retrieval_leaves_nothing_to_rerankers_that_it_could_use_itself():
    opened = cascade(stage("bm25", FakeRetriever(N, 10), 50), stage("ce", FakeReranker(LENGTHS), 10), passages=N)
    rates = costs_of(opened) | {"bm25/search": Rates(fixed_s=0.001)}
    assert answer(opened, 0.0115, real=rates).trace.stages[0].reason == "complete"
    assert answer(opened, 0.0115, real=rates).trace.stages[1].scored == 0


def test_a_query_that_has_less_behind_it_goes_first():
    pair = [stage("x", FakeRetriever(N, 100, 1), 30), stage("y", FakeRetriever(N, 100, 2), 30)]
    opened = cascade(stage("rrf", FakeFuser(), 40, retrievers=pair), stage("ce", FakeReranker(LENGTHS), 10), passages=N)
    run = QueryRun(opened, QUERY, clock=VirtualClock(), deadline=Deadline.never(), costs=model(costs_of(opened)))
    levels, task = [], run.start()
    while task is not None:
        levels.append((task.stage.planned.name, task.action, run.level))
        task = run.advance(Outcome(task.call(), None, 0.0, 0.0))
    assert levels[:6] == [
        ("x", "encode", (0, 0)),
        ("x", "search", (0, 0)),
        ("y", "encode", (0, 1)),
        ("y", "search", (0, 1)),
        ("rrf", "fuse", (0, 0)),
        ("ce", "encode", (1, 0)),
    ]
    given = QueryRun(
        opened,
        QUERY,
        clock=VirtualClock(),
        deadline=Deadline.never(),
        costs=model(costs_of(opened)),
        candidates=Candidates.unscored(np.array([1], np.int32)),
    )
    given.start()
    assert given.level == (1, 0)


def test_a_query_is_not_encoded_when_nothing_could_be_scored_afterwards():
    opened = two_stages()
    encoded = []
    opened.stages[1].opened.encode_query = lambda query: encoded.append(query)
    rates = costs_of(opened) | {"ce/encode": Rates(fixed_s=0.02)}
    answer(opened, 0.0235, real=rates)  # 22.5 ms are left after retrieval; a typical candidate takes 1.8
    assert encoded == [QUERY]
    trace = answer(opened, 0.0225, real=rates).trace.stages[1]
    assert (len(encoded), trace.detail) == (1, "no time to encode the query")


def test_a_listwise_stage_needs_a_whole_window_at_least():
    """640 tokens hold five candidates of typical length; what fits into no window is still one candidate."""
    minima_s, windows_s = [], []
    for batch_tokens, together in ((640, 5), (100_000, 10), (5, 1)):
        opened = cascade(
            stage("bm25", FakeRetriever(N, 50), 50),
            stage("list", FakeListwise(LENGTHS, window=10, batch_tokens=batch_tokens), 10),
            passages=N,
            overload="refuse",
        )
        rates = costs_of(opened)
        run = QueryRun(opened, QUERY, clock=VirtualClock(), deadline=Deadline.never(), costs=model(rates))
        tokens = together * TYPICAL_TOKENS
        minima_s.append(run.minimum_s)
        windows_s.append(rates[opened.stages[1].key("window")].seconds(Work(together, tokens, tokens * tokens)))
    assert np.diff(minima_s) == pytest.approx(np.diff(windows_s))
    assert min(windows_s) < min(minima_s)


def test_the_last_retriever_leaves_the_time_that_fusing_takes():
    """Three ranges of 40 ms each and 30 ms to fuse: in 140 ms there is time for two ranges, not for all three."""
    pair = [stage("x", FakeRetriever(N, 100), 50), stage("y", FakeRetriever(N, 34), 50)]
    opened = cascade(stage("hybrid", FakeFuser(), 50, retrievers=pair), passages=N)
    rates = costs_of(opened) | {pair[1].key("search"): Rates(0.04), opened.stages[0].key("fuse"): Rates(0.03)}
    run = answer(opened, 0.14, real=rates)
    (trace,) = run.trace.stages
    assert [inner.scored for inner in trace.retrievers] == [100, 68]
    assert trace.detail == "a retriever was cut short"


def test_a_fusion_that_was_held_up_for_a_while_is_tried_again():
    """Once, a moment in which the machine stood still made fusing look so dear that it was never done again."""
    pair = [stage("x", FakeRetriever(N, 100), 50), stage("y", FakeRetriever(N, 100), 50)]
    opened = cascade(stage("hybrid", FakeFuser(), 50, retrievers=pair), passages=N)
    costs = model(costs_of(opened))
    for _ in range(60):
        costs.observe(opened.stages[0].key("fuse"), Work(100.0), 0.5)
    details = [answer(opened, 0.1, known=costs).trace.stages[0].detail for _ in range(120)]
    assert details[0] == "no time to fuse"
    assert details[-1] == ""


def test_fusing_starts_if_it_ends_in_time_on_average():
    """The stopgap is worse than what a fuser makes, and nothing else could have used the time."""
    pair = [stage("x", FakeRetriever(N, 100), 50), stage("y", FakeRetriever(N, 100), 50)]
    opened = cascade(stage("hybrid", FakeFuser(), 50, retrievers=pair), passages=N)
    rates = costs_of(opened) | {"hybrid/fuse": Rates(0.01), "x/search": Rates(0.02), "y/search": Rates(0.02)}
    profile = model(rates).profile
    careful = CostModel(replace(profile, costs={**profile.costs, "hybrid/fuse": Cost(Rates(0.01), 3.0, 100)}))
    details = []
    for search_s in (0.06, 0.075):  # more than it was predicted to take: 20 ms are left, and 5
        slow = rates | {"y/search": Rates(search_s)}
        details.append(answer(opened, 0.1, real=slow, known=careful).trace.stages[0].detail)
    assert details == ["", "no time to fuse"]
