"""BM25 by the rank-bm25 package: slow and in memory, to compare with what is in wide use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rank_bm25 import BM25Okapi

from cascade.stage import Retriever, Work
from cascade.types import Query, Rows, Scores
from stages.bm25.analysis import Analyser
from stages.bm25.formula import Formula
from stages.bm25.retriever import best, split
from stages.bm25.store import Postings
from stages.bm25.vocabulary import QueryTerms

RANGE_ROWS = 1 << 12
"""Rows of a range: rank-bm25 looks up each row in a dictionary."""


class _Okapi(BM25Okapi):  # type: ignore[misc]
    """rank-bm25's Okapi with the idf of ``formula``.

    Its own idf differs from every published variant in that a term which more than half of all passages have gets a
    quarter of the mean idf. Without that floor its scores are those of robertson's idf times (k1 + 1).
    """

    def __init__(self, corpus: list[list[int]], formula: Formula) -> None:
        self._formula = formula
        super().__init__(corpus, k1=formula.k1, b=formula.b)

    def _calc_idf(self, nd: dict[int, int]) -> None:
        idf = self._formula.idf(np.array(list(nd.values()), np.int64), self.corpus_size)
        scale = 1.0 if self._formula.method == "atire" else self.k1 + 1
        self.idf = dict(zip(nd, (idf / scale).tolist(), strict=True))


class OkapiRetriever(Retriever):
    """Scores every row of a range for every term of the query; may be called from several threads.

    Args:
        postings: an index of counts, from which the passages' terms are put together again.
    """

    def __init__(self, postings: Postings, analyser: Analyser, formula: Formula) -> None:
        self._n_rows = postings.n_rows
        self._vocabulary = postings.vocabulary
        self._analyser = analyser
        self._okapi = _Okapi(_passages(postings), formula) if postings.n_rows else None

    def encode_query(self, query: Query) -> QueryTerms:
        """The query's terms that the index knows."""
        return self._vocabulary.encode(query.text, self._analyser)

    def ranges(self) -> Sequence[tuple[int, int]]:
        """Ranges of ``RANGE_ROWS`` rows."""
        return split(self._n_rows, RANGE_ROWS)

    def search(self, query: QueryTerms, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The best ``k`` rows of the range that score above zero."""
        scores = np.zeros(stop - start, np.float64)
        if self._okapi is not None:
            rows = list(range(start, stop))
            for term, count in zip(query.terms.tolist(), query.counts.tolist(), strict=True):
                scores += count * np.array(self._okapi.get_batch_scores([term], rows))
        return best(scores.astype(np.float32), k, start)

    def work(self, query: QueryTerms, start: int, stop: int) -> Work:
        """Rows as ``pairs``, rows times terms as ``tokens``."""
        return Work(pairs=float(stop - start), tokens=float((stop - start) * len(query.terms)))


def _passages(postings: Postings) -> list[list[int]]:
    """Each passage's term ids, in the order of ids; BM25 does not see the order of words."""
    terms = np.repeat(np.arange(len(postings.vocabulary)), np.diff(postings.indptr))
    by_row = np.argsort(postings.rows, kind="stable")
    counts = postings.values[by_row].astype(np.int64)
    tokens = np.repeat(terms[by_row], counts)
    ends = np.cumsum(np.bincount(postings.rows, postings.values, postings.n_rows).astype(np.int64))
    return [part.tolist() for part in np.split(tokens, ends[:-1])]
