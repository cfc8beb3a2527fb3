"""Recorded stages: what an engine sees of a recording when it runs a plan over it.

They keep to the contract of ``cascade.stage`` and look up what the real ones said. What their tasks took is left in a
``Meter``, for whoever moves the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.cost import CostModel
from cascade.errors import InputError
from cascade.planner import Plan, PlannedStage
from cascade.schema import CascadeConfig
from cascade.stage import Batch, Context, Fuser, ListwiseReranker, Opened, Reranker, Retriever, Tokenizer, Tokens, Work
from cascade.tasks import OpenedCascade, OpenedStage, Task
from cascade.tuner.recording import Recording, UnitData
from cascade.types import NO_METADATA, Query, Rows, Scores

Timing: TypeAlias = Literal["recorded", "typical"]
"""recorded: what was measured on this query. typical: what the cost model expects without noise."""


class Meter:
    """What the last call of a recorded stage took: seconds, or a multiple of what is typical for its work."""

    __slots__ = ("ratio", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.ratio = 1.0


@dataclass(slots=True)
class ReadOnce:
    """A query as recorded readers read it: whether a stage has encoded it since."""

    encoded: bool = False


class _Encoding:
    """The recorded query-side work of a stage: its seconds are those of the whole for the stage that reads first."""

    def __init__(self, recording: Recording, data: UnitData, meter: Meter) -> None:
        self.query_reader = data.unit.reader
        self._numbers = recording.numbers
        self._data = data
        self._meter = meter

    def read_query(self, query: Query) -> ReadOnce:
        """Nothing has been encoded yet."""
        return ReadOnce()

    def encode_query(self, query: Query) -> Any:
        """The query as the stage looks it up."""
        return self.encode_read(query, ReadOnce())

    def encode_read(self, query: Query, reading: ReadOnce) -> Any:
        """The query as the stage looks it up."""
        number = self._numbers[query.query_id]
        self._meter.seconds = float(self._data.encode_s["encode_read" if reading.encoded else "encode"][number])
        reading.encoded = True
        return self._asked(number)

    def _asked(self, number: int) -> Any:
        return number


@dataclass(slots=True)
class Asked:
    """A query as recorded stages encode it: its number, and how many calls of this stage it has had."""

    number: int
    calls: int = 0

    def next_ratio(self, ratios: Sequence[Sequence[float]] | None) -> float:
        """The ratio of the next recorded task of this query; 1 where none were recorded."""
        if ratios is None or not ratios[self.number]:
            return 1.0
        own = ratios[self.number]
        ratio = own[self.calls % len(own)]
        self.calls += 1
        return ratio


class RecordedCollection:
    """The recorded index as far as rankings need it: which document a row belongs to. It has no texts."""

    def __init__(self, recording: Recording) -> None:
        self._length = recording.header.index.passages
        self.one_passage_each = recording.header.index.one_passage_each
        self._doc_ids = recording.doc_ids
        self._rows, first = np.unique(recording.rows.values, return_index=True)
        self._documents = recording.documents.values[first].astype(np.int32)

    def __len__(self) -> int:
        return self._length

    def doc_rows(self, rows: Sequence[int] | Rows) -> Rows:
        """int32 [n]: a number for the document of each row."""
        return self._documents[np.searchsorted(self._rows, np.asarray(rows, np.int32))]

    def doc_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The ``doc_id`` of each row's document."""
        return [self._doc_ids[number] for number in self.doc_rows(rows).tolist()]

    def rows_of(self, doc_id: str) -> Rows:
        """int32 [n]: the candidates that are passages of a document."""
        return self._rows[[self._doc_ids[number] == doc_id for number in self._documents.tolist()]]

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Empty texts."""
        return [""] * len(rows)

    def metadata(self, row: int) -> Mapping[str, Any]:
        """Nothing."""
        return NO_METADATA

    def titles(self, rows: Sequence[int] | Rows) -> list[str]:
        """Empty ones."""
        return [""] * len(rows)

    passage_texts = titles

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        """Raises: a recording has token counts, not tokens."""
        raise NotImplementedError("a recording has no token ids")

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Raises: a recording has no texts."""
        raise NotImplementedError("a recording has no texts")


