"""``cascade calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.api import COSTS_FILE, Cascade, profile_at
from cascade.cli.options import Config, IndexDir, in_a_folder
from cascade.cli.output import progress_bar, say, show
from cascade.cost import Cost
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

    Takes about fifteen seconds for each stage. The profile in the index directory is found by itself, and what it says
    of other configurations' stages at the same quantile is kept; one made on another machine is never used.

    Example: cascade calibrate --config configs/default.yaml --index idx
    """
    target = index / COSTS_FILE if out is None else out
    with Cascade.from_yaml(config, index=index) as engine, progress_bar() as told:
        profile = engine.calibrate(lambda stage, share: told(stage, round(share * 100), 100))
        names = {unit.cost_key: unit.name for unit in engine.plan.units()}
    before = profile_at(target)
    (profile if before is None else before.updated(profile)).save(target)
    for key, cost in profile.costs.items():
        unit, _, action = key.partition("/")
        show(f"{names[unit]}, {_shown(action, cost)}; p{profile.quantile * 100:g} x{cost.spread:.2f}")
    say(f"{target}: {len(profile.costs)} costs measured on {profile.machine}")


_WHAT = {
    "encode": "a question",
    "encode_read": "a question that another stage has read",
    "search": "a range of the index",
}


def _shown(action: str, cost: Cost) -> str:
    if action in ("score", "window"):
        seconds = cost.rates.seconds(Work(32, 32 * 128, 32 * 128 * 128))
        return f"{action}: 32 passages of 128 tokens {seconds * 1000:.2f} ms"
    return f"{action}: {_WHAT[action]} {cost.typical_s * 1000:.2f} ms"
