"""One-dimensional arrays and blobs of text as plain files: streamed out, mapped in.

Arrays are ordinary ``.npy`` files with one fixed form of header. The reader does not parse headers: it works out, from
the size of the file, the only header that could be right, and compares. So no header can ask for memory, name an
object type or lie about a length.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt
from cascade.index import files
from cascade.types import Rows

HEADER_BYTES = 128
BLOCK = 1 << 20
"""Elements checked at a time, so that a check never needs memory in proportion to the index."""

REBUILD = "restore the file from a copy, or build the index again with --force"

Blob: TypeAlias = bytes | mmap.mmap


def _header(dtype: np.dtype[Any], count: int) -> bytes:
    """The first 128 bytes of a ``.npy`` file (format 1.0) of ``count`` elements in one dimension."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({count},), }}"
    prefix = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return prefix + text.ljust(HEADER_BYTES - 11).encode("ascii") + b"\n"


class ArrayWriter:
    """Writes a one-dimensional array of unknown length; a context manager that is complete once left in peace."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._count = 0

    def append(self, values: npt.ArrayLike) -> None:
        """Adds values, each of which must fit the type.

        Raises:
            OverflowError: for a value out of the type's range.
        """
        wide = np.asarray(values)
        narrow = wide.astype(self._dtype)
        if not np.array_equal(narrow, wide):
            raise OverflowError(f"a value does not fit {self._dtype}")
        files.write(self._file, narrow.tobytes())
        self._count += len(narrow)

    def __enter__(self) -> ArrayWriter:
        self._file = files.create(self._path)
        self._file.seek(HEADER_BYTES)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                files.write(self._file, _header(self._dtype, self._count))


class TextWriter:
    """Writes a column of strings: ``NAME.bin`` holds their UTF-8 one after the other, ``NAME.npy`` where each ends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._end = 0

    def append(self, data: Sequence[bytes]) -> None:
        """Adds encoded strings."""
        joined = b"".join(data)
        files.write(self._blob, joined)
        ends = self._end + np.cumsum([len(item) for item in data], dtype=np.int64)
        self._ends.append(ends)
        self._end += len(joined)

    def __enter__(self) -> TextWriter:
        with ExitStack() as stack:
            self._blob = stack.enter_context(files.create(self._folder / f"{self._name}.bin"))
            self._ends = stack.enter_context(ArrayWriter(self._folder / f"{self._name}.npy", np.int64))
            self._ends.append([0])
            self._files = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)


def _open_plain(path: Path) -> int:
    """A descriptor of a regular file; links are not followed and other kinds of file not touched."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise IndexCorrupt(f"{path}: cannot be opened: {error.strerror}; {REBUILD}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IndexCorrupt(f"{path}: expected a regular file, got something else; {REBUILD}")
    return descriptor


def read_small(path: Path, limit: int) -> bytes:
    """The contents of a file of at most ``limit`` bytes.

    Raises:
        IndexCorrupt: it is missing, larger, or not a regular file.
    """
    with os.fdopen(_open_plain(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise IndexCorrupt(f"{path}: expected at most {limit} bytes, got more; {REBUILD}")
    return data


def chunks(path: Path) -> Iterator[bytes]:
    """The contents of a regular file, a MiB at a time."""
    with os.fdopen(_open_plain(path), "rb", buffering=0) as file:
        while data := file.read(BLOCK):
            yield data


def open_blob(path: Path) -> Blob:
    """The bytes of a file, mapped and read-only."""
    descriptor = _open_plain(path)
    try:
        if os.fstat(descriptor).st_size == 0:
            return b""
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def open_array(path: Path, *dtypes: npt.DTypeLike, length: int | None = None) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file, mapped and read-only.

    Args:
        path: a file that ``ArrayWriter`` wrote.
        dtypes: the types it may have.
        length: how many elements it must have; None for any number.

    Raises:
        IndexCorrupt: the file is missing or of another type, shape or size.
    """
    blob = open_blob(path)
    found = bytes(blob[:HEADER_BYTES])
    for dtype in [np.dtype(each) for each in dtypes]:
        count, rest = divmod(len(blob) - HEADER_BYTES, dtype.itemsize)
        if count >= 0 and rest == 0 and found == _header(dtype, count):
            if length is not None and count != length:
                raise IndexCorrupt(f"{path}: expected {length} elements, got {count}; {REBUILD}")
            return np.frombuffer(blob, dtype, count, HEADER_BYTES)
    names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    raise IndexCorrupt(
        f"{path}: expected a one-dimensional .npy array of {names} that fills the file's {len(blob)} bytes, "
        f"got the header {found[10:].strip()!r}; {REBUILD}"
    )


def check_offsets(path: Path, offsets: npt.NDArray[np.int64], end: int) -> None:
    """Makes sure that offsets rise from 0 to ``end``, so that any two neighbours are a slice.

    Raises:
        IndexCorrupt: they do not.
    """
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != end:
        raise IndexCorrupt(f"{path}: expected offsets from 0 to {end}, got other ends; {REBUILD}")
    for start in range(0, len(offsets) - 1, BLOCK):
        part = offsets[start : start + BLOCK + 1]
        if np.any(part[1:] < part[:-1]):
            raise IndexCorrupt(f"{path}: offsets decrease after element {start}; {REBUILD}")


class Column:
    """Strings that ``TextWriter`` wrote, decoded when asked for."""

    __slots__ = ("_blob", "_path", "offsets")

    def __init__(self, folder: Path, name: str, length: int) -> None:
        self._path = folder / f"{name}.bin"
        self._blob = open_blob(self._path)
        self.offsets: npt.NDArray[np.int64] = open_array(folder / f"{name}.npy", np.int64, length=length + 1)
        check_offsets(folder / f"{name}.npy", self.offsets, len(self._blob))

    def raw(self, item: int) -> bytes:
        """The UTF-8 of one string."""
        return self._blob[self.offsets[item] : self.offsets[item + 1]]

    def __getitem__(self, item: int) -> str:
        return self.decode(self.raw(item))

    def take(self, items: Rows) -> list[str]:
        """Several strings."""
        return self._decoded(self.offsets[items], self.offsets[items + 1])

    def slices(self, items: Rows, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> list[str]:
        """Bytes ``starts`` to ``stops`` of several strings."""
        begins = self.offsets[items]
        return self._decoded(begins + starts, begins + stops)

    def _decoded(self, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[str]:
        blob, decode = self._blob, self.decode  # python integers are quicker to slice by than numpy's
        return [decode(blob[begin:end]) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]

    def decode(self, data: bytes) -> str:
        """The string that ``data``, a piece of this column, stands for."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise IndexCorrupt(f"{self._path}: expected UTF-8: {error.reason}; {REBUILD}") from error
