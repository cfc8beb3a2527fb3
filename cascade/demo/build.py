"""The demo's index: built at the first call, found again at the next."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from cascade.api import index_corpus
from cascade.demo.corpus import gather
from cascade.errors import BadIndex
from cascade.index import BuildProgress, Index
from cascade.io import SourcedDocument
from cascade.opening import LoadedStages
from cascade.planner import plan
from cascade.schema import CascadeConfig
from cascade.stage import Context


class DemoCorpus:
    """The documentation of the running Python's standard library, as a corpus to index."""

    def __init__(self) -> None:
        self._documents = list(gather())

    def __iter__(self) -> Iterator[SourcedDocument]:
        for document in self._documents:
            yield SourcedDocument(document, f"python:{document.doc_id}")

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def fingerprint(self) -> str:
        """Changes with the documentation: another Python, other documents."""
        digest = hashlib.sha256(sys.version.encode())
        for document in self._documents:
            digest.update(f"{document.doc_id}\0{document.full_text}\0".encode())
        return digest.hexdigest()[:16]


def demo_index(config: CascadeConfig, folder: Path, progress: BuildProgress) -> tuple[Index, bool]:
    """The index of the demo corpus for a cascade, and whether it had to be built.

    Args:
        config: the cascade.
        folder: where the index is, or will be.
        progress: told of each step of building, and how many of how many rows are done.
    """
    corpus = DemoCorpus()
    index = _existing(config, folder, corpus.fingerprint)
    if index is not None:
        return index, False
    index_corpus(config, corpus, folder, force=True, progress=progress)
    return Index.open(folder), True


def _existing(config: CascadeConfig, folder: Path, fingerprint: str) -> Index | None:
    """The index that an earlier call built, if it still fits the cascade and the documentation."""
    planned = plan(config)
    try:
        index = Index.open(folder)
        index.require_passages(planned.passages)
        LoadedStages(planned, Context(config.folder), threads=1).open_index(index)
    except BadIndex:
        return None
    return index if index.manifest.corpus.fingerprint == fingerprint else None