class RecordedRetriever(_Encoding, Retriever):
    """Finds what the recorded retriever found."""

    def __init__(self, recording: Recording, data: UnitData, meter: Meter) -> None:
        super().__init__(recording, data, meter)
        self._ranges = data.unit.ranges
        self._whole = (min(start for start, _ in self._ranges), max(stop for _, stop in self._ranges))

    def ranges(self) -> Sequence[tuple[int, int]]:
        """As recorded."""
        return self._ranges

    def search(self, query: int, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The best ``k`` of the recorded rows of the range."""
        rows, scores = self._data.rows[query], self._data.scores[query]
        if (start, stop) != self._whole:
            inside = (rows >= start) & (rows < stop)
            rows, scores = rows[inside], scores[inside]
        self._meter.seconds = float(self._task(query, start)[3])
        return rows[:k], scores[:k]

    def work(self, query: int, start: int, stop: int) -> Work:
        """As recorded."""
        return Work(*self._task(query, start)[:3].tolist())

    def _task(self, query: int, start: int) -> npt.NDArray[np.float64]:
        position = next(i for i, (first, _) in enumerate(self._ranges) if first == start)
        task: npt.NDArray[np.float64] = self._data.tasks[query][position]
        return task


class _Pairs(_Encoding):
    """Recorded scores and lengths of pairs."""

    def __init__(
        self, recording: Recording, data: UnitData, meter: Meter, ratios: Sequence[Sequence[float]] | None
    ) -> None:
        super().__init__(recording, data, meter)
        self.batch_tokens = data.unit.batch_tokens
        self.window = data.unit.window
        self._recording = recording
        self._ratios = ratios

    def _asked(self, number: int) -> Asked:
        return Asked(number)

    def lengths(self, query: Asked, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: as recorded."""
        lengths: npt.NDArray[np.int32] = self._data.lengths[query.number][self._positions(query, rows)]
        return lengths

    def look_up(self, query: Asked, rows: Rows) -> Scores:
        """float32 [n]: recorded scores."""
        self._meter.ratio = query.next_ratio(self._ratios)
        scores: Scores = self._data.scores[query.number][self._positions(query, rows)]
        return scores

    def _positions(self, query: Asked, rows: Rows) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._recording.rows[query.number], rows)


class RecordedReranker(_Pairs, Reranker):
    """Scores as the recorded reranker did."""

    def score(self, batch: Batch) -> Scores:
        """float32 [n]: recorded scores; the first query's next ratio tells what the call takes."""
        if len(batch.queries) == 1:
            return self.look_up(batch.queries[0], batch.rows)
        scores = np.empty(len(batch), np.float32)
        for number in reversed(range(len(batch.queries))):
            own = batch.query_of == number
            scores[own] = self.look_up(batch.queries[number], batch.rows[own])
        return scores


class RecordedListwise(_Pairs, ListwiseReranker):
    """Gives each passage the score that it had in the recorded window, whatever window it is in now."""

    def score_window(self, query: Asked, rows: Rows) -> Scores:
        """float32 [n]: recorded scores."""
        return self.look_up(query, rows)


class RecordedSeconds:
    """What a task of recorded stages takes, for the simulator.

    Args:
        recording: of the stages.
        meter: what the last call took.
        timing: what counts.
        pace: how many times as long as when it was recorded everything takes.
    """

    def __init__(self, recording: Recording, meter: Meter, timing: Timing, pace: float = 1.0) -> None:
        self._rates = recording.rates
        self._handling_s = recording.handling_s
        self._meter = meter
        self._recorded = timing == "recorded"
        self._pace = pace

    def __call__(self, task: Task, work: Work, now: float) -> float:
        """Seconds of the task that was called last, with what the engine takes for it."""
        return self._pace * self._as_recorded(task, work)

    def _as_recorded(self, task: Task, work: Work) -> float:
        if self._recorded and task.action in ("encode", "encode_read", "search"):
            return self._meter.seconds + self._handling_s
        rates = self._rates.get(task.cost_key)
        if rates is None:  # of a fuser that was not recorded
            return self._handling_s
        ratio = self._meter.ratio if self._recorded and task.action != "fuse" else 1.0
        return rates.seconds(work) * ratio + self._handling_s


