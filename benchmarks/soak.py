r"""Does anything grow? Many queries against one live engine: memory, descriptors, threads, and the 99th percentile.

    python -m benchmarks.soak --config configs/two-stage.yaml --index IDX --data DATA/npl \\
        --queries 100000 --out benchmarks/results/soak.json

DATA is a BEIR-style folder and IDX its index. One client asks, a hundredth of the queries with no time at all. After a
warm-up of a tenth, resident memory, open descriptors and threads of the process are noted fifty times. Ends with
status 1 when descriptors or threads have changed, memory rises by more than ``--rise`` over the whole, or the 99th
percentile of the last half exceeds that of the first by a tenth or more. Linux only; wants an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.common import add_collection_arguments, is_missing, machine_record, print_table
from cascade.api import Cascade
from cascade.io import read_queries, write_json_atomic
from cascade.types import Query

SAMPLES = 50
WARM_UP = 0.1
DRIFT = 0.1
HOPELESS = 100
"""One query in so many has no time, so that this way through the engine is gone often enough to leak."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds after so many queries."""

    queries: int
    resident_mib: float
    descriptors: int
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    add_collection_arguments(parser, queries=100_000)
    parser.add_argument("--budget", type=float, default=50.0, metavar="MS")
    parser.add_argument("--rise", type=float, default=16.0, metavar="MIB", help="most that memory may rise by")
    arguments = parser.parse_args()
    if is_missing(arguments.data):
        return 0
    with Cascade.from_yaml(arguments.config, index=arguments.index) as engine:
        taken_s, samples = soak(engine, read_queries(arguments.data), arguments.queries, arguments.budget)
    figures = summary(taken_s, samples)
    wrong = complaints(figures, samples, arguments.rise)
    write_json_atomic(
        arguments.out,
        {"machine": machine_record(), "config": str(arguments.config), "figures": figures, "wrong": wrong},
    )
    print_table(["what", "figure"], [[name, f"{value:.6g}"] for name, value in figures.items()])
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


def soak(
    engine: Cascade, queries: Sequence[Query], count: int, budget_ms: float
) -> tuple[npt.NDArray[np.float64], list[Sample]]:
    """Seconds of every query after the warm-up (nan for those without time), and samples taken on the way."""
    warm_up, every = int(count * WARM_UP), max(1, int(count * (1 - WARM_UP)) // SAMPLES)
    taken_s = np.full(count - warm_up, np.nan)
    samples: list[Sample] = []
    for number, query in enumerate(itertools.islice(itertools.cycle(queries), count)):
        hopeless = number % HOPELESS == 0
        began = time.perf_counter()
        engine.search(query, budget_ms=0.0 if hopeless else budget_ms)
        if number >= warm_up and not hopeless:
            taken_s[number - warm_up] = time.perf_counter() - began
        if number >= warm_up and (number - warm_up) % every == 0:
            samples.append(sample(number))
            print(samples[-1], file=sys.stderr)
    return taken_s, samples


def sample(queries: int) -> Sample:
    """As the operating system sees this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - less the one that lists them
    return Sample(queries, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, descriptors, len(os.listdir("/proc/self/task")))  # noqa: PTH208


def summary(taken_s: npt.NDArray[np.float64], samples: Sequence[Sample]) -> dict[str, float]:
    """The figures; the slope is that of a straight line through all samples."""
    first, last = np.array_split(taken_s, 2)
    p99_ms = [float(np.nanquantile(half, 0.99)) * 1000 for half in (first, last)]
    done = np.array([item.queries for item in samples], np.float64)
    resident = np.array([item.resident_mib for item in samples])
    centred = done - done.mean()
    slope = float((centred * resident).sum() / max(1.0, float(np.square(centred).sum())))
    return {
        "queries": float(len(taken_s)),
        "resident MiB at the start": samples[0].resident_mib,
        "resident MiB at the end": samples[-1].resident_mib,
        "MiB a 100,000 queries": slope * 100_000,
        "MiB in all, by the slope": slope * (samples[-1].queries - samples[0].queries),
        "p50 ms": float(np.nanmedian(taken_s)) * 1000,
        "p99 ms, first half": p99_ms[0],
        "p99 ms, last half": p99_ms[1],
        "p99 drift": p99_ms[1] / p99_ms[0] - 1,
        "descriptors": float(samples[-1].descriptors),
        "threads": float(samples[-1].threads),
    }


def complaints(figures: dict[str, float], samples: Sequence[Sample], rise_mib: float) -> list[str]:
    """What is not as it should be."""
    found = []
    if figures["p99 drift"] >= DRIFT:
        found.append(f"the 99th percentile rose by {figures['p99 drift']:.1%}, expected less than {DRIFT:.0%}")
    if figures["MiB in all, by the slope"] > rise_mib:
        found.append(f"memory rose by {figures['MiB in all, by the slope']:.1f} MiB, expected at most {rise_mib}")
    for what in ("descriptors", "threads"):
        seen = {int(getattr(item, what)) for item in samples}
        if len(seen) > 1:
            found.append(f"{what} varied from {min(seen)} to {max(seen)}, expected one number")
    return found


if __name__ == "__main__":
    sys.exit(main())
