"""Passages in files, as stages see them: of a committed index, or of one that is being built."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.index.collection import checked_row, checked_rows, joined, unknown_document
from cascade.index.documents import DocumentStore
from cascade.index.tokens import TokenStore
from cascade.stage import Tokenizer
from cascade.types import Rows

logger = logging.getLogger(__name__)

_READ_ROWS = 64


class StoredPassages:
    """A ``Collection`` over the documents and tokens of a generation's folder.

    Args:
        folder: the generation.
        documents: how many it holds.
        passages: how many it holds.
        tokenizers: fingerprint -> folder of each token store, relative to ``folder``.

    Raises:
        IndexCorrupt: a file is missing or damaged.
    """

    def __init__(self, folder: Path, documents: int, passages: int, tokenizers: Mapping[str, str]) -> None:
        self.folder = folder
        self._documents = documents
        self._passages = passages
        self._store = DocumentStore(folder / "documents", documents, passages)
        self._tokens = {
            fingerprint: TokenStore.open(folder / relative, passages) for fingerprint, relative in tokenizers.items()
        }

    def __len__(self) -> int:
        return self._passages

    @property
    def one_passage_each(self) -> bool:
        """Whether no document is split."""
        return self._passages == self._documents

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Title and passage of each row, joined by a space."""
        return list(map(joined, self.titles(rows), self.passage_texts(rows)))

    def titles(self, rows: Sequence[int] | Rows) -> list[str]:
        """The title of each row's document, or empty."""
        return self._store.titles.take(self.doc_rows(rows))

    def passage_texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """The passages without their titles."""
        store, numbers = self._store, checked_rows(rows, self._passages)
        return store.texts.slices(store.owners[numbers], store.starts[numbers], store.stops[numbers])

    def metadata(self, row: int) -> Mapping[str, Any]:
        """Further fields of the row's document."""
        return self._store.metadata(int(self._store.owners[checked_row(row, self._passages)]))

    def tokens(self, tokenizer: Tokenizer) -> TokenStore:
        """All passages tokenised; computed in memory, once, under a tokenizer that the index was not built with."""
        fingerprint = tokenizer.fingerprint
        if fingerprint not in self._tokens:
            logger.warning(
                "%s holds no token ids of tokenizer %s: tokenising %d passages now; "
                "index with the stages that will search to have them stored",
                self.folder,
                fingerprint,
                self._passages,
            )
            self._tokens[fingerprint] = TokenStore.compute(tokenizer, self.iterate())
        return self._tokens[fingerprint]

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The texts of rows ``start`` to ``stop`` in order."""
        last = self._passages if stop is None else min(stop, self._passages)
        for row in range(start, last, _READ_ROWS):
            yield from self.texts(np.arange(row, min(row + _READ_ROWS, last), dtype=np.int32))

    def doc_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The ``doc_id`` of each row's document."""
        return self._store.ids.take(self.doc_rows(rows))

    def doc_rows(self, rows: Sequence[int] | Rows) -> Rows:
        """int32 [n]: the number of each row's document."""
        return self._store.owners[checked_rows(rows, self._passages)]

    def rows_of(self, doc_id: str) -> Rows:
        """int32 [n]: the passages of a document; InputError if there is none of that id."""
        document = self._store.find(doc_id)
        if document is None:
            raise unknown_document(doc_id, str(self.folder.parent))
        return self._store.rows_of(document)
