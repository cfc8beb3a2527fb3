"""Corpora: any outside format as a restartable stream of documents that know their place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cascade.errors import InputError
from cascade.io.delimited import read_csv, read_tsv
from cascade.io.folder import folder_files, read_folder
from cascade.io.jsonl import read_jsonl
from cascade.io.lines import MAX_BYTES
from cascade.io.parquet import read_parquet
from cascade.io.records import Record, document
from cascade.types import Document

Kind: TypeAlias = Literal["jsonl", "tsv", "csv", "parquet", "folder"]

_READERS: dict[Kind, Callable[[Path, int], Iterator[Record]]] = {
    "jsonl": read_jsonl,
    "tsv": read_tsv,
    "csv": read_csv,
    "parquet": read_parquet,
    "folder": read_folder,
}
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class SourcedDocument:
    """A document and where it stands, as in ``corpus.jsonl:812``."""

    document: Document
    place: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of a file or folder, streamed; every iteration reads from the start.

    Iterating raises InputError for the first thing that is wrong, and when there is no document at all. Duplicate
    ids are not looked for: that takes memory for every id, which whoever builds an index needs anyway.

    Args:
        path: the file (the ``corpus.jsonl`` of a BEIR folder) or the folder of text files.
        kind: its format.
        max_bytes: the longest line, or single file of a folder, that is read.
    """

    path: Path
    kind: Kind
    max_bytes: int = MAX_BYTES

    def __iter__(self) -> Iterator[SourcedDocument]:
        empty = True
        for record in self.records():
            empty = False
            yield SourcedDocument(document(record), record[0])
        if empty:
            raise InputError(f"{self.path}: expected at least one document, found none; check the path")

    def records(self) -> Iterator[Record]:
        """Every record as it was read: its place and its fields by name."""
        return _READERS[self.kind](self.path, self.max_bytes)

    @property
    def files(self) -> Sequence[Path]:
        """The files that are read, in order."""
        return folder_files(self.path) if self.kind == "folder" else (self.path,)

    @property
    def fingerprint(self) -> str:
        """Kind, number of files, bytes, and a hash over name, size and modification time of every file.

        Equal as long as nothing was touched, whatever folder the corpus lies in; no content is read.

        Raises:
            InputError: a file is gone.
        """
        digest, total = hashlib.sha256(), 0
        try:
            for path in self.files:
                status = path.stat()
                total += status.st_size
                name = path.relative_to(self.path.parent if path == self.path else self.path)
                digest.update(f"{name.as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="replace"))
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}; check the path") from error
        return f"{self.kind}:{len(self.files)} files:{total} bytes:{digest.hexdigest()[:16]}"


def read_corpus(path: Path, *, max_bytes: int = MAX_BYTES) -> Corpus:
    """The corpus at ``path``; what it is shows in its name, and nothing is read yet.

    JSONL, TSV and CSV, plain or ``.gz``; Parquet; a BEIR folder (one with ``corpus.jsonl``); any other folder as a
    collection of ``.txt``, ``.md`` and ``.html`` files.

    Raises:
        InputError: there is nothing at ``path``, or its name tells of no known format.
    """
    return _open(path, "corpus", max_bytes)


def open_records(path: Path, name: str, max_bytes: int) -> Corpus:
    """Like ``read_corpus`` for a file of records, or a BEIR folder that holds ``name``.jsonl.

    Raises:
        InputError: as for ``read_corpus``, and for a folder without that file.
    """
    opened = _open(path, name, max_bytes)
    if opened.kind == "folder":
        raise InputError(f"{path}: expected a file, or a folder with {name}.jsonl, got a folder without; name a file")
    return opened


def _open(path: Path, name: str, max_bytes: int) -> Corpus:
    if path.is_dir():
        for inside in (path / f"{name}.jsonl", path / f"{name}.jsonl.gz"):
            if inside.is_file():
                return Corpus(inside, "jsonl", max_bytes)
        return Corpus(path, "folder", max_bytes)
    if not path.exists():
        raise InputError(f"{path}: expected a file or folder, found nothing there; check the path")
    ending = "".join(path.suffixes[-2:]).lower()
    kind = _KINDS.get(ending, _KINDS.get(path.suffix.lower()))
    if kind is None or not path.is_file():
        raise InputError(
            f"{path}: expected a folder or a file that ends in {', '.join(_KINDS)}, got {path.name!r}; "
            "rename or convert it"
        )
    return Corpus(path, kind, max_bytes)
