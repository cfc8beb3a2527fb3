"""What a stage is: the seam between the engine and everything that scores.

Three levels, each later and heavier than the one before:

1. ``StageKind`` is what an entry point of the group ``cascade.stages`` names. It describes a kind of stage, checks its
   settings and costs nothing to import: no torch, no weights. Validating a YAML file stops here.
2. ``Stage`` is one configured stage with its weights loaded. It knows how to write its part of an index.
3. ``Retriever``, ``Reranker``, ``ListwiseReranker`` and ``Fuser`` are stages opened over a collection of passages. They
   score what they are given. They do not sort, truncate, batch or read a clock: the engine does. So every pointwise
   reranker can be stopped between any two batches, and one batch may mix queries.

A third party's stage is as good as ours: write the classes, name a ``StageKind`` in an entry point, done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cascade.calibrating import Probability, Share
from cascade.types import Query, Rows, Scores, TokenIds

Role: TypeAlias = Literal["retriever", "reranker", "listwise", "fuser"]
OnOverrun: TypeAlias = Literal["partial", "skip", "fail"]
OnError: TypeAlias = Literal["degrade", "fail"]

Encoded: TypeAlias = Any
"""A query in a stage's own form; opaque to the engine, which makes it once per stage and query."""

Reading: TypeAlias = Any
"""A query as a model read it, for several stages to encode; as opaque."""

Weight: TypeAlias = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]

STAGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class StageSettings(BaseModel):
    """Settings common to all stages; a kind adds its own by subclassing. Unknown keys are refused.

    Mark a field that shapes what the stage writes into an index with ``json_schema_extra={"index": True}``
    (or use ``index_field``): an index is only opened by settings that agree with it in those fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=STAGE_NAME, description="what traces, results and errors call this stage")
    kind: str = Field(description="the kind of stage, which selects the other settings")
    top_k: int = Field(ge=1, description="documents passed on")
    budget_ms: float | None = Field(None, gt=0, description="milliseconds this stage may take")
    on_overrun: OnOverrun | None = Field(None, description="what to do when the budget ends; default: the cascade's")
    on_error: OnError = Field("degrade", description="degrade: keep the earlier order; fail: raise StageError")
    combine: dict[str, Weight] | None = Field(
        None, description="of a reranker: weights by stage of what makes up its score, its own and earlier ones"
    )
    adaptive: float | None = Field(
        None, gt=0, lt=1, description="of a reranker: how sure to be that nothing left enters its top_k, to stop early"
    )
    probability: Probability | None = Field(
        None, description="from scores to probabilities of relevance, as 'cascade eval --calibrate' fits it"
    )
    min_probability: Share | None = Field(
        None, description="leave out of the answer what this stage scored last and holds less probable"
    )

    def index_settings(self) -> dict[str, Any]:
        """The fields that shape the stage's part of an index, by name."""
        return {
            name: getattr(self, name)
            for name, info in type(self).model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("index")
        }


def index_field(default: Any = ..., **options: Any) -> Any:
    """A pydantic ``Field`` whose value shapes what the stage writes into an index."""
    return Field(default, json_schema_extra={"index": True}, **options)


class Tokenizer(Protocol):
    """Turns text into token ids. Stages with the same fingerprint share one token store in the index."""

    @property
    def fingerprint(self) -> str:
        """Identifies vocabulary and rules: equal fingerprints mean equal ids for every text."""
        ...

    @property
    def window(self) -> int:
        """Most tokens of a passage that the model reads; longer documents are split."""
        ...

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """int32 [tokens] for each text, without special tokens and without truncation."""
        ...

    def spans(self, text: str) -> npt.NDArray[np.int64]:
        """int64 [tokens, 2]: where each token of ``encode([text])`` begins and ends in ``text``, in characters."""
        ...


class Tokens(Protocol):
    """Token ids of all passages under one tokenizer, ragged, memory-mapped where they come from an index."""

    @property
    def ids(self) -> TokenIds:
        """int32 [all tokens], passage after passage, without special tokens."""
        ...

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 [passages + 1]: the ids of row r are ``ids[offsets[r]:offsets[r + 1]]``."""
        ...


class Passages(Protocol):
    """The passages that stages rank: an index on disk, or texts handed to ``rerank``."""

    def __len__(self) -> int: ...

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Title and passage of each row as a model reads them, joined by a space."""
        ...

    def metadata(self, row: int) -> Mapping[str, Any]:
        """Further fields of the document that the row belongs to."""
        ...

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        """All passages tokenised: from the index where it has them, else computed once and kept."""
        ...

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The texts of rows ``start`` to ``stop`` in order, in constant memory."""
        ...


class Progress(Protocol):
    """Told how a long piece of work is getting on."""

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` rows are safely written."""
        ...


class StepProgress(Protocol):
    """Told how each step of a long piece of work is getting on."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """``done`` of ``total`` (0 while that is not known) of a step."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """What a task costs, independent of the machine; the cost model turns it into seconds.

    Args:
        pairs: query-passage pairs, or rows searched by a retriever.
        tokens: sum of their lengths in tokens, padding included where the runtime pads.
        squares: sum of the squared lengths, which attention pays for.
    """

    pairs: float = 0.0
    tokens: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs to score in one call.

    Args:
        queries: encoded queries taking part, each once.
        query_of: int32 [n], index into ``queries`` for each pair.
        rows: int32 [n], the passage of each pair.
    """

    queries: tuple[Encoded, ...]
    query_of: npt.NDArray[np.int32]
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def single(cls, query: Encoded, rows: Rows) -> Batch:
        """A batch of one query."""
        return cls((query,), np.zeros(len(rows), np.int32), rows)


