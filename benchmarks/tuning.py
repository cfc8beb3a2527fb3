r"""Does tuning pay? Fronts, the tuned cascade beside the hand-written ones, and predictions beside measurements.

    cascade record --config configs/default.yaml --index IDX --queries DATA/queries.jsonl --depth 400 --out T.parquet
    python -m benchmarks.tuning --recording T.parquet --qrels DATA/qrels/test.tsv --configs configs/*.yaml \\
        --budgets-ms 25 50 100 200 --verify 10 --index IDX --processes 2 --out benchmarks/results/tuning-DATA.json

1. The front, and for each budget the best cascade with what it is worth on queries that it was not chosen by.
2. Each hand-written configuration whose stages were recorded, replayed, beside what tuning would choose for the latency
   that it has: both on queries that the choice was not made by.
3. The front's hypervolume beside that of a grid of 200 cascades, spread evenly over the space.
4. With ``--verify``: that many points of the front run live, predicted beside measured.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine_record, print_table
from cascade.errors import CascadeError, InputError
from cascade.index import Index
from cascade.io import read_qrels, write_json_atomic
from cascade.load import load_config
from cascade.tuner import Effort, Evaluation, Goal, Judgments, Recording, Replayer, SearchSpace, Tuned, tune, verify
from cascade.tuner.front import hypervolume, pareto
from cascade.tuner.report import to_json
from cascade.tuner.verification import spread

GRID = 200


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
    effort = Effort(arguments.trials, arguments.processes)
    tuned = tune(recording, qrels, goal, space=space, effort=effort, partial=True)
    judgments = Judgments.of(qrels, recording, partial=True)
    report = {
        **machine_record(),
        "front": to_json(tuned),
        "budgets": _budgets(tuned, arguments.budgets_ms),
        "hand_written": _hand_written(tuned, judgments, arguments.configs),
        "hypervolume": _hypervolumes(tuned),
    }
    if arguments.verify and arguments.index is not None and arguments.index.exists():
        report["verified"] = _verified(tuned, judgments, arguments)
    elif arguments.verify:
        print(f"nothing is verified: no index at {arguments.index}")
    if arguments.out is not None:
        write_json_atomic(arguments.out, report)
    return 0


def _budgets(tuned: Tuned, budgets_ms: list[float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for budget_ms in budgets_ms:
        try:
            point = tuned.front.within(budget_ms)
        except InputError as error:
            found.append({"budget_ms": budget_ms, "none": str(error)})
            continue
        figures = {"validated": point.validated, "low": point.low, "high": point.high, "ms": point.validated_ms}
        found.append({"budget_ms": budget_ms, "cascade": point.label, **figures})
    rows = [[f"{row['budget_ms']:g}", row.get("cascade", "none"), f"{row.get('validated', 0):.4f}"] for row in found]
    print_table(["budget, ms", "cascade", tuned.tuning.goal.measure], rows)
    return found


def _hand_written(tuned: Tuned, judgments: Judgments, paths: list[Path]) -> list[dict[str, Any]]:
    """Each configuration and the tuned cascade of its latency, on queries left out."""
    tuning, found = tuned.tuning, []
    replayer = Replayer(tuned.space.recording, judgments, (tuning.goal.measure,))
    for path in paths:
        try:
            evaluation = replayer.run(load_config(path))
        except CascadeError as error:
            print(f"{path}: left out: {str(error).splitlines()[0]}")
            continue
        own_ms = evaluation.only(tuning.tuning[evaluation.query]).latency_ms(tuning.goal.percentile)
        values, _ = tuning.validated(own_ms)
        own = _left_out(evaluation, tuned)
        row = {"config": path.name, "ms": own_ms, "own": float(own.mean()), "tuned": float(values.mean())}
        found.append({**row, "tuned_is_as_good": bool(values.mean() >= own.mean() - 1e-9)})
    rows = [[str(row["config"]), f"{row['ms']:.1f}", f"{row['own']:.4f}", f"{row['tuned']:.4f}"] for row in found]
    print_table(["config", f"p{tuning.goal.percentile:g}, ms", "its own", "tuned for its latency"], rows)
    return found


def _left_out(evaluation: Evaluation, tuned: Tuned) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = evaluation.measures[tuned.tuning.goal.measure]
    return np.concatenate([values[fold.validation[evaluation.query]] for fold in tuned.tuning.folds])


def _hypervolumes(tuned: Tuned) -> dict[str, float]:
    tuning = tuned.tuning
    latency, quality = tuning.latency(tuning.tuning), tuning.quality(tuning.tuning)
    chosen = sorted({round(place) for place in np.linspace(0, len(latency) - 1, GRID).tolist()})
    worst = float(latency[np.isfinite(latency)].max())

    def volume(part: list[int]) -> float:
        front = [part[i] for i in pareto(latency[part], quality[part])]
        return hypervolume([(float(latency[i]), float(quality[i])) for i in front], worst)

    found = {"latency_ms": worst, "tuned": volume(list(range(len(latency)))), "grid": volume(chosen)}
    print(f"hypervolume {found['tuned']:.2f}, of a grid of {len(chosen)} {found['grid']:.2f}")
    return {**found, "grid_size": len(chosen)}


def _verified(tuned: Tuned, judgments: Judgments, arguments: argparse.Namespace) -> dict[str, Any]:
    points = [tuned.front.points[i] for i in spread(len(tuned.front), arguments.verify)]
    configs = [(point.label, replace(tuned.config_of(point), folder=arguments.folder)) for point in points]
    goal = tuned.tuning.goal
    found = verify(
        configs,
        tuned.space.recording,
        judgments,
        Index.open(arguments.index),
        measure=goal.measure,
        percentile=goal.percentile,
        threads=arguments.threads,
    )
    rows = [
        [one.label, f"{one.predicted_ms:.1f}", f"{one.measured_ms:.1f}", f"{one.predicted:.4f}", f"{one.measured:.4f}"]
        for one in found
    ]
    print_table(["cascade", "predicted, ms", "measured, ms", "predicted", "measured"], rows)
    return {"held": sum(one.holds for one in found), "points": [one.to_json() for one in found]}


if __name__ == "__main__":
    sys.exit(main())
