from __future__ import annotations

import numpy as np
import pytest

from cascade.combining import combine
from cascade.types import Rows, Scores


def given(**scores: dict[int, float]) -> dict[str, tuple[Rows, Scores]]:
    """The scores of stages, by row."""
    return {
        name: (np.array(list(by_row), np.int32), np.array(list(by_row.values()), np.float32))
        for name, by_row in scores.items()
    }


ROWS = np.array([4, 9, 2], np.int32)


def test_scores_are_weighted_in_standard_deviations_from_their_mean() -> None:
    scores, names = combine(ROWS, given(a={2: 5, 4: 1, 9: 3}, b={4: 20, 9: 20, 2: 50}), {"a": 2.0, "b": 0.5})
    # a: mean 3, deviation sqrt(8/3); b: mean 30, deviation sqrt(200)
    a, b = np.sqrt(8 / 3), np.sqrt(200)
    assert scores == pytest.approx([2 * -2 / a + 0.5 * -10 / b, 0.5 * -10 / b, 2 * 2 / a + 0.5 * 20 / b])
    assert names == ("a", "b")


def test_what_a_stage_has_not_scored_gets_the_least_of_what_it_has() -> None:
    scores, _ = combine(ROWS, given(a={9: 7, 2: 3}), {"a": 1.0})
    assert scores.tolist() == [-1, 1, -1]


def test_scores_of_other_rows_do_not_count() -> None:
    scores, _ = combine(ROWS, given(a={4: 0, 9: 1, 2: 2, 5: 1000, 0: -1000}), {"a": 1.0})
    assert scores == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])


@pytest.mark.parametrize("equal", [0.1, 1e30, -7.0])
def test_equal_scores_add_nothing(equal: float) -> None:
    scores, names = combine(ROWS, given(a={4: 0, 9: 2, 2: 1}, b=dict.fromkeys([2, 4, 9], equal)), {"a": 1.0, "b": 9.0})
    np.testing.assert_array_equal(scores, combine(ROWS, given(a={4: 0, 9: 2, 2: 1}), {"a": 1.0})[0])
    assert names == ("a", "b")


def test_an_only_candidate_gets_0() -> None:
    assert combine(ROWS[:1], given(a={4: 3.5}), {"a": 1.0})[0].tolist() == [0]


@pytest.mark.parametrize("silent", [{}, {1: 5.0, 8: 6.0}], ids=["found nothing", "found others"])
def test_stages_without_scores_of_these_candidates_are_left_out(silent: dict[int, float]) -> None:
    weights = {"never ran": 3.0, "silent": 3.0, "a": 1.0}
    scores, names = combine(ROWS, given(a={4: 0, 9: 2, 2: 1}, silent=silent), weights)
    np.testing.assert_array_equal(scores, combine(ROWS, given(a={4: 0, 9: 2, 2: 1}), {"a": 1.0})[0])
    assert names == ("a",)


def test_without_candidates_there_are_no_scores() -> None:
    scores, names = combine(ROWS[:0], given(a={4: 0}), {"a": 1.0})
    assert (scores.shape, names) == ((0,), ())


def test_the_largest_scores_and_weights_stay_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    scores, _ = combine(ROWS, given(a={4: -largest, 9: largest, 2: 0}), {"a": 1e3})
    assert np.isfinite(scores.astype(np.float32)).all()
    assert scores.argsort().tolist() == [0, 2, 1]
