"""Writes the figures of benchmarks/results into README.md and RESULTS.md, between the comments that name them.

python -m benchmarks.readme            # rewrites them
python -m benchmarks.readme --check    # exits with 1 where one of them says something else
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import PACKAGES, markdown_table
from cascade.tuner.verification import LATENCY_WITHIN, QUALITY_WITHIN

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md")


def quality(result: Mapping[str, Any]) -> str:
    """nDCG@10 of every cascade on every collection."""
    figures = result["figures"]
    names = dict.fromkeys(name for by_cascade in figures.values() for name in by_cascade)
    rows = [[name, *(f"{by[name]['nDCG@10']:.3f}" if name in by else "" for by in figures.values())] for name in names]
    return markdown_table(["nDCG@10", *figures], rows)


def blindspot(result: Mapping[str, Any]) -> str:
    """Share of triples in which the answer is ahead of the lookalike."""
    figures = result["figures"]
    categories = list(next(iter(figures.values()))["by_category"])
    rows = [[category, *(f"{by['by_category'][category]:.0%}" for by in figures.values())] for category in categories]
    overall = [
        f"{by['overall']:.0%} ({by['interval_95'][0]:.0%} to {by['interval_95'][1]:.0%})" for by in figures.values()
    ]
    return markdown_table(["answer ahead of lookalike", *figures], [*rows, ["overall (95 % interval)", *overall]])


def memory(result: Mapping[str, Any]) -> str:
    """Memory of indexing and start-up times."""
    return markdown_table(["what", "figure"], [[key, str(value)] for key, value in result.items() if key != "machine"])


def deadlines(result: Mapping[str, Any]) -> str:
    """Late answers, budget used and quality by load and budget, then every goal beside what was measured."""
    cells = result["cells"]
    keys = [key for key, value in cells[0].items() if not isinstance(value, dict)]
    parts = [_cells([{**cell, **{key: "" for key in keys if cell[key] is None}} for cell in cells], keys)]
    if "lost beside loops that count" in result:
        parts.append(f"Beside loops that only count, the machine lost {result['lost beside loops that count']:.1%}.")
    if result.get("goals"):
        reached = [{**goal, "met": "yes" if goal["met"] else "no"} for goal in result["goals"]]
        parts.append(_cells(reached, list(reached[0])))
    return "\n\n".join(parts)


def baseline(result: Mapping[str, Any]) -> str:
    """Late and empty answers and quality of every system."""
    keys = ("load", "budget ms", "system", "late", "empty", "mean depth", "nDCG@10", "p99 ms")
    return _cells(result["cells"], keys)


def budgets(result: Mapping[str, Any]) -> str:
    """nDCG@10 at every budget, then of everything without one, and what the best of it keeps in what time."""
    cells = result["cells"]
    systems, at = (list(dict.fromkeys(cell[key] for cell in cells)) for key in ("system", "budget ms"))
    found = {(cell["system"], cell["budget ms"]): f"{cell['nDCG@10']:.3f}" for cell in cells}
    curve = [[f"{budget:g}", *(found[system, budget] for system in systems)] for budget in at]
    whole = _cells(result["whole"], ("system", "nDCG@10", "mean ms", "p95 ms", "mean depth"))
    parts = [markdown_table(["nDCG@10 within ms", *systems], curve), "Without a budget:", whole]
    if "goals" in result:
        rows = [{**row, "met": _holds(row["met"])} for row in result["goals"]]
        parts += [
            "The best setting beside reading all candidates; 98 % in 10 % is the goal:",
            _cells(rows, list(rows[0])),
        ]
    return "\n\n".join(parts)


def tuning(result: Mapping[str, Any]) -> str:
    """What budgets buy, hand-written cascades beside tuned ones, and predictions beside measurements."""
    nothing = {"cascade": "none is fast enough", "ms": "", "validated": ""}
    bought = [nothing | row for row in result["budgets"]]
    parts = [_cells(bought, ("budget_ms", "cascade", "ms", "validated"))]
    if "plot" in result:
        parts.append(f"[The front](results/{result['plot']}), with all that was tried.")
    if result["hand_written"]:
        parts.append(_hand_written(result["hand_written"]))
    if result["left_out"]:
        parts.append(f"Not compared, since not all of it was recorded: {', '.join(result['left_out'])}.")
    volume = result["hypervolume"]
    grid = f"of a grid of {volume['grid_size']} cascades {volume['grid']:.2f} ms"
    holds = "at least as much" if volume["at_least_grid"] else "**less**"
    holds += f", {volume['tuned'] - volume['grid']:+.2f} ({volume['low']:+.2f} to {volume['high']:+.2f})"
    parts.append(f"Hypervolume on queries left out {volume['tuned']:.2f} ms, {grid}: {holds}.")
    if "verified" in result:
        points = [{**one, "holds": _holds(one["holds"])} for one in result["verified"]["points"]]
        parts.append(_cells(points, list(points[0])))
        within = f"within {LATENCY_WITHIN:.0%} of the latency and {QUALITY_WITHIN:g} of the quality"
        twice = [(one["measured_ms"] or math.inf, one["again_ms"] or math.inf) for one in points]
        apart = sum(not abs(again - first) <= LATENCY_WITHIN * first for first, again in twice)
        parts.append(
            f"{result['verified']['held']} of {len(points)} {within}. "
            f"Measured once more, {apart} of them are that far from what they were themselves."
        )
        if "lost by the machine" in result["verified"]:
            parts.append(f"The machine lost {result['verified']['lost by the machine']:.1%} of the time meanwhile.")
    return "\n\n".join(parts)


def _hand_written(rows: Sequence[Mapping[str, Any]]) -> str:
    """Cascades beside what is chosen for their latency, and in how many cases that is both as good and not slower."""
    cells = []
    for row in rows:
        figures = [_shown(row[key]) for key in ("ms", "own", "tuned_ms", "tuned")]
        gain = f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        cells.append([row["config"], *figures, gain, _holds(row["as_good"]), _holds(row["not_slower"])])
    header = ["config", "ms", "nDCG@10", "tuned ms", "tuned nDCG@10", "gain", "at least as good", "not slower"]
    both = sum(row["as_good"] and row["not_slower"] for row in rows)
    worse = sum(row["high"] < 0 for row in rows)
    counts = f"Tuned is at least as good and not slower in {both} of {len(rows)}, and worse beyond chance in {worse}."
    return f"{markdown_table(header, cells)}\n\n{counts}"


def _holds(it_does: bool) -> str:
    return "yes" if it_does else "**no**"


def replay(result: Mapping[str, Any]) -> str:
    """Seconds of replay, and of running some of the same."""
    left_out = {"machine", "python", *PACKAGES}
    return markdown_table(["what", "figure"], [[key, _shown(result[key])] for key in result if key not in left_out])


def overhead(result: Mapping[str, Any]) -> str:
    """Milliseconds of the engine itself, by way of driving it."""
    return _by_name(f"{result['batches']} batches, through", result["ways"])


def maxsim(result: Mapping[str, Any]) -> str:
    """Speed of each way of scoring, and what it costs in quality."""
    parts = [_by_name("way", result["speed"])]
    if "quality" in result:
        parts.append(markdown_table(["way", "nDCG@10"], [[name, f"{v:.4f}"] for name, v in result["quality"].items()]))
    return "\n\n".join(parts)


def cross_encoder(result: Mapping[str, Any]) -> str:
    """Pairs a second of every contestant; those that are not installed are left out."""
    return _by_name("contestant", {name: one for name, one in result["figures"].items() if "missing" not in one})


def distillation(result: Mapping[str, Any]) -> str:
    """What the student keeps of its teacher, on every recorded set."""
    rows = [{**row, "met": _holds(row["met"])} for row in result["rows"]]
    return _cells(rows, list(rows[0]))


def soak(result: Mapping[str, Any]) -> str:
    """What a process holds and how long answers take after many queries, and what of it is not as it should be."""
    table = markdown_table(["what", "figure"], [[name, f"{value:.6g}"] for name, value in result["figures"].items()])
    return "\n\n".join([table, *(f"**{problem[0].upper()}{problem[1:]}.**" for problem in result["wrong"])])


def _by_name(title: str, by_name: Mapping[str, Mapping[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for one in by_name.values() for key in one))
    rows = [[name, *(_shown(one[key]) if key in one else "" for key in keys)] for name, one in by_name.items()]
    return markdown_table([title, *keys], rows)


def _cells(cells: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    return markdown_table(list(keys), [[_shown(cell[key]) for key in keys] for cell in cells])


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "quality": quality,
    "blindspot": blindspot,
    "memory": memory,
    "deadlines": deadlines,
    "baseline": baseline,
    "budgets": budgets,
    "tuning-npl": tuning,
    "tuning-scifact": tuning,
    "tuning-demo": tuning,
    "replay": replay,
    "overhead": overhead,
    "maxsim": maxsim,
    "cross_encoder": cross_encoder,
    "distillation": distillation,
    "soak": soak,
}


def filled(page: str) -> str:
    """The page with every table that it has a place for and a result exists for."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        before, mark, rest = page.partition(f"<!-- {name} -->")
        if mark and path.exists():
            result = json.loads(path.read_text())
            record = result["machine"]
            machine = record if isinstance(record, str) else record["machine"]
            after = rest.partition(f"<!-- /{name} -->")[2]
            page = f"{before}{mark}\n{table(result)}\n\n*Machine: {machine}.*\n<!-- /{name} -->{after}"
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    pages = {path: path.read_text() for path in PAGES}
    new = {path: filled(page) for path, page in pages.items()}
    if arguments.check:
        for path, page in new.items():
            if page != pages[path]:
                print(f"{path.relative_to(ROOT)}: a table is not that of benchmarks/results", file=sys.stderr)
        return int(pages != new)
    for path, page in new.items():
        path.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
