"""Many queries under a virtual clock: the engine's own code, only time is made up.

Drives real ``QueryRun``s through the executor's own queue; a task's scores come from its stage, its seconds from a
function. So bad cases can be searched for by the thousand: on one core a hundred thousand queries take about half a
minute through two stages of few batches, and a minute and a half through four stages of some twenty
(``benchmarks/overhead.py``).
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from cascade.clock import Deadline, VirtualClock
from cascade.cost import CostModel, Rates
from cascade.engine import FINISH_S, QueryRun
from cascade.errors import CascadeError, Overloaded
from cascade.scheduler import ROUNDING_S
from cascade.stage import Work
from cascade.tasks import Health, Healthy, OpenedCascade, Outcome, Task
from cascade.trace import Reason
from cascade.types import Candidates, Query
from cascade.workqueue import Waiting, WorkQueue, admit, call, late, outcomes, total


@dataclass(frozen=True, slots=True)
class Arrival:
    """A query on its way: when it enters (seconds), and the seconds that it grants."""

    at_s: float
    query: Query
    budget_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a query.

    Args:
        arrival: the query.
        answered_s: when it was answered or refused.
        run: the finished run; not started where the query was refused.
        refused: why it was refused; empty if it was not.
    """

    arrival: Arrival
    answered_s: float
    run: QueryRun
    refused: str = ""

    @property
    def order(self) -> Candidates:
        """The whole order that the query ended with."""
        stages = len(self.run.trace.stages)
        return self.run.order_after(stages - 1) if stages else Candidates.empty()


class Seconds(Protocol):
    """Says how long a call takes: calibrated, recorded or random."""

    def __call__(self, task: Task, work: Work, now: float) -> float:
        """Seconds of ``work`` (that of all merged tasks) of the kind of ``task`` that begins at ``now``."""
        ...


class NoisySeconds:
    """Rates times log-normal noise, times a factor that may change with time.

    Args:
        rates: for each cost key and action.
        rng: source of the noise.
        sigma: standard deviation of the logarithm of the noise; 0 for none.
        factor: of the machine's slowness at a time.
    """

    def __init__(
        self,
        rates: Mapping[str, Rates],
        rng: np.random.Generator,
        sigma: float = 0.0,
        factor: Callable[[float], float] = lambda now: 1.0,
    ) -> None:
        self._rates = rates
        self._noise: Iterator[float] = itertools.cycle(np.exp(rng.normal(0.0, sigma, 8192)).tolist())
        self._factor = factor

    def __call__(self, task: Task, work: Work, now: float) -> float:
        """Seconds of the work."""
        seconds: float = self._rates[task.cost_key].seconds(work) * next(self._noise) * self._factor(now)
        return seconds


def poisson(
    queries: Sequence[Query], rate: float, budget_s: float, rng: np.random.Generator, count: int
) -> list[Arrival]:
    """``count`` arrivals at ``rate`` a second on average, independent of each other, over ``queries`` in turn."""
    times = np.cumsum(rng.exponential(1 / rate, count)).tolist()
    return [Arrival(at_s, query, budget_s) for at_s, query in zip(times, itertools.cycle(queries), strict=False)]


_Entry: TypeAlias = Waiting[Arrival]


class _Execution(NamedTuple):
    """A call under way."""

    entries: list[_Entry]
    tasks: list[Task]
    values: list[Any]
    error: BaseException | None
    began: float


