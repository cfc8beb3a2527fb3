"""The loops over postings, compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.compiled import compiled


@compiled
def spans(
    indptr: npt.NDArray[np.int64], rows: npt.NDArray[np.int32], terms: npt.NDArray[np.int64], start: int, stop: int
) -> npt.NDArray[np.int64]:
    """int64 [terms, 2]: where the postings of each term with ``start <= row < stop`` begin and end."""
    found = np.empty((len(terms), 2), np.int64)
    for i in range(len(terms)):
        first, last = indptr[terms[i]], indptr[terms[i] + 1]
        found[i, 0] = first + np.searchsorted(rows[first:last], start)
        found[i, 1] = first + np.searchsorted(rows[first:last], stop)
    return found


@compiled
def accumulate(
    rows: npt.NDArray[np.int32],
    impacts: npt.NDArray[np.float32],
    parts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    start: int,
    scores: npt.NDArray[np.float32],
) -> None:
    """Adds ``weights[i]`` times the impacts of ``parts[i]`` (see ``spans``) to ``scores``, from row ``start`` on."""
    for i in range(len(parts)):
        weight = weights[i]
        for j in range(parts[i, 0], parts[i, 1]):
            scores[rows[j] - start] += weight * impacts[j]


@compiled
def first_bad_posting(
    indptr: npt.NDArray[np.int64], rows: npt.NDArray[np.int32], values: npt.NDArray[np.float32], n_rows: int
) -> int:
    """Index of the first posting out of order, out of range or not a finite number; -1 if there is none.

    ``accumulate`` does not check bounds, so nothing may reach it that has not passed here.
    """
    for term in range(len(indptr) - 1):
        previous = -1
        for j in range(indptr[term], indptr[term + 1]):
            if rows[j] <= previous or rows[j] >= n_rows or not np.isfinite(values[j]):
                return j
            previous = rows[j]
    return -1
