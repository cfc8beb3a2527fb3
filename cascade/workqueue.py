"""The queue in front of the workers: earliest deadline first, batches of several queries merged, fair when full.

Pure bookkeeping: no threads, no locks, no clock, so that the executor and the simulator share every decision.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import logging
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from cascade import scheduler
from cascade.cost import CostModel
from cascade.engine import QueryRun
from cascade.errors import Overloaded
from cascade.stage import Batch, Encoded, Reranker, Work
from cascade.tasks import Health, Outcome, Task

logger = logging.getLogger(__name__)

T = TypeVar("T")

ALIKE = 1.25
"""Batches are merged whose longest pairs differ in length by at most this factor, for all are padded to the longest."""
CROWD = 64
"""Queries, most urgent first, that a fair share is worked out among."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """An unanswered query.

    Args:
        run: the query; its pending task is what it waits for.
        deadline: when it is due; inf for never.
        number: in order of arrival.
        token: whatever the driver keeps with it.
        busy_until: when the task that it is in is predicted to end; in the past when it waits.
        queued: whether it stands in a lane and is not answered yet.
    """

    run: QueryRun
    deadline: float
    number: int
    token: T
    busy_until: float = -math.inf
    queued: bool = False


_Item: TypeAlias = tuple[tuple[int, int], float, int, Waiting[T]]
"""Level, deadline, number: what a queue is ordered by."""


class WorkQueue(Generic[T]):
    """Queries between two tasks, those with work for the same model in one lane.

    Earlier stages go first, and of one stage the earliest deadline: everybody has an answer before anybody has a better
    one, so that too much work costs depth in the last stages first.

    Args:
        costs: predicts what merged batches take.
        servers: workers that share the work.
    """

    def __init__(self, costs: CostModel, servers: int = 1) -> None:
        self._costs = costs
        self._servers = servers
        self._numbers = itertools.count()
        self._lanes: dict[Hashable, list[_Item[T]]] = {}
        self._live: list[tuple[float, int, Waiting[T]]] = []
        self._dead = 0

    def __len__(self) -> int:
        """Queries that wait for a worker; answered ones that still stand in a lane are not counted."""
        return sum(map(len, self._lanes.values())) - self._dead

    @property
    def unanswered(self) -> int:
        """Queries that wait or are being worked on."""
        return len(self._live)

    def enter(self, run: QueryRun, token: T) -> Waiting[T]:
        """Takes in a new query, not yet started."""
        entry = Waiting(run, run.deadline.at, next(self._numbers), token)
        bisect.insort(self._live, (entry.deadline, entry.number, entry))
        return entry

    def leave(self, entry: Waiting[T]) -> None:
        """Forgets an answered query."""
        position = bisect.bisect_left(self._live, (entry.deadline, entry.number))
        if position < len(self._live) and self._live[position][2] is entry:
            del self._live[position]
        if entry.queued:
            entry.queued = False
            self._dead += 1
            if self._dead > len(self._live):
                self._compact()

    def _compact(self) -> None:
        """Takes the answered queries out of the lanes, so that what they hold is freed."""
        self._dead = 0
        left = {key: [item for item in lane if item[3].queued] for key, lane in self._lanes.items()}
        self._lanes = {key: lane for key, lane in left.items() if lane}
        for lane in self._lanes.values():
            heapq.heapify(lane)

    def push(self, entry: Waiting[T]) -> None:
        """Puts in a query that has a pending task, behind those that are due at the same time.

        Earlier stages come first: everybody has an answer before anybody has a better one. One that has been answered
        in the meantime is left out.
        """
        task = entry.run.pending
        if task is None:
            return
        lane = None if task.batch is None else id(task.stage.opened)
        heapq.heappush(self._lanes.setdefault(lane, []), (entry.run.level, entry.deadline, next(self._numbers), entry))
        entry.busy_until, entry.queued = -math.inf, True

    def take(self, now: float) -> list[Waiting[T]]:
        """The most urgent query, with those whose batches go into one call with its own and leave everybody in time.

        A query whose task would now end too late comes alone, for ``late`` to be seen. Empty when nothing waits.
        """
        while self._lanes:
            key = min(self._lanes, key=self._first)
            entry, task = self._pop(key)
            if task is None:
                continue
            entry.busy_until = now + task.predicted_s
            if late(task, now) or task.batch is None:
                return [entry]
            return [entry, *self._companions(key, task, now)]
        return []

    def _first(self, key: Hashable) -> _Item[T]:
        return self._lanes[key][0]

    def _pop(self, key: Hashable) -> tuple[Waiting[T], Task | None]:
        """The first of a lane, which is forgotten when it is empty, and its task; None if it has been answered."""
        lane = self._lanes[key]
        entry = heapq.heappop(lane)[3]
        if not lane:
            del self._lanes[key]
        if not entry.queued:
            self._dead -= 1
            return entry, None
        entry.queued = False
        if entry.run.pending is None:  # its caller has not taken it out yet
            self.leave(entry)
        return entry, entry.run.pending

    def _companions(self, key: Hashable, task: Task, now: float) -> list[Waiting[T]]:
        reranker = task.stage.opened
        assert isinstance(reranker, Reranker)
        rates = self._costs.rates(task.cost_key)
        longest = shortest = _length(task)
        pairs, earliest = task.work.pairs, task.deadline
        taken: list[Waiting[T]] = []
        while key in self._lanes:
            other = self._first(key)[3]
            next_task = other.run.pending
            if next_task is None:
                self._pop(key)
                continue
            length = _length(next_task)
            longest, shortest = max(longest, length), min(shortest, length)
            pairs, earliest = pairs + next_task.work.pairs, min(earliest, next_task.deadline)
            if longest > shortest * ALIKE or pairs * longest > reranker.batch_tokens:
                break
            if not scheduler.may_start(now, rates.seconds(_padded(pairs, longest)), earliest):
                break
            self._pop(key)
            taken.append(other)
        return taken

    def share_end(self, entry: Waiting[T], now: float) -> float:
        """Until when a query may work before others have their turn; inf when that is no sooner than its deadline."""
        if len(self._live) <= self._servers:
            return math.inf
        position = bisect.bisect_left(self._live, (entry.deadline, entry.number))
        if position >= min(CROWD, len(self._live)):
            return math.inf
        crowd = self._live[:CROWD]
        deadlines, served_s = [item[0] for item in crowd], [item[2].run.served_s for item in crowd]
        end = scheduler.share_end(now, deadlines, served_s, position, self._servers)
        return math.inf if end >= entry.deadline else end

    def demand_s(self, now: float, deadline: float = math.inf) -> float:
        """Seconds until a worker is free for a query with this deadline that is not answered yet, a little cautiously.

        Counts the tasks under way, and what each query due by then still needs for an answer; what would make their
        answers better gives way. The queries err independently of each other, so that their margins add up as
        deviations do: the root of the sum of squares.
        """
        demand_s, squares = 0.0, 0.0
        for due, _, entry in self._live:
            if entry.busy_until > now:
                demand_s += entry.busy_until - now
            elif due <= deadline:
                demand_s += entry.run.remaining_s()
                squares += entry.run.margin_s**2
        return (demand_s + math.sqrt(squares)) / self._servers

    def clear(self) -> list[Waiting[T]]:
        """Takes out every query, whether it waits or not."""
        entries = [entry for _, _, entry in self._live]
        self._live.clear()
        self._lanes.clear()
        self._dead = 0
        return entries


def admit(run: QueryRun, queued_s: float, now: float) -> None:
    """Refuses a query that would not get an answer worth having in time.

    Args:
        run: not yet started.
        queued_s: expected seconds until it would have its turn.
        now: the time.

    Raises:
        Overloaded: with the seconds after which a new try is predicted to fit.
    """
    needed_s, left_s = run.minimum_s, run.deadline.left(now)
    if queued_s == 0.0 or scheduler.admits(now, run.work_by, queued_s, needed_s):
        return
    retry_after_s = max(0.0, now + queued_s + needed_s - run.work_by)
    message = (
        f"the query needs {needed_s * 1000:.1f} ms behind {queued_s * 1000:.1f} ms of waiting work, "
        f"more than its {left_s * 1000:.1f} ms; try again in {retry_after_s:.3f} s"
    )
    raise Overloaded(message, retry_after_s)


def late(task: Task, now: float) -> bool:
    """Whether the task would no longer end in time, so that its stage has to decide anew instead."""
    return not scheduler.may_start(now, task.predicted_s, task.deadline)


def call(tasks: Sequence[Task]) -> tuple[list[Any], BaseException | None]:
    """Executes tasks, those of several queries as one batch; the values in order, or what was raised."""
    try:
        if len(tasks) == 1:
            return [tasks[0].call()], None
        batches = [task.batch for task in tasks if task.batch is not None]
        reranker = tasks[0].stage.opened
        assert isinstance(reranker, Reranker)
        scores, total = np.asarray(reranker.score(_merged(batches))), sum(map(len, batches))
        if scores.shape != (total,):
            raise ValueError(f"expected {total} scores, got an array of shape {scores.shape}")
        return list(np.split(scores, np.cumsum([len(batch) for batch in batches])[:-1])), None
    except BaseException as error:  # a stage may be anybody's code, and may raise anything
        return [], error


def _merged(batches: Sequence[Batch]) -> Batch:
    queries: list[Encoded] = []
    query_of: list[npt.NDArray[np.int32]] = []
    for batch in batches:
        query_of.append(batch.query_of + np.int32(len(queries)))
        queries.extend(batch.queries)
    return Batch(tuple(queries), np.concatenate(query_of), np.concatenate([batch.rows for batch in batches]))


def outcomes(
    tasks: Sequence[Task],
    values: Sequence[Any],
    error: BaseException | None,
    began: float,
    ended: float,
    costs: CostModel,
    health: Health,
) -> list[Outcome]:
    """What became of tasks that were called together; cost model and circuit breaker are told."""
    first = tasks[0]
    if error is not None:
        name = first.stage.planned.name
        logger.warning("stage %r failed: %r", name, error, exc_info=error)
        health.failed(name, repr(error))
        return [Outcome(None, error, began, ended, 1 / len(tasks)) for _ in tasks]
    work = total(tasks)
    costs.observe(first.cost_key, work, ended - began)
    if len(tasks) == 1:
        return [Outcome(values[0], None, began, ended)]
    return [
        Outcome(value, None, began, ended, task.work.pairs / work.pairs)
        for task, value in zip(tasks, values, strict=True)
    ]


def total(tasks: Sequence[Task]) -> Work:
    """The work of tasks that are called together: every pair is padded to the longest of them all."""
    work = tasks[0].work
    if len(tasks) == 1:
        return work
    return _padded(sum(task.work.pairs for task in tasks), max(map(_length, tasks)))


def _padded(pairs: float, length: float) -> Work:
    return Work(pairs, pairs * length, pairs * length * length)


def _length(task: Task) -> float:
    """Tokens of each pair of a batch, padding included."""
    return task.work.tokens / task.work.pairs
