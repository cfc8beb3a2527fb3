"""Small parts that tests of the index build with: a corpus in memory, a word tokenizer, a stage that writes notes."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.index import Index, IndexedStage, Manifest, PassageSettings, build_index, files
from cascade.stage import Opened, Passages, Progress, Stage, Tokenizer
from cascade.types import Document

FILE_CALLS = ("create", "write", "sync", "replace", "make_folder", "remove_tree")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Entry:
    document: Document
    place: str


@dataclass
class ListCorpus:
    documents: Sequence[Document]
    fingerprint: str = "list"
    readings: int = 0

    def __iter__(self) -> Iterator[Entry]:
        self.readings += 1
        for number, document in enumerate(self.documents, start=1):
            yield Entry(document, f"corpus.jsonl:{number}")


@dataclass(frozen=True)
class WordTokenizer:
    """Words and punctuation marks, hashed into a vocabulary."""

    window: int = 16
    vocabulary: int = 30000
    name: str = "words"

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-{self.vocabulary}"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        hashes = [[zlib.crc32(token.encode()) % self.vocabulary for token in _TOKEN.findall(text)] for text in texts]
        return [np.array(each, np.int32) for each in hashes]

    def spans(self, text: str) -> np.ndarray[Any, Any]:
        return np.array([match.span() for match in _TOKEN.finditer(text)], np.int64).reshape(-1, 2)


@dataclass
class NoteStage(Stage):
    """Notes the length of every passage, one file a row; goes on where it was interrupted, and can be made to be."""

    interrupt_at: int | None = None
    reads: Tokenizer | None = None
    weights: str = "w1"
    built: tuple[int, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.reads

    def fingerprint(self) -> str:
        return self.weights

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        for row, text in enumerate(passages.iterate()):
            note = directory / f"{row}.txt"
            if note.exists():
                continue
            if row == self.interrupt_at:
                raise KeyboardInterrupt
            note.write_text(str(len(text)))
            self.built += (row,)
            progress(row + 1, len(passages))

    def open(self, passages: Passages, directory: Path | None) -> Opened:
        raise NotImplementedError


def entry(stage: Stage, *, indexed: bool = True, **settings: Any) -> IndexedStage:
    return IndexedStage("note", settings, stage, indexed)


def documents(label: str, count: int = 3) -> list[Document]:
    return [
        Document(f"{label}-{number}", f"{label} text {number}", f"{label} title", {"n": number})
        for number in range(count)
    ]


def build_labelled(target: Path, label: str, count: int = 3, *, force: bool = True) -> Manifest:
    """An index all of whose documents carry a label, with tokens and a stage's part."""
    stage = NoteStage(reads=WordTokenizer(), weights=label)
    return build_index(
        target, ListCorpus(documents(label, count), label), [entry(stage)], PassageSettings(), force=force
    )


def label_of(target: Path) -> str:
    """The one label of everything in an index, which must agree with itself."""
    index = Index.open(target)
    label = check_label(index)
    notes = index.stage_directory("note", {}, label)
    assert sorted(int(note.stem) for note in notes.iterdir()) == list(range(len(index)))
    return label


def check_label(index: Index) -> str:
    """The one label of all that an open index has mapped."""
    label = index.manifest.corpus.fingerprint
    rows = range(len(index))
    assert all(text.startswith(f"{label} title {label} text") for text in index.texts(rows))
    assert index.doc_ids(rows) == [f"{label}-{row}" for row in rows]
    assert len(index.tokens(WordTokenizer()).offsets) == len(index) + 1
    return label


def intercept(replace: Callable[[object, str, Any], None], before: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Has ``before`` called with name and arguments ahead of every call that changes files."""
    for name in FILE_CALLS:
        real = getattr(files, name)

        def call(*args: Any, _name: str = name, _real: Callable[..., Any] = real) -> Any:
            before(_name, args)
            return _real(*args)

        replace(files, name, call)
