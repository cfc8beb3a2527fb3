"""The arguments of calls on an engine: what they may be, and what is said of those that they may not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Final, TypeAlias

from cascade.errors import InputError
from cascade.types import Document, Query

MAX_QUERY_CHARACTERS = 1_000_000
MAX_PASSAGES = 10_000
MAX_PASSAGE_CHARACTERS = 10_000_000
FOREVER_S = 30 * 24 * 3600.0
"""A budget from here on is none: operating systems cannot wait for any number of seconds."""


class _FromConfig:
    """The type of ``FROM_CONFIG``."""

    def __repr__(self) -> str:
        return "FROM_CONFIG"


FROM_CONFIG: Final = _FromConfig()
"""Stands for the budget that the configuration states."""

Budget: TypeAlias = float | _FromConfig | None
"""Milliseconds; None for no limit, which runs every stage at full depth; ``FROM_CONFIG`` for the configured one."""


def as_seconds(budget_ms: Budget, configured_s: float) -> float:
    """Seconds of a budget; inf for no limit.

    Args:
        budget_ms: the argument.
        configured_s: seconds that the configuration states.

    Raises:
        InputError: it is not a number of milliseconds.
    """
    if isinstance(budget_ms, _FromConfig):
        return configured_s if configured_s < FOREVER_S else math.inf
    if budget_ms is None:
        return math.inf
    if isinstance(budget_ms, bool) or not (isinstance(budget_ms, Real) and budget_ms >= 0):
        raise InputError(f"budget_ms: expected a number of milliseconds >= 0, or None for no limit, got {budget_ms!r}")
    return float(budget_ms) / 1000 if budget_ms < FOREVER_S * 1000 else math.inf


def as_query(query: str | Query) -> Query:
    """A query of reasonable size.

    Raises:
        InputError: it is something else, or too long.
    """
    if isinstance(query, str):
        query = Query("", query)
    if not isinstance(query, Query):
        raise InputError(f"query: expected a string or a Query, got {type(query).__name__}")
    if len(query.text) > MAX_QUERY_CHARACTERS:
        limit = f"expected at most {MAX_QUERY_CHARACTERS} characters, got {len(query.text)}"
        raise InputError(f"query: {limit}; a query is a question, not a document")
    return query


def as_documents(passages: Sequence[str | Document]) -> list[Document]:
    """Documents of reasonable size; the ``doc_id`` of a text is its position.

    Raises:
        InputError: they are something else, too many or too long.
    """
    if isinstance(passages, str):
        raise InputError("passages: expected a sequence of texts or documents, got one string; put it into a list")
    documents = [Document(str(i), p) if isinstance(p, str) else p for i, p in enumerate(passages)]
    for i, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InputError(f"passages[{i}]: expected a string or a Document, got {type(document).__name__}")
    _check_size(documents)
    return documents


def check_top_k(top_k: int | None) -> None:
    """Raises ``InputError`` unless it is a number of documents, or None."""
    if top_k is not None and not _is_integer(top_k, 0):
        raise InputError(f"top_k: expected an integer >= 0, or None for the cascade's own, got {top_k!r}")


def check_count(name: str, count: int | None) -> None:
    """Raises ``InputError`` unless it is a positive integer, or None."""
    if count is not None and not _is_integer(count, 1):
        raise InputError(
            f"{name}: expected an integer >= 1, or None for a number that fits this machine, got {count!r}"
        )


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _check_size(documents: Sequence[Document]) -> None:
    if len(documents) > MAX_PASSAGES:
        raise InputError(f"passages: expected at most {MAX_PASSAGES}, got {len(documents)}; cut the list before")
    characters = sum(len(document.text) + len(document.title) for document in documents)
    if characters > MAX_PASSAGE_CHARACTERS:
        raise InputError(f"passages: expected at most {MAX_PASSAGE_CHARACTERS} characters in all, got {characters}")
