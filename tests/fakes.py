"""Stages whose scores, costs and faults are scripted, and what the engine needs around them; no models, no waiting."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from cascade.clock import Deadline, VirtualClock
from cascade.cost import Cost, CostModel, CostProfile, Rates, machine
from cascade.engine import QueryRun
from cascade.planner import Plan, PlannedStage
from cascade.schema import PassageSettings
from cascade.stage import (
    Batch,
    Fuser,
    ListwiseReranker,
    OnError,
    OnOverrun,
    Opened,
    Reranker,
    Retriever,
    Role,
    StageKind,
    StageSettings,
    Tokenizer,
    Tokens,
    Work,
)
from cascade.tasks import Health, Healthy, OpenedCascade, OpenedStage, Task
from cascade.trace import StageTrace
from cascade.types import NO_METADATA, Candidates, Query, Rows, Scores
from cascade.workqueue import call, outcomes

QUERY = Query("q", "why do cats purr")
PER_TOKEN = Rates(fixed_s=0.0005, token_s=1e-5)
"""Half a millisecond a call, a millisecond for a hundred tokens."""


def relevance(seed: int, rows: Rows) -> Scores:
    """float32 [n]: a score for each row that looks random and is always the same, no two alike."""
    mixed = rows.astype(np.int64) * (7919 + 104_729 * seed) % 1_000_003
    return (mixed / 1_000_003).astype(np.float32)


class FakeCollection:
    """Passages ``text 0``, ``text 1``, ...; ``per_document`` neighbours belong to one document."""

    def __init__(self, passages: int, per_document: int = 1) -> None:
        self._passages = passages
        self._per_document = per_document
        self.one_passage_each = per_document == 1

    def __len__(self) -> int:
        return self._passages

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        return [f"text {row}" for row in rows]

    def metadata(self, row: int) -> Mapping[str, Any]:
        return NO_METADATA

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        raise NotImplementedError

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        return iter(self.texts(range(start, len(self) if stop is None else stop)))

    def doc_rows(self, rows: Sequence[int] | Rows) -> Rows:
        documents: Rows = np.asarray(rows, np.int32) // np.int32(self._per_document)
        return documents

    def doc_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        return [f"d{row}" for row in self.doc_rows(rows).tolist()]

    def rows_of(self, doc_id: str) -> Rows:
        first = int(doc_id[1:]) * self._per_document
        return np.arange(first, first + self._per_document, dtype=np.int32)

    def titles(self, rows: Sequence[int] | Rows) -> list[str]:
        return [""] * len(rows)

    def passage_texts(self, rows: Sequence[int] | Rows) -> list[str]:
        return [f"text {row}" for row in rows]


def varied_lengths(passages: int, seed: int = 0, low: int = 20, high: int = 140) -> npt.NDArray[np.int32]:
    """int32 [passages]: lengths in tokens."""
    return np.random.default_rng(seed).integers(low, high, passages).astype(np.int32)


Fault: TypeAlias = Callable[[Any], Any]
"""Given what a fake stage would return, returns something else, raises, or never comes back."""


def no_fault(value: Any) -> Any:
    return value


def raises(value: Any) -> Any:
    raise RuntimeError("out of memory")


def all_nan(value: Any) -> Any:
    return np.full(len(value), np.nan, np.float32)


def wrong_shape(value: Any) -> Any:
    return value[:-1]


class Hangs:
    """Does not come back before ``release`` is set; ``entered`` says that it has begun.

    Args:
        times: how many calls hang; later ones come back at once.
    """

    def __init__(self, times: float = math.inf) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self._calls = itertools.count()
        self._times = times

    def __call__(self, value: Any) -> Any:
        if next(self._calls) >= self._times:
            return value
        self.entered.set()
        assert self.release.wait(60)
        return value


class Reads:
    """Reads queries as others of its reader do; ``read`` and ``encoded`` count how often, ``fault`` is of reading."""

    def __init__(self, reader: str, fault: Fault = no_fault) -> None:
        self.query_reader = reader
        self.reading_fault = fault
        self.read = self.encoded = 0

    def read_query(self, query: Query) -> list[str]:
        self.read += 1
        return cast(list[str], self.reading_fault(query.text.split()))

    def encode_read(self, query: Query, reading: list[str]) -> str:
        self.encoded += 1
        assert reading == query.text.split()
        return query.text


class FakeRetriever(Retriever):
    """Finds every row; the best are those of highest ``relevance(seed, ...)``."""

    def __init__(self, passages: int, range_rows: int = 1000, seed: int = 1, fault: Fault = no_fault) -> None:
        self._passages = passages
        self._range_rows = range_rows
        self._seed = seed
        self.fault = fault

    def ranges(self) -> Sequence[tuple[int, int]]:
        starts = range(0, self._passages, self._range_rows)
        return [(start, min(start + self._range_rows, self._passages)) for start in starts]

    def search(self, query: Any, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        rows = np.arange(start, stop, dtype=np.int32)
        scores = relevance(self._seed, rows)
        order = np.argsort(-scores, kind="stable")[:k]
        rows, scores = rows[order], scores[order]
        return cast(tuple[Rows, Scores], self.fault((rows, scores)))


class FakeReranker(Reranker):
    """Scores by ``relevance(seed, ...)``; passages have the given lengths."""

    def __init__(
        self, lengths: npt.NDArray[np.int32], seed: int = 2, fault: Fault = no_fault, batch_tokens: int = 4096
    ) -> None:
        self._lengths = lengths
        self._seed = seed
        self.fault = fault
        self.batch_tokens = batch_tokens
        self.calls: list[Rows] = []

    def lengths(self, query: Any, rows: Rows) -> npt.NDArray[np.int32]:
        found: npt.NDArray[np.int32] = self._lengths[rows]
        return found

    def score(self, batch: Batch) -> Scores:
        self.calls.append(batch.rows)
        return cast(Scores, self.fault(relevance(self._seed, batch.rows)))


class ReadingRetriever(Reads, FakeRetriever):
    def __init__(self, passages: int, reader: str, fault: Fault = no_fault) -> None:
        Reads.__init__(self, reader, fault)
        FakeRetriever.__init__(self, passages)


class ReadingReranker(Reads, FakeReranker):
    def __init__(self, lengths: npt.NDArray[np.int32], reader: str) -> None:
        Reads.__init__(self, reader)
        FakeReranker.__init__(self, lengths)


class FakeListwise(ListwiseReranker):
    """Like ``FakeReranker``, a window at a time."""

    def __init__(self, lengths: npt.NDArray[np.int32], window: int = 10, batch_tokens: int = 2000) -> None:
        self._lengths = lengths
        self.window = window
        self.batch_tokens = batch_tokens
        self.calls: list[Rows] = []

    def lengths(self, query: Any, rows: Rows) -> npt.NDArray[np.int32]:
        found: npt.NDArray[np.int32] = self._lengths[rows]
        return found

    def score_window(self, query: Any, rows: Rows) -> Scores:
        self.calls.append(rows)
        return relevance(3, rows)


class FakeFuser(Fuser):
    """Best reciprocal rank first, ties by row."""

    def __init__(self, fault: Fault = no_fault) -> None:
        self.fault = fault

    def fuse(self, rankings: Sequence[tuple[Rows, Scores]]) -> tuple[Rows, Scores]:
        sums: dict[int, float] = {}
        for rows, _ in rankings:
            for rank, row in enumerate(rows.tolist(), start=1):
                sums[row] = sums.get(row, 0.0) + 1 / rank
        ordered = sorted(sums, key=lambda row: (-sums[row], row))
        scores = np.array([sums[row] for row in ordered], np.float32)
        return cast(tuple[Rows, Scores], self.fault((np.array(ordered, np.int32), scores)))


def _role(opened: Opened) -> Role:
    if isinstance(opened, Retriever):
        return "retriever"
    if isinstance(opened, Fuser):
        return "fuser"
    return "listwise" if isinstance(opened, ListwiseReranker) else "reranker"


def _never_loaded(settings: Any, context: Any) -> Any:
    raise NotImplementedError


def stage(
    name: str,
    opened: Opened,
    top_k: int = 100,
    *,
    budget_s: float = math.inf,
    on_overrun: OnOverrun = "partial",
    on_error: OnError = "degrade",
    retrievers: Sequence[OpenedStage] = (),
    combine: Mapping[str, float] | None = None,
    combined_later: bool = False,
    adaptive: float | None = None,
) -> OpenedStage:
    """An opened stage without a configuration behind it; its cost key is its name."""
    settings = StageSettings(name=name, kind="fake", top_k=top_k)
    role = _role(opened)
    planned = PlannedStage(
        name=name,
        kind=StageKind("fake", role, StageSettings, _never_loaded),
        settings=settings,
        role=role,
        top_k=top_k,
        budget_s=budget_s,
        on_overrun=on_overrun,
        on_error=on_error,
        cost_key=name,
        retrievers=tuple(inner.planned for inner in retrievers),
        combine=combine,
        combined_later=combined_later,
        adaptive=adaptive,
    )
    return OpenedStage(planned, opened, name, tuple(retrievers))


def cascade(*stages: OpenedStage, passages: int = 1000, per_document: int = 1, **plan: Any) -> OpenedCascade:
    """An opened cascade; ``plan`` overrides fields of its ``Plan``."""
    fields: dict[str, Any] = {
        "name": "fake",
        "budget_s": math.inf,
        "slack": "carry",
        "quantile": 0.99,
        "overload": "degrade",
        "max_waiting": 1000,
        "passages": PassageSettings(),
        "stages": tuple(stage.planned for stage in stages),
        **plan,
    }
    return OpenedCascade(Plan(**fields), FakeCollection(passages, per_document), stages)


def model(rates: Mapping[str, Rates], spread: float = 1.0, quantile: float = 0.99) -> CostModel:
    """A cost model fitted to exactly these rates."""
    costs = {key: Cost(rate, spread, 100, typical_s=rate.seconds(Work(pairs=1000.0))) for key, rate in rates.items()}
    return CostModel(CostProfile(quantile, machine(), costs))


def costs_of(opened: OpenedCascade, rates: Rates = PER_TOKEN, **own: Rates) -> dict[str, Rates]:
    """Rates of every stage's actions: ``rates`` for scoring, little for the rest; ``own`` by stage name."""
    found: dict[str, Rates] = {}
    for outer in opened.stages:
        for inner in (*outer.retrievers, outer):
            found[inner.key("encode")] = Rates(fixed_s=0.0002)
            found[inner.key("encode_read")] = Rates(fixed_s=0.0001)
            found[inner.key("search")] = Rates(fixed_s=0.0001, pair_s=1e-6)
            found[inner.key("fuse")] = Rates(fixed_s=0.0001)
            found[inner.key("score")] = found[inner.key("window")] = own.get(inner.planned.name, rates)
    return found


