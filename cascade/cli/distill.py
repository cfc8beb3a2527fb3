"""``cascade distill``."""

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


def distill(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="distilbert (default), cross-encoder, listwise, colbert or bi-encoder."),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option("--teacher", metavar="[KIND=]MODEL", help="May be given several times: their mean is learned."),
    ] = None,
    data: Data = None,
    out: Out = None,
    base: Base = None,
    config: ConfigFile = None,
    data_root: DataRoot = None,
    loss: Annotated[str | None, typer.Option("--loss", help="listwise-kl or margin-mse.")] = None,
    target_ms: Annotated[
        float | None, typer.Option("--target-ms", help="Keep as many layers as score the candidates in this time.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--candidates", help="That --target-ms is for; default: 20.")
    ] = None,
    steps: Steps = None,
    batch_queries: BatchQueries = None,
    layers: Layers = None,
    lr: Rates = None,
    seed: Seed = None,
    device: DeviceName = None,
    threads: Threads = None,
    more: More = None,
) -> None:
    """Trains a small student to score as larger teachers do.

    The teachers' scores are computed once and kept in OUT.training, as are checkpoints; interrupted, the same command
    goes on exactly where it was.

    Example: cascade distill --teacher my-reranker --data beir/scifact --out small --target-ms 30 --candidates 20
    """
    flags = {
        "kind": kind,
        "teachers": teacher or None,
        "data": data_of(data),
        "out": out,
        "base": base,
        "loss": loss,
        "target_ms": target_ms,
        "candidates": candidates,
        "steps": steps,
        "batch_queries": batch_queries,
        "layers": layers,
        "learning_rates": rates_of(lr),
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    run_trainer("distill", flags, config, data_root, more or ())
