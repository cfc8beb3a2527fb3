"""Building an index: documents, then token ids, then each stage's own part, then the commit.

Each step is finished durably before the next begins. An interrupted build is taken up where it stopped when it is
started again for the same corpus, passage settings and stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cascade.errors import BadIndex, IndexMissing, InputError
from cascade.index import files
from cascade.index.arrays import open_array
from cascade.index.documents import DocumentWriter, DuplicateId, check_document
from cascade.index.manifest import (
    FORMAT_VERSION,
    CorpusInfo,
    Manifest,
    PassageInfo,
    StoredStage,
    StoredTokenizer,
    cascade_version,
    describe_files,
    digest,
    folder_name,
    plain_json,
    write_manifest,
)
from cascade.index.passages import StoredPassages
from cascade.index.split import Splitter
from cascade.index.tokens import write_tokens
from cascade.index.workspace import LOCK, Workspace, check_target, current_generation
from cascade.schema import PassageSettings
from cascade.stage import Stage, StepProgress, Tokenizer
from cascade.types import Document

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20


class Record(Protocol):
    """A document and where it was read, as in ``corpus.jsonl:17``."""

    @property
    def document(self) -> Document:
        """The document."""
        ...

    @property
    def place(self) -> str:
        """Where it stands, for error messages."""
        ...


class Corpus(Protocol):
    """Documents that can be read from the start as often as needed, always the same ones in the same order."""

    @property
    def fingerprint(self) -> str:
        """Changes when the documents do."""
        ...

    def __iter__(self) -> Iterator[Record]: ...


@dataclass(frozen=True, slots=True)
class IndexedStage:
    """A stage of the cascade as the index knows it.

    Args:
        kind: the kind of stage.
        settings: those of its settings that shape its part of the index (``StageSettings.index_settings``).
        stage: the stage with its weights loaded.
        indexed: whether it writes a part; if not, only its tokenizer counts.
    """

    kind: str
    settings: Mapping[str, Any]
    stage: Stage
    indexed: bool


def _silent(step: str, done: int, total: int) -> None:
    pass


def build_index(
    target: str | Path,
    corpus: Corpus,
    stages: Sequence[IndexedStage],
    passages: PassageSettings,
    *,
    force: bool = False,
    progress: StepProgress = _silent,
) -> Manifest:
    """Indexes a corpus of any size for a cascade's stages.

    Whatever happens meanwhile, the committed index at ``target`` stays whole until the new one replaces it in one
    step. Memory does not grow with the texts, only by a few bytes for each document.

    Args:
        target: folder of the index; made if missing.
        corpus: the documents.
        stages: of the cascade, in order.
        passages: how long documents are split.
        force: replace an index that is there already.
        progress: told about each step.

    Raises:
        InputError: the corpus is empty, repeats a ``doc_id`` or holds what cannot be stored; or there is an index
            already and ``force`` is not given.
        IndexLocked: another process is writing to ``target``.
        BadIndex: the file system refused something; the message says what.
    """
    folder = Path(target)
    try:
        check_target(folder)
        files.make_folder(folder)
        with files.lock(folder / LOCK):
            if not force:
                _refuse_to_replace(folder)
            return _Build(folder, corpus, stages, passages, progress).run()
    except OSError as error:
        raise BadIndex(
            f"{folder}: the index could not be written: {error}; an index that was there before is unharmed; "
            f"put this right and index again to go on from here"
        ) from error


def _refuse_to_replace(target: Path) -> None:
    try:
        name = current_generation(target)
    except IndexMissing:
        return
    raise InputError(f"{target}: holds an index already ({name}); pass --force to replace it, or name another place")


class _Build:
    """One run of ``build_index``, under the lock."""

    def __init__(
        self,
        target: Path,
        corpus: Corpus,
        stages: Sequence[IndexedStage],
        passages: PassageSettings,
        progress: StepProgress,
    ) -> None:
        self._corpus = corpus
        self._fingerprint = corpus.fingerprint
        self._progress = progress
        self._tokenizers = _distinct_tokenizers(stages)
        self._splitter = Splitter(passages, list(self._tokenizers.values()))
        self._passages = PassageInfo.of(passages, self._splitter)
        self._stored_tokenizers = tuple(
            StoredTokenizer(fingerprint=fingerprint, folder=f"tokens/{folder_name(fingerprint)}")
            for fingerprint in self._tokenizers
        )
        self._parts = _distinct_parts(stages)
        recipe = {
            "format_version": FORMAT_VERSION,
            "cascade_version": cascade_version(),
            "corpus": self._fingerprint,
            "passages": self._passages.model_dump(),
            "tokenizers": list(self._tokenizers),
            "stages": [stored.model_dump() for stored, _ in self._parts],
        }
        self._workspace = Workspace(target, plain_json(recipe))

    def run(self) -> Manifest:
        """Does every step that is not done yet, and commits."""
        documents, passages = self._write_documents()
        self._write_tokens(documents, passages)
        self._build_stages(documents, passages)
        generation = self._workspace.generation
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            cascade_version=cascade_version(),
            corpus=CorpusInfo(
                source=next(iter(self._corpus)).place,
                fingerprint=self._fingerprint,
                documents=documents,
                passages=passages,
            ),
            passages=self._passages,
            tokenizers=self._stored_tokenizers,
            stages=tuple(stored for stored, _ in self._parts),
            files=describe_files(generation),
        )
        write_manifest(generation, manifest)
        self._workspace.commit()
        return manifest

    def _write_documents(self) -> tuple[int, int]:
        """Splits and writes the corpus; returns how many documents and passages the generation holds."""
        step = "documents"
        if not self._workspace.is_done(step):
            folder = self._workspace.folder(step, fresh=True)
            with DocumentWriter(folder) as writer:
                for batch in _batches(self._corpus):
                    writer.append(batch, self._splitter.split(batch))
                    self._progress(step, writer.documents, 0)
            self._check_read(writer.documents)
            try:
                writer.write_id_order()
            except DuplicateId as error:
                raise self._duplicate(error) from None
            self._workspace.finish(step, folder)
        folder = self._workspace.generation / step
        documents = len(open_array(folder / "id_order.npy", np.int32))
        return documents, len(open_array(folder / "passage_documents.npy", np.int32))

    def _check_read(self, documents: int) -> None:
        if documents == 0:
            raise InputError("the corpus holds no documents; there is nothing to index")
        after = self._corpus.fingerprint
        if after != self._fingerprint:
            raise InputError(
                f"the corpus changed while it was read, from {self._fingerprint!r} to {after!r}; index again"
            )

    def _duplicate(self, error: DuplicateId) -> InputError:
        wanted = (error.first, error.second)
        first, second = (record.place for number, record in enumerate(self._corpus) if number in wanted)
        return InputError(f"{second}: doc_id {error.doc_id!r} is that of {first} too; every document needs its own")

    def _write_tokens(self, documents: int, passages: int) -> None:
        for stored in self._stored_tokenizers:
            if self._workspace.is_done(stored.folder):
                continue
            view = StoredPassages(self._workspace.generation, documents, passages, {})
            folder = self._workspace.folder(stored.folder, fresh=True)
            progress = partial(self._progress, stored.folder, total=passages)
            write_tokens(folder, self._tokenizers[stored.fingerprint], view.iterate, progress)
            self._workspace.finish(stored.folder, folder)

    def _build_stages(self, documents: int, passages: int) -> None:
        tokenizers = {stored.fingerprint: stored.folder for stored in self._stored_tokenizers}
        for stored, stage in self._parts:
            if self._workspace.is_done(stored.folder):
                continue
            view = StoredPassages(self._workspace.generation, documents, passages, tokenizers)
            folder = self._workspace.folder(stored.folder, fresh=False)
            stage.build(view, folder, partial(self._progress, stored.folder))
            self._workspace.finish(stored.folder, folder)


def _distinct_tokenizers(stages: Sequence[IndexedStage]) -> dict[str, Tokenizer]:
    """By fingerprint; of tokenizers that differ only in their window, the one with the smallest."""
    distinct: dict[str, Tokenizer] = {}
    for tokenizer in (stage.stage.tokenizer for stage in stages):
        if tokenizer is not None:
            known = distinct.setdefault(tokenizer.fingerprint, tokenizer)
            if tokenizer.window < known.window:
                distinct[tokenizer.fingerprint] = tokenizer
    return distinct


def _distinct_parts(stages: Sequence[IndexedStage]) -> list[tuple[StoredStage, Stage]]:
    """What is to be built, each part once however many stages share it."""
    parts: dict[str, tuple[StoredStage, Stage]] = {}
    for entry in stages:
        if entry.indexed:
            settings, fingerprint = plain_json(dict(entry.settings)), entry.stage.fingerprint()
            key = digest({"kind": entry.kind, "settings": settings, "fingerprint": fingerprint})
            folder = f"stages/{folder_name(entry.kind)}-{key}"
            stored = StoredStage(kind=entry.kind, settings=settings, fingerprint=fingerprint, folder=folder)
            parts.setdefault(folder, (stored, entry.stage))
    return list(parts.values())


def _batches(corpus: Corpus) -> Iterator[list[Document]]:
    """Neighbouring documents together, bounded in number and, but for a single longer one, in characters."""
    batch: list[Document] = []
    characters = 0
    try:
        for record in corpus:
            document = record.document
            check_document(document, record.place)
            if batch and (len(batch) == _BATCH_DOCUMENTS or characters + len(document.text) > _BATCH_CHARACTERS):
                yield batch
                batch, characters = [], 0
            batch.append(document)
            characters += len(document.text)
    except OSError as error:
        raise InputError(f"the corpus cannot be read: {error}; check its files and index again") from error
    if batch:
        yield batch
