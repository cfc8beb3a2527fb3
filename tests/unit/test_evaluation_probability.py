"""Probabilities fitted to scores, against truths that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import InputError
from cascade.evaluation import LabelledScores, LastScores, Method, calibrate_scores, expected_calibration_error
from cascade.evaluation.probability import fit_isotonic, fit_platt
from cascade.load import parse_config
from cascade.types import Qrel
from tests.fakes import FakeReranker, FakeRetriever, answer, cascade, relevance, stage, varied_lengths


def logistic(queries: int, each: int = 100, a: float = 1.5, b: float = -2.0, seed: int = 0) -> LabelledScores:
    """Scores whose probabilities are 1 / (1 + exp(-(a s + b)))."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, queries * each)
    relevant = rng.random(len(scores)) < 1 / (1 + np.exp(-(a * scores + b)))
    return LabelledScores("ce", scores, relevant, np.repeat(np.arange(queries), each))


def test_platt_finds_the_curve_that_made_the_labels():
    made = logistic(500)
    fitted = fit_platt(made.scores, made.relevant)
    assert (fitted.a, fitted.b) == (pytest.approx(1.5, rel=0.05), pytest.approx(-2.0, rel=0.05))


@pytest.mark.parametrize(("factor", "shift"), [(1e-4, 0.0), (1e4, 0.0), (1.0, 1e4), (0.01, -300.0)])
def test_platt_does_not_depend_on_the_scale_of_the_scores(factor: float, shift: float):
    made = logistic(20)
    plain, other = fit_platt(made.scores, made.relevant), fit_platt(made.scores * factor + shift, made.relevant)
    np.testing.assert_allclose(other(made.scores * factor + shift), plain(made.scores), atol=1e-6)


def test_scores_that_separate_relevant_documents_leave_some_doubt():
    fitted = fit_platt(np.array([0.0, 0.0, 0.0, 1.0, 1.0]), np.array([False, False, False, True, True]))
    # two parameters meet both of Platt's targets: 1 / (3 + 2) and (2 + 1) / (2 + 2)
    assert fitted(np.array([0.0, 1.0])) == pytest.approx([0.2, 0.75])


def test_probabilities_of_extreme_scores_stay_within_0_and_1():
    made = logistic(20)
    chances = fit_platt(made.scores, made.relevant)(np.array([-1e30, 1e30]))
    assert chances.tolist() == [0.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_isotonic_regression_is_that_of_the_min_max_formula(pairs: list[tuple[int, bool]]):
    scores, relevant = np.array([float(s) for s, _ in pairs]), np.array([r for _, r in pairs])
    if relevant.all() or not relevant.any() or np.ptp(scores) == 0:
        with pytest.raises(InputError):
            fit_isotonic(scores, relevant)
        return
    fitted = fit_isotonic(scores, relevant)
    levels = np.unique(scores)

    def mean(low: float, high: float) -> float:
        return float(relevant[(scores >= low) & (scores <= high)].mean())

    expected = [
        max(min(mean(low, high) for high in levels[levels >= level]) for low in levels[levels <= level])
        for level in levels
    ]
    np.testing.assert_allclose(fitted(levels), expected)


def test_the_error_is_the_distance_of_what_was_said_from_what_came_true():
    relevant = np.arange(100) < 10
    assert expected_calibration_error(np.full(100, 0.5), relevant) == pytest.approx(0.4)
    assert expected_calibration_error(np.full(100, 0.1), relevant) == pytest.approx(0.0)
    assert expected_calibration_error(relevant.astype(float), relevant) == 0.0
    assert expected_calibration_error(1.0 - relevant, relevant) == pytest.approx(1.0)


def test_the_error_does_not_depend_on_the_order_of_equal_probabilities():
    rng = np.random.default_rng(1)
    chances, relevant = np.round(rng.random(200), 1), rng.random(200) < 0.3
    shuffled = rng.permutation(200)
    whole = expected_calibration_error(chances, relevant)
    assert expected_calibration_error(chances[shuffled], relevant[shuffled]) == pytest.approx(whole)


@pytest.mark.parametrize("method", list(Method))
def test_what_was_fitted_is_right_on_queries_that_it_has_not_seen(method: Method):
    fitted = calibrate_scores(logistic(200), method)
    assert (fitted.queries, fitted.scores) == (200, 20_000)
    others = logistic(200, seed=9)
    error = expected_calibration_error(fitted.probability(others.scores), others.relevant)
    overconfident = expected_calibration_error(1 / (1 + np.exp(-3 * others.scores)), others.relevant)
    assert error < 0.015 < 0.1 < overconfident
    assert fitted.error == pytest.approx(error, abs=0.01)


def test_the_error_is_that_of_held_out_queries():
    """Where every query has its own level of scores, a fit that has seen a query knows all about it."""
    rng = np.random.default_rng(2)
    query = np.repeat(np.arange(10), 20)
    relevant = rng.random(10)[query] > 0.5
    made = LabelledScores("ce", query + rng.random(200) / 2, relevant, query)
    seen = calibrate_scores(made, Method.ISOTONIC).probability(made.scores)
    assert expected_calibration_error(seen, relevant) < 1e-9
    assert calibrate_scores(made, Method.ISOTONIC).error > 0.1


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (logistic(4), "expected at least 5 queries with scores, got 4"),
        (
            LabelledScores("ce", np.arange(9.0), np.ones(9, np.bool_), np.arange(9)),
            "of relevant and of other documents",
        ),
        (LabelledScores("ce", np.ones(9), np.arange(9) % 2 == 0, np.arange(9)), "expected scores that differ, got 1"),
        (
            LabelledScores("ce", -np.arange(90.0), np.arange(90) > 45, np.arange(90)),
            "expected scores that rise with relevance",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_said(made: LabelledScores, message: str):
    with pytest.raises(InputError, match=message):
        calibrate_scores(made, Method.PLATT)


@pytest.mark.parametrize("method", list(Method))
def test_the_line_for_the_settings_is_understood_by_the_loader(method: Method):
    fitted = calibrate_scores(logistic(10), method)
    text = f"version: 1\nname: x\nstages:\n  - name: words\n    kind: bm25\n    top_k: 5\n    {fitted.yaml()}\n"
    assert parse_config(text).stages[0].settings.probability == fitted.probability


def test_the_scores_of_the_last_stage_are_gathered_with_their_labels():
    opened = cascade(
        stage("words", FakeRetriever(40, 20), 30),
        stage("ce", FakeReranker(varied_lengths(40)), 5),
        passages=40,
    )
    gathered = LastScores(opened.stages[-1].planned, [Qrel("q", "d3", 1), Qrel("q", "d4", 0), Qrel("other", "d5", 1)])
    for budget_s in (float("inf"), 0.015):
        gathered.add(answer(opened, budget_s))
    found = gathered.labelled()
    first = found.only(found.query == 0)
    received = answer(opened).passed_by(0).rows
    assert found.stage == "ce"
    assert sorted(first.scores.tolist()) == sorted(relevance(2, received).astype(float).tolist())
    assert first.scores[first.relevant].tolist() == relevance(2, np.array([3], np.int32)).tolist()
    assert 0 < (found.query == 1).sum() < 30


def test_combined_scores_are_not_calibrated():
    planned = stage("ce", FakeReranker(varied_lengths(4)), 5, combine={"ce": 1.0}).planned
    with pytest.raises(InputError, match="stage 'ce': expected scores of its own, got combined ones"):
        LastScores(planned, [])
    with pytest.raises(InputError, match="stage 'words': expected scores of judged queries, got none"):
        LastScores(stage("words", FakeRetriever(4), 5).planned, []).labelled()
