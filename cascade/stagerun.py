"""One stage's part in one query: its time, its progress, and why it ended.

``retrieval.py`` and ``reranking.py`` work through a stage as generators of tasks. They take decisions from
``scheduler.py``, note what happened in a ``StageRun``, and leave the execution to whoever drives them. Whatever a stage
has to say is asked for inside a task, because a stage may hang. Instead of an outcome the driver may send None: the
task has waited until it could no longer end in time, was not started, and the stage is to decide anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade import scheduler
from cascade.clock import Clock
from cascade.cost import CostModel
from cascade.stage import Batch, Encoded, QuerySide, Reading, Work
from cascade.tasks import Action, Health, OpenedStage, Outcome, Task
from cascade.trace import Reason, StageTrace
from cascade.types import Candidates, Query, Rows, Scores

Steps: TypeAlias = Generator[Task, Outcome | None, None]

ENCODING = Work(1.0)
"""The query-side work of a stage, whatever it is."""


@dataclass(slots=True, eq=False)
class StageRun:
    """What is known of a stage's part in a query so far; may be read between any two tasks.

    Args:
        stage: the stage.
        received: the candidates it was given, best first.
        total: how many it could score; for a retriever, rows in the collection.
        began: when it began.
        deadline: when it has to end; inf for never. Its own budget is not charged for the time that it waits, so this
            moves on then.
        latest: when it has to end however long it waits.
        clock: time.
        costs: predicts what work takes.
        health: told how the stage does.
        yield_at: until when it may rerank before other queries have their turn; inf where that is not before its end.
        first: whether there is no answer before it has found something.
        kept_s: seconds after ``deadline`` that are kept for other retrievers.
        readings: of the query so far, by reader; added to.
        short: whether it ran out of time.
        encoding: the action that is its query-side work.
        scoring: the action that does its main work.
        key: what the cost of that is filed under.
    """

    stage: OpenedStage
    received: Candidates
    total: int
    began: float
    deadline: float
    latest: float
    clock: Clock
    costs: CostModel
    health: Health
    yield_at: float = math.inf
    first: bool = False
    kept_s: float = 0.0
    readings: dict[str, Reading] = field(default_factory=dict)
    planned: int = 0
    scored: int = 0
    batches: int = 0
    quarantined: int = 0
    short: bool = False
    predicted_s: float = math.nan
    saved_s: float = 0.0
    waited_s: float = 0.0
    reason: Reason = "complete"
    detail: str = ""
    combined: tuple[str, ...] = ()
    encoding: Action = field(init=False)
    scoring: Action = field(init=False)
    key: str = field(init=False)
    scores: Scores = field(init=False)
    known: npt.NDArray[np.bool_] = field(init=False)
    found: list[tuple[Rows, Scores]] = field(default_factory=list)
    retrievers: list[StageTrace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encoding = self.stage.encoding(self.readings)
        self.scoring = self.stage.scoring
        self.key = self.stage.key(self.scoring)
        self.scores = np.zeros(len(self.received), np.float32)
        self.known = np.zeros(len(self.received), np.bool_)

    @property
    def opens(self) -> bool:
        """Whether its next task is one without which there is no answer.

        Such a task is worth whatever time there is, and started if it ends in time on average: the caller does not wait
        for it beyond the deadline, and an answer that misses nothing but this is empty.
        """
        return self.first and self.batches == 0

    @property
    def end_at(self) -> float:
        """When it has to end, as things stand."""
        if self.opens:
            return min(self.deadline + self.kept_s, self.latest)
        if self.yield_at < self.deadline and self.stage.reranks:
            return self.yield_at
        return self.deadline

    @property
    def left_s(self) -> float:
        """Seconds until then."""
        return self.end_at - self.clock.now()

    @property
    def own(self) -> tuple[Rows, Scores]:
        """The candidates that a reranker has scored, int32 [m], and its scores, float32 [m]."""
        return self.received.rows[self.known], self.scores[self.known]

    def wait(self, seconds: float) -> None:
        """Notes time in the queue."""
        self.waited_s += seconds
        self.deadline = min(self.deadline + seconds, self.latest)

    def end(self, reason: Reason, detail: str = "") -> None:
        """Notes why it ended."""
        self.reason, self.detail = reason, detail

    def saturate(self, saved_s: float) -> None:
        """Notes that what is left would change nothing, and the seconds that it was predicted to take."""
        self.saved_s = saved_s
        self.end("saturated")

    def out_of_time(self, detail: str) -> None:
        """Notes that its time ended, or never sufficed for anything."""
        if self.end_at < self.deadline:
            detail += "; other queries were waiting"
        self.short = True
        nothing = self.batches == 0 and self.stage.planned.on_overrun != "fail"
        self.end("skipped" if nothing else "budget", detail)
        if self.batches == 0 and self.left_s > 0:
            self.costs.relax(self.stage.key(self.encoding))
            self.costs.relax(self.key)

    def fail(self, error: BaseException) -> None:
        """Notes that it failed; no score of a reranker counts then, but what a retriever has found is worth having."""
        message = str(error)
        self.end("failed", f"{type(error).__name__}: {message}" if message else type(error).__name__)
        self.known[:] = False

    def reject(self, error: BaseException) -> None:
        """Notes that it failed by what it returned, which only shows here."""
        self.health.failed(self.stage.planned.name, repr(error))
        self.fail(error)

    def keeps(self, total: int, finite: int) -> None:
        """Notes scores that came, and how many of them are of use."""
        self.quarantined += total - finite
        if finite > 0 or total == 0:
            self.health.succeeded(self.stage.planned.name)
        else:
            self.health.failed(self.stage.planned.name, f"none of {total} scores was finite")

    def task(self, action: Action, call: Callable[[], Any], work: Work, batch: Batch | None = None) -> Task:
        """A task of this stage."""
        key = self.key if action == self.scoring else self.stage.key(action)
        predicted_s = self.costs.likely_s(key, work) if self.opens else self.costs.rates(key).seconds(work)
        return Task(self.stage, action, key, call, work, predicted_s, self.latest, batch)

    def tried(self, task: Task) -> Generator[Task, Outcome | None, Outcome | None]:
        """Has its first task executed, which is a trial where the stage was left out before."""
        name = self.stage.planned.name
        self.health.tries(name)
        outcome = yield task
        if outcome is None:
            self.health.untried(name)
        return outcome

    def may_start(self, task: Task, then_s: float = 0.0) -> bool:
        """Whether the task would end in time, and leave as many seconds as are to follow."""
        end = self.end_at
        return end == math.inf or scheduler.may_start(self.clock.now(), task.predicted_s + then_s, end)

    @property
    def least_s(self) -> float:
        """Seconds of the least that has to follow the query-side work for that to be of any use."""
        if self.stage.reranks:
            return scheduler.typical_seconds(self.costs.rates(self.key))
        return self.costs.typical_s(self.key)

    def trace(self, now: float, passed: int) -> StageTrace:
        """Its part of the trace.

        Args:
            now: when it ended.
            passed: candidates handed on.
        """
        seconds, budget_s = now - self.began, max(0.0, self.deadline - self.began)
        return StageTrace(
            name=self.stage.planned.name,
            kind=self.stage.planned.kind.kind,
            received=self.total,
            planned=self.planned,
            scored=self.scored,
            passed=passed,
            batches=self.batches,
            predicted_s=self.predicted_s,
            waited_s=self.waited_s,
            seconds=seconds,
            budget_s=budget_s,
            slack_s=max(0.0, budget_s - seconds),
            reason=self.reason,
            saved_s=self.saved_s,
            detail=self.detail,
            quarantined=self.quarantined,
            combined=self.combined,
            retrievers=tuple(self.retrievers),
        )


def encode(run: StageRun, call: Callable[[], Any]) -> Generator[Task, Outcome | None, Outcome | None]:
    """The query-side work of a stage; None after noting why it could not be done."""
    task = run.task(run.encoding, call, ENCODING)
    outcome = None
    if run.may_start(task, run.least_s):
        outcome = yield from run.tried(task)
    if outcome is None:
        run.out_of_time("no time to encode the query")
        return None
    if outcome.error is not None:
        run.fail(outcome.error)
        return None
    if run.costs.knows(run.key):
        run.predicted_s = task.predicted_s
    return outcome


def own_form(run: StageRun, query: Query) -> Encoded:
    """The query as the stage encodes it; what reads it for several stages does so for the first of them only.

    A reading that the first cannot encode is not kept: the next had better read for itself.
    """
    opened, reader = run.stage.opened, run.stage.reader
    assert isinstance(opened, QuerySide)
    if not reader:
        return opened.encode_query(query)
    if run.encoding == "encode_read":
        return opened.encode_read(query, run.readings[reader])
    reading = opened.read_query(query)
    encoded = opened.encode_read(query, reading)
    run.readings[reader] = reading
    return encoded


_FLOAT32 = np.dtype(np.float32)


def floats(value: Any) -> Scores:
    """float32; what is too large for it becomes infinite."""
    scores = np.asarray(value)
    if scores.dtype is not _FLOAT32:
        with np.errstate(over="ignore", invalid="ignore"):
            scores = scores.astype(np.float32)
    return scores
