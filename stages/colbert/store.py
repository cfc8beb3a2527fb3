"""Token embeddings of all passages on disk: two npy files and, while they are being written, a record of progress.

``offsets.npy`` is known before anything is encoded, for how many tokens a passage keeps depends on its ids alone. So
``vectors.npy`` has its final header from the start, blocks are written where they belong, and a build that was
interrupted goes on with the first block that is not on record.

Compressed, a row of ``vectors.npy`` is a record of bytes, and ``codec.safetensors`` says what it stands for.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt
from cascade.types import Rows
from stages.colbert.codec import Bits, Records, centroids_of, read_codec, record_bytes
from stages.colbert.maxsim import Floats
from stages.npy import header, sync

logger = logging.getLogger(__name__)

Dtype: TypeAlias = Literal["float16", "float32", "uint8"]

CODEC = "codec.safetensors"
_OFFSETS = "offsets.npy"
_VECTORS = "vectors.npy"
_PROGRESS = "progress.json"
_CHECKED_AT_ONCE = 1 << 18


class TokenVectors(Protocol):
    """Where the token embeddings of passages come from: a file, or the encoder itself."""

    def lengths(self, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each row."""
        ...

    def gather(self, rows: Rows) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Embeddings of the rows in the order asked for: [tokens, dim], and int64 [n + 1] where each row begins."""
        ...


class _Stored:
    """One row of numbers a token in memory-mapped files; see ``StoredVectors`` and ``StoredRecords``."""

    def __init__(self, directory: Path, passages: int, width: int, dtype: Dtype) -> None:
        if (directory / _PROGRESS).exists():
            raise IndexCorrupt(f"{directory}: the token embeddings are not all written; build the index again")
        self._offsets: npt.NDArray[np.int64] = mapped(directory / _OFFSETS, np.dtype(np.int64), (passages + 1,))
        if self._offsets[0] != 0 or np.any(self._offsets[1:] < self._offsets[:-1]):
            raise IndexCorrupt(f"{directory / _OFFSETS}: offsets must start at 0 and never fall; rebuild the index")
        self._vectors = mapped(directory / _VECTORS, np.dtype(dtype), (int(self._offsets[-1]), width))

    def lengths(self, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: stored tokens of each row."""
        counts: npt.NDArray[np.int64] = self._offsets[rows + 1] - self._offsets[rows]
        return counts.astype(np.int32)


