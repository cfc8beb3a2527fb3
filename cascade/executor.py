"""Runs many queries at once on worker threads that can be replaced.

Between two tasks every query stands in the queue again, so that a long query never holds up an urgent one for more than
one batch. A caller waits until its own deadline and no longer: what is ready then is its answer, whatever the worker is
stuck in.

Locks: the executor's, which two conditions share, guards the queue and what each worker is doing; each query has its
own. Neither is ever taken while holding the other, and none is held while a stage's code runs.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from cascade import scheduler
from cascade.clock import Clock, MonotonicClock
from cascade.cost import CostModel
from cascade.engine import FINISH_S, QueryRun
from cascade.errors import CascadeError, Overloaded
from cascade.health import CircuitBreaker
from cascade.tasks import Outcome, Task
from cascade.workqueue import Waiting, WorkQueue, call, late, outcomes

logger = logging.getLogger(__name__)

HUNG_FACTOR = 20.0
"""A task that takes this many times its prediction ..."""
HUNG_AFTER_S = 2.0
"""... and at least this long is held to be hung; its worker is replaced."""
HUNG_UNKNOWN_S = 60.0
"""The same for a task of unknown cost, which may be compiling something, and for one without a deadline, which
its caller would rather wait for than have an answer without that stage."""
STUCK_FACTOR = 5.0
"""A task that takes this many times its prediction ..."""
STUCK_AFTER_S = 0.1
"""... and at least this long is stuck: another worker takes its worker's place, so that other queries go on."""
MOST_STUCK = 4
"""Workers that may be stuck at once and have had their place taken."""
WATCH_EVERY_S = 0.05
"""How often the watchdog looks."""
DRAIN_S = 5.0
"""How long ``close`` waits for queries under way."""

