"""How rankings are merged. All functions are pure; rows are int32 [m], scores float32 [m], best first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.types import Rows, Scores

Floats: TypeAlias = npt.NDArray[np.float64]


def reciprocal_rank_fusion(rankings: Sequence[Rows], weights: Sequence[float], k: float = 60.0) -> tuple[Rows, Scores]:
    """score(d) = sum over rankings r that have d: weight(r) / (k + rank of d in r), ranks from 1.

    Cormack, Clarke & Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods"
    (SIGIR 2009), where all weights are 1. A ranking gives nothing to rows that it does not have.

    >>> rows, scores = reciprocal_rank_fusion([np.array([7, 3], np.int32), np.array([3], np.int32)], [1, 1])
    >>> rows.tolist(), [round(float(score), 4) for score in scores]
    ([3, 7], [0.0325, 0.0164])
    """
    rows, places = _union(rankings)
    total = np.zeros(len(rows))
    for place, weight in zip(places, weights, strict=True):
        total[place] += weight / (k + np.arange(1, len(place) + 1))
    return _ordered(rows, total)


def weighted_sum(
    rankings: Sequence[tuple[Rows, Scores]], weights: Sequence[float], normalise: Callable[[Floats], Floats]
) -> tuple[Rows, Scores]:
    """score(d) = sum over rankings r: weight(r) * normalised score of d in r.

    CombSUM of Fox & Shaw, "Combination of Multiple Searches" (TREC-2, 1994) with weights; for two retrievers the convex
    combination of Bruch, Gai & Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (arXiv 2210.11934).
    A ranking gives to rows that it does not have the least that it can give: 0 for ``min_max``, its lowest
    normalised score for ``z_score``. NaN counts as the ranking's lowest score, infinities as its extremes.

    >>> lexical = np.array([7, 3, 5], np.int32), np.array([9, 5, 1], np.float32)
    >>> dense = np.array([3, 8], np.int32), np.array([0.8, 0.6], np.float32)
    >>> rows, scores = weighted_sum([lexical, dense], [0.5, 0.5], min_max)
    >>> rows.tolist(), scores.tolist()
    ([3, 7, 5, 8], [0.75, 0.5, 0.0, 0.0])
    """
    rows, places = _union([ranking for ranking, _ in rankings])
    total = np.zeros(len(rows))
    for (_, scores), place, weight in zip(rankings, places, weights, strict=True):
        given = normalise(_finite(scores))
        least = min(0.0, given.min(initial=0.0))
        total += weight * least
        total[place] += weight * (given - least)
    return _ordered(rows, total)


def min_max(scores: Floats) -> Floats:
    """(score - min) / (max - min), in [0, 1]; 1 where all scores are equal, so that an only hit is worth having.

    Lee, "Analyses of Multiple Evidence Combination" (SIGIR 1997).

    >>> min_max(np.array([3.0, 2.0, 1.0])).tolist(), min_max(np.array([4.0])).tolist()
    ([1.0, 0.5, 0.0], [1.0])
    """
    if len(scores) == 0:
        return scores
    lowest, spread = scores.min(), np.ptp(scores)
    return (scores - lowest) / spread if spread > 0 else np.ones_like(scores)


def _union(rankings: Sequence[Rows]) -> tuple[Rows, list[npt.NDArray[np.intp]]]:
    """Every row once, rising, and for each ranking where in there its rows are."""
    together = np.concatenate([np.empty(0, np.int32), *rankings])
    order = together.argsort()
    rising = together[order]
    new = np.ones(len(rising), np.bool_)
    np.not_equal(rising[1:], rising[:-1], out=new[1:])
    places = np.empty(len(rising), np.intp)
    places[order] = new.cumsum() - 1
    stops = itertools.accumulate(len(ranking) for ranking in rankings)
    return rising[new], [places[stop - len(ranking) : stop] for ranking, stop in zip(rankings, stops, strict=True)]


def _finite(scores: Scores) -> Floats:
    good = scores[np.isfinite(scores)].astype(np.float64)
    if len(good) == 0:
        good = np.zeros(1)
    return np.nan_to_num(scores.astype(np.float64), nan=good.min(), posinf=good.max(), neginf=good.min())


def _ordered(rows: Rows, total: Floats) -> tuple[Rows, Scores]:
    """Best first; of equal ones the lower row, for they come rising."""
    scores = total.astype(np.float32)
    order = (-scores).argsort(kind="stable")
    return rows[order], scores[order]
