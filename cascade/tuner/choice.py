"""From trials to a choice with honest figures: chosen on some queries, reported on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.evaluation import bootstrap_interval
from cascade.tuner.evaluated import percentile_interval_ms, percentile_ms
from cascade.tuner.front import FrontPoint, ParetoFront, pareto
from cascade.tuner.study import Trial

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ENOUGH = 100
"""Judged queries from which on half of them may be kept for validation; of fewer, all serve for both by turns."""
FOLDS = 5
LEAST_CONFIDENCE = 0.95
"""With which a cascade that somebody wrote is replaced, however narrow the error bars are asked to be."""
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted.

    Args:
        budget_ms: that the percentile of the latency has to meet.
        percentile: which.
        measure: of quality, as in ``nDCG@10``.
        confidence: of the error bars.

    Raises:
        InputError: a number is out of range.
    """

    budget_ms: float
    percentile: float = 95.0
    measure: str = "nDCG@10"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.budget_ms < math.inf:
            raise InputError(f"budget_ms: expected milliseconds above 0, got {self.budget_ms!r}")
        if not 0 < self.percentile < 100:
            raise InputError(f"percentile: expected a number between 0 and 100, got {self.percentile!r}")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence: expected a number between 0 and 1, got {self.confidence!r}")

    @property
    def queries_needed(self) -> int:
        """Judged queries that the percentile can be told from.

        The largest of n independent latencies is above the p-quantile with probability 1 - p^n, so that n has to be
        at least ln(1 - confidence) / ln p (Wilks, Determination of Sample Sizes for Setting Tolerance Limits, 1941).
        """
        share = self.percentile / 100
        return max(2, math.ceil(math.log(1 - self.confidence) / math.log(share) - 1e-9))

    @property
    def enough(self) -> int:
        """Judged queries from which on half of them can be kept for validation, the percentile told from either."""
        return max(ENOUGH, 2 * self.queries_needed)

    def require_queries(self, count: int) -> None:
        """Makes sure that the percentile can be told from ``count`` queries.

        Raises:
            InputError: they are too few.
        """
        if count < self.queries_needed:
            raise InputError(
                f"queries: p{self.percentile:g} at {self.confidence:.0%} confidence needs at least "
                f"{self.queries_needed} judged queries, got {count}; record and judge more, or ask for a lower "
                f"--percentile or --confidence"
            )


@dataclass(frozen=True, slots=True)
class Fold:
    """Queries to choose by, and queries to report on: bool [queries] each."""

    tuning: Mask
    validation: Mask


def margins(gains: Floats, confidence: float) -> Floats:
    """float64 [m]: how far each of several mean gains may be above the true one by chance, with confidence for all.

    The largest studentised deviation of any of them from its mean, over bootstrap samples of the queries, is taken at
    the quantile ``confidence``: the reality check of White (Econometrica 68, 2000) with the studentised statistic of
    Hansen (Journal of Business & Economic Statistics 23, 2005). Gains that go together cost no more than one.

    Args:
        gains: float64 [m, n], of m cascades on n queries.
        confidence: between 0 and 1.
    """
    count = gains.shape[1]
    if count < 2:
        return np.zeros(len(gains))
    error: Floats = gains.std(axis=1, ddof=1) / np.sqrt(count)
    varies = error > 0
    if not varies.any():
        return error
    standard = (gains[varies] - gains[varies].mean(axis=1, keepdims=True)) / error[varies, None]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    largest = (drawn @ standard.T / count).max(axis=1)
    margin: Floats = error * max(0.0, float(np.quantile(largest, confidence)))
    return margin


