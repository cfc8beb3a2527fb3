"""A stage's score together with those of stages before it, so that a weak new score does not undo what is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.types import Rows, Scores

Floats: TypeAlias = npt.NDArray[np.float64]

Given: TypeAlias = Mapping[str, tuple[Rows, Scores]]
"""The scores that stages gave, by name of the stage: int32 [m] distinct rows and float32 [m], in any order."""


def combine(rows: Rows, given: Given, weights: Mapping[str, float]) -> tuple[Floats, tuple[str, ...]]:
    """score(row) = sum over stages s: weight(s) * (score of row by s - mean by s) / standard deviation by s.

    Mean and deviation are over those of ``rows`` that s has scored; a row that it has not scored gets its least
    normalised score, and where all its scores are equal it adds 0. A stage that has scored none of them is left out.
    So what comes of a row depends on which others are there: combined scores of two queries, or of the same query under
    two budgets, are not comparable.

    This is the linear combination of Bartell, Cottrell & Belew, "Automatic Combination of Multiple Ranked Retrieval
    Systems" (SIGIR 1994) over the zero-mean, unit-variance scores of Montague & Aslam, "Relevance Score Normalization
    for Metasearch" (CIKM 2001). These make a weight the stage's share in the spread of the sum. Min-max does not: a
    single outlying score presses the others of its stage together, and the few high scores that rerankers give are
    outliers.

    Args:
        rows: int32 [n], the candidates, each once.
        given: scores by stage.
        weights: of stages, which need not all have given scores.

    Returns:
        float64 [n], finite, and the names of the stages that took part. Not float32, in which scores that differ a
        little beside larger ones would become equal.

    >>> rows = np.array([7, 3, 5], np.int32)
    >>> late = np.array([5, 7], np.int32), np.array([1.0, 3.0], np.float32)
    >>> cross = rows, np.array([0.0, 2.0, 1.0], np.float32)
    >>> scores, names = combine(rows, {"late": late, "cross": cross}, {"late": 0.5, "cross": 1.0, "failed": 9.0})
    >>> scores.round(3).tolist(), names
    ([-0.725, 0.725, -0.5], ('late', 'cross'))
    """
    total, names = np.zeros(len(rows)), []
    for name, weight in weights.items():
        if name not in given:
            continue
        scores, scored = _look_up(rows, *given[name])
        if scored.any():
            normalised = z_score(scores[scored])
            total[scored] += weight * normalised
            total[~scored] += weight * normalised.min()
            names.append(name)
    return total, tuple(names)


def _look_up(rows: Rows, known: Rows, scores: Scores) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """float64 [n]: the score of each row; bool [n]: whether it has one."""
    if len(known) == 0:
        return np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
    rising = known.argsort()
    places = np.minimum(np.searchsorted(known, rows, sorter=rising), len(known) - 1)
    found = rising[places]
    return scores[found].astype(np.float64), known[found] == rows


def z_score(scores: Floats) -> Floats:
    """(score - mean) / standard deviation; 0 where all scores are equal, whatever rounding makes of their deviation.

    Renda & Straccia, "Web Metasearch: Rank vs. Score Based Rank Aggregation Methods" (SAC 2003).

    >>> z_score(np.array([3.0, 1.0])).tolist(), z_score(np.array([4.0])).tolist()
    ([1.0, -1.0], [0.0])
    """
    if len(scores) == 0 or np.ptp(scores) == 0:
        return np.zeros_like(scores)
    standard: Floats = (scores - scores.mean()) / scores.std()
    return standard
