r"""What does the small reader keep of the large one, and in what part of the time?

    cascade index --config benchmarks/readers.yaml --corpus DATA/npl --index IDX
    cascade record --config benchmarks/readers.yaml --index IDX --queries DATA/npl --depth 50 --out T.parquet
    python -m benchmarks.distillation --judged T.parquet DATA/npl/qrels/test.tsv \\
        --out benchmarks/results/distillation.json

Student and teacher each reorder the first ``--depth`` documents of fused BM25 and bi-encoder retrieval, with nothing
else of the cascade; a recording knows the scores and the seconds of both, each in its own runtime. Several
recordings may be given. The goal: at least 95 % of the teacher's nDCG@10 in at most 40 % of its time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RETRIEVAL, machine_record, print_cells
from cascade.io import read_qrels, write_json_atomic
from cascade.load import parse_config
from cascade.tuner import Evaluation, Judgments, Recording, Replayer

MEASURE = "nDCG@10"
LEAST_KEPT, MOST_TIME = 0.95, 0.4
READER = "  - {{name: {name}, kind: cross_encoder, model: bundled:{name}, max_passage_tokens: 180, top_k: {depth}}}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    judged = parser.add_argument("--judged", nargs=2, type=Path, action="append", required=True)
    judged.help, judged.metavar = "a recording of benchmarks/readers.yaml, and its judgments", ("RECORDING", "QRELS")
    parser.add_argument("--teacher", default="cross-encoder", help="of the recorded stages")
    parser.add_argument("--student", default="distilbert")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for path, qrels in arguments.judged:
        if not path.exists() or not qrels.exists():
            print(f"skipped: {path} or {qrels} is not there; see --help for how to make it")
            continue
        recording = Recording.load(path)
        replayer = Replayer(recording, Judgments.of(read_qrels(qrels), recording, partial=True), (MEASURE,))
        teacher, student = (
            replayer.run(
                parse_config((RETRIEVAL + READER).format(name=name, depth=arguments.depth, retrieved=arguments.depth))
            )
            for name in (arguments.teacher, arguments.student)
        )
        rows.append({"recording": path.stem, "queries": len(recording), **beside(teacher, student)})
    if rows:
        print_cells(rows)
        if arguments.out is not None:
            write_json_atomic(arguments.out, {"machine": machine_record(), "depth": arguments.depth, "rows": rows})
    return 0


def beside(teacher: Evaluation, student: Evaluation) -> dict[str, Any]:
    """Quality and time of both, and whether the goal is met.

    Args:
        teacher: the cascade that ends in the teacher, replayed.
        student: the one that ends in the student, over the same queries.
    """
    (quality, seconds), (kept, taken) = (
        (one.mean(MEASURE), statistics.fmean(one.stage_seconds[list(one.stage_seconds)[-1]]))
        for one in (teacher, student)
    )
    return {
        f"teacher {MEASURE}": quality,
        f"student {MEASURE}": kept,
        "kept": kept / quality,
        "teacher ms": seconds * 1000,
        "student ms": taken * 1000,
        "time": taken / seconds,
        "met": kept >= LEAST_KEPT * quality and taken <= MOST_TIME * seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
