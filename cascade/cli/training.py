"""What ``cascade train`` and ``cascade distill`` share: options, settings from flags and YAML, the table at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
import yaml
from pydantic import BaseModel, ValidationError
from rich.table import Table

from cascade.cli.output import messages, progress_bar, say, show
from cascade.errors import ConfigError, Problem
from cascade.explain import explain
from cascade.load import read_yaml
from cascade.training import TrainingReport, trainer
from cascade.yamltree import Tree, parse_yaml, render

Data: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--data", metavar="DIR", help="A BEIR folder; may be given several times.")
]
Out: TypeAlias = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the model goes.")]
Base: TypeAlias = Annotated[
    str | None, typer.Option("--base", metavar="MODEL", help="To start from; default: bundled:bi-encoder.")
]
ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings in YAML; flags go first.")
]
DataRoot: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="DIR", help="Where data paths in --config start; default: its folder."),
]
Steps: TypeAlias = Annotated[int | None, typer.Option("--steps", help="Batches; default: one pass over the questions.")]
BatchQueries: TypeAlias = Annotated[int | None, typer.Option("--batch-queries", help="Questions in a batch.")]
Layers: TypeAlias = Annotated[int | None, typer.Option("--layers", help="Layers of the base to keep.")]
Rates: TypeAlias = Annotated[
    list[str] | None, typer.Option("--lr", metavar="[PART=]RATE", help="Learning rate of the layers, or of a part.")
]
Seed: TypeAlias = Annotated[int | None, typer.Option("--seed", help="Of every random choice.")]
DeviceName: TypeAlias = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Threads: TypeAlias = Annotated[int | None, typer.Option("--threads", help="Of the CPU.")]
More: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, as in YAML; may be given several times."),
]


def run_trainer(
    name: str, flags: Mapping[str, Any], config: Path | None, data_root: Path | None, more: Sequence[str]
) -> None:
    """Runs an installed trainer with the settings of flags and file, and prints what came of it."""
    chosen = trainer(name)
    settings = read_settings(chosen.settings, flags, config, more, data_root)
    with progress_bar() as told:
        report = chosen.run(settings, told)
    _print(report)


def read_settings(
    model: type[BaseModel],
    flags: Mapping[str, Any],
    config: Path | None,
    more: Sequence[str],
    data_root: Path | None = None,
) -> Any:
    """Settings from a YAML file, over which flags go; flags that are None were not given.

    Relative paths in the file start from its folder, those of its collections from ``data_root`` where that is given.

    Raises:
        ConfigError: with everything that is wrong.
    """
    source = "options" if config is None else str(config)
    tree = Tree({}) if config is None else parse_yaml(read_yaml(config), source)
    if not isinstance(tree.data, dict):
        raise ConfigError(source, [Problem("", f"expected a mapping of settings, got {type(tree.data).__name__}")])
    given = {name: value for name, value in flags.items() if value is not None}
    given |= dict(_assignment(one) for one in more)
    if data_root is not None and (config is None or "data" in given):
        raise typer.BadParameter("--data-root: expected a --config whose collections lie there, and no --data")
    context: dict[str, Any] = {}
    if config is not None:
        root = None if "data" in given else config.parent if data_root is None else data_root
        context = {"folder": config.parent, "folders": {"path": root, "qrels": root, **dict.fromkeys(given)}}
    try:
        settings = model.model_validate({**tree.data, **given}, context=context)
    except ValidationError as error:
        for detail in error.errors():
            where, message = explain(detail, model, ())
            if not where:  # of several settings together, which are too many to quote
                message = detail["msg"].removeprefix("Value error, ")
            line = 0 if where and where[0] in given else tree.line(where)
            tree.problems.append(Problem(render(where), message, line))
    if tree.problems:
        raise ConfigError(source, tree.problems)
    return settings


def data_of(folders: Sequence[Path] | None) -> list[dict[str, Path]] | None:
    """Collections from ``--data``."""
    return [{"path": folder} for folder in folders] if folders else None


def rates_of(rates: Sequence[str] | None) -> dict[str, str] | None:
    """Learning rates from ``--lr``: by part, a bare number for the layers."""
    if not rates:
        return None
    pairs = (rate.rpartition("=") for rate in rates)
    return {part or "layers": number for part, _, number in pairs}


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--set: expected NAME=VALUE, got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"--set {name}: expected a value as in YAML, got {value!r}") from error


def _print(report: TrainingReport) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("nDCG@10, held-out", overflow="fold")
    for ranked_by in report.quality:
        table.add_column(ranked_by, justify="right", no_wrap=True)
    collections = next(iter(report.quality.values()), {})
    for name in collections:
        table.add_row(name, *(f"{by[name]:.4f}" for by in report.quality.values()))
    show(table)
    for note in report.notes:
        messages.print(note, soft_wrap=True)
    say(f"{report.folder}: the model; its settings and figures are in training.json")
