"""Searching vectors: all of them, range by range, or an HNSW graph (Malkov and Yashunin 2018, arXiv 1603.09320)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt
from cascade.stage import Retriever, Work
from cascade.types import Rows, Scores
from stages.dense.vectors import BLOCK, Vectors
from stages.runtimes.queries import Embed, EncoderReads, QueryReader

GRAPH = "hnsw.faiss"
_RANGE = 16_384


class ExactRetriever(EncoderReads, Retriever):
    """Compares the query with every vector; may be used by many threads at once.

    Args:
        vectors: one a passage.
        queries: reads queries.
        embed: from what that reads to float32 [dimension].
    """

    def __init__(self, vectors: Vectors, queries: QueryReader, embed: Embed) -> None:
        super().__init__(queries, embed)
        self.vectors = vectors

    def ranges(self) -> Sequence[tuple[int, int]]:
        """16,384 rows each: about two milliseconds at 384 components."""
        n = len(self.vectors)
        return [(start, min(start + _RANGE, n)) for start in range(0, n, _RANGE)]

    def search(self, query: npt.NDArray[np.float32], k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The best ``k`` rows of the range by inner product, best first, ties by row."""
        return best(self.vectors.products(query, start, stop), k, start)


class HnswRetriever(ExactRetriever):
    """Walks an HNSW graph over all vectors; a part of the collection is searched exactly.

    Args:
        vectors: one a passage.
        queries: reads queries.
        embed: from what that reads to float32 [dimension].
        graph: a faiss index over the same vectors.
        ef_search: candidates kept on the way.
    """

    def __init__(self, vectors: Vectors, queries: QueryReader, embed: Embed, graph: Any, ef_search: int) -> None:
        super().__init__(vectors, queries, embed)
        self._faiss = import_faiss()
        self._graph = graph
        self._ef_search = ef_search

    def ranges(self) -> Sequence[tuple[int, int]]:
        """One range: a graph is walked as a whole."""
        return [(0, len(self.vectors))] if len(self.vectors) else []

    def search(self, query: npt.NDArray[np.float32], k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """About the best ``k`` rows, best first, ties by row; exactly the best of a part."""
        if (start, stop) != (0, len(self.vectors)) or min(k, stop) < 1:
            return super().search(query, k, start, stop)
        parameters = self._faiss.SearchParametersHNSW(efSearch=max(self._ef_search, k))
        scores, rows = self._graph.search(query[None], min(k, stop), params=parameters)
        found = rows[0] >= 0
        return _ordered(rows[0][found].astype(np.int32), scores[0][found])

    def work(self, query: npt.NDArray[np.float32], start: int, stop: int) -> Work:
        """Vectors compared on the way: about ``ef_search`` times the logarithm of the collection's size."""
        if (start, stop) != (0, len(self.vectors)):
            return super().work(query, start, stop)
        return Work(pairs=self._ef_search * math.log2(max(2, stop)))


def best(scores: Scores, k: int, first_row: int) -> tuple[Rows, Scores]:
    """The highest ``k`` of the scores of consecutive rows, best first, ties by row.

    >>> best(np.array([0.5, 2.0, 0.5, 1.0], np.float32), 3, 10)
    (array([11, 13, 10], dtype=int32), array([2. , 1. , 0.5], dtype=float32))
    """
    k = min(k, len(scores))
    if k < 1:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    last = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > last)
    tied = np.flatnonzero(scores == last)[: k - len(above)]
    chosen = np.concatenate((above, tied))
    return _ordered((chosen + first_row).astype(np.int32), scores[chosen])


def write_graph(path: Path, vectors: Vectors, dimension: int, links: int, ef_construction: int) -> None:
    """Builds the graph over all vectors and writes it; the graph and a float32 copy of all vectors are held in memory.

    Raises:
        OSError: the file cannot be written.
    """
    faiss = import_faiss()
    graph = faiss.IndexHNSWFlat(dimension, links, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = ef_construction
    for start in range(0, len(vectors), BLOCK):
        graph.add(vectors.between(start, min(start + BLOCK, len(vectors))))
    try:
        faiss.write_index(graph, str(path))
    except RuntimeError as error:
        raise OSError(f"{path}: cannot write the HNSW graph: {error}") from error


def read_graph(path: Path, rows: int, dimension: int) -> Any:
    """The graph that ``write_graph`` wrote.

    faiss checks its files only roughly: this relies on the index having verified the file's checksum before.

    Raises:
        IndexCorrupt: the file is damaged or of another collection.
    """
    faiss = import_faiss()
    try:
        graph = faiss.read_index(str(path))
    except RuntimeError as error:
        raise IndexCorrupt(f"{path}: cannot read the HNSW graph: {error}; rebuild the index") from error
    if not isinstance(graph, faiss.IndexHNSWFlat) or (graph.ntotal, graph.d) != (rows, dimension):
        raise IndexCorrupt(
            f"{path}: expected an HNSW graph of {rows} vectors of {dimension}, got {type(graph).__name__} of "
            f"{graph.ntotal} of {graph.d}; rebuild the index"
        )
    return graph


def import_faiss() -> Any:
    """The optional package faiss, whose generated bindings warn when first imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    return faiss


def _ordered(rows: Rows, scores: Scores) -> tuple[Rows, Scores]:
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]
