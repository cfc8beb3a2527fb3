"""``cascade models``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.table import Table

from cascade.cli.output import print_json, show

GROUP = "cascade.models"


def models(json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False) -> None:
    """Lists the bundled models: what they are, their licence and where they come from.

    Example: cascade models
    """
    found = [model for entry in entry_points(group=GROUP) for model in entry.load()]
    if json:
        print_json([asdict(model) for model in found])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "architecture", "parameters", "licence", "provenance"):
        table.add_column(name)
    for model in found:
        table.add_row(
            f"bundled:{model.name}", model.architecture, f"{model.parameters:,}", model.licence, model.provenance
        )
    show(table)