@dataclass
class Driver:
    """Executes tasks one after the other under a virtual clock that each moves on by ``seconds``."""

    clock: VirtualClock
    costs: CostModel
    health: Health
    seconds: Callable[[Task, Work, float], float]
    before: Callable[[Task, int], None] = lambda task, number: None

    def run(self, query: QueryRun) -> QueryRun:
        task, number = query.start(), 0
        while task is not None:
            self.before(task, number)
            began = self.clock.now()
            values, error = call([task])
            self.clock.advance(self.seconds(task, task.work, began))
            (outcome,) = outcomes([task], values, error, began, self.clock.now(), self.costs, self.health)
            task, number = query.advance(outcome), number + 1
        return query


def answer(
    opened: OpenedCascade,
    budget_s: float = math.inf,
    *,
    real: Mapping[str, Rates] | None = None,
    known: CostModel | None = None,
    factor: float = 1.0,
    health: Health | None = None,
    candidates: Candidates | None = None,
    clock: VirtualClock | None = None,
    query: Query = QUERY,
) -> QueryRun:
    """One query answered under a virtual clock.

    Args:
        opened: the cascade.
        budget_s: seconds it is granted.
        real: what work really takes; ``costs_of(opened)`` by default.
        known: the cost model; knows ``real`` by default.
        factor: how much slower the machine is than ``real`` says.
        health: which stages to leave out.
        candidates: to rerank.
        clock: a new one by default.
        query: the question.
    """
    rates = costs_of(opened) if real is None else real
    costs = model(rates) if known is None else known
    clock = VirtualClock() if clock is None else clock
    health = Healthy() if health is None else health
    run = QueryRun(
        opened,
        query,
        clock=clock,
        deadline=Deadline.after(clock, budget_s),
        costs=costs,
        health=health,
        candidates=candidates,
    )
    driver = Driver(clock, costs, health, lambda task, work, now: rates[task.cost_key].seconds(work) * factor)
    return driver.run(run)


def stage_trace(name: str, seconds: float, **changes: Any) -> StageTrace:
    """What a stage did that scored 8 of its 10 candidates in so many seconds."""
    fields: dict[str, Any] = {
        "name": name,
        "kind": "fake",
        "received": 10,
        "planned": 9,
        "scored": 8,
        "passed": 5,
        "batches": 2,
        "predicted_s": math.nan,
        "waited_s": 0.0,
        "seconds": seconds,
        "budget_s": math.inf,
        "slack_s": math.inf,
        "reason": "complete",
        **changes,
    }
    return StageTrace(**fields)
