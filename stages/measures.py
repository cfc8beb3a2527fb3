"""Measures of rankings, where ir-measures would be too slow or not installed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cascade.types import Scores

CUTOFF = 10


def ndcg(scores: Scores, gains: npt.NDArray[np.float64], cutoff: int = CUTOFF) -> float:
    """Sum of gain / log2(1 + rank) over the best ``cutoff`` by score, divided by the highest such sum.

    Järvelin and Kekäläinen 2002, with the gains as they are; equal scores keep their order.

    >>> ndcg(np.array([2.0, 1.0], np.float32), np.array([0.0, 1.0]))
    0.6309297535714575
    """
    discounts = 1 / np.log2(np.arange(2, min(cutoff, len(gains)) + 2))
    order = np.argsort(-scores, kind="stable")[: len(discounts)]
    best = np.sort(gains)[::-1][: len(discounts)]
    return float((gains[order] * discounts).sum() / (best * discounts).sum())
