"""Chosen cascades run live: what was predicted beside what was measured."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cascade.api import Cascade
from cascade.arguments import FROM_CONFIG
from cascade.errors import DeadlineExceeded
from cascade.evaluation import evaluate
from cascade.index import Index
from cascade.schema import CascadeConfig
from cascade.tuner.evaluated import percentile_ms
from cascade.tuner.quality import Judgments
from cascade.tuner.recording import Recording
from cascade.tuner.replayer import Replayer

LATENCY_WITHIN = 0.10
QUALITY_WITHIN = 0.005
WARM_UP = 20
"""Queries without a budget before and after those that count, evenly spread, which tell how fast the machine is now."""
SETTLING = 20
"""Queries under the budget before those that count, so that the engine's beliefs have settled, as in replay."""
ANSWERS = 200
"""As many answers are wanted for a percentile: few queries are asked several times, ..."""
MOST_PASSES = 5
"""but not more often than this."""


@dataclass(frozen=True, slots=True)
class Verified:
    """One cascade, predicted and measured on the same queries.

    Args:
        label: the cascade for people.
        predicted_ms, measured_ms: the percentile.
        predicted, measured: the quality.
        pace: how many times as long as when it was recorded everything took, which the prediction allows for.
    """

    label: str
    predicted_ms: float
    measured_ms: float
    predicted: float
    measured: float
    pace: float

    @property
    def latency_error(self) -> float:
        """Measured over predicted, minus 1."""
        return self.measured_ms / self.predicted_ms - 1

    @property
    def holds(self) -> bool:
        """Whether both are within what is promised: a tenth of the latency, five thousandths of the quality."""
        close = abs(self.measured - self.predicted) <= QUALITY_WITHIN
        return close and abs(self.latency_error) <= LATENCY_WITHIN

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "latency_error": self.latency_error, "holds": self.holds}


def verify(
    configs: Sequence[tuple[str, CascadeConfig]],
    recording: Recording,
    judgments: Judgments,
    index: Index,
    *,
    measure: str,
    percentile: float,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Verified]:
    """Runs cascades on the recorded queries that are judged, one query after the other, each under its own budget.

    A machine that others use, too, is faster at one hour than at another. So some queries are asked without a budget
    before those that count and after, and what all tasks were recorded to take is scaled by how much longer these take
    now. Of few queries a high percentile is the time of the two or three that a pause of the machine happened to hit,
    so that they are asked more than once; the quality is the mean.

    Args:
        configs: labels and cascades.
        recording: that they were replayed over.
        judgments: of its queries.
        index: that was recorded.
        measure: of quality.
        percentile: of latency.
        threads: of each task; as many as when it was recorded by default.
        progress: told how many of how many cascades are done.

    Raises:
        InputError: the index is not the recorded one.
    """
    recording.require_index(index)
    threads = recording.header.threads if threads is None else threads
    replayer = Replayer(recording, judgments, (measure,))
    queries = [query for query, judged in zip(recording.queries, judgments.judged, strict=True) if judged]
    warm_up = [queries[position] for position in spread(len(queries), WARM_UP)]
    numbers = [recording.numbers[query.query_id] for query in warm_up]
    passes = min(MOST_PASSES, math.ceil(ANSWERS / max(1, len(queries))))
    found = []
    for number, (label, config) in enumerate(configs, start=1):
        runs: list[dict[str, list[str]]] = [{} for _ in range(passes)]
        seconds = []
        costs = recording.profile(config.settings.quantile)
        with Cascade(config, index=index, costs=costs, threads=threads) as engine:
            taken_s = [engine.search(query, budget_ms=None).trace.seconds for query in warm_up]
            for query in queries[:SETTLING]:
                with contextlib.suppress(DeadlineExceeded):
                    engine.search(query, budget_ms=FROM_CONFIG)
            for run, query in itertools.product(runs, queries):
                try:
                    ranking = engine.search(query, budget_ms=FROM_CONFIG)
                    run[query.query_id] = [hit.doc_id for hit in ranking]
                except DeadlineExceeded as error:  # no answer, to whoever asked; as in replay
                    ranking = error.ranking
                    run[query.query_id] = []
                seconds.append(ranking.trace.seconds)
            taken_s += [engine.search(query, budget_ms=None).trace.seconds for query in warm_up]
        pace = float(np.median(taken_s / np.tile(replayer.unlimited_s(config, numbers), 2)))
        replayed = replayer.served(config, warm_up=numbers, settling=SETTLING, pace=pace)
        replayed = replayed.only(judgments.judged[replayed.query])
        quality = float(np.mean([evaluate(run, judgments.qrels, [measure]).means[measure] for run in runs]))
        measured_ms = percentile_ms(np.array(seconds), percentile)
        predicted_ms, predicted = replayed.latency_ms(percentile), replayed.mean(measure)
        found.append(Verified(label, predicted_ms, measured_ms, predicted, quality, pace))
        progress(number, len(configs))
    return found


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` positions, evenly spread, the ends among them.

    >>> spread(10, 4), spread(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(position) for position in np.linspace(0, count - 1, min(count, most)).tolist()})
