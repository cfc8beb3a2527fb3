from __future__ import annotations

import math

import numpy as np
import pytest

from cascade import scheduler
from cascade.cost import Rates
from cascade.stage import Work


@pytest.mark.parametrize(
    ("query_end", "budget_s", "carried_s", "reserve_s", "expected"),
    [
        (10.0, 1.0, 0.0, 0.0, 2.0),
        (10.0, 1.0, 0.5, 0.0, 2.5),
        (2.0, 5.0, 0.0, 0.5, 1.5),
        (math.inf, math.inf, 0.0, 0.5, math.inf),
        (2.0, math.inf, 0.0, 0.0, 2.0),
    ],
)
def test_a_stage_ends_with_its_budget_or_in_time_for_those_after_it(
    query_end, budget_s, carried_s, reserve_s, expected
):
    assert scheduler.stage_deadline(1.0, query_end, budget_s, carried_s, reserve_s) == expected


def test_what_stages_leave_is_carried_and_overruns_are_paid_back_but_never_owed():
    assert scheduler.carried([1.0, 2.0], [0.5, 1.0]) == pytest.approx(1.5)
    assert scheduler.carried([1.0, 2.0], [1.5, 1.0]) == pytest.approx(0.5)
    assert scheduler.carried([1.0], [5.0]) == 0.0
    assert scheduler.carried([math.inf, 1.0], [7.0, 0.25]) == pytest.approx(0.75)


def test_the_reserve_keeps_what_fits_and_gives_up_what_does_not():
    assert scheduler.reserve([1.0, 2.0], 3.0) == 3.0
    assert scheduler.reserve([5.0, 2.0], 3.0) == 2.0
    assert scheduler.reserve([5.0], -1.0) == 0.0


def test_nothing_starts_that_is_predicted_to_end_late_or_at_its_deadline():
    assert scheduler.may_start(0.0, 1.0, 1.0)
    assert not scheduler.may_start(0.0, 1.1, 1.0)
    assert not scheduler.may_start(1.0, 0.0, 1.0)
    assert scheduler.may_start(5.0, 1e9, math.inf)


def test_a_query_is_admitted_that_fits_behind_the_queue():
    assert scheduler.admits(0.0, 1.0, 0.5, 0.5)
    assert not scheduler.admits(0.0, 1.0, 0.6, 0.5)


@pytest.mark.parametrize("tail", ["normal", "exponential"])
def test_few_answers_take_longer_to_hand_over_than_is_kept_back(tail: str):
    rng = np.random.default_rng(0)
    seen_s = 0.0004 * np.exp(0.2 * getattr(rng, f"standard_{tail}")(200_000))
    kept_s, late = 0.00025, []
    for seen in seen_s.tolist():
        late.append(seen > kept_s)
        kept_s = scheduler.finish_seconds(kept_s, seen, 0.00025)
        assert kept_s <= scheduler.LONGEST_FINISH_S
    assert sum(late[:1000]) < 15
    share = sum(late[1000:]) / len(late[1000:])
    assert scheduler.LATE_SHARE / 3 < share < scheduler.LATE_SHARE * 2


def test_ten_queries_due_together_get_a_tenth_each():
    deadlines, nothing = [0.1] * 10, [0.0] * 10
    assert scheduler.share_end(0.0, deadlines, nothing, 0, 1) == pytest.approx(0.01)
    assert scheduler.share_end(0.0, deadlines, nothing, 4, 1) == pytest.approx(0.05)
    assert scheduler.share_end(0.0, deadlines, nothing, 9, 1) == pytest.approx(0.1)
    assert scheduler.share_end(0.0, deadlines, nothing, 0, 2) == pytest.approx(0.02)


