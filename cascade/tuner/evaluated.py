"""What the replay of one configuration gave: quality and time of every answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.evaluation import bootstrap_interval
from cascade.schema import CascadeConfig

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers of a replayed cascade, in the order in which their queries came.

    Args:
        config: the cascade.
        query: int64 [n], number of the recorded query that each answers.
        query_ids: of all recorded queries.
        measures: by name, float64 [n]; nan where the query has no judgments, 0 where it was refused or failed.
        seconds: float64 [n], from arrival to answer; inf where it was refused.
        degraded: bool [n], which stages could not do all they were planned to do.
        refused: bool [n], refused at the door, or failed because a stage says ``on_overrun: fail``.
        scored: by stage, int64 [n], candidates that it scored.
        stage_seconds: by stage, float64 [n].
    """

    config: CascadeConfig
    query: npt.NDArray[np.int64]
    query_ids: Sequence[str]
    measures: Mapping[str, Floats]
    seconds: Floats
    degraded: npt.NDArray[np.bool_]
    refused: npt.NDArray[np.bool_]
    scored: Mapping[str, npt.NDArray[np.int64]]
    stage_seconds: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.query)

    def mean(self, measure: str) -> float:
        """Mean of a measure over all answers to judged queries."""
        return float(np.nanmean(self._values(measure)))

    def interval(self, measure: str, confidence: float = 0.95) -> tuple[float, float]:
        """Bootstrap confidence interval of the mean."""
        values = self._values(measure)
        return bootstrap_interval(values[~np.isnan(values)], confidence=confidence)

    def latency_ms(self, percentile: float) -> float:
        """Nearest-rank percentile (above 0, at most 100) of the seconds, in milliseconds; inf where refusals reach."""
        return percentile_ms(self.seconds, percentile)

    def latency_interval_ms(self, percentile: float, confidence: float = 0.95) -> tuple[float, float | None]:
        """Confidence interval of a percentile of the seconds, in milliseconds; see ``percentile_interval_ms``."""
        return percentile_interval_ms(self.seconds, percentile, confidence)

    @property
    def over_budget(self) -> float | None:
        """Share of answers that took longer than the configured budget, or never came; None without one."""
        budget_ms = self.config.settings.budget_ms
        return None if budget_ms is None else float((self.seconds > budget_ms / 1000).mean())

    def only(self, answers: npt.NDArray[Any]) -> Evaluation:
        """A part of the answers: a mask or positions."""
        return replace(
            self,
            query=self.query[answers],
            measures={name: values[answers] for name, values in self.measures.items()},
            seconds=self.seconds[answers],
            degraded=self.degraded[answers],
            refused=self.refused[answers],
            scored={name: values[answers] for name, values in self.scored.items()},
            stage_seconds={name: values[answers] for name, values in self.stage_seconds.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Means and percentiles as JSON holds them."""
        return {
            "name": self.config.settings.name,
            "answers": len(self),
            "measures": {name: self.mean(name) for name in self.measures},
            "latency_ms": {f"p{p}": _finite(self.latency_ms(p)) for p in (50, 95, 99)},
            "over_budget": self.over_budget,
            "degraded": float(self.degraded.mean()),
            "refused": float(self.refused.mean()),
            "scored_mean": {name: float(values.mean()) for name, values in self.scored.items()},
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row an answer.

        Raises:
            InputError: pandas is not installed.
        """
        query_ids = [self.query_ids[query] for query in self.query.tolist()]
        columns: dict[str, Any] = {"query_id": query_ids, "ms": self.seconds * 1000, **self.measures}
        columns |= {"degraded": self.degraded, "refused": self.refused}
        columns |= {f"{name} scored": values for name, values in self.scored.items()}
        columns |= {f"{name} ms": values * 1000 for name, values in self.stage_seconds.items()}
        return pandas().DataFrame(columns)

    def _values(self, measure: str) -> Floats:
        if measure not in self.measures:
            known = ", ".join(self.measures) or "none, for lack of judgments"
            raise InputError(f"measure: {measure!r} was not computed; there are: {known}; name it in replay()")
        return self.measures[measure]


def percentile_ms(seconds: Floats, percentile: float) -> float:
    """Nearest-rank percentile in milliseconds, so that some answer really took that long."""
    position = max(0, math.ceil(percentile / 100 * len(seconds) - 1e-9) - 1)
    return float(np.partition(seconds, position)[position] * 1000)


def percentile_interval_ms(seconds: Floats, percentile: float, confidence: float) -> tuple[float, float | None]:
    """Bounds of the percentile that all answers have, told from some, in milliseconds; whatever the distribution.

    Of n independent latencies, the number below the p-quantile is binomial, so the r-th smallest is above it with
    probability P(B < r) and below it with P(B >= r) (David & Nagaraja, Order Statistics, 3rd edition, section 7.1).

    Args:
        seconds: float64 [n].
        percentile: above 0 and below 100.
        confidence: that it lies between the bounds, half of the rest on either side.

    Returns:
        The lower bound, 0 where so few answers tell none; and the upper, None where they tell none.

    >>> percentile_interval_ms(np.arange(1.0, 101.0) / 1000, 50, 0.95), percentile_interval_ms(np.ones(9), 95, 0.95)
    ((40.0, 61.0), (1000.0, None))
    """
    n, share, tail = len(seconds), percentile / 100, (1 - confidence) / 2
    k = np.arange(n)
    gamma = np.array([math.lgamma(value) for value in range(1, n + 2)])
    below = np.exp(gamma[n] - gamma[k] - gamma[n - k] + k * math.log(share) + (n - k) * math.log1p(-share)).cumsum()
    # below[r - 1] is P(B < r)
    low, high = int(np.count_nonzero(below <= tail)), int(np.count_nonzero(1 - below > tail))
    rising = np.sort(seconds) * 1000
    known = high < n and math.isfinite(rising[high])
    return (float(rising[low - 1]) if low else 0.0), (float(rising[high]) if known else None)


def pandas() -> Any:
    """The package pandas.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pandas as module
    except ImportError:
        message = "DataFrames need the package pandas; run `pip install 'cascade-ranking[frames]'`"
        raise InputError(message) from None
    return module


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