class QuerySide:
    """What a stage does with a query before it sees any passage."""

    query_reader: str = ""
    """Identifies what reads queries for this stage, where others may use what it read; empty where it reads for itself.

    Reading is most of this work, and the engine has it done once for all stages of one reader. A stage that names one
    implements ``read_query`` and ``encode_read``, which are called instead of ``encode_query``.
    """

    def encode_query(self, query: Query) -> Encoded:
        """The query in this stage's form; done once per query."""
        return self.encode_read(query, self.read_query(query)) if self.query_reader else query.text

    def read_query(self, query: Query) -> Reading:
        """The query as the reader reads it, the same for all stages of that reader."""
        raise NotImplementedError(f"{type(self).__name__} names a reader, but does not read")

    def encode_read(self, query: Query, reading: Reading) -> Encoded:
        """``encode_query``, given what ``read_query`` of any stage of the same reader gave."""
        raise NotImplementedError(f"{type(self).__name__} names a reader, but makes nothing of what that read")


class Retriever(QuerySide, ABC):
    """Finds candidates among all passages, one range of rows at a time, so that it can stop between ranges."""

    @abstractmethod
    def ranges(self) -> Sequence[tuple[int, int]]:
        """Row ranges [start, stop) that together cover the collection, in the order to search them.

        A range is the quantum of retrieval: small enough to take a fraction of a millisecond to a few.
        """

    @abstractmethod
    def search(self, query: Encoded, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The best ``k`` rows of [start, stop), or fewer: int32 [m] and float32 [m], best first, ties by row."""

    def work(self, query: Encoded, start: int, stop: int) -> Work:
        """What searching the range costs."""
        return Work(pairs=float(stop - start))


class Reranker(QuerySide, ABC):
    """Scores query-passage pairs, each for itself."""

    batch_tokens: int = 4096
    """Most tokens in one batch, padding included; the engine may make batches smaller to meet a deadline."""

    def lengths(self, query: Encoded, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens that scoring each pair costs, known before any is scored."""
        return np.ones(len(rows), np.int32)

    @abstractmethod
    def score(self, batch: Batch) -> Scores:
        """float32 [n]: a score for each pair, higher is better. Must not depend on what else is in the batch."""


class ListwiseReranker(QuerySide, ABC):
    """Scores several passages of one query with sight of each other; a window cannot be stopped midway."""

    window: int
    """Most passages in one call."""

    batch_tokens: int = 512
    """Most tokens in one call."""

    def lengths(self, query: Encoded, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens that each passage adds to a window, known before any is scored."""
        return np.ones(len(rows), np.int32)

    @abstractmethod
    def score_window(self, query: Encoded, rows: Rows) -> Scores:
        """float32 [n]: a score for each of the ``n <= window`` rows, higher is better."""


class Fuser(ABC):
    """Merges the rankings of several retrievers into one."""

    @abstractmethod
    def fuse(self, rankings: Sequence[tuple[Rows, Scores]]) -> tuple[Rows, Scores]:
        """Every row of any input once, best first, ties by row.

        Args:
            rankings: for each retriever, in the order of the configuration, its rows best first (int32 [m]) and
                their raw scores (float32 [m]). A retriever that failed or was cut short gives fewer, or none.
        """


Opened: TypeAlias = Retriever | Reranker | ListwiseReranker | Fuser


class Stage(ABC):
    """A configured stage with its weights loaded."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """How the stage reads passages, so that the index can store their token ids; None if it does not care."""
        return None

    def fingerprint(self) -> str:
        """Identifies the weights that shaped the stage's part of an index; empty for none."""
        return ""

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        """Writes the stage's part of an index into ``directory``, which exists and is the stage's alone.

        May find there what an interrupted earlier call left, and should then go on from it. Not called for stages
        whose kind has ``indexed=False``.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps nothing in an index")

    @abstractmethod
    def open(self, passages: Passages, directory: Path | None) -> Opened:
        """The stage over these passages.

        Args:
            passages: what it will be asked to score.
            directory: what ``build`` wrote for exactly these passages; None when they did not come from an index,
                so that whatever is needed of them has to be computed.
        """


@dataclass(frozen=True, slots=True)
class Context:
    """What a stage kind may know of the outside when it checks or loads.

    Args:
        folder: folder of the YAML file, which relative paths in settings start from.
    """

    folder: Path


def _nothing_wrong(settings: Any, context: Context) -> Sequence[tuple[str, str]]:
    return ()


@dataclass(frozen=True, slots=True)
class StageKind:
    """A kind of stage, as an entry point of the group ``cascade.stages`` names it.

    Args:
        kind: the name used in YAML.
        role: what it opens to, which decides where in a cascade it may stand; a function of the settings where
            they decide it.
        settings: its settings, a subclass of ``StageSettings``.
        load: makes the ``Stage``; may import torch and read weights, and raises ``ModelError`` when it cannot.
        indexed: whether it keeps something in the index.
        check: problems that can be seen without loading anything, as (field, message) pairs: a model folder that
            is not there, an optional package that is not installed. Must be quick.
        summary: one line for ``cascade stages``.
    """

    kind: str
    role: Role | Callable[[Any], Role]
    settings: type[StageSettings]
    load: Callable[[Any, Context], Stage]
    indexed: bool = False
    check: Callable[[Any, Context], Sequence[tuple[str, str]]] = _nothing_wrong
    summary: str = ""

    def role_of(self, settings: StageSettings) -> Role:
        """The role under these settings."""
        return self.role(settings) if callable(self.role) else self.role
