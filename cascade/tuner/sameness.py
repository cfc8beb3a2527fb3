"""Whether stages still are the ones that were recorded: their settings name a model, but only its scores tell.

A model may have been trained again, or ``cascade models optimize`` may have made a faster form of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cascade.tuner.format import Header
from cascade.types import Rows, Scores

SAME_WITHIN: Final = 0.01
"""Most difference between scores of one model, as a share of their standard deviation, both root mean squares.

Rounding makes a thousandth of it, int8 instead of float32 about a twentieth, and training more."""


def changed(header: Header, before: Any, again: Mapping[str, Sequence[Any]]) -> list[str]:
    """Names of the stages whose scores of the first query have changed.

    Args:
        header: of the recording.
        before: the recorded table, as pyarrow holds it.
        again: the same columns, by name, recorded now in batches of the same sizes.
    """
    names = []
    for unit in header.units:
        if unit.role == "fuser":  # its settings are all that decides
            continue
        columns = (f"{unit.name}/rows" if unit.role == "retriever" else "rows", f"{unit.name}/scores")
        rows, scores = (before[column][0].values.to_numpy() for column in columns)
        if not agree(rows, scores, again[columns[0]][0], again[columns[1]][0]):
            names.append(unit.name)
    return names


def agree(rows: Rows, scores: Scores, rows_again: Rows, scores_again: Scores) -> bool:
    """Whether two lists of rows with their scores, [n] and [m] in any order, come from one model.

    >>> rows = np.arange(4)
    >>> scores = np.array([1.0, 2.0, 3.0, 4.0])
    >>> agree(rows, scores, rows[::-1], scores[::-1] + 0.001), agree(rows, scores, rows, scores + 0.1)
    (True, False)
    """
    both, first, second = np.intersect1d(rows, rows_again, return_indices=True)
    most = max(len(rows), len(rows_again))
    if 2 * len(both) <= most:
        return most == 0
    known = scores[first].astype(np.float64)
    difference = float(np.sqrt(np.mean((known - scores_again[second]) ** 2)))
    spread = max(float(known.std()), SAME_WITHIN * float(np.abs(known).mean()))  # few scores may all be the same
    return difference <= SAME_WITHIN * spread
