"""Replay: any cascade over recorded stages, without a forward pass.

The reference is the engine itself: real ``QueryRun``s in the engine's queue, under a virtual clock, over recorded
stages (``Replayer.by_engine``). A client that asks one query at a time is replayed by ``swift``, which is equal and
several times faster, as far as that knows the cascade's features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.cost import CostModel
from cascade.errors import InputError
from cascade.load import load_config
from cascade.opening import with_budget
from cascade.planner import Plan, plan
from cascade.ranking import best_passages, hits
from cascade.registry import Registry
from cascade.schema import CascadeConfig
from cascade.simulator import Arrival, Record, Simulator, poisson
from cascade.tasks import OpenedCascade
from cascade.tuner.evaluated import Evaluation
from cascade.tuner.finding import Shared, Unknown
from cascade.tuner.quality import Answers, Judgments, measure
from cascade.tuner.recording import Recording, UnitData
from cascade.tuner.stages import (
    LearningCosts,
    Meter,
    RecordedCollection,
    RecordedSeconds,
    SteadyCosts,
    Timing,
    find_unit,
    open_recorded,
)
from cascade.tuner.swift import State, Swift
from cascade.types import Candidates, Qrel, Rows

Config: TypeAlias = CascadeConfig | str | Path

LEAST_ARRIVALS = 300
"""Queries under load, at least; fewer recorded ones come again."""


@dataclass(frozen=True, slots=True)
class Load:
    """Queries that come by themselves, not one after the other.

    Args:
        rate: of queries a second on average, at random times (a Poisson process).
        servers: tasks executed at the same time.
        seed: of the times.
    """

    rate: float
    servers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate: expected queries a second above 0, got {self.rate!r}")


class Turn(NamedTuple):
    """A query among those that a client asks one after the other.

    Args:
        query: its number in the recording.
        limited: whether it is asked under the cascade's budget, or without any.
    """

    query: int
    limited: bool = True


@dataclass(slots=True)
class _Answer:
    """One answer on its way into arrays."""

    query: int
    rows: Rows
    seconds: float
    degraded: bool
    refused: bool
    scored: list[int]
    spent: list[float]


class Replayer:
    """Replays configurations over a recording and measures them.

    Args:
        recording: of the stages.
        judgments: of the queries; without, only times are measured.
        measures: names of measures, as in ``nDCG@10``.
        timing: what tasks take.
        registry: the kinds of stage that configurations may use; the installed ones by default.
    """

    def __init__(
        self,
        recording: Recording,
        judgments: Judgments | None = None,
        measures: Sequence[str] = ("nDCG@10",),
        *,
        timing: Timing = "recorded",
        registry: Registry | None = None,
    ) -> None:
        self.recording = recording
        self.judgments = judgments
        self.measures = tuple(measures)
        self._timing: Timing = timing
        self._registry = registry
        self._meter = Meter()
        self._collection = RecordedCollection(recording)
        self._shared = Shared(recording, timing == "recorded")
        self._costs: dict[float, SteadyCosts] = {}

    def run(self, config: Config, load: Load | None = None) -> Evaluation:
        """Replays a configuration on every recorded query.

        Args:
            config: of the cascade, or its file.
            load: how queries come; by default one after the other, each alone with its time.

        Raises:
            ConfigError: the file is wrong.
            InputError: a stage was not recorded, or not deeply enough.
        """
        config, planned, cascade = self._open(config)
        if load is not None:
            return self._evaluate(config, planned, self._under_load(planned, cascade, load))
        return self._evaluate(config, planned, self._one_by_one(config, planned, cascade))

    def answered(self, load: Load | None = None) -> npt.NDArray[np.int64]:
        """int64 [n]: the number of the query that each answer of an evaluation is to."""
        count = len(self.recording) if load is None else max(len(self.recording), LEAST_ARRIVALS)
        return np.arange(count, dtype=np.int64) % len(self.recording)

    def by_engine(self, config: Config) -> Evaluation:
        """``run`` without any shortcut: the engine's own machinery for every query."""
        config, planned, cascade = self._open(config)
        answers = [self._by_engine(planned, cascade, query) for query in range(len(self.recording))]
        return self._evaluate(config, planned, answers)

    def served(self, config: Config, turns: Sequence[Turn], pace: float = 1.0) -> Evaluation:
        """``run`` for one client, with costs that are learnt on the way, as a live engine learns them.

        ``run`` answers every query with the same beliefs, those of an engine that has seen all recorded tasks, so that
        queries can be replayed in any order and shared between cascades, each alone with its time. A live engine
        follows the tasks that its cascade has, and may come to believe that more fits; and where the deadline comes in
        the middle of a task, the next query waits for its end. This is slower and nearer to it.

        Args:
            config: of the cascade, or its file.
            turns: what the client asks, one after the other.
            pace: how many times as long as when it was recorded everything takes.
        """
        config, planned, cascade = self._open(config)
        costs, unlimited = LearningCosts(self.recording, planned.quantile), with_budget(cascade, math.inf)
        answers, busy_s = [], 0.0
        for turn in turns:
            asked = cascade if turn.limited else unlimited
            simulator = self._simulator(asked, costs, pace=pace)
            if busy_s > 0:
                simulator.occupy(busy_s)
            record = self._one(simulator, asked, turn.query)
            busy_s = simulator.busy_until - record.answered_s
            answers.append(self._from_record(record, planned))
        return self._evaluate(config, planned, answers)

    def unlimited_s(self, config: Config, queries: Sequence[int]) -> npt.NDArray[np.float64]:
        """float64 [n]: seconds of an answer to recorded queries, by number, without any budget."""
        _, planned, cascade = self._open(config)
        unlimited = with_budget(cascade, math.inf)
        return np.array([self._by_engine(planned, unlimited, query).seconds for query in queries])

    def rankings(self, config: Config, *, by_engine: bool = False) -> dict[str, list[str]]:
        """For each query the doc_ids of its answer, best first."""
        config, planned, cascade = self._open(config)
        if by_engine:
            answers = [self._by_engine(planned, cascade, query) for query in range(len(self.recording))]
        else:
            answers = self._one_by_one(config, planned, cascade)
        return self._rankings(answers)

    def ranked(self, config: Config) -> tuple[Evaluation, dict[str, list[str]]]:
        """What ``run`` and ``rankings`` give, of one replay."""
        config, planned, cascade = self._open(config)
        answers = self._one_by_one(config, planned, cascade)
        return self._evaluate(config, planned, answers), self._rankings(answers)

    def _rankings(self, answers: Sequence[_Answer]) -> dict[str, list[str]]:
        return {self.recording.queries[a.query].query_id: self._collection.doc_ids(a.rows) for a in answers}

    def _one_by_one(self, config: CascadeConfig, planned: Plan, cascade: OpenedCascade) -> list[_Answer]:
        """The answers to a client that waits for each before it asks the next."""
        queries = range(len(self.recording))
        try:
            units = _units(self.recording, planned, config.source)
            swift = Swift(cascade, self._steady(planned.quantile), self._shared, units)
        except Unknown:
            return [self._by_engine(planned, cascade, query) for query in queries]
        answers = []
        for query in queries:
            try:
                answers.append(self._from_state(swift.run(query), query, planned))
            except Unknown:
                answers.append(self._by_engine(planned, cascade, query))
        return answers

    def _open(self, config: Config) -> tuple[CascadeConfig, Plan, OpenedCascade]:
        checked = config if isinstance(config, CascadeConfig) else load_config(config, self._registry)
        planned = plan(checked)
        return checked, planned, open_recorded(self.recording, planned, checked, self._meter, self._collection)

    def _steady(self, quantile: float) -> SteadyCosts:
        if quantile not in self._costs:
            self._costs[quantile] = SteadyCosts.of(self.recording, quantile)
        return self._costs[quantile]

    def _simulator(self, cascade: OpenedCascade, costs: CostModel, servers: int = 1, pace: float = 1.0) -> Simulator:
        seconds = RecordedSeconds(self.recording, self._meter, self._timing, pace)
        return Simulator(cascade, costs, seconds, servers=servers, finish_s=self.recording.finish_s)

    def _by_engine(self, planned: Plan, cascade: OpenedCascade, query: int) -> _Answer:
        simulator = self._simulator(cascade, self._steady(planned.quantile))
        return self._from_record(self._one(simulator, cascade, query), planned)

    def _one(self, simulator: Simulator, cascade: OpenedCascade, query: int) -> Record:
        arrival = Arrival(0.0, self.recording.queries[query], cascade.plan.budget_s)
        (record,) = simulator.run([arrival])
        return record

    def _under_load(self, planned: Plan, cascade: OpenedCascade, load: Load) -> list[_Answer]:
        costs = LearningCosts(self.recording, planned.quantile)
        simulator = self._simulator(cascade, costs, load.servers)
        count = len(self.answered(load))
        rng = np.random.default_rng(load.seed)
        arrivals = poisson(self.recording.queries, load.rate, planned.budget_s, rng, count)
        records = sorted(simulator.run(arrivals), key=lambda record: record.arrival.at_s)
        return [self._from_record(record, planned) for record in records]

    def _from_record(self, record: Record, planned: Plan) -> _Answer:
        query = self.recording.numbers[record.arrival.query.query_id]
        nothing = [0] * len(planned.stages)
        if record.refused:
            return _Answer(query, np.empty(0, np.int32), math.inf, True, True, nothing, [0.0] * len(planned.stages))
        trace = record.run.trace
        failed = record.run.overran
        best = best_passages(record.order, self._collection, planned.stages[-1].top_k)
        rows = best.rows[:0] if failed else self._probable(best, planned)
        scored = [part.scored for part in trace.stages] + nothing[len(trace.stages) :]
        spent = [part.seconds for part in trace.stages] + [0.0] * len(nothing[len(trace.stages) :])
        seconds = record.answered_s - record.arrival.at_s
        return _Answer(query, rows, seconds, trace.degraded, failed, scored, spent)

    def _from_state(self, state: State, query: int, planned: Plan) -> _Answer:
        found, top_k = state.candidates, planned.stages[-1].top_k
        best = found[self._shared.documents[query].first(found.rows, top_k)]
        rows = self._probable(Candidates(self.recording.rows[query][best.rows], best.scores, best.stages), planned)
        return _Answer(query, rows, state.now, state.degraded, False, state.scored, state.spent)

    def _probable(self, best: Candidates, planned: Plan) -> Rows:
        """The rows of an answer, without those whose stage says ``min_probability`` and holds them less probable."""
        settings = [stage.settings for stage in planned.stages]
        if all(stage.min_probability is None for stage in settings):
            return best.rows
        kept = {hit.doc_id for hit in hits(best, self._collection, settings)}
        rows: Rows = best.rows[[doc_id in kept for doc_id in self._collection.doc_ids(best.rows)]]
        return rows

    def _evaluate(self, config: CascadeConfig, planned: Plan, answers: Sequence[_Answer]) -> Evaluation:
        query = np.array([answer.query for answer in answers], np.int64)
        refused = np.array([answer.refused for answer in answers], np.bool_)
        measures: dict[str, npt.NDArray[np.float64]] = {}
        if self.judgments is not None:
            given = Answers(query, [answer.rows for answer in answers])
            measures = measure(self.measures, given, self.judgments, self.recording)
        names = [stage.name for stage in planned.stages]
        scored = np.array([answer.scored for answer in answers], np.int64).reshape(len(answers), len(names))
        spent = np.array([answer.spent for answer in answers], np.float64).reshape(len(answers), len(names))
        return Evaluation(
            config=config,
            query=query,
            query_ids=[query.query_id for query in self.recording.queries],
            measures=measures,
            seconds=np.array([answer.seconds for answer in answers]),
            degraded=np.array([answer.degraded for answer in answers], np.bool_),
            refused=refused,
            scored={name: scored[:, i] for i, name in enumerate(names)},
            stage_seconds={name: spent[:, i] for i, name in enumerate(names)},
        )


def _units(recording: Recording, planned: Plan, source: str) -> dict[str, UnitData]:
    return {unit.name: find_unit(recording, unit, source) for unit in planned.units() if unit.role != "fuser"}


def replay(
    recording: Recording,
    config: Config,
    qrels: Sequence[Qrel] = (),
    measures: Sequence[str] = ("nDCG@10",),
    *,
    load: Load | None = None,
    partial: bool = False,
) -> Evaluation:
    """Replays one configuration; for many over one recording, keep a ``Replayer``.

    Args:
        recording: of its stages.
        config: of the cascade, or its file.
        qrels: judgments of recorded queries; without, only times are measured.
        measures: names of measures.
        load: how queries come; one after the other by default.
        partial: leave out judgments of queries that were not recorded.

    Raises:
        As ``Replayer.run``, and InputError when the judgments are of other queries.
    """
    judgments = Judgments.of(qrels, recording, partial=partial) if qrels else None
    return Replayer(recording, judgments, measures).run(config, load)
