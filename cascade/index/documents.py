"""Documents and their passages on disk: columns of strings, slices into them, and a sorted column to find ids in."""

from __future__ import annotations

import array
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt, InputError
from cascade.index.arrays import BLOCK, REBUILD, ArrayWriter, Column, TextWriter, open_array
from cascade.index.split import MAX_TITLE_CHARACTERS, Slice
from cascade.types import NO_METADATA, Document, Rows

MOST_ROWS = 2**31 - 1
"""Rows are int32."""

DOCUMENT_FILES = tuple(
    [f"{name}.{suffix}" for name in ("ids", "titles", "texts", "metadata") for suffix in ("bin", "npy")]
    + ["id_hashes.npy", "id_order.npy", "passage_documents.npy", "passage_starts.npy", "passage_stops.npy"]
)


def id_hash(doc_id: bytes) -> int:
    """64 bits of an encoded ``doc_id``, by which ids are sorted; different ids may share them."""
    return int.from_bytes(hashlib.blake2b(doc_id, digest_size=8).digest(), "little")


class DuplicateId(Exception):
    """Two documents, by number, have the same ``doc_id``."""

    def __init__(self, doc_id: str, first: int, second: int) -> None:
        super().__init__(doc_id, first, second)
        self.doc_id, self.first, self.second = doc_id, first, second


