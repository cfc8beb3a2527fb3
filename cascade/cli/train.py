"""``cascade train``."""

from __future__ import annotations

from typing import Annotated

import typer

from cascade.cli.training import (
    Base,
    BatchQueries,
    ConfigFile,
    Data,
    DataRoot,
    DeviceName,
    Layers,
    More,
    Out,
    Rates,
    Seed,
    Steps,
    Threads,
    data_of,
    rates_of,
    run_trainer,
)


def train(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="colbert, cross-encoder, listwise or bi-encoder.")
    ] = None,
    data: Data = None,
    out: Out = None,
    base: Base = None,
    config: ConfigFile = None,
    data_root: DataRoot = None,
    steps: Steps = None,
    batch_queries: BatchQueries = None,
    layers: Layers = None,
    lr: Rates = None,
    seed: Seed = None,
    device: DeviceName = None,
    threads: Threads = None,
    more: More = None,
) -> None:
    """Trains a model on judged collections, with negatives that BM25 and a bi-encoder find.

    Prints nDCG@10 on questions kept apart, before and after. Checkpoints and caches are in OUT.training; interrupted,
    the same command goes on exactly where it was.

    Example: cascade train cross-encoder --data beir/scifact --out my-reranker
    """
    flags = {
        "kind": kind,
        "data": data_of(data),
        "out": out,
        "base": base,
        "steps": steps,
        "batch_queries": batch_queries,
        "layers": layers,
        "learning_rates": rates_of(lr),
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    run_trainer("train", flags, config, data_root, more or ())