class SteadyCosts(CostModel):
    """A cost model of a machine that stays as it was when it was measured: it learns nothing more.

    So what one query costs does not depend on those before it, and queries can be replayed in any order.
    """

    @classmethod
    def of(cls, recording: Recording, quantile: float) -> SteadyCosts:
        """What an engine believes once it has followed tasks like the recorded ones."""
        costs = cls(recording.profile(quantile))
        costs.settle(recording.samples())
        return costs

    def observe(self, key: str, work: Work, seconds: float) -> None:
        """Learns nothing."""

    def relax(self, key: str) -> None:
        """Learns nothing."""


class LearningCosts(CostModel):
    """A cost model that follows the tasks of a simulation as a live engine's follows real ones.

    A simulated task takes what the engine adds to it, too, which a live engine does not count as the task's.
    """

    def __init__(self, recording: Recording, quantile: float) -> None:
        super().__init__(recording.profile(quantile))
        self._handling_s = recording.handling_s

    def observe(self, key: str, work: Work, seconds: float) -> None:
        """Learns from a finished task."""
        super().observe(key, work, seconds - self._handling_s)


def open_recorded(
    recording: Recording, plan: Plan, config: CascadeConfig, meter: Meter, collection: RecordedCollection
) -> OpenedCascade:
    """A plan over recorded stages. A fuser is the real one, since it costs nothing to load.

    Raises:
        InputError: a stage was not recorded, or not deeply enough, or documents were split in another way.
    """
    recorded = recording.header.settings["passages"]
    for name in ("max_tokens", "overlap_tokens"):
        if recorded[name] != getattr(plan.passages, name):
            raise InputError(
                f"{config.source}: passages.{name}: expected {recorded[name]}, as recorded, "
                f"got {getattr(plan.passages, name)}; change it, or record such an index"
            )
    if plan.passages.per_document > recorded["per_document"] and not collection.one_passage_each:
        raise InputError(
            f"{config.source}: passages.per_document: expected at most {recorded['per_document']}, as recorded, "
            f"got {plan.passages.per_document}; lower it, or record again"
        )

    def opened(planned: PlannedStage) -> OpenedStage:
        inner = tuple(opened(retriever) for retriever in planned.retrievers)
        stage = _open(recording, planned, config, meter, collection)
        return OpenedStage(planned, stage, _cost_key(recording, planned), inner)

    return OpenedCascade(plan, collection, tuple(opened(stage) for stage in plan.stages))


def _open(
    recording: Recording, planned: PlannedStage, config: CascadeConfig, meter: Meter, collection: RecordedCollection
) -> Opened:
    if planned.role == "fuser":
        fuser = planned.kind.load(planned.settings, Context(config.folder)).open(collection, None)
        assert isinstance(fuser, Fuser)
        return fuser
    data = find_unit(recording, planned, config.source)
    if data.unit.role == "retriever":
        if planned.top_k > recording.header.depth:
            raise InputError(
                f"{config.source}: stage {planned.name!r}: top_k: expected at most {recording.header.depth} documents, "
                f"the recorded depth, got {planned.top_k}; lower it, or record with a larger --depth"
            )
        return RecordedRetriever(recording, data, meter)
    ratios = recording.ratios.get(f"{data.unit.cost_key}/{'window' if data.unit.window else 'score'}")
    kind = RecordedListwise if data.unit.role == "listwise" else RecordedReranker
    return kind(recording, data, meter, ratios)


def find_unit(recording: Recording, planned: PlannedStage, source: str) -> UnitData:
    """The recorded stage whose own settings are those of ``planned``, whatever either is called.

    Raises:
        InputError: there is none.
    """
    for data in recording.units.values():
        if data.unit.cost_key == planned.cost_key:
            return data
    known = ", ".join(f"{data.unit.name} ({data.unit.kind})" for data in recording.units.values())
    raise InputError(
        f"{source}: stage {planned.name!r} ({planned.kind.kind}): no recorded stage has its settings; "
        f"recorded are {known}; take the settings of one of them, or record this stage, too"
    )


def _cost_key(recording: Recording, planned: PlannedStage) -> str:
    """The key of recorded costs: a fuser of any settings costs what the recorded one of its kind does."""
    if planned.role != "fuser":
        return planned.cost_key
    kinds = (data.unit for data in recording.units.values() if data.unit.kind == planned.kind.kind)
    return next((unit.cost_key for unit in kinds), planned.cost_key)
