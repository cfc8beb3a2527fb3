"""What the machine itself loses: heartbeats in processes of their own note when it stands still or runs slowly.

A rented machine may do so whenever it is busy, for a tenth of a second at a time, and says nothing of it: the time
counts as processor time of whoever runs. On every core a heartbeat sleeps a millisecond, then does a fixed piece of
work, and looks at two clocks. It has woken late: the core stood still; for a heartbeat has real-time priority where the
system allows that, and waits for no other process or thread. Or the work took more than twice its usual *processor*
time, which does not count while another thread has the core: the core ran at that share of its usual speed. What one
core loses counts as lost, since work that both share ends with the slower.

Whether that is the machine or its load shows ``busy_loss``, the same beside loops that only count.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import TypeAlias

from cascade.cores import cores

Loss: TypeAlias = tuple[float, float, float]
"""Start and end by ``time.perf_counter``, which all processes share, and the share of this time that was lost."""

BEAT_S = 0.001
STALL_S = 0.002
"""A beat that comes later than this was held up by the machine, or by whoever ran before it, ..."""
REAL_TIME_STALL_S = 0.0005
"""... and one with real-time priority by the machine."""
SLOW = 2.0
"""Work that takes more than this many times its usual processor time was slowed down."""
FIRST_BEATS = 300
"""Beats whose median is the usual time."""


class Stalls:
    """The losses that heartbeats have seen."""

    def __init__(self, *connections: Connection) -> None:
        """Waits for the first beats.

        Args:
            connections: to what beats; it keeps what it has seen until it is asked, so that it never waits for a reader
                and no thread of this process need be one.
        """
        self._connections = connections
        self._seen: list[Loss] = []
        self.real_time = False
        """Whether the heartbeats wait for nobody; else what they wait behind the measured program counts as lost."""
        self._ask()

    def between(self, start_s: float, end_s: float) -> float:
        """Seconds that the machine lost from one moment to another; where several cores did, the most of any."""
        if end_s > self._asked_at:
            self._ask()
        return _total(
            (max(start_s, start), min(end_s, end), share)
            for start, end, share in self._seen
            if start < end_s and end > start_s and start < end
        )

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        for connection in self._connections:
            connection.send(None)
        for connection in self._connections:
            self._seen += connection.recv()


def _total(losses: Iterable[Loss]) -> float:
    """The integral over time of the largest share lost."""
    edges = sorted((at, begins, share) for start, end, share in losses for at, begins in ((start, True), (end, False)))
    lost_s, before, under_way = 0.0, 0.0, list[float]()
    for at, begins, share in edges:
        lost_s += (at - before) * max(under_way, default=0.0)
        before = at
        if begins:
            under_way.append(share)
        else:
            under_way.remove(share)
    return lost_s


@contextlib.contextmanager
def heartbeat() -> Iterator[Stalls]:
    """Processes that beat until the block ends, one on every core; only one where processes cannot be bound to them."""
    context = multiprocessing.get_context("spawn")
    places: list[int | None] = [*os.sched_getaffinity(0)] if hasattr(os, "sched_getaffinity") else [None]
    beating, connections = [], []
    for core in places:
        ours, theirs = context.Pipe()
        process = context.Process(target=_beat_on, args=(theirs, core), daemon=True)
        process.start()
        theirs.close()
        beating.append(process)
        connections.append(ours)
    try:
        stalls = Stalls(*connections)
        if hasattr(os, "sched_getscheduler"):
            stalls.real_time = all(os.sched_getscheduler(process.pid or 0) == os.SCHED_FIFO for process in beating)
        yield stalls
    finally:
        for process in beating:
            process.terminate()
            process.join()
        for connection in connections:
            connection.close()


def busy_loss(stalls: Stalls, seconds: float = 10.0) -> float:
    """The share of time that the machine loses while a process on every core does nothing but count."""
    context = multiprocessing.get_context("spawn")
    counting = [context.Process(target=_count, daemon=True) for _ in range(cores())]
    for process in counting:
        process.start()
    try:
        time.sleep(seconds / 5)  # they have all begun
        began = time.perf_counter()
        time.sleep(seconds)
        return stalls.between(began, time.perf_counter()) / seconds
    finally:
        for process in counting:
            process.terminate()
            process.join()


def _beat_on(connection: Connection, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    stall_s = STALL_S
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or not allowed
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        stall_s = REAL_TIME_STALL_S
    beat(connection, stall_s=stall_s)


def beat(
    connection: Connection,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.perf_counter,
    processor_s: Callable[[], float] = time.thread_time,
    stall_s: float = STALL_S,
) -> None:
    """Notes every loss, and hands over the new ones when asked, until the other side is gone."""

    def work_s() -> float:
        _work()  # once to have it in the caches again
        began = processor_s()
        _work()
        return processor_s() - began

    first_s = []
    for _ in range(FIRST_BEATS):
        sleep(BEAT_S)
        first_s.append(work_s())
    usual_s = statistics.median(first_s)
    seen: list[Loss] = []
    while True:
        before = now()
        sleep(BEAT_S)
        woke = now()
        taken_s = work_s()
        late_s = woke - before - BEAT_S
        if late_s > stall_s:
            seen.append((before, before + late_s, 1.0))
        if taken_s > SLOW * usual_s:
            seen.append((max(before, before + late_s), now(), 1 - usual_s / taken_s))
        if connection.poll():
            try:
                connection.recv()
                connection.send(seen)
            except (EOFError, OSError):
                return
            seen = []


def _work() -> None:
    total = 0
    for number in range(300):
        total += number


def _count() -> None:
    while True:
        _work()