class Simulator:
    """Serves arrivals with one or more servers, as the executor's workers would.

    Args:
        cascade: what to run.
        costs: predicts; learns from the simulated seconds.
        seconds: what calls take.
        servers: calls executed at the same time.
        health: which stages to leave out.
        admission: whether queries are refused or limited as the engine would.
        cancels: seconds after its arrival at which a query's caller withdraws it, if it does.
        finish_s: seconds that every query keeps back for handing over its answer.
    """

    def __init__(
        self,
        cascade: OpenedCascade,
        costs: CostModel,
        seconds: Seconds,
        *,
        servers: int = 1,
        health: Callable[[VirtualClock], Health] = lambda clock: Healthy(),
        admission: bool = True,
        cancels: Callable[[Arrival], float | None] = lambda arrival: None,
        finish_s: float = FINISH_S / 2,
    ) -> None:
        self.clock = VirtualClock()
        self.late_starts: list[str] = []
        self.busy_until = 0.0
        self._cascade = cascade
        self._costs = costs
        self._seconds = seconds
        self._health = health(self.clock)
        self._admission = admission
        self._cancels = cancels
        self._finish_s = finish_s
        self._queue: WorkQueue[Arrival] = WorkQueue(costs, servers)
        self._idle = servers
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._answered: list[Record] = []
        self._numbers = itertools.count()

    @property
    def unanswered(self) -> int:
        """Queries under way."""
        return self._queue.unanswered

    def occupy(self, until: float) -> None:
        """Has a server be busy until then with what nobody waits for any more, nor knows the end of."""
        self._idle -= 1
        self.busy_until = max(self.busy_until, until)
        self._at(until, self._release)

    def _release(self) -> None:
        self._idle += 1

    def run(self, arrivals: Iterable[Arrival]) -> Iterator[Record]:
        """The records in the order in which the queries are answered.

        Args:
            arrivals: in the order of their time.
        """
        coming = iter(arrivals)
        following = next(coming, None)
        while following is not None or self._events:
            if following is not None and (not self._events or following.at_s <= self._events[0][0]):
                self._move_to(following.at_s)
                self._arrive(following)
                following = next(coming, None)
            else:
                at, _, event = heapq.heappop(self._events)
                self._move_to(at)
                event()
            self._serve()
            yield from self._answered
            self._answered.clear()

    def _move_to(self, at: float) -> None:
        now = self.clock.now()
        if at > now:
            self.clock.advance(at - now)

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def _arrive(self, arrival: Arrival) -> None:
        now, deadline = self.clock.now(), Deadline(arrival.at_s + arrival.budget_s)
        run = QueryRun(
            self._cascade,
            arrival.query,
            clock=self.clock,
            deadline=deadline,
            costs=self._costs,
            health=self._health,
            entered=arrival.at_s,
            finish_s=self._finish_s,
        )
        if self._admission and deadline.bounded:
            try:
                admit(run, self._queue.demand_s(now, deadline.at), now)
            except Overloaded as error:
                self._answered.append(Record(arrival, now, run, str(error)))
                return
        entry = self._queue.enter(run, arrival)
        run.yield_at = self._queue.share_end(entry, now)
        if deadline.bounded:
            self._at(run.answer_by, lambda: self._end(entry, "budget"))
        cancelled_s = self._cancels(arrival)
        if cancelled_s is not None:
            self._at(arrival.at_s + cancelled_s, lambda: self._end(entry, "cancelled"))
        self._put_back(entry, run.start())

    def _end(self, entry: _Entry, reason: Reason) -> None:
        """What a caller does at its deadline, or when it withdraws its query."""
        if not entry.run.done:
            entry.run.abandon(reason)
            self._record(entry)

    def _serve(self) -> None:
        """Gives idle servers something to do."""
        while self._idle and (entries := self._queue.take(self.clock.now())):
            tasks = [entry.run.pending for entry in entries]
            wanted = [task for task in tasks if task is not None]
            now = self.clock.now()
            if late(wanted[0], now):
                self._go_on(entries[0], None)
                continue
            values, error = call(wanted)
            work = total(wanted)
            self._check_start(wanted, work, now)
            seconds = self._seconds(wanted[0], work, now)
            for entry in entries:
                entry.run.begun_at = now
            self._idle -= 1
            self.busy_until = max(self.busy_until, now + seconds)
            self._at(now + seconds, functools.partial(self._finish, _Execution(entries, wanted, values, error, now)))

    def _check_start(self, tasks: list[Task], work: Work, now: float) -> None:
        predicted_s = tasks[0].predicted_s
        if len(tasks) > 1:
            predicted_s = self._costs.rates(tasks[0].cost_key).seconds(work)
        late_s = now + predicted_s - min(task.deadline for task in tasks)
        if late_s > ROUNDING_S:
            self.late_starts.append(f"{len(tasks)} {tasks[0].action} tasks predicted to end {late_s:.6f} s late")

    def _finish(self, done: _Execution) -> None:
        self._idle += 1
        ended = self.clock.now()
        results = outcomes(done.tasks, done.values, done.error, done.began, ended, self._costs, self._health)
        for entry, outcome in zip(done.entries, results, strict=True):
            self._go_on(entry, outcome)

    def _go_on(self, entry: _Entry, outcome: Outcome | None) -> None:
        if entry.run.done:
            return
        entry.run.yield_at = self._queue.share_end(entry, self.clock.now())
        self._put_back(entry, entry.run.advance(outcome))

    def _put_back(self, entry: _Entry, task: Task | None) -> None:
        if task is None:
            self._record(entry)
        else:
            self._queue.push(entry)

    def _record(self, entry: _Entry) -> None:
        self._queue.leave(entry)
        self._answered.append(Record(entry.token, self.clock.now(), entry.run))


