r"""How fast is replay, and how much faster than running the same cascades?

    cascade record --config benchmarks/wide.yaml --index IDX --queries Q.jsonl --depth 200 --out T.parquet
    python -m benchmarks.replay --recording T.parquet --qrels DATA/qrels/test.tsv --index IDX \\
        --configurations 1000 --processes 2 --live 10 --out benchmarks/results/replay.json

Configurations are spread evenly over a space of chains, fusions, depths and budgets over the recorded stages, half of
them with a budget where there are enough of both. The time counts everything after the recording is loaded in every
process; ``--live`` of them are then run on an open engine over the same queries. Where the recorded stages and depth
allow fewer configurations than were asked for, nothing is measured. Without the recording, or without the index for
``--live``, it says so and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import machine_record, print_table
from cascade.api import Cascade
from cascade.errors import InputError
from cascade.index import Index
from cascade.io import read_qrels, write_json_atomic
from cascade.registry import Registry
from cascade.tuner import Judgments, Point, Recording, Replayer, SearchSpace, SpaceSettings
from cascade.tuner.study import Workers

DEPTHS = [*range(5, 200, 5), *range(200, 1001, 20)]
RETRIEVE = [50, 100, 150, 200, 250, 300, 400, 600, 800, 1000]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(), help="of the recorded YAML file, for relative models")
    parser.add_argument("--configurations", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--live", type=int, default=0)
    parser.add_argument("--budget-ms", type=float, default=50.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for path in (arguments.recording, arguments.qrels):
        if not path.exists():
            print(f"skipped: {path} is not there; see --help for how to make it")
            return 0
    recording = Recording.load(arguments.recording)
    judgments = Judgments.of(read_qrels(arguments.qrels), recording, partial=True)
    space = space_of(recording, arguments.budget_ms)
    try:
        points = spread(list(space.points()), arguments.configurations)
    except InputError as error:
        parser.error(f"{error}, or record more stages, or with a larger --depth")
    seconds = _replay(Replayer(recording, judgments), space, points, arguments.processes)
    replays = len(points) * len(recording)
    report = {
        **machine_record(),
        "configurations": len(points),
        "queries": len(recording),
        "candidates_mean": float(np.diff(recording.rows.offsets).mean()),
        "processes": arguments.processes,
        "seconds": seconds,
        "replays_per_second": replays / seconds,
    }
    if arguments.live and arguments.index is not None and arguments.index.exists():
        some = spread(points, min(arguments.live, len(points)))
        report |= _live(recording, space, some, arguments.index, arguments.folder)
        report["times_faster"] = report["live_seconds_per_query"] * replays / seconds
    elif arguments.live:
        print(f"nothing is run live: no index at {arguments.index}")
    rows = [[name, f"{value:.6g}" if isinstance(value, float) else str(value)] for name, value in report.items()]
    print_table(["", ""], rows)
    if arguments.out is not None:
        write_json_atomic(arguments.out, report)
    return 0


def space_of(recording: Recording, budget_ms: float, registry: Registry | None = None) -> SearchSpace:
    """Many cascades over the recorded stages.

    Args:
        recording: of the stages; cascades are at most as deep as it is.
        budget_ms: half of it, all of it, twice and four times as much are tried besides no budget.
        registry: the kinds of stage; the installed ones by default.
    """
    depth = recording.header.depth
    derived = SearchSpace.of(recording, registry=registry).settings
    settings = SpaceSettings(
        retrieve=[top_k for top_k in RETRIEVE if top_k <= depth] or [depth],
        fusions=[*derived.fusions, {"method": "rrf"}],
        depths=[top_k for top_k in DEPTHS if top_k <= depth] or [depth],
        budgets_ms=[None, budget_ms / 2, budget_ms, 2 * budget_ms, 4 * budget_ms],
        top_k=10,
    )
    return SearchSpace.of(recording, settings, registry=registry)


def spread(points: list[Point], count: int) -> list[Point]:
    """``count`` different ones of the points, half of them with a budget where there are enough of both.

    Raises:
        InputError: there are fewer points.
    """
    if len(points) < count:
        raise InputError(f"--configurations: expected at most {len(points)}, all there are, got {count}; ask for fewer")
    free = [point for point in points if point.limits.budget_ms is None]
    limited = [point for point in points if point.limits.budget_ms is not None]
    few = min(len(free), max(count // 2, count - len(limited)))
    parts = ((free, few), (limited, count - few))
    return [part[round(place)] for part, n in parts if n for place in np.linspace(0, len(part) - 1, n).tolist()]


def _replay(replayer: Replayer, space: SearchSpace, points: list[Point], processes: int) -> float:
    with Workers(replayer, space, replayer.measures[0], None, processes) as workers:
        list(workers.run(points[:1] * (32 * processes)))  # every process has loaded the recording
        began = time.perf_counter()
        tried = sum(len(trials) for trials in workers.run(points))
        seconds = time.perf_counter() - began
    assert tried == len(points)
    return seconds


def _live(
    recording: Recording, space: SearchSpace, points: list[Point], index: Path, folder: Path
) -> dict[str, float | int]:
    opened, spent, answered = Index.open(index), 0.0, 0
    recording.require_index(opened)
    for point in points:
        config = replace(space.config(point), folder=folder)
        with Cascade(config, index=opened, costs=recording.profile(config.settings.quantile)) as engine:
            engine.search(recording.queries[0])
            began = time.perf_counter()
            for query in recording.queries:
                engine.search(query)
            spent += time.perf_counter() - began
            answered += len(recording)
    return {"live_configurations": len(points), "live_seconds_per_query": spent / answered}


if __name__ == "__main__":
    sys.exit(main())
