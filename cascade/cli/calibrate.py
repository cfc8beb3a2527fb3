"""``cascade calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.api import COSTS_FILE, Cascade
from cascade.cli.options import Config, IndexDir, in_a_folder
from cascade.cli.output import progress_bar, say, show
from cascade.cost import CostProfile
from cascade.stage import Work


def calibrate(
    config: Config,
    index: IndexDir,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", callback=in_a_folder, help="Where the profile goes; default: the index directory."
        ),
    ] = None,
) -> None:
    """Measures what the stages cost on this machine, so that budgets are kept from the first query on.

    Takes about fifteen seconds for each stage. The profile in the index directory is found by itself; one made on
    another machine is never used.

    Example: cascade calibrate --config configs/default.yaml --index idx
    """
    target = index / COSTS_FILE if out is None else out
    unmeasured = CostProfile(0.99, "", {})
    with Cascade.from_yaml(config, index=index, costs=unmeasured) as engine, progress_bar() as told:
        profile = engine.calibrate(lambda stage, share: told(stage, round(share * 100), 100))
    profile.save(target)
    for key, cost in sorted(profile.costs.items()):
        typical = cost.rates.seconds(Work(32, 32 * 128, 32 * 128 * 128)) * 1000
        show(f"{key}: 32 pairs of 128 tokens {typical:.2f} ms, p{profile.quantile * 100:g} x{cost.spread:.2f}")
    say(f"{target}: {len(profile.costs)} costs measured on {profile.machine}")
