"""Files that appear whole or not at all: written beside the target, fsynced, renamed over it."""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from cascade.errors import InputError


@contextmanager
def atomic_write_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for bytes that takes the place of ``path`` when the block ends, and vanishes if it raises.

    A reader of ``path`` sees the old content or all of the new, also after a crash or a power cut. A link is followed,
    so that what it points to is replaced.

    Raises:
        InputError: the folder does not exist, or ``path`` is there and is not a regular file.
        OSError: the disk is full or failing; ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: expected a file to write, got something else of that name; choose another name")
    if not target.parent.is_dir():
        raise InputError(f"{path}: expected an existing folder {target.parent}, found none; create it first")
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.tmp")
    # Not tempfile: it makes the file private to this user, whatever the umask says.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Like ``atomic_write_bytes`` for UTF-8 text with line feeds; compressed where the name ends in ``.gz``."""
    with atomic_write_bytes(path) as file:
        if path.name.endswith(".gz"):
            # No name and no time in the header: equal content gives equal bytes.
            packed = cast(BinaryIO, gzip.GzipFile("", "wb", fileobj=file, mtime=0))
            with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
                yield text
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
            yield text
            text.flush()
            text.detach()


def write_json_atomic(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
        InputError, OSError: as for ``atomic_write``.
    """
    content = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` outlive a power cut, where the system allows a folder to be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
