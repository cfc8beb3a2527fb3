"""``cascade adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cascade.cli.options import Config
from cascade.cli.output import progress_bar, say, show
from cascade.load import load_config
from cascade.tuner import Learned, Recording, learn_stopping


def adapt(
    config: Config,
    recording: Annotated[Path, typer.Option("--recording", metavar="FILE", help="A recording of 'cascade record'.")],
    confidence: Annotated[float, typer.Option("--confidence", help="Share of queries that must miss nothing.")] = 0.95,
) -> None:
    """Learns on recorded runs which 'adaptive' lets a reranker stop early and miss something in few queries only.

    Prints, for each stage that could stop early, what values of 'adaptive' do, and the one to write into the file.

    Example: cascade adapt --config configs/four-stage.yaml --recording T.parquet --confidence 0.95
    """
    checked, recorded = load_config(config), Recording.load(recording)
    with progress_bar() as told:
        found = learn_stopping(
            recorded, checked, confidence, progress=lambda done, total: told("values tried", done, total)
        )
    for learned in found:
        show(_table(learned))
        if learned.chosen is None:
            most = f"at most {1 - confidence:.3g} of the queries"
            say(f"{learned.stage}: leave 'adaptive' out: no value both stops early and misses something in {most}")


def _table(learned: Learned) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=learned.stage, title_justify="left")
    for name in ("adaptive", "stopped early", "missed something", "scored", "saved, ms", ""):
        table.add_column(name, justify="right" if name else "left")
    for one in learned.tried:
        share = f"{one.scored:.1f} of {one.of:.1f}"
        mark = "<- for the YAML file" if one is learned.chosen else ""
        row = (f"{one.adaptive:g}", f"{one.stopped:.1%}", f"{one.missed:.1%}", share, f"{one.saved_ms:.2f}", mark)
        table.add_row(*row)
    return table