def split(judged: Mask, seed: int = 0, enough: int = ENOUGH) -> list[Fold]:
    """Halves where there are ``enough`` judged queries, else five folds in turn."""
    count = int(judged.sum())
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(judged))
    parts = [shuffled[: count // 2]] if count >= enough else np.array_split(shuffled, min(FOLDS, max(count, 1)))
    folds = []
    for part in parts:
        validation = np.zeros(len(judged), np.bool_)
        validation[part] = True
        folds.append(Fold(judged & ~validation, validation))
    return folds


def chosen_by(folds: Sequence[Fold]) -> Mask:
    """Queries that the choice is made by in the end, bool [queries]; all of them where they take turns."""
    mask: Mask = np.any([fold.tuning for fold in folds], axis=0)
    return mask


@dataclass(frozen=True)
class Tuning:
    """All trials, and what follows from them.

    Args:
        trials: every cascade that was tried.
        query: int64 [n], which query each answer of a trial is to.
        folds: of the queries.
        goal: what was wanted.
        kept: the trial that only a better one, beyond chance, may replace; by default the best of those written.
    """

    trials: Sequence[Trial]
    query: npt.NDArray[np.int64]
    folds: Sequence[Fold]
    goal: Goal
    kept: int | None = None
    _quality: Floats = field(init=False, repr=False)
    _seconds: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_quality", np.array([trial.quality for trial in self.trials]))
        object.__setattr__(self, "_seconds", np.array([trial.seconds for trial in self.trials]))

    @property
    def tuning(self) -> Mask:
        """Answers that the choice was made by in the end."""
        mask: Mask = chosen_by(self.folds)[self.query]
        return mask

    def latency(self, answers: Mask) -> Floats:
        """float64 [trials]: the percentile in milliseconds on some answers."""
        part = self._seconds[:, answers]
        return np.array([percentile_ms(seconds, self.goal.percentile) for seconds in part])

    def quality(self, answers: Mask) -> Floats:
        """float64 [trials]: the mean on some answers."""
        mean: Floats = np.nanmean(self._quality[:, answers], axis=1)
        return mean

    def cautious(self, answers: Mask, fits: Mask) -> Floats:
        """float64 [trials]: the mean on some answers, less a margin for cascades that were only found by searching.

        Or, with ``kept``, for all but that one.

        The best of many cascades owes part of its mean to chance, which one that was written beforehand does not. So
        they are compared with the best of the written ones: what counts of a gain is its lower confidence bound, valid
        for all of them at once, and one that is just as good is not better. Where none was written, it is the plain
        mean.

        Args:
            answers: bool [n], those that count.
            fits: bool [trials], those to choose from; the others have no value, -inf.
        """
        quality = np.where(fits, self.quality(answers), -np.inf)
        written = np.array([trial.point.given is not None for trial in self.trials])
        if self.kept is not None:
            written = np.arange(len(self.trials)) == self.kept
        found = fits & ~written
        if not (fits & written).any() or not found.any():
            return quality
        values = self._quality[:, answers]
        values = values[:, ~np.isnan(values).any(axis=0)]
        gains = values[found] - values[np.argmax(np.where(written, quality, -np.inf))]
        quality[found] -= margins(gains, max(LEAST_CONFIDENCE, self.goal.confidence))
        quality[found] = np.nextafter(quality[found], -np.inf)
        return quality

    def front(self) -> ParetoFront:
        """The best cascade of each latency, by plain means, each with what it is worth on queries it was not chosen by.

        Raises:
            InputError: no cascade answered in finite time.
        """
        latency, quality = self._figures(self.tuning)
        points = [self._point(trial, careful=False) for trial in pareto(latency, quality)]
        return ParetoFront(tuple(points), self.goal.measure, self.goal.percentile)

    def within(self, budget_ms: float) -> FrontPoint:
        """What to run under a budget: the best by ``cautious`` of at most this latency.

        So one that is better only by chance does not drive out a written one, although it may be on the front.

        Raises:
            InputError: even the fastest is slower, or none answered in finite time.
        """
        latency, quality = self._figures(self.tuning)
        best = pareto(latency, quality)
        if not best or latency[best[0]] > budget_ms:
            return self.front().within(budget_ms)  # which says so
        return self._point(self._best(self.tuning, budget_ms, None, careful=True), careful=True)

    def _point(self, trial: int, *, careful: bool) -> FrontPoint:
        latency, quality = self._figures(self.tuning)
        latency_ms = float(latency[trial])
        values, seconds = self.validated(latency_ms, careful=careful)
        low, high = bootstrap_interval(values, confidence=self.goal.confidence, samples=2000)
        low_ms, high_ms = percentile_interval_ms(seconds, self.goal.percentile, self.goal.confidence)
        point = self.trials[trial].point
        return FrontPoint(
            label=point.label(),
            latency_ms=latency_ms,
            quality=float(quality[trial]),
            validated_ms=percentile_ms(seconds, self.goal.percentile),
            validated=float(values.mean()),
            low=low,
            high=high,
            low_ms=low_ms,
            high_ms=high_ms,
            details={"trial": trial, "point": point.to_json()},
        )

    def validated(
        self, latency_ms: float, among: Mask | None = None, *, careful: bool = False
    ) -> tuple[Floats, Floats]:
        """Quality and seconds, on queries left out, of what would be chosen for a latency without them.

        Args:
            latency_ms: that the percentile may take.
            among: bool [trials], those to choose from; all by default.
            careful: choose by ``cautious``, not by plain means.
        """
        values, seconds = [], []
        for fold in self.folds:
            chosen = self._best(fold.tuning[self.query], latency_ms, among, careful=careful)
            answers = fold.validation[self.query]
            values.append(self._quality[chosen, answers])
            seconds.append(self._seconds[chosen, answers])
        return np.concatenate(values), np.concatenate(seconds)

    def _best(self, answers: Mask, latency_ms: float, among: Mask | None, *, careful: bool) -> int:
        """The best trial on some answers among those that are fast enough there; the fastest where none is."""
        latency, quality = self._figures(answers)
        if among is not None:
            latency = np.where(among, latency, np.inf)
        fits = latency <= latency_ms
        if not fits.any():
            return int(np.argmin(latency))
        quality = self.cautious(answers, fits) if careful else np.where(fits, quality, -np.inf)
        best = np.flatnonzero(quality >= quality.max())
        return int(best[np.argmin(latency[best])])

    def _figures(self, answers: Mask) -> tuple[Floats, Floats]:
        """Of each trial on some answers: latency and mean quality."""
        key = answers.tobytes()
        if key not in self._known:
            self._known[key] = self.latency(answers), self.quality(answers)
        return self._known[key]

    _known: dict[bytes, tuple[Floats, Floats]] = field(default_factory=dict, init=False, repr=False)
