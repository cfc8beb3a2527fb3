"""The records that everything else speaks in. They hold data and know nothing of the engine.

Outside, a document is a ``doc_id`` and a query is a ``query_id``. Inside, a ranking is a struct of arrays over
*rows*: a row is the number of one passage in the index (int32, from 0), and a document is one or more rows.
Ranks start at 1. Times are seconds (``_s``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cascade.trace import Trace

Rows: TypeAlias = npt.NDArray[np.int32]
Scores: TypeAlias = npt.NDArray[np.float32]
TokenIds: TypeAlias = npt.NDArray[np.int32]

NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def _no_metadata() -> Mapping[str, Any]:
    return NO_METADATA


@dataclass(frozen=True, slots=True)
class Query:
    """A question and its identifier."""

    query_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus as it was read; ``metadata`` is whatever else the source said of it."""

    doc_id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=_no_metadata)

    @property
    def full_text(self) -> str:
        """Title and text as a model reads them, joined by a space."""
        return f"{self.title} {self.text}" if self.title else self.text


class Qrel(NamedTuple):
    """A relevance judgment: ``relevance`` > 0 is relevant, 0 judged not relevant."""

    query_id: str
    doc_id: str
    relevance: int


class ScoredDoc(NamedTuple):
    """One line of a run: a document, its score for a query, higher is better."""

    query_id: str
    doc_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """Passages in rank order, best first.

    Args:
        rows: int32 [n], each at most once.
        scores: float32 [n], scores of the stage that last scored each row: raw, or what it combined them to. Only
            scores of one stage are comparable with each other; the order of the arrays, not the scores, is the ranking.
        stages: int16 [n], position in the plan of the stage that last scored each row; -1 for none.
    """

    rows: Rows
    scores: Scores
    stages: npt.NDArray[np.int16]

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.scores) == len(self.stages):
            raise ValueError(
                f"rows, scores and stages differ in length: {len(self.rows)}, {len(self.scores)}, {len(self.stages)}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | npt.NDArray[Any]) -> Candidates:
        return Candidates(self.rows[part], self.scores[part], self.stages[part])

    @classmethod
    def empty(cls) -> Candidates:
        """No candidates."""
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int16))

    @classmethod
    def unscored(cls, rows: Rows) -> Candidates:
        """Rows in the given order that no stage has scored yet."""
        n = len(rows)
        return cls(rows, np.zeros(n, np.float32), np.full(n, -1, np.int16))

    @classmethod
    def concatenate(cls, first: Candidates, second: Candidates) -> Candidates:
        """``first``, then ``second``, each in its own order."""
        return cls(
            np.concatenate((first.rows, second.rows)),
            np.concatenate((first.scores, second.scores)),
            np.concatenate((first.stages, second.stages)),
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One document of an answer.

    Args:
        rank: from 1.
        doc_id: the document.
        score: by the stage that last scored it: raw, or what it combined to; compare only hits of one stage.
        stage: name of that stage; empty where none scored it.
        text: its best passage.
        title: its title, or empty.
        metadata: the further fields of the corpus.
        probability: that it is relevant; None unless the stage's settings say how to tell.
    """

    rank: int
    doc_id: str
    score: float
    stage: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=_no_metadata, repr=False)
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one query: hits best first, and the trace of how they came about.

    Iterates over its hits.
    """

    query: Query
    hits: tuple[Hit, ...]
    trace: Trace = field(repr=False)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]

    @property
    def degraded(self) -> bool:
        """Whether any stage could not do all it was planned to; the trace says which and why."""
        return self.trace.degraded
