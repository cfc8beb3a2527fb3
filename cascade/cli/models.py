"""``cascade models`` and ``cascade models optimize``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cascade.cli.output import print_json, progress_bar, say, show
from cascade.errors import InputError
from cascade.optimizing import Precision, optimizer

GROUP = "cascade.models"

models = typer.Typer(rich_markup_mode=None)


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False
) -> None:
    """Lists the bundled models: what they are, their licence, where they come from, on what trained and how good.

    Or writes one into a folder of its own, or makes a faster form of a model.

    Example: cascade models
    """
    if context.invoked_subcommand is not None:
        return
    found = _bundled()
    if json:
        print_json([asdict(model) for model in found])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "architecture", "parameters", "licence", "metrics", "provenance", "training data"):
        table.add_column(name)
    for model in found:
        figures = f"{model.parameters:,}", model.licence, model.metrics
        table.add_row(f"bundled:{model.name}", model.architecture, *figures, model.provenance, model.training_data)
    show(table)


@models.command("export")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model, as 'cascade models' lists it.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for it.")],
) -> None:
    """Writes a bundled model into a folder that stands alone, for transformers, colbert-ai or to train from.

    Example: cascade models export bundled:colbert my-colbert
    """
    by_name = {f"bundled:{found.name}": found for found in _bundled()}
    if model not in by_name:
        raise InputError(f"{model}: no such bundled model; there are {', '.join(by_name)}")
    by_name[model].export(folder)
    say(f"{folder}: written")


def _bundled() -> list[Any]:
    return [model for entry in entry_points(group=GROUP) for model in entry.load()]


@models.command("optimize")
def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, as a configuration names it.")],
    runtime: Annotated[str, typer.Option("--runtime", help="What will run it.")] = "openvino",
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision", help="Default: the fastest that ranks alike; an encoder of queries stays out of int8."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON on stdout.")] = False,
) -> None:
    """Makes a faster form of a model, measures whether it still ranks as the model does, and keeps it.

    Takes some minutes. A cross-encoder scores pairs with it, a bi-encoder or ColBERT encodes queries. The form goes
    into the user's cache folder, where `runtime: auto` finds it. One that ranks too differently is refused.

    Example: cascade models optimize bundled:cross-encoder
    """
    from cascade.demo.sample import judged_questions

    make = optimizer(runtime)
    with progress_bar() as told:
        made = make(model, precision, judged_questions(), told)
    if json:
        print_json(
            {"folder": str(made.folder), "precision": made.precision, "refused": [*made.refused], **made.figures}
        )
        return
    for reason in made.refused:
        say(reason)
    figures = made.figures
    show(
        f"{made.precision}: nDCG@10 {figures['ndcg']:.4f} against {figures['ndcg_float32']:.4f} in float32, Kendall's "
        f"tau {figures['tau']:.3f}, over {figures['questions']} questions with {figures['pairs']} candidates"
    )
    say(f"{made.folder}: kept for runtime: {runtime}")
