"""Vectors of all passages in one ``.npy`` file: written block by block, read through a memory map."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cascade.errors import IndexCorrupt, ModelError
from cascade.stage import Progress
from cascade.types import Rows, Scores
from stages.npy import header, sync

VECTORS = "vectors.npy"
PROGRESS = "progress.json"
BLOCK = 4096
_CONVERTED = 1024
_BLOCK_OF_PRODUCTS = 16
"""Rows: a multiple of what any library multiplies at once."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the file is to hold, and from what; an interrupted build is only continued under an equal one.

    Args:
        rows: number of vectors.
        dimension: components of each.
        dtype: of the components.
        source: identifies the model and everything else that decides the values.
    """

    rows: int
    dimension: int
    dtype: Literal["float32", "float16"]
    source: str


class Vectors:
    """One vector a row, in memory or mapped from a file; may be used by many threads at once.

    Args:
        array: float32 or float16 [rows, dimension].
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array

    @classmethod
    def read(cls, path: Path, rows: int, dimension: int) -> Vectors:
        """Maps the file.

        Raises:
            IndexCorrupt: it is damaged or not of the shape expected.
        """
        try:
            # copy-on-write rather than read-only: torch warns of arrays that it could not write to
            array = np.lib.format.open_memmap(path, mode="c")
        except (OSError, ValueError, TypeError, OverflowError) as error:
            raise IndexCorrupt(f"{path}: cannot map the vectors: {error}; rebuild the index") from error
        if array.shape != (rows, dimension) or array.dtype not in (np.float32, np.float16):
            raise IndexCorrupt(
                f"{path}: expected float32 or float16 of shape {(rows, dimension)}, got {array.dtype} of shape "
                f"{array.shape}; rebuild the index"
            )
        return cls(array)

    def __len__(self) -> int:
        return len(self._array)

    def take(self, rows: Rows) -> npt.NDArray[np.float32]:
        """float32 [n, dimension]: the vectors of any rows."""
        return self._array[rows].astype(np.float32, copy=False)

    def between(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """float32 [stop - start, dimension]: the vectors of a range; a view where they are stored as float32."""
        return self._array[start:stop].astype(np.float32, copy=False)

    def products(self, query: npt.NDArray[np.float32], start: int, stop: int) -> Scores:
        """float32 [stop - start]: inner products of a query (float32 [dimension]) with the rows of a range.

        By torch, whose threads the engine counts, not by numpy's own. float16 is widened 1024 rows at a time, which
        stay in the cache: numpy's conversion takes six times as long as the product.
        """
        vector, stored = torch.from_numpy(query), torch.from_numpy(self._array[start:stop])
        products = torch.empty(len(stored))
        at_once = len(stored) if stored.dtype == torch.float32 else _CONVERTED
        for begin in range(0, len(stored), max(1, at_once)):
            end = begin + at_once
            _multiply(stored[begin:end].float(), vector, products[begin:end])
        return products.numpy()


def _multiply(rows: torch.Tensor, vector: torch.Tensor, out: torch.Tensor) -> None:
    """Products of which equal rows get equal ones: libraries treat what is left over of their blocks differently."""
    whole = len(rows) - len(rows) % _BLOCK_OF_PRODUCTS
    torch.mv(rows[:whole], vector, out=out[:whole])
    if whole < len(rows):
        last = torch.zeros(_BLOCK_OF_PRODUCTS, rows.shape[1])
        last[: len(rows) - whole] = rows[whole:]
        out[whole:] = torch.mv(last, vector)[: len(rows) - whole]


def write(
    directory: Path, shape: Shape, block: Callable[[int, int], npt.NDArray[np.float32]], progress: Progress
) -> None:
    """Writes ``vectors.npy``, going on where an interrupted call under an equal ``shape`` left off.

    Written through a file, not a map: a full disk is then an ``OSError`` and not a signal that ends the process.

    Args:
        directory: where to.
        shape: what the file holds.
        block: gives float32 [stop - start, dimension] for rows [start, stop).
        progress: told after each block that reached the disk.

    Raises:
        ModelError: a vector does not fit the dtype.
    """
    beginning = header(np.dtype(shape.dtype), (shape.rows, shape.dimension))
    row_bytes = shape.dimension * np.dtype(shape.dtype).itemsize
    done = _rows_done(directory, shape, beginning, row_bytes)
    path = directory / VECTORS
    with path.open("r+b" if done else "wb") as file:
        if not done:
            finish(directory)
            file.write(beginning)
        file.truncate(len(beginning) + done * row_bytes)
        file.seek(0, os.SEEK_END)
        for start in range(done, shape.rows, BLOCK):
            stop = min(start + BLOCK, shape.rows)
            file.write(_cast(block(start, stop), shape.dtype).tobytes())
            sync(file)
            _note(directory, shape, stop)
            progress(stop, shape.rows)
        sync(file)


def finish(directory: Path) -> None:
    """Removes what only an interrupted build needs."""
    (directory / PROGRESS).unlink(missing_ok=True)


def _cast(vectors: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    limit = float(np.finfo(dtype).max)
    if vectors.size and float(np.abs(vectors).max()) > limit:
        raise ModelError(f"expected vectors within {limit:g} for dtype {dtype}, got larger; use float32 or normalise")
    return vectors.astype(dtype, copy=False)


def _rows_done(directory: Path, shape: Shape, beginning: bytes, row_bytes: int) -> int:
    path = directory / VECTORS
    try:
        noted = json.loads((directory / PROGRESS).read_text(encoding="utf-8"))
        with path.open("rb") as file:
            same_header = file.read(len(beginning)) == beginning
        size = path.stat().st_size
    except (OSError, ValueError):
        return 0
    if not isinstance(noted, dict):
        return 0
    done = noted.pop("done", None)
    sound = isinstance(done, int) and 0 <= done <= shape.rows and noted == asdict(shape)
    return done if sound and same_header and size >= len(beginning) + done * row_bytes else 0


def _note(directory: Path, shape: Shape, done: int) -> None:
    path = directory / PROGRESS
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({**asdict(shape), "done": done}, file)
        sync(file)
    temporary.replace(path)
