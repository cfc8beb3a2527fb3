"""When may a stage stop before all candidates are scored? Only when what is left would almost surely change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.scheduler import LEAST_FITTED, adaptive_stop

N = 200


def falling(seed: int, slope: float, noise: float, n: int = N) -> np.ndarray:
    """float32 [n]: scores that fall with the logarithm of the rank."""
    rng = np.random.default_rng(seed)
    return (-slope * np.log(np.arange(1, n + 1)) + noise * rng.normal(size=n)).astype(np.float32)


def first(done: int, n: int = N) -> np.ndarray:
    return np.arange(n) < done


queries = st.tuples(st.integers(0, 1000), st.floats(0, 3), st.floats(0.01, 3)).map(lambda args: falling(*args))


@given(queries, st.integers(0, N), st.integers(1, 50), st.floats(0.5, 0.999))
def test_too_few_scores_never_stop_and_all_always_do(scores, done, top_k, confidence):
    stops = adaptive_stop(scores, first(done), top_k, confidence)
    if done < max(LEAST_FITTED, top_k + 1):
        assert not stops
    assert adaptive_stop(scores, first(N), top_k, confidence)


@given(queries, st.integers(30, N), st.integers(1, 20), st.floats(0.5, 0.99), st.floats(0.0, 0.0099))
def test_more_confidence_never_stops_sooner(scores, done, top_k, confidence, more):
    if adaptive_stop(scores, first(done), top_k, confidence + more):
        assert adaptive_stop(scores, first(done), top_k, confidence)


@given(queries, st.integers(30, N), st.integers(1, 20), st.sampled_from([0.25, 4.0]), st.sampled_from([-8.0, 0.0, 8.0]))
def test_the_scale_of_the_scores_does_not_matter(scores, done, top_k, scale, shift):
    moved = (scores.astype(np.float64) * scale + shift).astype(np.float64)
    exact = scores.astype(np.float64)
    assert adaptive_stop(moved, first(done), top_k, 0.9) == adaptive_stop(exact, first(done), top_k, 0.9)


@given(queries, st.integers(30, N - 1), st.integers(1, 20), st.integers(0, 99))
def test_scores_not_known_are_not_looked_at(scores, done, top_k, seed):
    other = scores.copy()
    other[done:] = np.random.default_rng(seed).normal(size=N - done) * 100
    assert adaptive_stop(scores, first(done), top_k, 0.9) == adaptive_stop(other, first(done), top_k, 0.9)


def test_a_stage_that_agrees_with_the_earlier_order_is_stopped_soon_and_one_that_does_not_is_not():
    assert adaptive_stop(falling(1, 1.0, 0.1), first(40), 10, 0.95)
    assert not adaptive_stop(falling(1, 0.0, 1.0), first(150), 10, 0.95)
    assert not adaptive_stop(falling(1, -1.0, 0.1), first(150), 10, 0.95)
    assert not adaptive_stop(np.zeros(N, np.float32), first(150), 10, 0.95)


@pytest.mark.parametrize(("slope", "noise"), [(1.0, 0.2), (1.0, 0.5), (0.5, 0.5), (2.0, 0.3)])
def test_the_stated_confidence_holds_where_the_model_does(slope, noise):
    wrong, stopped = 0, 0
    for seed in range(200):
        scores = falling(seed, slope, noise)
        done = next((at for at in range(30, N, 10) if adaptive_stop(scores, first(at), 10, 0.9)), N)
        stopped += done < N
        wrong += done < N and bool(set(np.argsort(-scores)[:10].tolist()) - set(range(done)))
    assert stopped > 100
    assert wrong <= 0.1 * stopped


def test_saved_work_is_substantial_where_stages_agree():
    saved = [
        N - next((at for at in range(30, N, 10) if adaptive_stop(falling(seed, 1.0, 0.2), first(at), 10, 0.95)), N)
        for seed in range(50)
    ]
    assert float(np.mean(saved)) > 0.5 * N


def test_the_stated_confidence_holds_where_scores_have_outliers_and_every_few_of_them_are_looked_at():
    wrong, stopped = 0, 0
    for seed in range(200):
        scores = falling(seed, 1.0, 0.0) + 0.2 * np.random.default_rng(seed).standard_t(4, N).astype(np.float32)
        done = next((at for at in range(20, N, 4) if adaptive_stop(scores, first(at), 10, 0.95)), N)
        stopped += done < N
        wrong += done < N and bool(set(np.argsort(-scores)[:10].tolist()) - set(range(done)))
    assert stopped > 150
    assert wrong <= 0.05 * 200