def violations(record: Record, rows: int) -> list[str]:
    """The engine's promises that an answer breaks; empty if none.

    Args:
        record: of a finished query.
        rows: passages that its first stage could have found.
    """
    if record.refused:
        return []
    found, trace, order = [], record.run.trace, record.order
    try:
        record.run.result()
    except CascadeError:
        pass
    except Exception as error:  # a fault of the engine, whatever it is
        found.append(f"the engine raised {error!r}")
    deadline = record.run.deadline.at
    if record.answered_s > deadline + ROUNDING_S:
        found.append(f"answered {record.answered_s - deadline:.6f} s late")
    if len(np.unique(order.rows)) != len(order):
        found.append("a candidate came twice")
    if len(order) > rows:
        found.append(f"{len(order)} candidates of {rows}")
    if len(trace.stages) != len(record.run.cascade.stages):
        found.append(f"{len(trace.stages)} of {len(record.run.cascade.stages)} stages in the trace")
    used_s = sum(stage.budget_s - stage.slack_s for stage in trace.stages if stage.budget_s != math.inf)
    if used_s > trace.budget_s + ROUNDING_S:
        found.append(f"stages were granted {used_s:.6f} s of {trace.budget_s:.6f} s")
    for number, stage in enumerate(trace.stages):
        if not 0 <= stage.scored + stage.quarantined <= stage.received or not 0 <= stage.planned <= stage.received:
            found.append(f"{stage.name}: {stage.planned} planned, {stage.scored} scored of {stage.received}")
        if stage.passed != len(record.run.passed_by(number)):
            found.append(f"{stage.name}: {stage.passed} passed, {len(record.run.passed_by(number))} in the ranking")
        if number > 0 and not np.isin(record.run.passed_by(number).rows, record.run.passed_by(number - 1).rows).all():
            found.append(f"{stage.name}: passed on a candidate that it was not given")
    if len(trace.stages) > 1 and len(order) != len(record.run.order_after(0)):
        found.append(f"{len(record.run.order_after(0))} candidates retrieved, {len(order)} in the answer")
    return found


def find_failures(
    seeds: Iterable[int], scenario: Callable[[int], tuple[Simulator, Sequence[Arrival], int]]
) -> list[tuple[int, str]]:
    """Seeds whose scenario breaks a promise of the engine, each with what was broken first.

    Args:
        seeds: to try; one that fails becomes a regression test.
        scenario: from a seed, a simulator, what arrives, and how many passages there are.
    """
    failures: list[tuple[int, str]] = []
    for seed in seeds:
        simulator, arrivals, rows = scenario(seed)
        records = list(simulator.run(arrivals))
        wrong = [problem for record in records for problem in violations(record, rows)]
        if len(records) != len(arrivals):
            wrong.append(f"{len(records)} of {len(arrivals)} queries answered")
        wrong += simulator.late_starts
        if wrong:
            failures.append((seed, wrong[0]))
    return failures
