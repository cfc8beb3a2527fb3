"""BM25 opened over a collection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.stage import Retriever, Work
from cascade.types import Query, Rows, Scores
from stages.bm25 import kernel
from stages.bm25.analysis import Analyser
from stages.bm25.store import Postings
from stages.bm25.vocabulary import QueryTerms

RANGE_ROWS = 1 << 16
"""Rows of a range: their scores fit into a core's second-level cache."""


class Bm25Retriever(Retriever):
    """Adds up the impacts that the index holds; may be called from several threads."""

    def __init__(self, postings: Postings, analyser: Analyser, range_rows: int = RANGE_ROWS) -> None:
        self._postings = postings
        self._analyser = analyser
        self._range_rows = range_rows
        self.search(QueryTerms(np.empty(0, np.int64), np.empty(0, np.float32)), 1, 0, 0)  # compiles the kernels

    def encode_query(self, query: Query) -> QueryTerms:
        """The query's terms that the index knows."""
        return self._postings.vocabulary.encode(query.text, self._analyser)

    def ranges(self) -> Sequence[tuple[int, int]]:
        """Ranges of ``range_rows`` rows; a collection smaller than that is one range."""
        return split(self._postings.n_rows, self._range_rows)

    def search(self, query: QueryTerms, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The best ``k`` rows of the range that score above zero."""
        postings = self._postings
        parts = kernel.spans(postings.indptr, postings.rows, query.terms, start, stop)
        scores = np.zeros(stop - start, np.float32)
        kernel.accumulate(postings.rows, postings.values, parts, query.counts, start, scores)
        return best(scores, k, start)

    def work(self, query: QueryTerms, start: int, stop: int) -> Work:
        """Rows as ``pairs``, postings of the query's terms as ``tokens``."""
        parts = kernel.spans(self._postings.indptr, self._postings.rows, query.terms, start, stop)
        return Work(pairs=float(stop - start), tokens=float((parts[:, 1] - parts[:, 0]).sum()))


def split(n_rows: int, range_rows: int) -> list[tuple[int, int]]:
    """Ranges of ``range_rows`` rows that cover ``n_rows``; the last may be shorter.

    >>> split(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + range_rows, n_rows)) for start in range(0, n_rows, range_rows)]


def best(scores: Scores, k: int, start: int) -> tuple[Rows, Scores]:
    """The ``k`` best positions with a score above zero, shifted by ``start``: best first, ties by row.

    >>> rows, scores = best(np.array([1, 0, 3, 1], np.float32), 2, 10)
    >>> rows.tolist(), scores.tolist()
    ([12, 10], [3.0, 1.0])
    """
    found = np.flatnonzero(scores > 0)
    if 0 < k < len(found):
        values = scores[found]
        threshold = np.partition(values, len(values) - k)[len(values) - k]
        above = found[values > threshold]
        found = np.concatenate((above, found[values == threshold][: k - len(above)]))
    order = np.lexsort((found, -scores[found]))[:k]
    rows = found[order]
    return (rows + start).astype(np.int32), scores[rows]
