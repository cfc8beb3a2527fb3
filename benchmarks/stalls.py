"""What the machine itself loses: a heartbeat in a process of its own notes when it stands still or runs slowly.

A rented machine may do so whenever it is busy, for a tenth of a second at a time, and says nothing of it: the time
counts as processor time of whoever runs. The heartbeat sleeps a millisecond, then does a fixed piece of work, and looks
at two clocks. It has woken late: the machine stood still; for the heartbeat has real-time priority where the system
allows that, and waits for no other process or thread. Or the work took more than twice its usual *processor* time,
which does not count while another thread has the core: the machine ran at that share of its usual speed.

Whether that is the machine or its load shows ``busy_loss``, the same beside loops that only count.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
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
    """The losses that a heartbeat has seen."""

    def __init__(self, connection: Connection) -> None:
        """Waits for the first beat.

        Args:
            connection: to what beats; it keeps what it has seen until it is asked, so that it never waits for a reader
                and no thread of this process need be one.
        """
        self._connection = connection
        self._seen: list[Loss] = []
        self.real_time = False
        """Whether the heartbeat waits for nobody; else what it waits behind the measured program counts as lost."""
        self._ask()

    def between(self, start_s: float, end_s: float) -> float:
        """Seconds that the machine lost from one moment to another."""
        if end_s > self._asked_at:
            self._ask()
        return sum(
            share * max(0.0, min(end_s, end) - max(start_s, start))
            for start, end, share in self._seen
            if start < end_s and end > start_s
        )

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._connection.send(None)
        self._seen += self._connection.recv()


@contextlib.contextmanager
def heartbeat() -> Iterator[Stalls]:
    """A process that beats until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_beat_first, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        stalls = Stalls(ours)
        if hasattr(os, "sched_getscheduler") and process.pid is not None:
            stalls.real_time = os.sched_getscheduler(process.pid) == os.SCHED_FIFO
        yield stalls
    finally:
        process.terminate()
        process.join()
        ours.close()


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


def _beat_first(connection: Connection) -> None:
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
