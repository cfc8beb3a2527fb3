"""What the engine asks of passages, wherever they come from: an index on disk, or texts handed to ``rerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cascade.errors import InputError
from cascade.stage import Passages
from cascade.types import Document, Rows


class Collection(Passages, Protocol):
    """Passages that also know which document each belongs to."""

    @property
    def one_passage_each(self) -> bool:
        """Whether no document is split, so that rows are documents."""
        ...

    def doc_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The ``doc_id`` of the document of each row."""
        ...

    def doc_rows(self, rows: Sequence[int] | Rows) -> Rows:
        """int32 [n]: the number of the document of each row, from 0 in the corpus's order."""
        ...

    def rows_of(self, doc_id: str) -> Rows:
        """int32 [n >= 1], rising: the passages of a document.

        Raises:
            InputError: there is no such document.
        """
        ...

    def titles(self, rows: Sequence[int] | Rows) -> list[str]:
        """The title of each row's document, or empty."""
        ...

    def passage_texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """The passages without their titles."""
        ...


def joined(title: str, text: str) -> str:
    """Title and text as a model reads them."""
    return Document("", text, title).full_text


def checked_rows(rows: Sequence[int] | Rows, count: int) -> Rows:
    """``rows`` as an int32 array.

    Raises:
        IndexError: a row is not one of the ``count`` rows; negative numbers do not count from the end.
    """
    array = np.asarray(rows, np.int32)
    if len(array) and (array.min() < 0 or array.max() >= count):
        raise IndexError(f"rows {array.min()} to {array.max()}: expected rows from 0 to {count - 1}")
    return array


def checked_row(row: int, count: int) -> int:
    """``row`` itself; quicker for a single one than ``checked_rows``.

    Raises:
        IndexError: it is not one of the ``count`` rows.
    """
    if not 0 <= row < count:
        raise IndexError(f"row {row}: expected a row from 0 to {count - 1}")
    return row


def unknown_document(doc_id: str, source: str) -> InputError:
    """The error for a ``doc_id`` that is not there."""
    return InputError(f"{source}: holds no document {doc_id!r}; ids are case-sensitive and must match exactly")
