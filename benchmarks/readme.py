"""Writes the figures of benchmarks/results into the README, between the comments that name them.

python benchmarks/readme.py            # rewrites README.md
python benchmarks/readme.py --check    # exits with 1 where the README says something else
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


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
    """Late answers, budget used and quality by load and budget."""
    columns = [key for key, value in result["cells"][0].items() if not isinstance(value, dict)]
    rows = [
        [f"{cell[key]:.3g}" if isinstance(cell[key], float) else str(cell[key]) for key in columns]
        for cell in result["cells"]
    ]
    return markdown_table(columns, rows)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "quality": quality,
    "blindspot": blindspot,
    "memory": memory,
    "deadlines": deadlines,
}


def filled(readme: str) -> str:
    """The README with every table that a result exists for."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            machine = result["machine"]["machine"]
            block = f"<!-- {name} -->\n{table(result)}\n\n*Machine: {machine}.*\n<!-- /{name} -->"
            before, mark, rest = readme.partition(f"<!-- {name} -->")
            after = rest.partition(f"<!-- /{name} -->")[2]
            readme = before + block + after if mark else readme
    return readme


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    before = path.read_text()
    after = filled(before)
    if arguments.check:
        return int(before != after)
    path.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
