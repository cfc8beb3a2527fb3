r"""Does tuning pay? Fronts, the tuned cascade beside the hand-written ones, and predictions beside measurements.

    cascade record --config benchmarks/family.yaml --index IDX --queries Q.jsonl --depth 200 --out T.parquet
    python -m benchmarks.tuning --recording T.parquet --qrels DATA/qrels/test.tsv --configs configs/*.yaml \\
        --budgets-ms 25 50 100 200 --verify 10 --index IDX --processes 2 --out benchmarks/results/tuning-DATA.json

1. The front by plain means; and for each budget what to run, a hand-written cascade unless another is better beyond
   chance, with what it is worth on queries that it was not chosen by.
2. Each hand-written configuration whose stages were recorded, replayed, beside what tuning replaces it with at the
   latency that it has, itself if nothing is better beyond chance: quality and latency of both on queries that the
   choice was not made by. Tuning tries these, too.
3. The hypervolume of the front beside that of 200 cascades spread evenly over the space and replayed apart from the
   search: either front chosen on some queries, its hypervolume taken on the others.
4. With ``--verify``: that many cascades run live, predicted beside measured: points of the front, and where there are
   fewer, the best of the others.

With ``--out X.json`` the plot of the front is written to ``X.png``. What does not hold is said, and is no error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.common import machine_record, print_table
from benchmarks.stalls import heartbeat
from cascade.errors import CascadeError, InputError
from cascade.evaluation import bootstrap_interval
from cascade.index import Index
from cascade.io import atomic_write_bytes, read_qrels, write_json_atomic
from cascade.load import load_config
from cascade.registry import Registry
from cascade.tuner import (
    Effort,
    Evaluation,
    Goal,
    Judgments,
    Recording,
    Replayer,
    SearchSpace,
    Tuned,
    Tuning,
    tune,
    verify,
)
from cascade.tuner.choice import Fold
from cascade.tuner.evaluated import percentile_ms
from cascade.tuner.front import hypervolume, pareto
from cascade.tuner.plot import png
from cascade.tuner.report import to_json
from cascade.tuner.study import Trial, Workers
from cascade.tuner.verification import LATENCY_WITHIN, QUALITY_WITHIN, spread

GRID = 200
RESAMPLES = 500
"""Of the queries left out, for the interval of a difference in hypervolume."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--configs", type=Path, nargs="*", default=[])
    parser.add_argument("--budgets-ms", type=float, nargs="+", default=[25.0, 50.0, 100.0, 200.0])
    parser.add_argument("--percentile", type=float, default=95.0)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--verify", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(), help="of the recorded YAML file, for relative models")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for path in (arguments.recording, arguments.qrels):
        if not path.exists():
            print(f"skipped: {path} is not there; see --help for how to make it")
            return 0
    recording, qrels = Recording.load(arguments.recording), read_qrels(arguments.qrels)
    space = SearchSpace.of(recording, budgets_ms=arguments.budgets_ms)
    goal = Goal(max(arguments.budgets_ms), arguments.percentile, confidence=arguments.confidence)
    judgments = Judgments.of(qrels, recording, partial=True)
    replayer = Replayer(recording, judgments, (goal.measure,))
    written, left_out = replayed(replayer, arguments.configs)
    seeds = [evaluation.config for evaluation in written.values()]
    effort = Effort(arguments.trials, arguments.processes)
    tuned = tune(recording, qrels, goal, space=space, effort=effort, partial=True, seeds=seeds)
    grid = replay_grid(replayer, space, goal.measure, arguments.processes)
    report = {
        **machine_record(),
        "front": to_json(tuned),
        "budgets": _budgets(tuned, arguments.budgets_ms),
        "hand_written": compared(tuned.tuning, written, numbers_of(tuned, written)),
        "left_out": left_out,
        "hypervolume": hypervolumes(tuned.tuning, grid),
    }
    if arguments.verify and arguments.index is not None and arguments.index.exists():
        report["verified"] = _verified(tuned, judgments, arguments)
    elif arguments.verify:
        print(f"nothing is verified: no index at {arguments.index}")
    if arguments.out is not None:
        write(report, arguments.out)
    return 0


