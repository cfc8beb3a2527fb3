"""The configured BM25 stage: how it writes and opens its part of an index."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cascade.stage import Passages, Progress, Retriever, Stage
from stages.bm25 import store
from stages.bm25.analysis import Analyser
from stages.bm25.formula import Formula
from stages.bm25.kind import Bm25Settings
from stages.bm25.okapi import OkapiRetriever
from stages.bm25.retriever import Bm25Retriever


class Bm25Stage(Stage):
    """BM25 under given settings; has no weights."""

    def __init__(self, settings: Bm25Settings) -> None:
        self._backend = settings.backend
        self._formula = Formula(settings.method, settings.k1, settings.b)
        self._analyser = Analyser(settings.stemmer, settings.stopwords)

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        """Writes the inverted index in memory that depends on the vocabulary, not on the number of passages."""
        formula = self._formula if self._backend == "bm25s" else None
        store.build(passages, directory, self._analyser, formula, progress)

    def open(self, passages: Passages, directory: Path | None) -> Retriever:
        """The retriever over what ``build`` wrote; without a directory the passages are indexed in memory.

        Raises:
            IndexCorrupt, IndexMismatch: see ``store.open_postings``.
        """
        if directory is not None:
            return self._retriever(directory, mapped=True)
        with tempfile.TemporaryDirectory(prefix="cascade-bm25-") as temporary:
            self.build(passages, Path(temporary), _silent)
            return self._retriever(Path(temporary), mapped=False)

    def _retriever(self, directory: Path, mapped: bool) -> Retriever:
        if self._backend == "bm25s":
            return Bm25Retriever(store.open_postings(directory, "impacts", mapped), self._analyser)
        return OkapiRetriever(store.open_postings(directory, "counts", mapped), self._analyser, self._formula)


def _silent(done: int, total: int) -> None:
    """No one waits for the progress of passages that fit into memory."""
