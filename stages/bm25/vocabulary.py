"""All terms of an index, sorted, so that they are looked up where they lie without being loaded."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stages.bm25.analysis import Analyser


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """A query as BM25 sees it.

    Args:
        terms: int64 [t], ids of the distinct terms that the index knows, ascending.
        counts: float32 [t], how often the query names each.
    """

    terms: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float32]


class Vocabulary:
    """Terms in the order of their UTF-8 bytes; the place in that order is a term's id.

    Args:
        blob: uint8 [bytes], the terms one after another.
        offsets: int64 [terms + 1], where each begins.
    """

    def __init__(self, blob: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        self._blob = blob
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, term_id: int) -> bytes:
        return self._blob[self._offsets[term_id] : self._offsets[term_id + 1]].tobytes()

    def find(self, term: str) -> int | None:
        """The id of a term, or None if no passage has it."""
        wanted = term.encode()
        place = bisect_left(range(len(self)), wanted, key=self.__getitem__)
        return place if place < len(self) and self[place] == wanted else None

    def encode(self, query: str, analyser: Analyser) -> QueryTerms:
        """The query's known terms, each once."""
        counts = Counter(analyser(query))
        known = sorted((place, n) for term, n in counts.items() if (place := self.find(term)) is not None)
        return QueryTerms(
            np.array([place for place, _ in known], np.int64), np.array([n for _, n in known], np.float32)
        )


def pack(terms: Iterable[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Blob and offsets of sorted terms."""
    blob = bytearray()
    offsets = array("q", [0])
    for term in terms:
        blob += term
        offsets.append(len(blob))
    return np.frombuffer(blob, np.uint8), np.frombuffer(offsets, np.int64)


def unpack(blob: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """The terms in order."""
    text = blob.tobytes()
    for begin, end in pairwise(array("q", offsets.tobytes())):
        yield text[begin:end]