_Entry: TypeAlias = Waiting[Future[None]]


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker thread and what it is doing."""

    thread: threading.Thread | None = None
    entries: tuple[_Entry, ...] = ()
    task: Task | None = None
    began: float = 0.0
    relieved: bool = False
    """Another has taken its place; it ends after its task."""
    retired: bool = False
    """Nobody waits for its task any longer."""


class Ticket:
    """A submitted query: wait for it, or withdraw it."""

    def __init__(self, run: QueryRun, future: Future[None], clock: Clock, forget: Callable[[], None]) -> None:
        self.run = run
        self.future = future
        self._clock = clock
        self._forget = forget

    def wait(self) -> None:
        """Returns when the query is answered or its deadline has come; then ``run.result()`` is the answer."""
        left_s = self.left_s()
        try:
            self.future.result(None if left_s == math.inf else max(0.0, left_s))
        except FutureTimeout:
            self.expire()
        except CancelledError:
            return
        except BaseException:  # the caller was interrupted
            self.cancel()
            raise

    def left_s(self) -> float:
        """Seconds until the caller has to stop waiting: a little after the last task may end, in time for an answer."""
        return self.run.answer_by - self._clock.now()

    def expire(self) -> None:
        """Ends the query with what is known; called at its deadline."""
        task, waits = self.run.pending, self.run.begun_at == math.inf
        place = "waiting for" if waits else "in"
        self.run.abandon("budget", "" if task is None else f"still {place} {task.action} when the deadline came")
        self._forget()

    def cancel(self) -> None:
        """Withdraws the query: what it still had in the queue is dropped before it is scored."""
        self.run.abandon("cancelled", "withdrawn by the caller")
        self._forget()
        self.future.cancel()


class Executor:
    """Worker threads, their queue, and a watchdog over them."""

    def __init__(
        self,
        costs: CostModel,
        *,
        workers: int = 1,
        max_waiting: int = 1000,
        clock: Clock | None = None,
        health: CircuitBreaker | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts the workers.

        Args:
            costs: told of every finished task.
            workers: tasks executed at the same time. One is right where a task uses all cores by itself.
            max_waiting: queries in the queue beyond which one more is refused.
            clock: time; the machine's by default.
            health: the circuit breakers.
            prepare: called by every worker thread before its first task.
        """
        self.costs = costs
        self._prepare = prepare
        self.clock: Clock = MonotonicClock() if clock is None else clock
        self.health = CircuitBreaker(self.clock) if health is None else health
        self.finish_s = FINISH_S / 2
        self._max_waiting = max_waiting
        self._queue: WorkQueue[Future[None]] = WorkQueue(costs, workers)
        lock = threading.RLock()
        self._condition, self._drained = threading.Condition(lock), threading.Condition(lock)
        self._closing = False
        self._stopped = threading.Event()
        self._workers: list[_Worker] = []
        for _ in range(workers):
            self._add_worker()
        self._watchdog = threading.Thread(target=self._watch_over, name="cascade-watchdog", daemon=True)
        self._watchdog.start()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, run: QueryRun) -> Ticket:
        """Puts a query into the queue.

        Raises:
            Overloaded: when the queue is full.
            CascadeError: when the executor has been closed.
        """
        future: Future[None] = Future()
        with self._condition:
            if self._closing:
                raise CascadeError("the engine has been closed; make a new one")
            waiting = self._queue.unanswered - sum(worker.task is not None for worker in self._workers)
            if waiting >= self._max_waiting:
                queued_s = self._queue.demand_s(self.clock.now())
                raise Overloaded(f"{waiting} queries are waiting, the most allowed; try in {queued_s:.2f} s", queued_s)
            entry = self._queue.enter(run, future)
            run.yield_at = self._queue.share_end(entry, self.clock.now())
        self._put_back(entry, run.start())
        return Ticket(run, future, self.clock, lambda: self._forget(entry))

    def answered(self, run: QueryRun) -> None:
        """Learns how long an answer was on its way to its caller, who has it now."""
        if run.deadline.bounded:
            seen_s = self.clock.now() - min(run.ended_at, run.answer_by)
            self.finish_s = scheduler.finish_seconds(self.finish_s, seen_s, FINISH_S / 2)

    def queued_s(self, deadline: float = math.inf) -> float:
        """Predicted seconds until a query with this deadline would have its turn.

        Args:
            deadline: in the clock's seconds; those due later let it pass, once their present task has ended.
        """
        with self._condition:
            return self._queue.demand_s(self.clock.now(), deadline)

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Takes no more queries, waits for those under way, then stops the workers.

        Args:
            drain_s: seconds after which what is still unanswered is dropped; its callers get ``Cancelled``.
        """
        with self._condition:
            self._closing = True
            self._drained.wait_for(lambda: self._queue.unanswered == 0, drain_s)
            self._stopped.set()
            dropped = self._queue.clear()
            self._condition.notify_all()
            self._drained.notify_all()
        for entry in dropped:
            entry.run.abandon("cancelled", "the engine was closed")
            _resolve(entry.token)
        for thread in (self._watchdog, *(worker.thread for worker in self._workers)):
            if thread is not None and thread is not threading.current_thread():
                thread.join(timeout=HUNG_AFTER_S)

    # Workers

    def _add_worker(self) -> None:
        worker = _Worker()
        self._workers.append(worker)
        worker.thread = threading.Thread(target=self._work, args=(worker,), name="cascade-worker", daemon=True)
        worker.thread.start()

    def _work(self, worker: _Worker) -> None:
        self._prepare()
        while entries := self._take(worker):
            tasks = [entry.run.pending for entry in entries]
            if tasks[0] is not None and late(tasks[0], worker.began):
                self._let_go(worker)
                self._go_on(entries[0], None)
                continue
            wanted = [(entry, task) for entry, task in zip(entries, tasks, strict=True) if task is not None]
            if not wanted:  # answered or withdrawn since
                self._let_go(worker)
                continue
            began = self.clock.now()
            for entry, _ in wanted:
                entry.run.begun_at = began
            values, error = call([task for _, task in wanted])
            ended = self.clock.now()
            if not self._let_go(worker):
                return
            results = outcomes([task for _, task in wanted], values, error, began, ended, self.costs, self.health)
            for (entry, _), outcome in zip(wanted, results, strict=True):
                self._go_on(entry, outcome)

    def _take(self, worker: _Worker) -> tuple[_Entry, ...]:
        """What to execute next, waiting for it; empty when the worker is to end."""
        with self._condition:
            while not (worker.relieved or worker.retired or self._stopped.is_set()):
                now = self.clock.now()
                entries = tuple(self._queue.take(now))
                if entries:
                    worker.entries, worker.task, worker.began = entries, entries[0].run.pending, now
                    return entries
                self._condition.wait()
        return ()

    def _let_go(self, worker: _Worker) -> bool:
        """Notes that a task is over; False when the watchdog has given up on it and its queries went on without it."""
        with self._condition:
            worker.task, worker.entries = None, ()
            if worker.relieved and not worker.retired:
                self._workers.remove(worker)
            return not worker.retired

    def _go_on(self, entry: _Entry, outcome: Outcome | None) -> None:
        """Tells a query what became of its task, and puts it back into the queue for the next."""
        with self._condition:
            yield_at = self._queue.share_end(entry, self.clock.now())
        entry.run.yield_at = yield_at
        self._put_back(entry, entry.run.advance(outcome))

    def _put_back(self, entry: _Entry, task: Task | None) -> None:
        if task is None:
            self._forget(entry)
            _resolve(entry.token)
            return
        with self._condition:
            stopped = self._stopped.is_set()
            if not stopped:
                self._queue.push(entry)
                self._condition.notify()
        if stopped:
            entry.run.abandon("cancelled", "the engine was closed")
            _resolve(entry.token)

    def _forget(self, entry: _Entry) -> None:
        """Counts an answered query no longer."""
        with self._condition:
            self._queue.leave(entry)
            if self._closing:
                self._drained.notify_all()

    # The watchdog

    def _watch_over(self) -> None:
        """Sees to it that workers who do not come back from a task hold nobody up."""
        while not self._stopped.wait(WATCH_EVERY_S):
            self.replace_hung()
            self.relieve_stuck()

    def relieve_stuck(self) -> int:
        """Puts another worker beside every one that is stuck; what that brings back still counts. Returns how many."""
        with self._condition:
            now, relieved = self.clock.now(), sum(worker.relieved for worker in self._workers)
            stuck = [
                worker
                for worker in self._workers
                if worker.task is not None and not worker.relieved and is_stuck(worker.task, now - worker.began)
            ][: MOST_STUCK - relieved]
            for worker in stuck:
                worker.relieved = True
                self._add_worker()
        return len(stuck)

    def replace_hung(self) -> int:
        """Replaces every worker whose task hangs; its queries go on as if the stage had failed. Returns how many."""
        now = self.clock.now()
        replaced: list[tuple[Task, tuple[_Entry, ...], float]] = []
        with self._condition:
            for worker in list(self._workers):
                if worker.task is not None and hangs(worker.task, now - worker.began):
                    worker.retired = True
                    replaced.append((worker.task, worker.entries, worker.began))
                    self._workers.remove(worker)
                    if not worker.relieved:
                        self._add_worker()
        for task, entries, began in replaced:
            name, seconds = task.stage.planned.name, now - began
            logger.error(
                "stage %r has been in one %s task for %.1f s; its worker is replaced", name, task.action, seconds
            )
            error = TimeoutError(f"no answer from one {task.action} task in {seconds:.1f} s")
            self.health.failed(name, str(error), hung=True)
            for entry in entries:
                self._go_on(entry, Outcome(None, error, began, now, 1 / len(entries)))
        return len(replaced)


def hangs(task: Task, seconds: float) -> bool:
    """Whether a task that has taken so long is not to be waited for any longer."""
    urgent = task.predicted_s > 0 and task.deadline < math.inf
    least_s = HUNG_AFTER_S if urgent else HUNG_UNKNOWN_S
    return seconds > max(least_s, HUNG_FACTOR * task.predicted_s)


def is_stuck(task: Task, seconds: float) -> bool:
    """Whether other queries are not to wait for a task that has taken so long."""
    least_s = STUCK_AFTER_S if task.predicted_s > 0 else HUNG_AFTER_S
    return seconds > max(least_s, STUCK_FACTOR * task.predicted_s)


def _resolve(future: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):  # its caller has withdrawn it in the meantime
        future.set_result(None)
