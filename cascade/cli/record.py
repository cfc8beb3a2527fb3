"""``cascade record``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.cli.options import Config, IndexDir, Queries, Threads, in_a_folder
from cascade.cli.output import messages, progress_bar
from cascade.cores import cores
from cascade.index import Index
from cascade.io import read_queries
from cascade.load import load_config
from cascade.tuner import Subject
from cascade.tuner import record as record_stages
from cascade.tuner.recorder import require_new

DEEPER = 2
"""How many times as deep as the configuration retrieves is recorded, so that tuning can try to retrieve more."""


def record(
    config: Config,
    index: IndexDir,
    queries: Queries,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", callback=in_a_folder, help="The recording, a Parquet file.")
    ],
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=1, help="Documents of each retriever; default: twice the largest top_k of one."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many queries.")] = None,
    threads: Threads = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a recording, and interrupted work of another.")
    ] = False,
) -> None:
    """Lets every stage score every candidate once, and times it, so that 'cascade tune' need not run any model.

    The configuration may have more stages than one cascade would use, such as two cross-encoders. An interrupted
    recording goes on when the command is given again.

    Example: cascade record --config configs/default.yaml --index idx --queries queries.jsonl --out T.parquet
    """
    checked = load_config(config)
    require_new(out, force)
    asked = read_queries(queries)[:limit]
    subject = Subject.open(checked, Index.open(index), cores() if threads is None else threads)
    retrievers = [entry.settings.top_k for entry in checked.entries() if entry.role == "retriever"]
    documents = DEEPER * max(retrievers) if depth is None else depth
    with progress_bar() as told:
        header = record_stages(
            subject,
            asked,
            out,
            depth=documents,
            force=force,
            progress=lambda done, total: told("queries", done, total),
        )
    size = out.stat().st_size / 1e6
    names = ", ".join(unit.name for unit in header.units)
    messages.print(f"{out}: {len(asked)} queries, {documents} documents deep, {size:.1f} MB: {names}", markup=False)
    messages.print(f"Any cascade can be replayed that takes up to {documents} documents from a retriever", markup=False)
