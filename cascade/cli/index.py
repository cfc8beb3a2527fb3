"""``cascade index``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.api import index_corpus
from cascade.cli.options import Config, CorpusPath, Threads
from cascade.cli.output import progress_bar, say
from cascade.io import read_corpus
from cascade.load import load_config


def index(
    config: Config,
    corpus: CorpusPath,
    index: Annotated[Path, typer.Option("--index", "-i", metavar="DIR", help="Where the index goes.")],
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an index that is already there.")] = False,
) -> None:
    """Builds the index of a corpus for a cascade's stages.

    Can be interrupted: the same command goes on where it stopped. An index that was there before stays whole until the
    new one is complete.

    Example: cascade index --config configs/default.yaml --corpus corpus.jsonl --index idx
    """
    with progress_bar() as told:
        manifest = index_corpus(
            load_config(config), read_corpus(corpus), index, force=force, threads=threads, progress=told
        )
    say(f"{index}: {manifest.corpus.documents} documents in {manifest.corpus.passages} passages")
