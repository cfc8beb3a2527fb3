"""Choosing: on some queries, reported on others, and only where there are enough of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascade.errors import InputError
from cascade.tuner import First, Goal, Limits, Point, Tuning
from cascade.tuner.choice import ENOUGH, Fold, split
from cascade.tuner.study import Trial
from tests.tuner_for_tests import CASCADE, Machine, config_of


def trial(name: str, quality: list[float], ms: list[float]) -> Trial:
    point = Point(First((name,)), (), (), Limits())
    return Trial(point, np.array(quality), np.array(ms) / 1000)


def test_many_queries_are_halved_and_few_take_turns() -> None:
    many = split(np.ones(ENOUGH, np.bool_))
    assert [(fold.tuning.sum(), fold.validation.sum()) for fold in many] == [(50, 50)]
    judged = np.arange(40) % 4 != 0
    few = split(judged)
    assert len(few) == 5
    assert (np.sum([fold.validation for fold in few], axis=0) == judged).all()
    assert all((fold.tuning | fold.validation)[judged].all() for fold in few)
    assert not any((fold.tuning & fold.validation).any() for fold in few)


def test_the_reported_figure_is_not_the_one_that_was_chosen_by() -> None:
    """A cascade that is good by chance on the tuning queries shows what it is worth on the others."""
    tuning = np.array([True] * 4 + [False] * 4)
    lucky = trial("lucky", [1.0] * 4 + [0.2] * 4, [5.0] * 4 + [7.0] * 4)
    solid = trial("solid", [0.6] * 8, [5.0] * 8)
    found = Tuning([lucky, solid], np.arange(8), [Fold(tuning, ~tuning)], Goal(50))
    (point,) = found.front()
    assert point.label == "lucky"
    assert point.quality == 1.0
    assert point.validated == pytest.approx(0.2)
    assert point.latency_ms == pytest.approx(5.0)
    assert point.validated_ms == pytest.approx(7.0)


def test_in_turns_each_fold_reports_its_own_choice() -> None:
    first = np.array([True, True, False, False])
    folds = [Fold(first, ~first), Fold(~first, first)]
    a, b = trial("a", [1, 1, 0, 0], [1] * 4), trial("b", [0, 0, 0.9, 0.9], [1] * 4)
    found = Tuning([a, b], np.arange(4), folds, Goal(50))
    (point,) = found.front()
    assert point.label == "a"
    assert point.quality == pytest.approx(0.5)
    assert point.validated == 0.0


def test_a_refused_answer_counts_as_the_slowest() -> None:
    every = np.ones(10, np.bool_)
    found = Tuning([trial("refuses", [0.9] * 10, [1.0] * 9 + [np.inf])], np.arange(10), split(every), Goal(50))
    assert np.isinf(found.latency(every)).all()
    with pytest.raises(InputError, match="front is empty"):
        found.front()


@pytest.mark.parametrize(("percentile", "confidence", "needed"), [(95, 0.95, 59), (99, 0.95, 299), (50, 0.5, 2)])
def test_a_percentile_needs_queries_in_the_tail(percentile: float, confidence: float, needed: int) -> None:
    goal = Goal(50, percentile, confidence=confidence)
    goal.require_queries(needed)
    with pytest.raises(InputError, match=f"at least {needed} judged queries, got {needed - 1}; record and judge"):
        goal.require_queries(needed - 1)


def test_either_half_is_large_enough_for_the_percentile() -> None:
    goal = Goal(50)
    for count in (59, 100, 117, 118, 200):
        folds = split(np.ones(count, np.bool_), enough=goal.enough)
        reported = np.sum([fold.validation for fold in folds], axis=0)
        assert reported.sum() >= goal.queries_needed == 59
        assert len(folds) == (1 if count >= 118 else 5)
    assert Goal(50, 75, confidence=0.8).enough == ENOUGH


@pytest.mark.parametrize("wrong", [{"budget_ms": 0}, {"percentile": 100}, {"confidence": 1.0}, {"budget_ms": np.nan}])
def test_a_goal_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Goal(**{"budget_ms": 50, **wrong})


def test_what_is_better_only_by_chance_does_not_drive_out_what_was_written() -> None:
    """Forty queries: the one found is ahead by as much as 40 coins may give; the other one on nearly every query."""
    rng = np.random.default_rng(2)
    base = rng.uniform(0.3, 0.7, 40)
    written = trial("written", base.tolist(), [20.0] * 40)
    written = replace(written, point=replace(written.point, given=config_of(CASCADE, Machine())))
    noise = rng.normal(0, 0.2, 40)
    lucky = trial("lucky", (base + noise - noise.mean() + 0.02).tolist(), [20.0] * 40)
    better = trial("better", (base + 0.01 + rng.normal(0, 0.005, 40)).tolist(), [20.0] * 40)
    everybody = np.ones(40, np.bool_)

    def tuning(*trials: Trial, kept: int | None = None) -> Tuning:
        return Tuning(trials, np.arange(40), split(everybody), Goal(50.0, confidence=0.9), kept)

    def chosen(*trials: Trial, kept: int | None = None) -> str:
        return tuning(*trials, kept=kept).within(50.0).label

    assert chosen(written, lucky) == written.point.label()
    assert [point.label for point in tuning(written, lucky).front()] == ["lucky"]
    assert chosen(written, lucky, better) == "better"
    twin = trial("twin", base.tolist(), [10.0] * 40)
    assert chosen(written, twin) == written.point.label(), "as good and faster is not better"
    assert chosen(lucky, better) == "lucky"
    assert chosen(lucky, better, kept=1) == "better"
    other = replace(lucky, point=replace(lucky.point, given=config_of(CASCADE, Machine())))
    assert chosen(written, other) == other.point.label()
    assert chosen(other, written, kept=1) == written.point.label()
    with pytest.raises(InputError, match="no cascade meets 19 ms"):
        tuning(written, lucky).within(19.0)
    slow = Trial(written.point, written.quality, written.seconds * 3)
    assert chosen(slow, lucky, better) == "lucky", "what was written does not fit"
