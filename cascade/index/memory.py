"""Passages of documents held in memory, such as those handed to ``rerank``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cascade.errors import InputError
from cascade.index.collection import checked_row, checked_rows, joined, unknown_document
from cascade.index.documents import check_document
from cascade.index.split import Splitter
from cascade.index.tokens import TokenStore
from cascade.schema import PassageSettings
from cascade.stage import Tokenizer
from cascade.types import Document, Rows


class MemoryPassages:
    """A ``Collection`` over documents in memory, split as an index would split them.

    Args:
        documents: with distinct ids; may be none.
        settings: how they are split.
        tokenizers: of the stages that will score them.

    Raises:
        InputError: two documents have the same id, or one could not be put into an index either.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        settings: PassageSettings | None = None,
        tokenizers: Sequence[Tokenizer] = (),
    ) -> None:
        self._documents = documents
        self._numbers: dict[str, int] = {}
        for number, document in enumerate(documents):
            check_document(document, f"documents[{number}]")
            first = self._numbers.setdefault(document.doc_id, number)
            if first != number:
                raise InputError(f"documents[{number}]: doc_id {document.doc_id!r} is that of documents[{first}] too")
        slices = Splitter(PassageSettings() if settings is None else settings, tokenizers).split(documents)
        self._owners: Rows = np.repeat(np.arange(len(documents), dtype=np.int32), [len(item) for item in slices])
        self._slices = [part for item in slices for part in item]
        self._tokens: dict[str, TokenStore] = {}

    def __len__(self) -> int:
        return len(self._slices)

    @property
    def one_passage_each(self) -> bool:
        """Whether no document is split."""
        return len(self._slices) == len(self._documents)

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Title and passage of each row, joined by a space."""
        return list(map(joined, self.titles(rows), self.passage_texts(rows)))

    def titles(self, rows: Sequence[int] | Rows) -> list[str]:
        """The title of each row's document, or empty."""
        return [self._documents[number].title for number in self.doc_rows(rows).tolist()]

    def passage_texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """The passages without their titles."""
        numbers = checked_rows(rows, len(self))
        found = zip(self._owners[numbers].tolist(), numbers.tolist(), strict=True)
        return [self._documents[owner].text[slice(*self._slices[row])] for owner, row in found]

    def metadata(self, row: int) -> Mapping[str, Any]:
        """Further fields of the row's document."""
        return self._documents[int(self._owners[checked_row(row, len(self))])].metadata

    def tokens(self, tokenizer: Tokenizer) -> TokenStore:
        """All passages tokenised, once for each tokenizer."""
        fingerprint = tokenizer.fingerprint
        if fingerprint not in self._tokens:
            self._tokens[fingerprint] = TokenStore.compute(tokenizer, self.iterate())
        return self._tokens[fingerprint]

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The texts of rows ``start`` to ``stop`` in order."""
        for row in range(start, len(self) if stop is None else min(stop, len(self))):
            yield from self.texts([row])

    def doc_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The ``doc_id`` of each row's document."""
        return [self._documents[number].doc_id for number in self.doc_rows(rows).tolist()]

    def doc_rows(self, rows: Sequence[int] | Rows) -> Rows:
        """int32 [n]: the position of each row's document."""
        return self._owners[checked_rows(rows, len(self))]

    def rows_of(self, doc_id: str) -> Rows:
        """int32 [n]: the passages of a document; InputError if there is none of that id."""
        if doc_id not in self._numbers:
            raise unknown_document(doc_id, "documents")
        first, last = np.searchsorted(self._owners, [self._numbers[doc_id], self._numbers[doc_id] + 1])
        return np.arange(first, last, dtype=np.int32)
