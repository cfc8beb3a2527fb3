from __future__ import annotations

import numpy as np
import pytest

from cascade.calibration import LARGEST_SHARE, TOUCH, Effort, calibrate, knows_all
from cascade.clock import VirtualClock
from cascade.cost import CostModel, Rates, machine
from cascade.stage import Batch, Work
from cascade.types import Scores
from tests.fakes import (
    FakeFuser,
    FakeListwise,
    FakeReranker,
    FakeRetriever,
    ReadingRetriever,
    answer,
    cascade,
    model,
    raises,
    stage,
    varied_lengths,
)

N = 300
REAL = Rates(fixed_s=0.002, token_s=2e-5)


class Timed(FakeReranker):
    """Takes the time that ``REAL`` says; the first call compiles for ten seconds."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(varied_lengths(N))
        self._clock = clock
        self._cold = True
        self.sizes: list[int] = []

    def score(self, batch: Batch) -> Scores:
        self.sizes.append(len(batch))
        lengths = self._lengths[batch.rows]
        tokens = float(len(lengths) * lengths.max())
        self._clock.advance(REAL.seconds(Work(float(len(lengths)), tokens)) + 10.0 * self._cold)
        self._cold = False
        return super().score(batch)


def timed_cascade(clock: VirtualClock):
    pair = [stage("x", FakeRetriever(N, 100), 20), stage("y", FakeRetriever(N, 100, 3), 20)]
    return cascade(
        stage("rrf", FakeFuser(), 20, retrievers=pair),
        stage("ce", Timed(clock), 10),
        stage("llm", FakeListwise(varied_lengths(N)), 5),
        passages=N,
    )


def test_calibration_finds_what_stages_cost_and_leaves_the_warm_up_out():
    clock = VirtualClock()
    profile = calibrate(timed_cascade(clock), clock, quantile=0.9, effort=Effort(stage_s=3.0, least=4))
    assert profile.machine == machine()
    assert profile.quantile == 0.9
    assert profile.source == "warm-up"
    cost = profile.costs["ce/score"]
    work = Work(8.0, 8 * 100.0, 8 * 100.0**2)
    assert cost.rates.seconds(work) * cost.spread == pytest.approx(REAL.seconds(work), rel=0.1)
    assert cost.typical_s > 0.002
    assert cost.samples >= 16


def test_most_measurements_are_of_small_batches_and_none_takes_long():
    clock = VirtualClock()
    reranker, effort = Timed(clock), Effort(stage_s=1.0, least=3)
    opened = cascade(stage("bm25", FakeRetriever(N), 10), stage("ce", reranker, 10), passages=N)
    began = clock.now()
    calibrate(opened, clock, quantile=0.9, effort=effort)
    counts = [reranker.sizes.count(size) for size in sorted(set(reranker.sizes))]
    assert len(counts) > 3
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > effort.least
    tokens = float(max(reranker.sizes) * varied_lengths(N).max())
    assert REAL.seconds(Work(1.0, tokens)) < 2 * LARGEST_SHARE * effort.stage_s
    assert clock.now() - began < 10.0 + 2 * effort.stage_s


def test_a_touch_calls_everything_twice_on_one_candidate():
    clock = TickingClock()
    reranker = Timed(clock)
    opened = cascade(stage("bm25", FakeRetriever(N), 10), stage("ce", reranker, 10), passages=N)
    calibrate(opened, clock, quantile=0.9, effort=TOUCH)
    assert reranker.sizes == [1, 1]


def test_what_is_known_is_kept_and_only_touched_and_the_rest_is_measured():
    clock = TickingClock()
    reranker, effort = Timed(clock), Effort(0.1, 3)
    first = stage("bm25", FakeRetriever(N), 10)
    opened = cascade(first, stage("ce", reranker, 10), passages=N)
    half = model({"ce/encode": REAL, "ce/score": REAL, "other/search": REAL}).profile
    assert not knows_all(half, opened)
    profile = calibrate(opened, clock, quantile=0.9, effort=effort, known=half)
    assert reranker.sizes == [1, 1]
    assert set(profile.costs) == {"bm25/encode", "bm25/search", "ce/encode", "ce/score", "other/search"}
    assert profile.costs.items() >= half.costs.items()
    assert profile.costs["bm25/search"].samples >= effort.least
    assert profile.source == "calibrated + warm-up"
    assert knows_all(profile, opened)
    again = calibrate(opened, clock, quantile=0.9, effort=effort, known=half.updated(profile))
    assert again.costs == profile.costs


def test_the_source_is_that_of_the_stages_own_costs():
    clock = TickingClock()
    opened = cascade(stage("bm25", FakeRetriever(N), 10), passages=N)
    others = model({"ce/encode": REAL, "bm25/encode": REAL}).profile
    assert calibrate(opened, clock, quantile=0.9, effort=Effort(0.0, 3), known=others).source == "warm-up"
    whole = model({"bm25/encode": REAL, "bm25/search": REAL}).profile
    assert calibrate(opened, clock, quantile=0.9, effort=Effort(0.0, 3), known=whole).source == "calibrated"


class TickingClock(VirtualClock):
    """Moves on by a millisecond whenever it is read, so that everything takes some time."""

    def now(self) -> float:
        self.advance(0.001)
        return super().now()


def test_every_stage_and_action_is_measured_and_progress_is_told():
    told: list[tuple[str, float]] = []
    clock = TickingClock()
    profile = calibrate(
        timed_cascade(clock),
        clock,
        quantile=0.99,
        effort=Effort(stage_s=0.2, least=2),
        progress=lambda name, share: told.append((name, share)),
    )
    expected = {f"{name}/{action}" for name in "xy" for action in ("encode", "search")}
    expected |= {"ce/encode", "ce/score", "llm/encode", "llm/window"}
    assert set(profile.costs) == expected
    assert {name for name, _ in told} == {"x", "y", "ce", "llm"}
    assert told[-1] == ("llm", 1.0)
    assert all(0 <= share <= 1 for _, share in told)


def test_a_calibrated_model_plans_a_query_that_ends_in_time():
    clock = VirtualClock()
    opened = timed_cascade(clock)
    known = CostModel(calibrate(opened, clock, quantile=0.9, effort=Effort(2.0, 3)))
    real = {"ce/score": REAL}
    rates = {
        key: real.get(key, Rates())
        for key in (
            f"{n}/{a}" for n in ("x", "y", "ce", "llm", "rrf") for a in ("encode", "search", "score", "window", "fuse")
        )
    }
    trace = answer(opened, 0.03, real=rates, known=known).trace
    assert 0 < trace.stages[1].scored < 20
    assert trace.overshoot_s < 0.005


def test_what_is_left_of_encoding_a_query_that_was_read_is_measured_apart():
    opened = cascade(stage("dense", ReadingRetriever(N, "minilm"), 10), passages=N)
    whole = model({"dense/encode": REAL, "dense/search": REAL}).profile
    assert not knows_all(whole, opened)
    profile = calibrate(opened, TickingClock(), quantile=0.9, effort=Effort(0.0, 2))
    assert set(profile.costs) == {"dense/encode", "dense/encode_read", "dense/search"}
    assert profile.costs["dense/encode"].typical_s == pytest.approx(0.002)
    assert profile.costs["dense/encode_read"].typical_s == pytest.approx(0.001)
    assert knows_all(profile, opened)


def test_small_collections_are_measured_too():
    opened = cascade(
        stage("bm25", FakeRetriever(1), 1), stage("ce", FakeReranker(np.array([5], np.int32)), 1), passages=1
    )
    profile = calibrate(opened, TickingClock(), quantile=0.9, effort=Effort(0.0, 2))
    assert "ce/score" in profile.costs


def test_a_stage_that_cannot_be_measured_is_an_error():
    opened = cascade(
        stage("bm25", FakeRetriever(N), 10), stage("ce", FakeReranker(varied_lengths(N), fault=raises), 5), passages=N
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        calibrate(opened, TickingClock(), quantile=0.9, effort=Effort(0.0, 2))