def write(report: dict[str, Any], out: Path) -> None:
    """Writes the figures as JSON, and the plot of the front beside them under the same name."""
    picture = out.with_suffix(".png")
    try:
        plot = png(report["front"])
    except InputError as error:  # the figures are worth having without it
        print(f"{picture.name} is not written: {error}")
    else:
        with atomic_write_bytes(picture) as file:
            file.write(plot)
        report = {**report, "plot": picture.name}
    write_json_atomic(out, report)


def _budgets(tuned: Tuned, budgets_ms: Sequence[float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for budget_ms in budgets_ms:
        try:
            point = tuned.tuning.within(budget_ms)
        except InputError as error:
            found.append({"budget_ms": budget_ms, "none": str(error)})
            continue
        figures = {"validated": point.validated, "low": point.low, "high": point.high, "ms": point.validated_ms}
        found.append({"budget_ms": budget_ms, "cascade": point.label, **figures})
    rows = [
        [f"{row['budget_ms']:g}", row["cascade"], f"{row['ms']:.1f}", f"{row['validated']:.4f}"]
        if "cascade" in row
        else [f"{row['budget_ms']:g}", "none is fast enough", "", ""]
        for row in found
    ]
    goal = tuned.tuning.goal
    print_table(["budget, ms", "cascade", f"p{goal.percentile:g}, ms", goal.measure], rows)
    return found


def replayed(
    replayer: Replayer, paths: Sequence[Path], registry: Registry | None = None
) -> tuple[dict[str, Evaluation], dict[str, str]]:
    """Hand-written configurations, replayed, and those that cannot be.

    Args:
        replayer: over the recording.
        paths: of the configurations.
        registry: the kinds of stage; the installed ones by default.

    Returns:
        By file name the evaluation of each, and by file name why there is none.
    """
    found, left_out = {}, {}
    for path in paths:
        try:
            found[path.name] = replayer.run(load_config(path, registry))
        except CascadeError as error:
            left_out[path.name] = str(error).splitlines()[0]
            print(f"left out: {path.name}: {left_out[path.name]}")
    return found, left_out


def numbers_of(tuned: Tuned, written: Mapping[str, Evaluation]) -> dict[str, int]:
    """Which trial each configuration is, by name."""
    numbers = {trial.point.key: number for number, trial in enumerate(tuned.tuning.trials)}
    return {name: numbers[tuned.space.seed(evaluation.config).key] for name, evaluation in written.items()}


def compared(
    tuning: Tuning, written: Mapping[str, Evaluation], numbers: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Each configuration and what tuning replaces it with at its latency, on queries that do not decide that.

    Args:
        tuning: every trial.
        written: evaluations by name, of the same queries one after the other.
        numbers: by name, which trial a configuration is: it is kept unless another is better beyond chance.

    Returns:
        For each, percentile in milliseconds and quality of its own and of the tuned one; the gain in quality with its
        confidence interval; whether the tuned one is as good, and whether it is not slower.
    """
    goal = tuning.goal
    found: list[dict[str, Any]] = []
    for name, evaluation in written.items():
        kept = None if numbers is None else numbers[name]
        own, own_s, best, best_s = _on_queries_left_out(tuning, evaluation, kept)
        own_ms, best_ms = percentile_ms(own_s, goal.percentile), percentile_ms(best_s, goal.percentile)
        low, high = bootstrap_interval(best - own, confidence=goal.confidence, samples=2000)
        gain = float((best - own).mean())
        row = {"config": name, "ms": own_ms, "own": float(own.mean()), "tuned_ms": best_ms, "tuned": float(best.mean())}
        row |= {"gain": gain, "low": low, "high": high}
        found.append({**row, "as_good": bool(gain >= -1e-9), "not_slower": bool(best_ms <= own_ms + 1e-6)})
    _print_compared(found, goal)
    return found


def _print_compared(found: Sequence[Mapping[str, Any]], goal: Goal) -> None:
    rows = []
    for row in found:
        figures = (f"{row['ms']:.1f}", f"{row['own']:.4f}", f"{row['tuned_ms']:.1f}", f"{row['tuned']:.4f}")
        gain = f"{row['gain']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        rows.append([row["config"], *figures, gain, _holds(row["as_good"]), _holds(row["not_slower"])])
    at = f"p{goal.percentile:g}, ms"
    print_table(["config", at, "its own", f"tuned: {at}", "tuned", "gain", "as good", "not slower"], rows)
    behind = [row["config"] for row in found if not (row["as_good"] and row["not_slower"])]
    if behind:
        print(f"DOES NOT HOLD: tuned is worse or slower than {', '.join(behind)} on queries left out")


def _holds(it_does: bool) -> str:
    return "yes" if it_does else "NO"


def _on_queries_left_out(
    tuning: Tuning, evaluation: Evaluation, kept: int | None
) -> tuple[npt.NDArray[np.float64], ...]:
    """Quality and seconds of a cascade, and of what is chosen for the latency that it has where the choice is made."""
    parts = []
    for fold in tuning.folds:
        latency_ms = evaluation.only(fold.tuning[evaluation.query]).latency_ms(tuning.goal.percentile)
        chosen = Tuning(tuning.trials, tuning.query, [fold], tuning.goal, kept).validated(latency_ms, careful=True)
        own = evaluation.only(fold.validation[evaluation.query])
        parts.append((own.measures[tuning.goal.measure], own.seconds, *chosen))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def replay_grid(replayer: Replayer, space: SearchSpace, measure: str, processes: int = 1) -> list[Trial]:
    """Cascades spread evenly over a space, whatever a search thinks of them; all where there are no more than 200."""
    points = list(space.points())
    chosen = [points[i] for i in spread(len(points), GRID)]
    with Workers(replayer, space, measure, None, processes) as workers:
        return [trial for trials in workers.run(chosen) for trial in trials]


def hypervolumes(tuning: Tuning, grid: Sequence[Trial]) -> dict[str, Any]:
    """The hypervolume of what was searched for beside that of a grid.

    Either front is chosen on tuning queries, and both are measured on those left out, up to the slowest point on either
    front; with several folds, the mean. The interval of the difference is a bootstrap over the queries left out.

    Args:
        tuning: every trial of the search.
        grid: trials of the grid, of the same queries.
    """
    other = Tuning(grid, tuning.query, tuning.folds, tuning.goal)
    parts = []
    for fold in tuning.folds:
        tuned, spread_out = _front(tuning, fold), _front(other, fold)
        parts.append((tuned, spread_out, np.flatnonzero(fold.validation[tuning.query])))
    ends = [ms for *fronts, answers in parts for front in fronts for ms, _ in front.at(answers)]
    worst = max(ms for ms in ends if np.isfinite(ms))

    def volumes(drawn: Sequence[npt.NDArray[np.int64]]) -> tuple[float, float]:
        pairs = zip(parts, drawn, strict=True)
        each = [[hypervolume(front.at(answers), worst) for front in fronts] for (*fronts, _), answers in pairs]
        ours, theirs = np.mean(each, axis=0).tolist()
        return ours, theirs

    ours, theirs = volumes([answers for *_, answers in parts])
    rng, ahead = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        one, two = volumes([rng.choice(answers, len(answers)) for *_, answers in parts])
        ahead.append(one - two)
    outside = (1 - tuning.goal.confidence) / 2
    low, high = np.quantile(ahead, [outside, 1 - outside]).tolist()
    at_least = ours >= theirs - 1e-9
    said = f"{ours - theirs:+.2f}, {low:+.2f} to {high:+.2f} at {tuning.goal.confidence:.0%}"
    print(f"hypervolume {ours:.2f} ms, of a grid of {len(grid)} {theirs:.2f} ms, on queries left out ({said})")
    if not at_least:
        print("DOES NOT HOLD: the hypervolume is at least that of the grid")
    found = {"latency_ms": worst, "tuned": ours, "grid": theirs, "low": low, "high": high}
    return {**found, "grid_size": len(grid), "at_least_grid": at_least}


class _Front(NamedTuple):
    """The trials of a front, fastest first: float64 [trials, answers] each."""

    seconds: npt.NDArray[np.float64]
    quality: npt.NDArray[np.float64]
    percentile: float

    def at(self, answers: npt.NDArray[np.int64]) -> list[tuple[float, float]]:
        """Milliseconds and quality on some answers, by position."""
        quality = np.nanmean(self.quality[:, answers], axis=1).tolist()
        return [
            (percentile_ms(one, self.percentile), value)
            for one, value in zip(self.seconds[:, answers], quality, strict=True)
        ]


def _front(tuning: Tuning, fold: Fold) -> _Front:
    """The front that a fold's tuning queries choose."""
    chosen_by = fold.tuning[tuning.query]
    front = [tuning.trials[i] for i in pareto(tuning.latency(chosen_by), tuning.quality(chosen_by))]
    shape = len(front), len(tuning.query)
    seconds = np.array([trial.seconds for trial in front]).reshape(shape)
    quality = np.array([trial.quality for trial in front]).reshape(shape)
    return _Front(seconds, quality, tuning.goal.percentile)


def to_verify(tuning: Tuning, most: int) -> list[int]:
    """Numbers of trials, the fastest first: the front, spread evenly; where it is shorter, also the best of the others.

    The best of the others are the front that they would have without it, and so on. Of cascades that did the same in
    the same time, one is enough.
    """
    latency, quality = tuning.latency(tuning.tuning), tuning.quality(tuning.tuning)
    found: list[int] = []
    left = list(range(len(tuning.trials)))
    while len(found) < most:
        front = [left[i] for i in pareto(latency[left], quality[left])]
        if not front:
            break
        found += [front[i] for i in spread(len(front), most - len(found))]
        known = {(latency[i], quality[i]) for i in front}
        left = [i for i in left if (latency[i], quality[i]) not in known]
    return sorted(found, key=lambda trial: float(latency[trial]))


def _verified(tuned: Tuned, judgments: Judgments, arguments: argparse.Namespace) -> dict[str, Any]:
    points = [tuned.tuning.trials[i].point for i in to_verify(tuned.tuning, arguments.verify)]
    configs = [(point.label(), replace(tuned.space.config(point), folder=arguments.folder)) for point in points]
    goal, index = tuned.tuning.goal, Index.open(arguments.index)
    with heartbeat() as stalls:
        began = time.perf_counter()
        found, again = (
            verify(
                configs,
                tuned.space.recording,
                judgments,
                index,
                measure=goal.measure,
                percentile=goal.percentile,
                threads=arguments.threads,
            )
            for _ in range(2)
        )
        ended = time.perf_counter()
        lost = stalls.between(began, ended) / (ended - began)
    rows, apart = [], []
    for one, other in zip(found, again, strict=True):
        times = (one.predicted_ms, one.measured_ms, other.measured_ms)
        cells = [*(f"{ms:.1f}" for ms in times), *(f"{value:.4f}" for value in (one.predicted, one.measured))]
        rows.append([one.label, *cells, _holds(one.holds)])
        apart.append(abs(other.measured_ms / one.measured_ms - 1))
    heads = ["cascade", "predicted, ms", "measured, ms", "measured again, ms", "predicted", "measured", "holds"]
    print_table(heads, rows)
    held = sum(one.holds for one in found)
    print(f"{held} of {len(found)} within {LATENCY_WITHIN:.0%} of the latency and {QUALITY_WITHIN:g} of {goal.measure}")
    print(f"of the same cascades measured twice, {sum(by > LATENCY_WITHIN for by in apart)} differ by more than that")
    both = [
        {**one.to_json(), "again_ms": other.to_json()["measured_ms"]} for one, other in zip(found, again, strict=True)
    ]
    print(f"meanwhile the machine lost {lost:.1%} of its time")
    return {"held": held, "points": both, "lost by the machine": lost}


if __name__ == "__main__":
    sys.exit(main())
