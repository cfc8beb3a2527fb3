"""Token ids of all passages under one tokenizer: computed once, kept flat, mapped from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.index.arrays import ArrayWriter, check_offsets, open_array
from cascade.stage import Tokenizer
from cascade.types import TokenIds

_BATCH_TEXTS = 1024
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenStore:
    """The ids of row r are ``ids[offsets[r]:offsets[r + 1]]``.

    Args:
        ids: int32 or uint16 [all tokens].
        offsets: int64 [passages + 1].
    """

    ids: TokenIds
    offsets: npt.NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path, passages: int) -> TokenStore:
        """The store that ``write_tokens`` wrote for so many passages, mapped.

        Raises:
            IndexCorrupt: a file is missing or damaged.
        """
        ids = open_array(folder / "ids.npy", np.uint16, np.int32)
        offsets = open_array(folder / "offsets.npy", np.int64, length=passages + 1)
        check_offsets(folder / "offsets.npy", offsets, len(ids))
        return cls(ids, offsets)

    @classmethod
    def compute(cls, tokenizer: Tokenizer, texts: Iterable[str]) -> TokenStore:
        """The store of texts that are not in an index, in memory."""
        encoded = [ids for batch in batches(texts) for ids in tokenizer.encode(batch)]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
        return cls(np.concatenate([np.empty(0, np.int32), *encoded]), offsets)


def write_tokens(
    folder: Path, tokenizer: Tokenizer, texts: Callable[[], Iterable[str]], progress: Callable[[int], None]
) -> None:
    """Writes the token ids of all texts into ``folder``, in two bytes each where the vocabulary allows.

    Args:
        folder: an existing folder.
        tokenizer: makes the ids.
        texts: starts the texts anew, in order.
        progress: told how many texts are done.
    """
    try:
        _write_ids(folder, tokenizer, texts(), progress, np.uint16)
    except OverflowError:
        _write_ids(folder, tokenizer, texts(), progress, np.int32)


def _write_ids(
    folder: Path, tokenizer: Tokenizer, texts: Iterable[str], progress: Callable[[int], None], dtype: npt.DTypeLike
) -> None:
    end, done = 0, 0
    with ArrayWriter(folder / "ids.npy", dtype) as ids, ArrayWriter(folder / "offsets.npy", np.int64) as offsets:
        offsets.append([0])
        for batch in batches(texts):
            encoded = tokenizer.encode(batch)
            ids.append(np.concatenate(encoded))
            ends = end + np.cumsum([len(item) for item in encoded], dtype=np.int64)
            offsets.append(ends)
            end, done = int(ends[-1]), done + len(batch)
            progress(done)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Neighbouring texts together, bounded in number and, but for a single longer text, in characters."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == _BATCH_TEXTS or characters + len(text) > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
