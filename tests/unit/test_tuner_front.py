"""The Pareto front and its hypervolume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import InputError
from cascade.tuner import FrontPoint, ParetoFront
from cascade.tuner.front import hypervolume, pareto

figures = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=25)


def point(latency_ms: float, quality: float) -> FrontPoint:
    return FrontPoint(f"{latency_ms}", latency_ms, quality, latency_ms, quality, quality, quality, latency_ms, None)


@given(figures)
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    latency, quality = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    front = pareto(latency, quality)
    for position, (ms, value) in enumerate(pairs):
        beaten = any((a <= ms and b >= value) and (a, b) != (ms, value) for a, b in pairs)
        beaten = beaten or value == 0
        assert ((ms, value) in [pairs[i] for i in front]) == (not beaten), position
    assert [pairs[i] for i in front] == sorted({pairs[i] for i in front})


@given(figures)
def test_the_hypervolume_counts_the_squares_below(pairs: list[tuple[int, int]]) -> None:
    squares = {(x, y) for ms, value in pairs for x in range(ms, 10) for y in range(value)}
    assert hypervolume([(float(a), float(b)) for a, b in pairs], 10.0) == pytest.approx(len(squares))


def test_cascades_that_never_answer_are_on_no_front() -> None:
    assert pareto(np.array([np.inf, 2.0]), np.array([0.9, 0.1])) == [1]


def test_the_best_within_a_budget() -> None:
    front = ParetoFront((point(1, 0.2), point(5, 0.4), point(20, 0.5)), "nDCG@10", 95)
    assert front.within(19.9).quality == 0.4
    assert front.within(20).quality == 0.5
    assert front.hypervolume(25) == pytest.approx(0.2 * 24 + 0.2 * 20 + 0.1 * 5)


def test_a_budget_that_no_cascade_meets_says_which_would_do() -> None:
    front = ParetoFront((point(3.25, 0.2),), "nDCG@10", 95)
    with pytest.raises(InputError, match=r"no cascade meets 2 ms at p95; the fastest, 3.25, takes 3.25 ms; raise"):
        front.within(2)


def test_an_empty_front_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"the Pareto front is empty: .* lower the arrival rate"):
        ParetoFront((), "nDCG@10", 95)


def test_a_front_is_a_table() -> None:
    pytest.importorskip("pandas")
    frame = ParetoFront((point(1, 0.2), point(5, 0.4)), "nDCG@10", 95).to_frame()
    assert frame["latency_ms"].tolist() == [1, 5]