class StoredVectors(_Stored):
    """Token embeddings in memory-mapped files.

    Args:
        directory: what ``Writer`` filled.
        passages: how many passages the index has.
        dim: how wide the model's embeddings are.
        dtype: the type they were stored in.

    Raises:
        IndexCorrupt: the files are missing, damaged, unfinished, or of another shape or type.
    """

    def __init__(self, directory: Path, passages: int, dim: int, dtype: Literal["float16", "float32"]) -> None:
        super().__init__(directory, passages, dim, dtype)

    def gather(self, rows: Rows) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Embeddings of the rows in the order asked for: [tokens, dim], and int64 [n + 1] where each row begins."""
        starts, stops = self._offsets[rows], self._offsets[rows + 1]
        parts = [self._vectors[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        vectors = np.concatenate(parts) if parts else np.empty((0, self._vectors.shape[1]), self._vectors.dtype)
        return vectors, ragged_offsets(stops - starts)


class StoredRecords(_Stored):
    """Compressed token embeddings in memory-mapped files.

    Args:
        directory: what ``Writer`` filled, with a codec beside it.
        passages: how many passages the index has.
        dim: how wide the model's embeddings are.
        bits: stored for each of their dimensions.

    Raises:
        IndexCorrupt: the files are missing, damaged, unfinished, or of another shape or type.
    """

    def __init__(self, directory: Path, passages: int, dim: int, bits: Bits) -> None:
        super().__init__(directory, passages, record_bytes(dim, bits), "uint8")
        self.codec, _ = read_codec(directory / CODEC, dim, bits)
        self._check_centroids(directory / _VECTORS)

    @property
    def records(self) -> Records:
        """uint8 [all tokens, record bytes], passage after passage."""
        return self._vectors

    def spans(self, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """int64 [n] twice: first record of each row, and one past its last."""
        return self._offsets[rows], self._offsets[rows + 1]

    def _check_centroids(self, path: Path) -> None:
        """Makes sure that no record names a centroid that is not there: scoring looks them up unchecked."""
        for start in range(0, len(self._vectors), _CHECKED_AT_ONCE):
            part = self._vectors[start : start + _CHECKED_AT_ONCE]
            highest = int(centroids_of(part).max())
            if highest >= len(self.codec.centroids):
                raise IndexCorrupt(
                    f"{path}: a record names centroid {highest} of {len(self.codec.centroids)}; rebuild the index"
                )


class Writer:
    """Writes token embeddings block by block, and goes on where an earlier writer in the same directory stopped.

    Args:
        directory: for this store alone.
        lengths: int [passages], tokens that each passage keeps.
        dim: width of an embedding, or of a record.
        dtype: type to store them in.
        source: identifies passages and model; what another source left unfinished is written anew.
    """

    block = 512
    """Most passages written at once, and lost when a build is interrupted."""

    def __init__(self, directory: Path, lengths: npt.NDArray[np.integer], dim: int, dtype: Dtype, source: str) -> None:
        self._directory = directory
        self._offsets = ragged_offsets(lengths)
        self._dim, self._dtype = dim, np.dtype(dtype)
        plan = hashlib.sha256(self._offsets.tobytes())
        plan.update(repr((dim, self._dtype.str, source)).encode())
        self._plan = plan.hexdigest()
        self._header = header(self._dtype, (int(self._offsets[-1]), dim))
        self._row_bytes = dim * self._dtype.itemsize
        self._done = self._resume()

    def missing(self) -> Iterator[tuple[int, int]]:
        """Row ranges [start, stop) not yet written, in the order in which ``write`` wants them."""
        total = len(self._offsets) - 1
        for start in range(self._done, total, self.block):
            yield start, min(start + self.block, total)

    def write(self, start: int, stop: int, vectors: Floats | Records) -> None:
        """Writes what stands for rows ``start`` to ``stop``, [tokens, dim]; on return it survives a crash."""
        begin, end = int(self._offsets[start]), int(self._offsets[stop])
        if vectors.shape != (end - begin, self._dim):
            raise ValueError(f"rows {start} to {stop}: expected {(end - begin, self._dim)} values, got {vectors.shape}")
        with (self._directory / _VECTORS).open("r+b") as file:
            file.seek(len(self._header) + begin * self._row_bytes)
            file.write(vectors.astype(self._dtype).tobytes())
            sync(file)
        self._record(stop)

    def finish(self) -> None:
        """Marks the store complete."""
        (self._directory / _PROGRESS).unlink()

    def _resume(self) -> int:
        """Rows that an interrupted writer of the same plan has written; starts afresh where there are none."""
        try:
            progress = json.loads((self._directory / _PROGRESS).read_text())
            size = (self._directory / _VECTORS).stat().st_size
            if progress["plan"] == self._plan and size == self._file_bytes():
                rows = int(progress["rows"])
                if 0 <= rows < len(self._offsets):
                    return rows
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.debug("%s: no earlier build to continue: %s", self._directory, error)
        self._record(0)
        self._allocate()
        return 0

    def _allocate(self) -> None:
        with (self._directory / _OFFSETS).open("wb") as file:
            np.save(file, self._offsets)
            sync(file)
        with (self._directory / _VECTORS).open("wb") as file:
            file.write(self._header)
            file.truncate(self._file_bytes())
            sync(file)

    def _file_bytes(self) -> int:
        return len(self._header) + int(self._offsets[-1]) * self._row_bytes

    def _record(self, rows: int) -> None:
        path = self._directory / _PROGRESS
        beside = path.with_suffix(".new")
        with beside.open("w") as file:
            json.dump({"plan": self._plan, "rows": rows}, file)
            sync(file)
        beside.replace(path)


def ragged_offsets(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """int64 [n + 1]: where each of ``n`` rows of these lengths begins, and where the last ends.

    >>> ragged_offsets(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The array in an npy file, memory-mapped and of exactly this type and shape.

    Raises:
        IndexCorrupt: it is another one, or no npy file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexCorrupt(f"{path}: expected an npy file: {error}; rebuild the index") from error
    if (array.dtype, array.shape) != (dtype, shape) or not array.flags.c_contiguous:
        raise IndexCorrupt(
            f"{path}: expected {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}; rebuild the index"
        )
    return np.asarray(array)
