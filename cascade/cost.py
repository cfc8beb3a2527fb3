"""Seconds as a function of work: fitted on a machine, stated at a quantile, corrected by what is observed.

The seconds of a task are modelled as ``fixed + pair*pairs + token*tokens + square*squares`` with coefficients that are
not negative: a transformer's linear layers pay per token, its attention per squared length (24*N*d^2 + 4*N^2*d FLOP
a layer for N tokens of width d), a call pays a fixed price. What the fit leaves over is taken up by a ``spread``: the
ratio of real to fitted seconds that a stated share of tasks does not exceed.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cascade.cores import cores
from cascade.errors import InputError
from cascade.io import write_json_atomic
from cascade.stage import Work

PROFILE_VERSION = 2


class Rates(NamedTuple):
    """Seconds per unit of work, safety margin included; what scheduling decisions are made from."""

    fixed_s: float = 0.0
    pair_s: float = 0.0
    token_s: float = 0.0
    square_s: float = 0.0

    def seconds(self, work: Work) -> float:
        """Predicted seconds of one task."""
        return self.fixed_s + self.pair_s * work.pairs + self.token_s * work.tokens + self.square_s * work.squares


FREE = Rates()
"""What is not known to cost anything; the clock alone then limits the work."""


class Sample(NamedTuple):
    """One measured task."""

    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Fitted seconds of one kind of task.

    Args:
        rates: fitted on the typical task, without a margin.
        spread: ratio of real to fitted seconds at the profile's quantile, >= 1.
        samples: measurements behind it.
        deviation: mean absolute logarithm of the ratios of real to fitted seconds; 0 when not known.
        typical_s: median seconds of a task; 0 when not known.
    """

    rates: Rates
    spread: float
    samples: int
    deviation: float = 0.0
    typical_s: float = 0.0


def fit(samples: Sequence[Sample], quantile: float) -> Cost:
    """Fits a cost to measured tasks.

    Relative errors are squared, so that short tasks count as much as long ones, and no coefficient is negative: of the
    sixteen subsets of terms, the best whose least-squares solution is not negative wins (exact for four terms, where
    an iterative solver would only be longer). The spread is the conformal quantile of the ratios: the
    ceil((n + 1) * quantile)-th smallest of n (Vovk et al. 2005), or the largest where n is too small for it.

    Raises:
        ValueError: without samples, or with one of no or negative duration.
    """
    if not samples:
        raise ValueError("a cost cannot be fitted to no samples")
    seconds = np.array([sample.seconds for sample in samples], np.float64)
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise ValueError("measured seconds must be positive and finite")
    features = np.array([(1.0, s.work.pairs, s.work.tokens, s.work.squares) for s in samples], np.float64)
    coefficients = _non_negative(features / seconds[:, None])
    ratios = np.sort(seconds / np.maximum(features @ coefficients, 1e-12))
    position = min(math.ceil((len(ratios) + 1) * quantile), len(ratios)) - 1
    deviation = float(np.abs(np.log(ratios)).mean())
    spread, typical_s = max(1.0, float(ratios[position])), float(np.median(seconds))
    return Cost(Rates(*map(float, coefficients)), spread, len(samples), deviation, typical_s)


