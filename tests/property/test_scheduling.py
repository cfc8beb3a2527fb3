"""What holds for every budget, collection and cost: one query at a time, under a virtual clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade import scheduler
from cascade.cost import Rates
from cascade.engine import QueryRun
from tests.fakes import FakeFuser, FakeListwise, FakeReranker, FakeRetriever, answer, cascade, costs_of, model, stage

lengths_lists = st.lists(st.integers(1, 600), min_size=1, max_size=120).map(lambda xs: np.array(xs, np.int32))
rates = st.builds(
    Rates,
    fixed_s=st.floats(0, 0.01),
    pair_s=st.floats(0, 0.001),
    token_s=st.floats(1e-7, 1e-4),
    square_s=st.floats(0, 1e-7),
)
budgets = st.floats(0.0, 2.0)


def one_stage(lengths: np.ndarray, budget_s: float, cost: Rates) -> QueryRun:
    n = len(lengths)
    opened = cascade(
        stage("first", FakeRetriever(n), n), stage("ce", FakeReranker(lengths), n, budget_s=budget_s), passages=n
    )
    return answer(opened, real=costs_of(opened, cost))


@given(lengths_lists, rates, budgets, budgets)
@settings(deadline=None, max_examples=300)
def test_more_budget_never_scores_fewer_candidates(lengths, cost, one, other):
    less, more = sorted((one, other))
    few, many = (one_stage(lengths, budget_s, cost).trace.stages[1] for budget_s in (less, more))
    assert few.scored <= many.scored
    assert few.planned <= many.planned


@given(lengths_lists, rates, budgets)
@settings(deadline=None, max_examples=100)
def test_with_costs_as_predicted_a_stage_ends_in_time_and_scores_what_it_planned(lengths, cost, budget_s):
    trace = one_stage(lengths, budget_s, cost).trace.stages[1]
    assert trace.seconds <= budget_s + 1e-6
    assert trace.scored == trace.planned
    assert (trace.scored == len(lengths)) == (trace.reason == "complete")


@given(lengths_lists, rates, st.floats(0, 1), st.integers(1, 5000))
@settings(deadline=None, max_examples=300)
def test_batches_are_a_prefix_of_the_ranking_each_candidate_once_within_tokens_and_time(
    lengths, cost, seconds, batch_tokens
):
    quantum_s = scheduler.quantum(seconds, cost)
    groups = scheduler.batches(scheduler.by_length(lengths, cost), seconds, quantum_s, cost, batch_tokens)
    positions = [position for group in groups for position in group.positions.tolist()]
    assert sorted(positions) == list(range(len(positions)))
    assert sum(cost.seconds(group.work) for group in groups) <= seconds + 1e-6
    for group in groups:
        longest = int(lengths[group.positions].max())
        assert group.work.tokens >= len(group.positions) * longest
        if len(group.positions) > 1:
            assert group.work.tokens <= batch_tokens
            assert cost.seconds(group.work) <= quantum_s + 1e-6


@given(lengths_lists, st.integers(1, 50), st.integers(1, 3000), st.floats(0, 1), rates)
@settings(deadline=None)
def test_windows_are_neighbours_that_fit_whole(lengths, size, batch_tokens, seconds, cost):
    groups = scheduler.windows(lengths, np.arange(len(lengths)), seconds, cost, size, batch_tokens)
    positions = [position for group in groups for position in group.positions.tolist()]
    assert positions == list(range(len(positions)))
    assert sum(cost.seconds(group.work) for group in groups) <= seconds + 1e-6
    assert all(len(group.positions) <= size for group in groups)


@st.composite
def cascades(draw):
    n = draw(st.integers(1, 80))
    per_document = draw(st.integers(1, 3))
    n -= n % per_document
    n = max(n, per_document)
    lengths = np.array(draw(st.lists(st.integers(1, 300), min_size=n, max_size=n)), np.int32)
    budget = st.one_of(st.just(math.inf), st.floats(0.0001, 0.3))
    policy = st.sampled_from(["partial", "skip"])
    if draw(st.booleans()):
        pair = [stage(name, FakeRetriever(n, 20, seed), draw(st.integers(1, n))) for name, seed in (("x", 5), ("y", 6))]
        first = stage("fused", FakeFuser(), draw(st.integers(1, n)), retrievers=pair)
    else:
        first = stage("first", FakeRetriever(n, draw(st.integers(1, n))), draw(st.integers(1, n)))
    rerankers = [
        stage(
            f"s{i}",
            FakeReranker(lengths, seed=i) if draw(st.booleans()) else FakeListwise(lengths, window=7),
            draw(st.integers(1, n)),
            budget_s=draw(budget),
            on_overrun=draw(policy),
        )
        for i in range(draw(st.integers(0, 3)))
    ]
    slack = draw(st.sampled_from(["carry", "drop"]))
    return cascade(first, *rerankers, passages=n, per_document=per_document, slack=slack)


@given(cascades(), st.one_of(st.just(math.inf), st.floats(0.0, 0.5)), st.floats(0.2, 20.0))
@settings(deadline=None, max_examples=200)
def test_no_candidate_is_lost_or_doubled_and_no_time_is_granted_twice(opened, budget_s, factor):
    run = answer(opened, budget_s, factor=factor)
    stages = run.trace.stages
    assert len(stages) == len(opened.stages)
    retrieved = set(run.order_after(0).rows.tolist())
    for number, trace in enumerate(stages):
        order = run.order_after(number).rows.tolist()
        assert len(order) == len(set(order)) == len(retrieved)
        assert set(order) == retrieved
        assert trace.scored + trace.quarantined <= trace.received
    used_s = sum(trace.budget_s - trace.slack_s for trace in stages if trace.budget_s != math.inf)
    assert used_s <= budget_s + 1e-9 or run.trace.budget_s == math.inf
    began_s, left_s = 0.0, 0.0
    for planned, trace in zip(opened.plan.stages, stages, strict=True):
        carried_s = max(0.0, left_s) if opened.plan.slack == "carry" else 0.0
        assert trace.budget_s <= planned.budget_s + carried_s + 1e-9
        assert trace.budget_s == 0.0 or began_s + trace.budget_s <= run.work_by + 1e-9
        if budget_s == math.inf:
            assert trace.budget_s == math.inf or trace.budget_s == pytest.approx(planned.budget_s + carried_s)
        began_s += trace.seconds
        left_s += planned.budget_s - trace.seconds if planned.budget_s != math.inf else 0.0
    documents = {hit.doc_id for hit in run.result(top_k=1000)}
    assert documents == set(opened.collection.doc_ids(sorted(retrieved)))


@given(cascades(), st.floats(0.0, 0.5), st.floats(0.2, 20.0))
@settings(deadline=None, max_examples=50)
def test_the_same_query_gets_the_same_answer(opened, budget_s, factor):
    one, other = (answer(opened, budget_s, factor=factor).result() for _ in range(2))
    assert one.hits == other.hits
    assert one.trace.to_json() == other.trace.to_json()


@given(
    st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=30).map(sorted),
    st.integers(1, 4),
)
def test_fair_shares_lie_before_the_deadlines_and_together_fit(queries, servers):
    deadlines, served_s = zip(*queries, strict=True)
    ends = [scheduler.share_end(0.0, deadlines, served_s, position, servers) for position in range(len(queries))]
    assert all(0 <= end <= deadline for end, deadline in zip(ends, deadlines, strict=True))
    fresh = [scheduler.share_end(0.0, deadlines, [0.0] * len(queries), i, 1) for i in range(len(queries))]
    assert fresh[0] * len(queries) <= max(deadlines) * (1 + 1e-9)


def test_a_lone_candidate_too_long_for_the_batch_goes_alone():
    lengths = np.array([5000, 10, 10], np.int32)
    cost = Rates(token_s=1e-6)
    groups = scheduler.batches(scheduler.by_length(lengths, cost), math.inf, math.inf, cost, 100)
    assert sorted(group.positions.tolist() for group in groups) == [[0], [1, 2]]


def test_a_model_that_knows_nothing_of_a_stage_still_meets_the_deadline_after_a_probe():
    n = 100
    opened = cascade(stage("first", FakeRetriever(n), n), stage("ce", FakeReranker(np.full(n, 100, np.int32)), n))
    run = answer(opened, 0.05, known=model({}))
    trace = run.trace.stages[1]
    assert trace.planned == 1
    assert 10 < trace.scored < n
    assert run.trace.overshoot_s == 0
    assert run.trace.costs == "calibrated"
    assert math.isnan(trace.predicted_s)
