"""Lines of a text file, plain or gzip, in constant memory, with every way of being no text refused by place."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from cascade.errors import InputError

MAX_BYTES = 64 * 2**20
"""The longest line, or single document, that is read unless a caller says otherwise."""


def read_lines(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[tuple[str, str]]:
    """Every line with its place, as in ``corpus.jsonl:812``; line ends are kept, a leading BOM is not.

    Raises:
        InputError: the file is missing, unreadable, damaged gzip or not UTF-8, or a line exceeds ``max_bytes``.
    """
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(max_bytes + 1):
            number += 1
            place = f"{path}:{number}"
            if len(line) > max_bytes:
                raise InputError(
                    f"{place}: expected a line of at most {max_bytes} bytes, got a longer one; "
                    "check that the file has one record on each line"
                )
            yield place, decode(line, place)


def decode(data: bytes, place: str) -> str:
    """UTF-8 ``data`` as text, without a leading byte order mark.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: expected UTF-8, got byte 0x{data[error.start]:02x} at byte {error.start + 1}; "
            "convert the file, as with: iconv -f latin1 -t utf-8"
        ) from None


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens ``path`` for reading bytes, unpacked where the name ends in ``.gz``.

    Raises:
        InputError: the file is missing or unreadable, or turns out to be damaged gzip while it is read.
    """
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path, "rb") as packed, io.BufferedReader(cast(io.RawIOBase, packed)) as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except FileNotFoundError:
        raise InputError(f"{path}: expected a file, found none; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: expected a complete gzip file, got: {error}; fetch or pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
