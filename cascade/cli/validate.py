"""``cascade validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.cli.output import say
from cascade.errors import ConfigError
from cascade.load import load_config
from cascade.planner import plan
from cascade.registry import Registry


def validate(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Cascade files.")]) -> None:
    """Checks cascade files, without loading a model; every problem is named with its line.

    Example: cascade validate configs/*.yaml
    """
    registry = Registry()
    wrong = 0
    for file in files:
        try:
            stages = " -> ".join(f"{stage.name} {stage.top_k}" for stage in plan(load_config(file, registry)).stages)
            print(f"{file}: {stages}")
        except ConfigError as error:
            wrong += 1
            say(str(error))
    if wrong:
        raise typer.Exit(3)
