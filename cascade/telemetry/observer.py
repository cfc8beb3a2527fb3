"""Tells observers of queries once their answers are handed over, on a thread of their own.

So an observer costs no query any of its time, however slow it is: reports beyond ``MOST_WAITING`` are lost, answers
never.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cascade.trace import Trace
from cascade.types import Query

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Reports waiting for slow observers beyond which further ones are lost."""
DRAIN_S = 5.0
"""How long ``close`` waits for the observers to be told of everything."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One query that is over.

    Args:
        query: the question. The observers of this package export its ``query_id`` at most, never its text.
        trace: what happened; without stages when the query was refused.
        error: what its caller got instead of a ranking: ``Overloaded`` when it was refused; None when it was answered.
        started_at: when it came in, in seconds since 1970 by the machine's calendar; it took ``trace.seconds``.
    """

    query: Query
    trace: Trace
    error: Exception | None
    started_at: float


class Observer(Protocol):
    """Learns of every query that is over: answered, failed, cancelled or refused.

    It is called by one thread of each engine that it is given to, in the caller's ``contextvars``: the span that was
    current around ``search`` is current here. The first time it raises, this is logged and the engine calls it no more.
    """

    def answered(self, observation: Observation) -> None:
        """Called once for each query, after its answer; refused and failed queries included."""
        ...


class Observers:
    """A thread that passes reports on to observers, in the order in which the queries ended."""

    def __init__(self, observers: Iterable[Observer], most_waiting: int = MOST_WAITING) -> None:
        """Starts the thread, if there is anybody to tell.

        Args:
            observers: whom to tell.
            most_waiting: reports waiting beyond which further ones are lost.
        """
        self._observers = list(observers)
        self._most_waiting = most_waiting
        self._waiting: deque[tuple[contextvars.Context, Observation]] = deque()
        self._lost = 0
        self._closed = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="cascade-observers", daemon=True)
        if self._observers:
            self._thread.start()

    def __bool__(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._observers)

    def tell(self, observation: Observation) -> None:
        """Hands a report over and returns at once; after ``close`` it is ignored."""
        context = contextvars.copy_context()
        with self._condition:
            if self._closed or not self._observers:
                return
            if len(self._waiting) >= self._most_waiting:
                self._lost += 1
                return
            self._waiting.append((context, observation))
            self._condition.notify()

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Waits until the observers have been told of everything so far.

        Args:
            drain_s: seconds after which they are waited for no longer.
        """
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(drain_s)
            if self._thread.is_alive():
                logger.warning("observers still busy after %.1f s; the reports they have not seen are lost", drain_s)

    def _work(self) -> None:
        while self._observers:
            with self._condition:
                while not self._waiting:
                    if self._closed:
                        return
                    self._condition.wait()
                context, observation = self._waiting.popleft()
                lost, self._lost = self._lost, 0
            if lost:
                logger.warning("observers are slower than queries: %d reports were lost", lost)
            for observer in tuple(self._observers):
                try:
                    context.run(observer.answered, observation)
                except Exception:
                    logger.exception("observer %r raised; it is told of no further queries", observer)
                    self._observers.remove(observer)
        self._waiting.clear()
