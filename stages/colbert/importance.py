"""How much each of a query's tokens counts: the rarer in the collection, the more.

MaxSim counts "the" as much as a name. Where a model has not learnt to make common words' embeddings matter less, an
inverse document frequency can (Robertson and Spärck Jones 1976, in the form that BM25 uses): its square root, which was
as good as the whole on collections that nothing had been trained on and cost less on the others.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.index import files
from cascade.stage import Tokens
from cascade.types import TokenIds
from stages.colbert.store import mapped

_FREQUENCIES = "frequencies.npy"
_PASSAGES_AT_ONCE = 1 << 16


class Importance:
    """Weights of a query's tokens.

    Args:
        frequencies: int32 [vocabulary], in how many passages each token is.
        passages: how many there are.
    """

    def __init__(self, frequencies: npt.NDArray[np.int32], passages: int) -> None:
        rarity = np.log1p((passages - frequencies + 0.5) / (frequencies + 0.5))
        self._weights: npt.NDArray[np.float32] = np.sqrt(rarity).astype(np.float32)

    def __call__(self, ids: TokenIds) -> npt.NDArray[np.float32]:
        """float32 [n], positive and 1 on average, so that scores keep their size."""
        weights = self._weights[ids]
        return weights / weights.mean() if len(ids) else weights


def document_frequencies(tokens: Tokens, vocabulary: int) -> npt.NDArray[np.int32]:
    """int32 [vocabulary]: in how many passages each token is."""
    counts = np.zeros(vocabulary, np.int64)
    offsets = tokens.offsets
    for first in range(0, len(offsets) - 1, _PASSAGES_AT_ONCE):
        bounds = offsets[first : first + _PASSAGES_AT_ONCE + 1]
        ids = np.asarray(tokens.ids[bounds[0] : bounds[-1]], np.int64)
        passage = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        counts += np.bincount(np.unique(passage * vocabulary + ids) % vocabulary, minlength=vocabulary)
    return counts.astype(np.int32)


def store_frequencies(directory: Path, frequencies: npt.NDArray[np.int32]) -> None:
    """Puts them beside the embeddings."""
    buffer = io.BytesIO()
    np.save(buffer, frequencies)
    files.write_atomically(directory / _FREQUENCIES, buffer.getvalue())


def read_frequencies(directory: Path, vocabulary: int) -> npt.NDArray[np.int32] | None:
    """What ``store_frequencies`` wrote; None for an index from before there were any.

    Raises:
        IndexCorrupt: the file is damaged.
    """
    path = directory / _FREQUENCIES
    if not path.exists():
        return None
    return mapped(path, np.dtype(np.int32), (vocabulary,))
