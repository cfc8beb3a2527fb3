"""The demo's index: built at the first call, found again at the next."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from cascade.api import Cascade, index_corpus
from cascade.demo.corpus import gather
from cascade.errors import BadIndex
from cascade.index import Index
from cascade.io import SourcedDocument
from cascade.schema import CascadeConfig
from cascade.stage import StepProgress


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


def open_demo(config: CascadeConfig, folder: Path, progress: StepProgress) -> tuple[Cascade, Index, bool]:
    """The cascade over the index of the demo corpus, that index, and whether it had to be built.

    Args:
        config: the cascade.
        folder: where the index is, or will be.
        progress: told of each step of building, and how many of how many rows are done.
    """
    corpus = DemoCorpus()
    try:  # an earlier call's index, if it still fits the cascade and the documentation
        index = Index.open(folder)
        if index.manifest.corpus.fingerprint == corpus.fingerprint:
            return Cascade(config, index=index), index, False
    except BadIndex:
        pass
    index_corpus(config, corpus, folder, force=True, progress=progress)
    index = Index.open(folder)
    return Cascade(config, index=index), index, True
