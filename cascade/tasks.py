"""What the engine hands out and gets back: opened stages, the tasks they are asked to do, and what became of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from cascade.index import Collection
from cascade.planner import Plan, PlannedStage
from cascade.scheduler import TYPICAL_TOKENS
from cascade.stage import Batch, Fuser, ListwiseReranker, Opened, QuerySide, Retriever, Work

Action: TypeAlias = Literal["encode", "encode_read", "search", "score", "window", "fuse"]
"""``encode_read`` is ``encode`` of a query that has been read for an earlier stage."""


@dataclass(frozen=True, slots=True)
class OpenedStage:
    """A planned stage opened over a collection.

    Args:
        planned: its plan.
        opened: what scores.
        cost_key: identifies what its work costs.
        retrievers: of a fuser, what it fuses.
        scoring: the action that does its main work.
        ranges: of a retriever, in how many parts it searches the collection.
        together: how many typical candidates it scores at once or not at all: those of a listwise stage's window.
        reader: identifies what reads queries for it and for others; empty where it reads for itself.
    """

    planned: PlannedStage
    opened: Opened
    cost_key: str
    retrievers: tuple[OpenedStage, ...] = ()
    scoring: Action = field(init=False)
    ranges: int = field(init=False)
    together: int = field(init=False)
    reader: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scoring", _scoring(self.opened))
        object.__setattr__(self, "ranges", len(self.opened.ranges()) if isinstance(self.opened, Retriever) else 0)
        object.__setattr__(self, "together", _together(self.opened))
        object.__setattr__(self, "reader", self.opened.query_reader if isinstance(self.opened, QuerySide) else "")

    def planned_as(self, planned: PlannedStage, retrievers: tuple[OpenedStage, ...]) -> OpenedStage:
        """The same under another plan; what it opened to is not asked again."""
        other = copy.copy(self)
        object.__setattr__(other, "planned", planned)
        object.__setattr__(other, "retrievers", retrievers)
        return other

    def key(self, action: Action) -> str:
        """What the cost of an action is filed under."""
        return f"{self.cost_key}/{action}"

    def encoding(self, read: Container[str]) -> Action:
        """What its query-side work is where some readers have read the query before."""
        return "encode_read" if self.reader and self.reader in read else "encode"

    @property
    def reranks(self) -> bool:
        """Whether it scores what other stages have found."""
        return self.scoring in ("score", "window")


def _scoring(opened: Opened) -> Action:
    if isinstance(opened, Retriever):
        return "search"
    if isinstance(opened, Fuser):
        return "fuse"
    return "window" if isinstance(opened, ListwiseReranker) else "score"


def _together(opened: Opened) -> int:
    if not isinstance(opened, ListwiseReranker):
        return 1
    return max(1, min(opened.window, int(opened.batch_tokens / TYPICAL_TOKENS)))


def encodings(reader: str) -> tuple[Action, ...]:
    """What the query-side work of a stage can be, given its reader."""
    return ("encode", "encode_read") if reader else ("encode",)


def foreseen(stages: Sequence[OpenedStage], read: Iterable[str] = ()) -> Iterator[tuple[OpenedStage, frozenset[str]]]:
    """Stages in the order in which they run, each with the readers that will have read the query before it.

    Args:
        stages: that are to come.
        read: readers that have read it already.
    """
    read = frozenset(read)
    for stage in stages:
        yield stage, read
        read |= {unit.reader for unit in (*stage.retrievers, stage)}


@dataclass(frozen=True, slots=True)
class OpenedCascade:
    """A plan whose stages are open over one collection.

    Args:
        plan: the plan.
        collection: what is ranked.
        stages: in order; without retrievers where there is nothing to retrieve from.
    """

    plan: Plan
    collection: Collection
    stages: tuple[OpenedStage, ...]

    def rows_wanted(self, top_k: int) -> int:
        """Rows that ``top_k`` documents can come of."""
        wanted = top_k if self.collection.one_passage_each else top_k * self.plan.passages.per_document
        return min(wanted, len(self.collection))


class Health(Protocol):
    """Knows which stages are to be left out for now, and is told how they do."""

    def blocked(self, stage: str) -> str:
        """Why the stage is left out; empty when it is not."""
        ...

    def tries(self, stage: str) -> None:
        """A query is about to have the stage do something."""
        ...

    def untried(self, stage: str) -> None:
        """It had no time for that after all."""
        ...

    def succeeded(self, stage: str) -> None:
        """A task of the stage gave something of use."""
        ...

    def failed(self, stage: str, detail: str, hung: bool = False) -> None:
        """A task of the stage raised, gave nonsense, or never came back."""
        ...


class Healthy:
    """Nothing is left out, whatever happens."""

    __slots__ = ()

    def blocked(self, stage: str) -> str:
        """Empty."""
        return ""

    def tries(self, stage: str) -> None:
        """Changes nothing."""

    def untried(self, stage: str) -> None:
        """Changes nothing."""

    def succeeded(self, stage: str) -> None:
        """Changes nothing."""

    def failed(self, stage: str, detail: str, hung: bool = False) -> None:
        """Changes nothing."""


class Task(NamedTuple):
    """One piece of work that cannot be interrupted.

    Args:
        stage: whose it is.
        action: what kind.
        cost_key: what its cost is filed under.
        call: does it.
        work: how much it is.
        predicted_s: seconds at the plan's quantile, or on average of what is started as long as it probably ends in
            time: the first search, and fusing; 0 when nothing is known.
        deadline: when its stage has to end at the latest, in the clock's seconds.
        batch: of a ``score`` task, the pairs, so that tasks of several queries can be scored in one call.
    """

    stage: OpenedStage
    action: Action
    cost_key: str
    call: Callable[[], Any]
    work: Work
    predicted_s: float
    deadline: float
    batch: Batch | None = None


class Outcome(NamedTuple):
    """What became of a task.

    Args:
        value: what it returned.
        error: what it raised instead.
        began: when, in the clock's seconds, it or the call that it was a part of began.
        ended: when that ended.
        share: of the call's work that was this task's.
    """

    value: Any
    error: BaseException | None
    began: float
    ended: float
    share: float = 1.0
