"""Time as the engine sees it: a monotonic clock that tests replace, and absolute deadlines on it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary fixed point; never goes back, whatever happens to the calendar."""
        ...


class MonotonicClock:
    """The machine's own monotonic clock."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds of ``time.perf_counter``, which a change of the calendar time does not move."""
        return time.perf_counter()


class VirtualClock:
    """A clock that moves only when told to: for tests, the simulator and replay."""

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward by ``seconds`` (>= 0).

        Raises:
            ValueError: for a negative step; a monotonic clock cannot go back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: advance({seconds})")
        self._now += seconds


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """An absolute point on a clock's time line, in seconds. ``Deadline.never()`` for no limit.

    Absolute, so that it can be handed from stage to stage without being reset: what one stage spends is
    gone for all.
    """

    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """The deadline ``seconds`` from now; zero and below means that it has already passed."""
        return cls(clock.now() + seconds)

    @classmethod
    def never(cls) -> Deadline:
        """No limit."""
        return cls(math.inf)

    @property
    def bounded(self) -> bool:
        """Whether there is a limit at all."""
        return self.at != math.inf

    def left(self, now: float) -> float:
        """Seconds left at ``now``; negative once passed, ``inf`` without a limit."""
        return self.at - now
