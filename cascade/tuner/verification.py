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
from cascade.errors import DeadlineExceeded, Overloaded
from cascade.evaluation import evaluate
from cascade.index import Index
from cascade.schema import CascadeConfig
from cascade.tuner.evaluated import percentile_ms
from cascade.tuner.quality import Judgments
from cascade.tuner.recording import Recording
from cascade.tuner.replayer import Replayer, Turn

LATENCY_WITHIN = 0.10
QUALITY_WITHIN = 0.005
BLOCK = 25
"""Queries under the budget that a cascade is asked in a row, before the others have their turn; and at most as many
different ones tell how fast the machine is."""
PACED = 5
"""Queries without a budget after each block, which tell how fast the machine is."""
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
        pace: how many times as long as when it was recorded everything took, in the median, which the prediction allows
            for.
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
        """As JSON holds it; times without an end, where too many queries were refused, are None."""
        values = {**asdict(self), "latency_error": self.latency_error, "holds": self.holds}
        endless = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        return values | dict.fromkeys(endless)


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

    A machine that others use, too, is faster at one minute than at another. So all cascades are open at once, sharing
    their models, and take turns, block by block, until each has been measured over the same time; and after each block
    some queries are asked without a budget, by whose median what tasks were recorded to take is scaled. Of few queries
    a high percentile is the time of the two or three that a pause of the machine happened to hit, so that they are
    asked more than once; the quality is the mean.

    Args:
        configs: labels and cascades.
        recording: that they were replayed over.
        judgments: of its queries.
        index: that was recorded.
        measure: of quality.
        percentile: of latency.
        threads: of each task; as many as when it was recorded by default.
        progress: told how many of how many blocks are done.

    Raises:
        InputError: the index is not the recorded one.
    """
    recording.require_index(index)
    threads = recording.header.threads if threads is None else threads
    replayer = Replayer(recording, judgments, (measure,))
    numbers = [number for number, judged in enumerate(judgments.judged.tolist()) if judged]
    passes = min(MOST_PASSES, math.ceil(ANSWERS / max(1, len(numbers))))
    asked = [(run, number) for run in range(passes) for number in numbers]
    blocks = [asked[at : at + BLOCK] for at in range(0, len(asked), BLOCK)]
    with contextlib.ExitStack() as stack:
        trials: list[_Trial] = []
        engine: Cascade | None = None
        for label, config in configs:
            costs = recording.profile(config.settings.quantile)
            engine = Cascade(config, index=index, costs=costs, threads=threads, models_of=engine)
            stack.enter_context(engine)
            trials.append(_Trial(label, config, engine, replayer, numbers, passes))
        for done, (block, trial) in enumerate(itertools.product([blocks[0], *blocks], trials)):
            trial.ask(block, counts=done >= len(trials))  # the first time, so that the engine's beliefs settle
            progress(done + 1, (len(blocks) + 1) * len(trials))
    return [trial.verified(judgments, measure, percentile) for trial in trials]


class _Trial:
    """A cascade that is asked live, and what came of it."""

    def __init__(
        self,
        label: str,
        config: CascadeConfig,
        engine: Cascade,
        replayer: Replayer,
        numbers: Sequence[int],
        passes: int,
    ) -> None:
        self._label = label
        self._config = config
        self._engine = engine
        self._replayer = replayer
        some = [numbers[position] for position in spread(len(numbers), BLOCK)]
        self._some = itertools.cycle(zip(some, replayer.unlimited_s(config, some).tolist(), strict=True))
        self._turns: list[Turn] = []
        self._paces: list[float] = []
        self._counted: list[int] = []
        self._seconds: list[float] = []
        self._runs: list[dict[str, list[str]]] = [{} for _ in range(passes)]

    def ask(self, block: Sequence[tuple[int, int]], *, counts: bool) -> None:
        """Asks queries under the budget, and some without any after them.

        Args:
            block: of each query the pass that it belongs to, and its number.
            counts: whether it is reported.
        """
        queries = self._replayer.recording.queries
        self._unlimited()  # the first comes after another cascade has had the machine
        for run, number in block:
            query = queries[number]
            found: list[str] = []  # no answer, to whoever asked, where it fails or is refused; as in replay
            try:
                ranking = self._engine.search(query, budget_ms=FROM_CONFIG)
                found, seconds = [hit.doc_id for hit in ranking], ranking.trace.seconds
            except DeadlineExceeded as error:
                seconds = error.ranking.trace.seconds
            except Overloaded:
                seconds = math.inf
            if counts:
                self._counted.append(len(self._turns))
                self._seconds.append(seconds)
                self._runs[run][query.query_id] = found
            self._turns.append(Turn(number))
        self._paces += [self._unlimited() for _ in range(PACED)]

    def _unlimited(self) -> float:
        """How many times as long as when it was recorded a query takes without a budget."""
        number, recorded_s = next(self._some)
        self._turns.append(Turn(number, limited=False))
        ranking = self._engine.search(self._replayer.recording.queries[number], budget_ms=None)
        pace: float = ranking.trace.seconds / recorded_s
        return pace

    def verified(self, judgments: Judgments, measure: str, percentile: float) -> Verified:
        """What replay gives for the same queries, beside what came."""
        pace = float(np.median(self._paces))
        replayed = self._replayer.served(self._config, self._turns, pace).only(np.array(self._counted))
        return Verified(
            label=self._label,
            predicted_ms=replayed.latency_ms(percentile),
            measured_ms=percentile_ms(np.array(self._seconds), percentile),
            predicted=replayed.mean(measure),
            measured=float(np.mean([evaluate(run, judgments.qrels, [measure]).means[measure] for run in self._runs])),
            pace=pace,
        )


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` positions, evenly spread, the ends among them.

    >>> spread(10, 4), spread(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(position) for position in np.linspace(0, count - 1, min(count, most)).tolist()})
