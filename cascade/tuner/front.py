"""The Pareto front: what the best cascade of each latency is, and how good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.tuner.evaluated import pandas

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A cascade that no other beats in both quality and latency, or that is preferred although some may.

    Args:
        label: the cascade for people.
        latency_ms: percentile on the queries that the choice was made with.
        quality: mean on those queries.
        validated_ms: the percentile on queries that the choice did not see.
        validated: the mean on those.
        low, high: confidence interval of ``validated``.
        low_ms, high_ms: confidence interval of ``validated_ms``; None where there are too few queries for an end.
        details: anything else that JSON can hold.
    """

    label: str
    latency_ms: float
    quality: float
    validated_ms: float
    validated: float
    low: float
    high: float
    low_ms: float
    high_ms: float | None
    details: dict[str, Any] = field(default_factory=dict)

    def same(self, other: FrontPoint) -> bool:
        """Whether both are of one cascade; how each was chosen, and so what is expected of it, may differ."""
        return bool(self.details == other.details)


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The best quality for each latency.

    Args:
        points: rising in latency and in quality.
        measure: what quality is.
        percentile: of the latency.

    Raises:
        InputError: there are none.
    """

    points: tuple[FrontPoint, ...]
    measure: str
    percentile: float

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError(
                "the Pareto front is empty: no cascade found anything relevant in finite time; lower the arrival rate, "
                "raise the budgets of the search space, or check that the judgments are of this corpus"
            )

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[FrontPoint]:
        return iter(self.points)

    def within(self, budget_ms: float) -> FrontPoint:
        """The best point of at most this latency.

        Raises:
            InputError: even the fastest is slower.
        """
        fitting = [point for point in self.points if point.latency_ms <= budget_ms]
        if not fitting:
            fastest = self.points[0]
            raise InputError(
                f"budget_ms: no cascade meets {budget_ms:g} ms at p{self.percentile:g}; the fastest, {fastest.label}, "
                f"takes {fastest.latency_ms:.3g} ms; raise --budget-ms above that, or record a faster retriever"
            )
        return fitting[-1]

    def hypervolume(self, latency_ms: float, quality: float = 0.0) -> float:
        """Area that the front dominates, in milliseconds times quality.

        Zitzler & Thiele, Multiobjective Optimization Using Evolutionary Algorithms (PPSN 1998).

        Args:
            latency_ms: of the reference point; slower points do not count.
            quality: of the reference point.
        """
        pairs = [(point.latency_ms, point.quality) for point in self.points]
        return hypervolume(pairs, latency_ms, quality)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "measure": self.measure,
            "percentile": self.percentile,
            "points": [asdict(point) for point in self.points],
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row a point.

        Raises:
            InputError: pandas is not installed.
        """
        return pandas().DataFrame([asdict(point) for point in self.points])


def pareto(latency: Floats, quality: Floats) -> list[int]:
    """Positions of the points that no other beats, by rising latency; of equal points the first.

    What finds nothing, or never answers, is not worth having however fast it is.

    >>> pareto(np.array([3.0, 1.0, 2.0, 2.5]), np.array([0.9, 0.5, 0.4, 0.6]))
    [1, 3, 0]
    """
    best, found = 0.0, []
    for position in np.lexsort((np.arange(len(latency)), -quality, latency)).tolist():
        if np.isfinite(latency[position]) and quality[position] > best:
            best = quality[position]
            found.append(position)
    return found


def hypervolume(points: Sequence[tuple[float, float]], latency: float, quality: float = 0.0) -> float:
    """Area between a reference point and (latency, quality) pairs, of which the former is to be small.

    >>> hypervolume([(1.0, 0.5), (2.0, 1.0)], latency=3.0)
    1.5
    """
    area, best = 0.0, quality
    for at, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if at < latency and value > best:
            area += (latency - at) * (value - best)
            best = value
    return area
