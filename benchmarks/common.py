"""What the benchmark scripts share: a record of the machine, and tables that can be pasted into Markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

from cascade.cost import machine

PACKAGES = ("cascade-ranking", "torch", "transformers", "numpy", "numba", "bm25s")


def machine_record() -> dict[str, str]:
    """The machine and the versions that decide the figures."""
    return {"machine": machine(), "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown on stdout."""
    print(markdown_table(header, rows))