def _non_negative(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Argmin over x >= 0 of ||features @ x - 1||."""
    n, width = features.shape
    scale = np.maximum(np.abs(features).max(axis=0), 1e-300)
    scaled = features / scale
    best, best_error = np.zeros(width), float(n)
    for size in range(1, width + 1):
        for chosen in map(list, itertools.combinations(range(width), size)):
            part, *_ = np.linalg.lstsq(scaled[:, chosen], np.ones(n), rcond=None)
            if (part < 0).any():
                continue
            error = float(np.square(scaled[:, chosen] @ part - 1).sum())
            if error < best_error * (1 - 1e-9):
                best, best_error = np.zeros(width), error
                best[chosen] = part / scale[chosen]
    return best


@functools.cache
def machine() -> str:
    """What identifies this machine's speed: a profile measured on another one is not trusted."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(names, model)
    return f"{platform.system()} {platform.machine()}, {model}, {cores()} cores"


@dataclass(frozen=True, slots=True)
class CostProfile:
    """What a machine's tasks cost, as ``cascade calibrate`` measured it.

    Args:
        quantile: share of tasks that end within rates times spread.
        machine: where it was measured.
        costs: for each cost key and action (``bm25-1f2e/search``), the fitted cost.
        source: how it was made: calibrated, or warm-up; both joined by " + " where some costs were made so, some so.
    """

    quantile: float
    machine: str
    costs: Mapping[str, Cost]
    source: str = "calibrated"

    def updated(self, newer: CostProfile) -> CostProfile:
        """These costs and newer ones, which take precedence; only those of another machine or quantile."""
        if (self.quantile, self.machine) != (newer.quantile, newer.machine):
            return newer
        source = joined([self.source, newer.source])
        return CostProfile(self.quantile, self.machine, {**self.costs, **newer.costs}, source)

    def save(self, path: Path) -> None:
        """Writes it as JSON, whole or not at all."""
        data = {
            "version": PROFILE_VERSION,
            "quantile": self.quantile,
            "machine": self.machine,
            "source": self.source,
            "costs": {
                key: {
                    **cost.rates._asdict(),
                    "spread": cost.spread,
                    "samples": cost.samples,
                    "deviation": cost.deviation,
                    "typical_s": cost.typical_s,
                }
                for key, cost in sorted(self.costs.items())
            },
        }
        write_json_atomic(path, data)

    @classmethod
    def load(cls, path: Path) -> CostProfile:
        """Reads a saved profile.

        Raises:
            InputError: when it is not one, or was measured on another machine.
        """
        try:
            data = json.loads(path.read_text())
            if data["version"] != PROFILE_VERSION:
                raise InputError(f"{path}: version: expected {PROFILE_VERSION}, got {data['version']}; calibrate again")
            costs = {key: _read_cost(value) for key, value in data["costs"].items()}
            profile = cls(float(data["quantile"]), str(data["machine"]), costs, str(data["source"]))
            if not 0.0 < profile.quantile < 1.0:
                raise ValueError(f"quantile: expected a number between 0 and 1, got {profile.quantile}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected a cost profile of 'cascade calibrate', got {error!r}") from error
        if profile.machine != machine():
            message = f"{path}: measured on {profile.machine!r}, this is {machine()!r}; run 'cascade calibrate' here"
            raise InputError(message)
        return profile


def joined(sources: Iterable[str]) -> str:
    """Where the costs of several profiles came from; ``none`` without any.

    >>> joined(["warm-up", "calibrated + warm-up"])
    'calibrated + warm-up'
    """
    return " + ".join(sorted({part for source in sources for part in source.split(" + ")})) or "none"


def _read_cost(value: Mapping[str, Any]) -> Cost:
    rates = Rates(**{name: float(value[name]) for name in Rates._fields})
    cost = Cost(
        rates, float(value["spread"]), int(value["samples"]), float(value["deviation"]), float(value["typical_s"])
    )
    numbers = (*rates, cost.deviation, cost.typical_s)
    if not all(math.isfinite(x) and x >= 0 for x in numbers) or not 1 <= cost.spread < math.inf:
        raise ValueError(f"rates must be finite and not negative, the spread at least 1: {asdict(cost)}")
    return cost


_LEVEL_GAIN = 0.15
_DEVIATION_GAIN = 0.05
_WIDTH_STEP = 0.2
_LEAST_DEVIATION = 0.02
_LARGEST_STEP = math.log(4.0)
_USUAL_WIDTH = 3.0
_UNKNOWN_SPREAD = 1.5
_RELAX = 0.9
_DOUBT = 0.99
_PATIENCE = 4
_ROUNDING = 1e-6


def _guess(work: Work, seconds: float) -> Rates:
    """Rates from a single task: all of it in proportion to the tokens, or to the pairs where there are none."""
    if work.tokens > 0:
        return Rates(token_s=seconds / work.tokens)
    return Rates(pair_s=seconds / work.pairs) if work.pairs > 0 else Rates(fixed_s=seconds)


@dataclass(slots=True)
class _Tracked:
    """A cost and how far the machine has moved from it; ``level`` and ``deviation`` are logarithms of ratios."""

    cost: Cost
    guessed: bool = False
    level: float = 0.0
    untried: int = 0
    deviation: float = field(init=False)
    width: float = field(init=False)
    typical_s: float = field(init=False)
    now: Rates = field(init=False)

    def __post_init__(self) -> None:
        self.deviation, self.width = self._fitted()
        self.typical_s = self.cost.typical_s
        self._update()

    def _fitted(self) -> tuple[float, float]:
        margin = math.log(self.cost.spread)
        known = self.cost.deviation if self.cost.deviation > 0 else margin / _USUAL_WIDTH
        deviation = max(_LEAST_DEVIATION, known)
        return deviation, margin / deviation

    def _update(self) -> None:
        factor = math.exp(self.level + self.width * self.deviation)
        fixed_s, pair_s, token_s, square_s = self.cost.rates
        self.now = Rates(fixed_s * factor, pair_s * factor, token_s * factor, square_s * factor)

    def observe(self, ratio: float, seconds: float, quantile: float) -> None:
        """Follows one task, given the logarithm of its real over its fitted seconds."""
        self.untried = 0
        step = ratio - self.level
        width, deviation = self.width, self.deviation
        exceeded = step > width * deviation + _ROUNDING
        if abs(step) > _LARGEST_STEP:
            step = math.copysign(_LARGEST_STEP, step)
        width += _WIDTH_STEP * (exceeded - (1 - quantile))
        deviation += _DEVIATION_GAIN * (abs(step) - deviation)
        self.width = width if width > 0.0 else 0.0
        self.deviation = deviation if deviation > _LEAST_DEVIATION else _LEAST_DEVIATION
        self.level += _LEVEL_GAIN * step
        self.typical_s += _LEVEL_GAIN * (seconds - self.typical_s) if self.typical_s > 0 else seconds
        self._update()

    def become(self, level: float, deviation: float, width: float) -> None:
        """Has moved as far as this."""
        self.level, self.deviation, self.width = level, deviation, width
        self._update()

    def relax(self) -> None:
        """Moves a prediction a tenth of the way back to the fit of a typical task, and a hundredth below that.

        Not before several queries in a row have not tried: some find little time left because others came first.
        """
        self.untried += 1
        if self.untried <= _PATIENCE:
            return
        deviation, _ = self._fitted()
        self.level = self.level + math.log(_RELAX) if self.guessed else min(self.level, self.level * _RELAX)
        self.level += math.log(_DOUBT)
        self.deviation = min(self.deviation, deviation + _RELAX * (self.deviation - deviation))
        self.width *= _RELAX
        self._update()


def _tracked(profile: CostProfile) -> dict[str, _Tracked]:
    return {key: _Tracked(cost) for key, cost in profile.costs.items()}


@dataclass(slots=True)
class CostModel:
    """A profile in use: predicts, and follows the machine.

    For each kind of task three numbers are tracked on the logarithm of real over fitted seconds: its level and its mean
    absolute deviation from that level, exponential averages as TCP keeps them for its retransmission timer (Jacobson
    1988; RFC 6298), and how many deviations above the level a share of ``1 - quantile`` of the tasks exceeds, by the
    online quantile rule ``width += step * (exceeded - (1 - quantile))`` of adaptive conformal inference (Gibbs and
    Candes, arXiv 2106.00170, eq. 2). A machine turning ten times slower is followed within some ten tasks, and back.
    One task moves the level by a bounded step, so that a single pause does not scare the scheduler off.

    Written to by the workers and read by everyone; each number is replaced whole, so that no lock is needed.
    """

    profile: CostProfile
    _tracked: dict[str, _Tracked] = field(init=False)

    def __post_init__(self) -> None:
        self._tracked = _tracked(self.profile)

    @classmethod
    def unknown(cls, quantile: float = 0.99) -> CostModel:
        """A model that knows nothing yet: every prediction is zero."""
        return cls(CostProfile(quantile, machine(), {}, source="none"))

    def replace(self, profile: CostProfile) -> None:
        """Predicts from another profile from now on; what was learnt since the last one is forgotten."""
        self._tracked = _tracked(profile)
        self.profile = profile

    def knows(self, key: str) -> bool:
        """Whether there is a cost for the key."""
        return key in self._tracked

    def rates(self, key: str) -> Rates:
        """Rates at the quantile, as the machine is now; ``FREE`` for a key that nothing is known of."""
        tracked = self._tracked.get(key)
        return FREE if tracked is None else tracked.now

    def likely_s(self, key: str, work: Work) -> float:
        """Seconds that the work takes on average, as the machine is now; 0 for a key that nothing is known of."""
        tracked = self._tracked.get(key)
        return 0.0 if tracked is None else tracked.cost.rates.seconds(work) * math.exp(tracked.level)

    def typical_s(self, key: str) -> float:
        """Average seconds of the key's latest tasks; 0 when there were none."""
        tracked = self._tracked.get(key)
        return 0.0 if tracked is None else tracked.typical_s

    def observe(self, key: str, work: Work, seconds: float) -> None:
        """Learns from a finished task; of a key never seen, a rough first guess."""
        if not 0 < seconds < math.inf:
            return
        tracked = self._tracked.get(key)
        if tracked is None:
            self._tracked[key] = _Tracked(Cost(_guess(work, seconds), _UNKNOWN_SPREAD, 1), guessed=True)
            return
        fitted = tracked.cost.rates.seconds(work)
        if fitted > 0:
            tracked.observe(math.log(seconds / fitted), seconds, self.profile.quantile)

    def settle(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Becomes what it is on average while it follows such tasks: what an engine believes after some minutes.

        Args:
            samples: by key, in the order in which they were measured; of keys that it has no cost for, nothing.
        """
        for key, tasks in samples.items():
            tracked = self._tracked.get(key)
            if tracked is None or not tasks:
                continue
            along = np.empty((len(tasks), 3))
            for number, task in enumerate(tasks):
                CostModel.observe(self, key, task.work, task.seconds)
                along[number] = tracked.level, tracked.deviation, tracked.width
            tracked.become(*along.mean(axis=0).tolist())

    def relax(self, key: str) -> None:
        """Learns that nothing was tried because of what is predicted.

        A prediction that has grown too large would otherwise never be corrected: no task would start any more. So it
        moves back towards what was fitted until one does, and slowly further, since the fit itself may have been
        made in a bad moment. A first guess, which nothing was fitted to, moves faster.
        """
        tracked = self._tracked.get(key)
        if tracked is not None:
            tracked.relax()