class DocumentWriter:
    """Streams documents into a folder; of each, eight bytes stay in memory until the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashes = array.array("Q")
        self.documents = 0
        self.passages = 0

    def __enter__(self) -> DocumentWriter:
        with ExitStack() as stack:
            self._columns = [
                stack.enter_context(TextWriter(self._folder, name)) for name in ("ids", "titles", "texts", "metadata")
            ]
            self._numbers = [
                stack.enter_context(ArrayWriter(self._folder / f"passage_{name}.npy", dtype))
                for name, dtype in (("documents", np.int32), ("starts", np.int64), ("stops", np.int64))
            ]
            self._files = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def append(self, documents: Sequence[Document], passages: Sequence[Sequence[Slice]]) -> None:
        """Adds documents with their passages, which are slices [start, stop) of each text in characters.

        Raises:
            InputError: there are more passages than rows have numbers.
        """
        self.passages += sum(map(len, passages))
        if self.passages > MOST_ROWS:
            raise InputError(f"expected at most {MOST_ROWS} passages; divide the corpus between several indexes")
        ids = [document.doc_id.encode() for document in documents]
        self._hashes.extend(map(id_hash, ids))
        titles = [document.title.encode() for document in documents]
        texts = [document.text.encode() for document in documents]
        metadata = [_encoded_metadata(document.metadata) for document in documents]
        for column, data in zip(self._columns, (ids, titles, texts, metadata), strict=True):
            column.append(data)
        counts = [len(slices) for slices in passages]
        numbers = np.repeat(np.arange(self.documents, self.documents + len(documents)), counts)
        pairs = [byte_slices(document.text, slices) for document, slices in zip(documents, passages, strict=True)]
        ends = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
        for column_of_numbers, values in zip(self._numbers, (numbers, ends[:, 0], ends[:, 1]), strict=True):
            column_of_numbers.append(values)
        self.documents += len(documents)

    def write_id_order(self) -> None:
        """Writes, once all else is closed, what documents are found by.

        Raises:
            DuplicateId: two documents have the same id.
        """
        hashes = np.frombuffer(self._hashes, np.uint64) if self._hashes else np.empty(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        rising = hashes[order]
        self._refuse_duplicates(rising, order)
        for name, dtype, values in (("id_hashes", np.uint64, rising), ("id_order", np.int32, order)):
            with ArrayWriter(self._folder / f"{name}.npy", dtype) as writer:
                for start in range(0, len(values), BLOCK):
                    writer.append(values[start : start + BLOCK])

    def _refuse_duplicates(self, rising: npt.NDArray[np.uint64], order: npt.NDArray[np.int64]) -> None:
        ids = Column(self._folder, "ids", self.documents)
        found: list[DuplicateId] = []
        edges = np.flatnonzero(np.diff(np.concatenate(([False], rising[1:] == rising[:-1], [False])).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2):
            seen: dict[str, int] = {}
            for document in order[start : stop + 1].tolist():
                doc_id = ids[document]
                if doc_id in seen:
                    found.append(DuplicateId(doc_id, seen[doc_id], document))
                seen.setdefault(doc_id, document)
        if found:
            raise min(found, key=lambda duplicate: duplicate.second)


class DocumentStore:
    """What ``DocumentWriter`` wrote, mapped. Opening checks that every stored number lies within bounds.

    Args:
        folder: the documents' folder.
        documents: how many there must be.
        passages: how many there must be.

    Raises:
        IndexCorrupt: a file is missing or damaged.
    """

    def __init__(self, folder: Path, documents: int, passages: int) -> None:
        self._folder = folder
        self.ids = Column(folder, "ids", documents)
        self.titles = Column(folder, "titles", documents)
        self.texts = Column(folder, "texts", documents)
        self._metadata = Column(folder, "metadata", documents)
        self._hashes: npt.NDArray[np.uint64] = open_array(folder / "id_hashes.npy", np.uint64, length=documents)
        self._order: npt.NDArray[np.int32] = open_array(folder / "id_order.npy", np.int32, length=documents)
        self.owners: Rows = open_array(folder / "passage_documents.npy", np.int32, length=passages)
        self.starts: npt.NDArray[np.int64] = open_array(folder / "passage_starts.npy", np.int64, length=passages)
        self.stops: npt.NDArray[np.int64] = open_array(folder / "passage_stops.npy", np.int64, length=passages)
        self._check_lookup(documents)
        self._check_passages(documents)

    def metadata(self, document: int) -> Mapping[str, Any]:
        """The further fields of a document."""
        raw = self._metadata.raw(document)
        if not raw:
            return NO_METADATA
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._damaged("metadata.bin", f"document {document}: expected JSON: {error}") from error
        if not isinstance(fields, dict):
            raise self._damaged("metadata.bin", f"document {document}: expected a JSON object")
        return fields

    def find(self, doc_id: str) -> int | None:
        """The number of a document; None when there is none of that id."""
        try:
            wanted = doc_id.encode()
        except UnicodeEncodeError:
            return None
        key = np.uint64(id_hash(wanted))
        first = int(self._hashes.searchsorted(key, "left"))
        for position in range(first, len(self._hashes)):
            if self._hashes[position] != key:
                break
            document = int(self._order[position])
            if self.ids.raw(document) == wanted:
                return document
        return None

    def rows_of(self, document: int) -> Rows:
        """int32 [n]: the passages of a document."""
        key = np.int32(document)
        first, last = self.owners.searchsorted(key, "left"), self.owners.searchsorted(key, "right")
        return np.arange(first, last, dtype=np.int32)

    def _check_lookup(self, documents: int) -> None:
        for start in range(0, documents, BLOCK):
            hashes = self._hashes[start : start + BLOCK + 1]
            if np.any(hashes[1:] < hashes[:-1]):
                raise self._damaged("id_hashes.npy", f"expected rising numbers after element {start}")
            order = self._order[start : start + BLOCK]
            if order.min() < 0 or order.max() >= documents:
                raise self._damaged("id_order.npy", f"expected numbers of the {documents} documents")

    def _check_passages(self, documents: int) -> None:
        owners, lengths = self.owners, self.texts.offsets
        ends = (owners[0], owners[-1]) if len(owners) else (0, -1)
        if ends != (0, documents - 1):
            raise self._damaged("passage_documents.npy", f"expected passages of documents 0 to {documents - 1}")
        for start in range(0, len(owners), BLOCK):
            part = owners[start : start + BLOCK + 1]
            step = part[1:] - part[:-1]
            if np.any(part < 0) or np.any(part >= documents) or np.any(step < 0) or np.any(step > 1):
                raise self._damaged("passage_documents.npy", f"expected every document in order after element {start}")
            part = part[:BLOCK]
            begin, end = self.starts[start : start + BLOCK], self.stops[start : start + BLOCK]
            if np.any(begin < 0) or np.any(begin > end):
                raise self._damaged("passage_starts.npy", f"expected 0 <= start <= stop after element {start}")
            if np.any(end > lengths[part + np.int64(1)] - lengths[part]):
                raise self._damaged("passage_stops.npy", f"a passage ends beyond its document after element {start}")

    def _damaged(self, name: str, what: str) -> IndexCorrupt:
        return IndexCorrupt(f"{self._folder / name}: {what}; {REBUILD}")


def check_document(document: Document, place: str) -> None:
    """Makes sure that a document can be stored.

    Raises:
        InputError: it cannot; the message begins with ``place``.
    """
    for field in ("doc_id", "title", "text"):
        _check_text(getattr(document, field), f"{place}: {field}")
    if len(document.title) > MAX_TITLE_CHARACTERS:
        raise InputError(
            f"{place}: title: expected at most {MAX_TITLE_CHARACTERS} characters, got {len(document.title)}; "
            f"every passage repeats the title: make it part of the text"
        )
    try:
        _encoded_metadata(document.metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{place}: metadata: expected what JSON can say: {error}; convert or leave it out") from error


def _check_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: expected text that UTF-8 can say, got a lone surrogate at character {error.start}; "
            f"replace it, for example with U+FFFD"
        ) from error


def _encoded_metadata(metadata: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(metadata), ensure_ascii=False).encode() if metadata else b""


def byte_slices(text: str, slices: Sequence[Slice]) -> npt.NDArray[np.int64]:
    """int64 [n, 2]: slices of ``text`` in characters as slices of its UTF-8 in bytes.

    >>> byte_slices("é é", [(0, 1), (2, 3)]).tolist()
    [[0, 2], [3, 5]]
    """
    characters = np.array(slices, np.int64).reshape(-1, 2)
    if text.isascii():
        return characters
    ends, where = np.unique(characters, return_inverse=True)
    edges = [0, *ends.tolist()]
    lengths = [len(text[start:stop].encode()) for start, stop in pairwise(edges)]
    return np.cumsum(lengths, dtype=np.int64)[where].reshape(-1, 2)
