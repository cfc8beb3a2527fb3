"""Every change to the file system that an index makes: one place to look at, and one where tests make each call fail.

The rule of a durable write is always the same: write under another name, fsync the file, rename it, fsync the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cascade.errors import IndexLocked

_BUFFER_BYTES = 1 << 20
_HOLDER_BYTES = 512


def create(path: Path) -> BinaryIO:
    """A new empty file, open for writing, in place of one that may be there."""
    return path.open("wb", buffering=_BUFFER_BYTES)


def write(file: BinaryIO, data: bytes | memoryview) -> None:
    """Writes all of ``data``."""
    file.write(data)


def sync(path: Path) -> None:
    """Forces a file's contents, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Forces everything below ``folder``, and the folder itself, to the disk."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            sync_tree(path)
        elif path.is_file():
            sync(path)
    sync(folder)


def replace(source: Path, target: Path) -> None:
    """Renames ``source`` to ``target`` in one step that cannot be half done."""
    source.replace(target)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents where they are missing."""
    path.mkdir(parents=True, exist_ok=True)


def remove_tree(folder: Path) -> None:
    """Removes a folder with all its contents, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file's contents: afterwards, and after a crash at any moment, it holds the old or the new ones."""
    temporary = path.with_name(path.name + ".new")
    with create(temporary) as file:
        write(file, data)
    sync(temporary)
    replace(temporary, path)
    sync(path.parent)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds the only writer's lock, which the system lets go when the process ends, however it ends.

    Raises:
        IndexLocked: at once, if another writer holds it; the message says which process on which machine.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, _HOLDER_BYTES, 0).decode("utf-8", "replace").strip() or "another process"
            raise IndexLocked(
                f"{path.parent}: {holder} is writing to this index; wait until it has finished, or end it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
