"""A circuit breaker for each stage: one that keeps failing is left out until it has had time to recover."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cascade.clock import Clock


@dataclass(slots=True)
class _Circuit:
    """``pause_s`` is 0 while the circuit is closed; ``trial`` says that the pause is over and somebody is trying."""

    failures: int = 0
    opened_at: float = 0.0
    pause_s: float = 0.0
    trial: bool = False
    detail: str = ""


class CircuitBreaker:
    """Counts failures in a row; after ``threshold`` of them a stage is left out for ``pause_s``, then tried again.

    A failure at that trial doubles the pause, up to ``longest_pause_s``; a success closes the circuit. A hung stage
    opens it at once.
    """

    def __init__(self, clock: Clock, threshold: int = 3, pause_s: float = 5.0, longest_pause_s: float = 300.0) -> None:
        self._clock = clock
        self._threshold = threshold
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._circuits: dict[str, _Circuit] = {}
        self._lock = threading.Lock()

    def blocked(self, stage: str) -> str:
        """Why the stage is left out; empty when it is not, as at the end of a pause until a query tries."""
        if stage not in self._circuits:
            return ""
        with self._lock:
            circuit = self._circuits.get(stage)
            if circuit is None or circuit.pause_s == 0.0:
                return ""
            left_s = circuit.pause_s - (self._clock.now() - circuit.opened_at)
            if left_s > 0.0:
                return f"left out for {left_s:.1f} s more after {circuit.failures} failures, the last: {circuit.detail}"
            return ""

    def tries(self, stage: str) -> None:
        """Notes that a query begins with the stage; after a pause whoever comes next waits for it, or another pause."""
        if stage in self._circuits:
            with self._lock:
                circuit, now = self._circuits.get(stage), self._clock.now()
                if circuit is not None and circuit.pause_s > 0.0 and now - circuit.opened_at >= circuit.pause_s:
                    circuit.opened_at, circuit.trial = now, True

    def untried(self, stage: str) -> None:
        """Notes that it had no time for the stage after all; the next one may try."""
        if stage in self._circuits:
            with self._lock:
                circuit = self._circuits.get(stage)
                if circuit is not None and circuit.trial:
                    circuit.opened_at, circuit.trial = self._clock.now() - circuit.pause_s, False

    def succeeded(self, stage: str) -> None:
        """Notes that a task of the stage went well; one that began before the circuit opened proves nothing."""
        if stage in self._circuits:
            with self._lock:
                circuit = self._circuits.get(stage)
                if circuit is not None and (circuit.pause_s == 0.0 or circuit.trial):
                    del self._circuits[stage]

    def failed(self, stage: str, detail: str, hung: bool = False) -> None:
        """Notes that a task of the stage raised, gave nonsense, or never came back."""
        with self._lock:
            circuit = self._circuits.setdefault(stage, _Circuit())
            circuit.failures += 1
            circuit.detail = detail
            if circuit.pause_s > 0.0 and not circuit.trial:
                return
            if circuit.trial or hung or circuit.failures >= self._threshold:
                circuit.pause_s = max(self._pause_s, min(circuit.pause_s * 2, self._longest_pause_s))
                circuit.opened_at, circuit.trial = self._clock.now(), False
