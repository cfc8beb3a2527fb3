"""Trying the cascades of a space: all of them where they are few, else those that an optimiser asks for.

What was tried is kept in a journal, one line a cascade, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.index.manifest import cascade_version, digest
from cascade.schema import CascadeConfig
from cascade.tuner.evaluated import Evaluation, percentile_ms
from cascade.tuner.point import Point
from cascade.tuner.quality import Judgments
from cascade.tuner.recording import Recording
from cascade.tuner.replayer import Load, Replayer
from cascade.tuner.space import Choose, SearchSpace

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Sampler: TypeAlias = Literal["tpe", "nsga2"]
Progress: TypeAlias = Callable[[int, int], None]

AT_ONCE = 16
"""Cascades in one piece of work: enough that those that begin alike meet, few enough that all workers have some."""
JOURNAL_VERSION = 1


@dataclass(frozen=True, slots=True)
class Trial:
    """A cascade that was tried.

    Args:
        point: the cascade.
        quality: float64 [n], of each answer; nan where its query has no judgments.
        seconds: float64 [n], inf where it was refused.
    """

    point: Point
    quality: Floats
    seconds: Floats


class Workers:
    """Replays points, in this process or in several.

    Args:
        replayer: over the recording.
        space: that the points are of.
        measure: the quality.
        load: how queries come.
        processes: 1 for this one.
    """

    def __init__(
        self, replayer: Replayer, space: SearchSpace, measure: str, load: Load | None = None, processes: int = 1
    ) -> None:
        self._replayer, self._space, self._measure, self._load = replayer, space, measure, load
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            judgments = replayer.judgments
            given = (replayer.recording.source, () if judgments is None else judgments.qrels, measure, load)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=given)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, points: Sequence[Point]) -> Iterator[list[Trial]]:
        """The trials of the points, a few at a time, in order."""
        pieces = [points[at : at + AT_ONCE] for at in range(0, len(points), AT_ONCE)]
        if self._pool is None:
            for piece in pieces:
                yield [self._trial(point, self._replayer.run(self._space.config(point), self._load)) for point in piece]
            return
        futures: list[Future[list[tuple[Floats, Floats]]]] = [
            self._pool.submit(_replay, [self._space.config(point) for point in piece]) for piece in pieces
        ]
        for piece, future in zip(pieces, futures, strict=True):
            yield [Trial(point, *values) for point, values in zip(piece, future.result(), strict=True)]

    def _trial(self, point: Point, evaluation: Evaluation) -> Trial:
        return Trial(point, evaluation.measures[self._measure], evaluation.seconds)


_replayer: Replayer | None = None
_given: tuple[str, Load | None] = ("", None)


def _start(source: str, qrels: Sequence[Any], measure: str, load: Load | None) -> None:
    """Loads the recording into a worker process."""
    global _replayer, _given
    recording = Recording.load(source)
    _replayer = Replayer(recording, Judgments.of(qrels, recording), (measure,))
    _given = measure, load


def _replay(configs: Sequence[CascadeConfig]) -> list[tuple[Floats, Floats]]:
    assert _replayer is not None
    measure, load = _given
    evaluations = [_replayer.run(config, load) for config in configs]
    return [(evaluation.measures[measure], evaluation.seconds) for evaluation in evaluations]


class Journal:
    """What was tried so far, on disk.

    Args:
        path: the file; None keeps nothing.
        header: identifies the inputs: trials of others are of no use.

    Raises:
        InputError: the file belongs to other inputs.
    """

    def __init__(self, path: Path | None, header: dict[str, Any]) -> None:
        self._path = path
        self.trials: dict[str, tuple[Floats, Floats]] = {}
        first = json.dumps({"version": JOURNAL_VERSION, **header}, sort_keys=True)
        if path is None:
            return
        if path.exists():
            self._read(path, first)
        else:
            path.write_text(first + "\n")

    def _read(self, path: Path, first: str) -> None:
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        lines = (
            whole[:end].decode(errors="replace").splitlines()
        )  # what follows the last line break was cut off by an interruption
        if not lines or lines[0] != first:
            raise InputError(
                f"{path}: holds trials of another recording or version, or by other judgments, fusions, measure or "
                f"load; remove it, or write to another --out"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = json.loads(line)
                seconds = [np.inf if value is None else float(value) for value in entry["seconds"]]
                quality = [np.nan if value is None else float(value) for value in entry["quality"]]
                self.trials[entry["point"]] = np.array(quality), np.array(seconds)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}:{number}: the journal is damaged: {error!r}; remove that line") from error
        if end < len(whole):
            path.write_bytes(whole[:end])

    def add(self, trials: Sequence[Trial]) -> None:
        """Notes trials."""
        self.trials |= {trial.point.key: (trial.quality, trial.seconds) for trial in trials}
        if self._path is not None:
            with self._path.open("a") as file:
                for trial in trials:
                    entry = {
                        "point": trial.point.key,
                        "quality": _plain(trial.quality),
                        "seconds": _plain(trial.seconds),
                    }
                    file.write(json.dumps(entry) + "\n")


def _plain(values: Floats) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def header(replayer: Replayer, space: SearchSpace, measure: str, load: Load | None) -> dict[str, Any]:
    """What decides the outcome of a trial besides its point."""
    judgments, recording = replayer.judgments, replayer.recording
    seconds = [float(data.tasks.values.sum()) for data in recording.units.values()]
    return {
        "cascade_version": cascade_version(),
        "recording": digest([recording.header.model_dump(mode="json"), seconds]),
        "qrels": digest([] if judgments is None else [list(qrel) for qrel in judgments.qrels]),
        "space": digest([space.settings.fusions, space.settings.top_k]),
        "measure": measure,
        "load": None if load is None else asdict(load),
    }


def explore(
    workers: Workers,
    space: SearchSpace,
    journal: Journal,
    *,
    trials: int,
    percentile: float,
    answers: npt.NDArray[np.bool_],
    seeds: Sequence[Point] = (),
    sampler: Sampler = "tpe",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> list[Trial]:
    """Tries the cascades of a space.

    Args:
        workers: replay them.
        space: of the cascades.
        journal: of what was tried already.
        trials: at most; a space of no more cascades is tried whole.
        percentile: of the latency, which an optimiser weighs against the quality.
        answers: bool [n], those of a trial that an optimiser may go by; the others stay unseen.
        seeds: points to try in any case and first, besides those of the space.
        sampler: tpe: tree-structured Parzen estimators (Bergstra et al., NIPS 2011); nsga2: a genetic algorithm (Deb
            et al., 2002). Either looks for the whole front.
        seed: of the sampler.
        progress: told how many of how many cascades were tried.

    Raises:
        InputError: an optimiser is needed and not installed.
    """
    given = list({point.key: point for point in seeds}.values())
    _try(given, workers, journal, lambda done, total: None, len(given))
    if space.size <= trials:
        points = list(space.points())
        _try(points, workers, journal, progress, len(points))
    else:
        points = _optimise(workers, space, journal, trials, percentile, answers, sampler, seed, progress)
    return [Trial(point, *journal.trials[point.key]) for point in [*points, *given]]


def _try(points: Sequence[Point], workers: Workers, journal: Journal, progress: Progress, total: int) -> None:
    new = [point for point in points if point.key not in journal.trials]
    progress(total - len(new), total)
    for trials in workers.run(new):
        journal.add(trials)
        new = new[len(trials) :]
        progress(total - len(new), total)


def _optimise(
    workers: Workers,
    space: SearchSpace,
    journal: Journal,
    trials: int,
    percentile: float,
    answers: npt.NDArray[np.bool_],
    sampler: Sampler,
    seed: int,
    progress: Progress,
) -> list[Point]:
    """Asks an optimiser for cascades in rounds; what the journal knows is told, not tried again."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind = optuna.samplers.TPESampler if sampler == "tpe" else optuna.samplers.NSGAIISampler
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=kind(seed=seed))
    points: dict[str, Point] = {}
    asked = 0
    while len(points) < trials and asked < 4 * trials:
        round_ = [study.ask() for _ in range(2 * AT_ONCE)]
        asked += len(round_)
        chosen = [space.sample(_choices(trial)) for trial in round_]
        new = list({point.key: point for point in chosen if point.key not in points}.values())
        new = new[: trials - len(points)]
        points |= {point.key: point for point in new}
        done = len(points) - len(new)
        _try(new, workers, journal, lambda now, total, done=done: progress(done + now, trials), len(new))  # type: ignore[misc]
        for trial, point in zip(round_, chosen, strict=True):
            if point.key in points:
                quality, seconds = journal.trials[point.key]
                study.tell(trial, _objectives(quality[answers], seconds[answers], percentile))
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
    logger.info("the optimiser asked for %d cascades, %d of them different", asked, len(points))
    return list(points.values())


def _choices(trial: Any) -> Choose:
    def choose(name: str, count: int) -> int:
        """Depths have an order, the rest has none."""
        if name.startswith("depth"):
            return int(trial.suggest_int(name, 0, count - 1))
        return int(trial.suggest_categorical(name, list(range(count))))

    return choose


def _objectives(quality: Floats, seconds: Floats, percentile: float) -> tuple[float, float]:
    slowest_ms = percentile_ms(seconds, percentile)
    return float(np.nanmean(quality)), slowest_ms if np.isfinite(slowest_ms) else 1e9


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError(
            "the search space is too large to try every cascade, and an optimiser needs the package optuna; "
            "run `pip install 'cascade-ranking[tune]'`, raise --trials, or state a smaller --space"
        ) from None
    return optuna