def test_a_share_does_not_grow_again_by_being_used():
    assert scheduler.share_end(0.00, [0.1, 0.1], [0.00, 0.0], 0, 1) == pytest.approx(0.05)
    assert scheduler.share_end(0.03, [0.1, 0.1], [0.03, 0.0], 0, 1) == pytest.approx(0.05)
    assert scheduler.share_end(0.05, [0.1, 0.1], [0.05, 0.0], 0, 1) == pytest.approx(0.05)
    assert scheduler.share_end(0.07, [0.1, 0.1], [0.07, 0.0], 0, 1) == pytest.approx(0.07)


def test_a_query_due_much_later_takes_nothing_away():
    assert scheduler.share_end(0.0, [0.1, 10.0], [0.0, 0.0], 0, 1) == pytest.approx(0.1)
    assert scheduler.share_end(0.0, [0.1, math.inf], [0.0, 0.0], 0, 1) == pytest.approx(0.1)
    assert scheduler.share_end(0.0, [0.1, math.inf], [0.0, 0.0], 1, 1) == math.inf


def test_a_quantum_is_a_tenth_but_worth_its_call():
    assert scheduler.quantum(1.0, Rates(fixed_s=0.001)) == pytest.approx(0.1)
    assert scheduler.quantum(0.01, Rates(fixed_s=0.001)) == pytest.approx(0.002)


def test_equal_lengths_are_batched_as_neighbours():
    lengths = scheduler.by_length(np.full(10, 50, np.int32), Rates(token_s=1e-5))
    groups = scheduler.batches(lengths, math.inf, math.inf, Rates(token_s=1e-5), 200)
    assert [group.positions.tolist() for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert groups[0].work == Work(4.0, 200.0, 10_000.0)


def test_lengths_are_kept_apart_where_padding_costs_more_than_a_call():
    mixed = np.array([10, 500] * 20, np.int32)
    cheap_calls, dear_calls = Rates(fixed_s=1e-4, token_s=1e-5), Rates(fixed_s=1.0, token_s=1e-5)
    apart = scheduler.batches(scheduler.by_length(mixed, cheap_calls), math.inf, math.inf, cheap_calls, 100_000)
    together = scheduler.batches(scheduler.by_length(mixed, dear_calls), math.inf, math.inf, dear_calls, 100_000)
    assert sorted(group.work.tokens for group in apart) == [200.0, 10_000.0]
    assert [group.work.tokens for group in together] == [20_000.0]


def test_depth_counts_padding_and_calls():
    rates = Rates(fixed_s=0.001, pair_s=0.001)
    lengths = scheduler.by_length(np.full(100, 10, np.int32), rates)
    groups = scheduler.batches(lengths, 0.0125, 0.006, rates, 10_000)
    assert [len(group.positions) for group in groups] == [5, 5]
    groups = scheduler.batches(lengths, 0.0141, 0.006, rates, 10_000)
    assert [len(group.positions) for group in groups] == [5, 5, 1]


def test_a_window_is_taken_whole_or_not_at_all():
    lengths, rates = np.full(25, 10, np.int32), Rates(token_s=0.001)
    groups = scheduler.windows(lengths, np.arange(25), 0.24, rates, 10, 1000)
    assert [group.positions.tolist() for group in groups] == [list(range(10)), list(range(10, 20))]
    assert scheduler.windows(lengths, np.arange(25), 0.099, rates, 10, 1000) == []


def test_windows_end_where_their_tokens_do():
    lengths = np.array([60, 60, 500, 20], np.int32)
    groups = scheduler.windows(lengths, np.arange(4), math.inf, Rates(), 10, 100)
    assert [group.positions.tolist() for group in groups] == [[0], [1], [2], [3]]
    assert groups[2].work.tokens == 500.0


def test_the_rest_of_a_plan_keeps_its_buckets():
    rates = Rates(fixed_s=1e-6, token_s=1e-5)
    lengths = scheduler.by_length(np.array([10, 500, 12, 480, 11], np.int32), rates)
    rest = lengths.only(np.array([2, 3, 4]))
    assert rest.order.tolist() == [4, 2, 3]
    assert rest.longest == lengths.longest
    assert rest.counts == (0, 1, 1, 1)
