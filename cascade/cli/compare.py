"""``cascade compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cascade import evaluation
from cascade.api import Cascade
from cascade.arguments import Budget
from cascade.cli.judged import read_judged
from cascade.cli.options import BudgetMs, JsonFile, Measures, NoBudget, QrelsPath, budget
from cascade.cli.output import progress_bar, say, show
from cascade.evaluation import (
    COMPARED_MEASURES,
    System,
    parse_measures,
    ranked,
    render_comparison,
    run_staged,
)
from cascade.io import read_qrels, read_run, write_json_atomic
from cascade.load import load_config
from cascade.types import Query


def compare(
    qrels: QrelsPath,
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="Runs in TREC format.")] = None,
    configs: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", metavar="FILE", help="A cascade to run; give it for each."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", "-i", metavar="DIR", help="The index that the cascades search.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", "-q", metavar="FILE", help="Questions to run; with runs, those that count."),
    ] = None,
    measures: Measures = None,
    json: JsonFile = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Lost queries to list for each pair.")] = 5,
    budget_ms: BudgetMs = None,
    no_budget: NoBudget = False,
) -> None:
    """Compares runs, or cascades by running them: which differences are more than chance, and which queries lose.

    Every two are compared, by all measures, with a paired t-test, a paired randomisation test and bootstrap confidence
    intervals. The first measure decides the verdict and which losses are the worst.

    Example: cascade compare --qrels qrels/test.tsv bm25.trec cascade.trec

    Example: cascade compare --config a.yaml --config b.yaml --index idx --queries queries.jsonl --qrels qrels/test.tsv
    """
    runs, configs = runs or [], configs or []
    granted = budget(budget_ms, no_budget)
    _check(runs, configs, index, queries, limited=no_budget or budget_ms is not None)
    names = tuple(measures) if measures else COMPARED_MEASURES
    parse_measures(names)  # wrong names are found before the work, not after it
    asked, judgments = ([], read_qrels(qrels)) if queries is None else read_judged(queries, qrels)
    if index is None:
        called = _names(runs, _stem)
        systems = [System(name, ranked(read_run(path))) for name, path in zip(called, runs, strict=True)]
    else:
        called = _names(configs, lambda path: load_config(path).settings.name)
        systems = [_answered(path, name, index, asked, granted) for name, path in zip(called, configs, strict=True)]
    texts = {query.query_id: query.text for query in asked}
    comparison = evaluation.compare(systems, judgments, names, texts=texts, worst=worst)
    show(render_comparison(comparison))
    if json is not None:
        write_json_atomic(json, comparison.to_json())
        say(f"{json}: written")


def _check(
    runs: Sequence[Path], configs: Sequence[Path], index: Path | None, queries: Path | None, *, limited: bool
) -> None:
    """Refuses options that do not go together."""
    if bool(runs) == bool(configs) or len({*runs, *configs}) < max(2, len(runs) + len(configs)):
        raise typer.BadParameter("give two or more different runs, or --config two or more times with different files")
    if runs and (index is not None or limited):
        raise typer.BadParameter("--index, --budget-ms and --no-budget are for --config; a run is over already")
    if configs and (index is None or queries is None):
        raise typer.BadParameter("--config needs --index and --queries to run with")


def _answered(config: Path, name: str, index: Path, queries: Sequence[Query], granted: Budget) -> System:
    """What a cascade makes of the queries."""
    with Cascade.from_yaml(config, index=index) as engine, progress_bar() as told:
        staged = run_staged(engine, queries, granted, lambda done, total: told(name, done, total))
    return System.of(name, staged)


def _names(paths: Sequence[Path], short: Callable[[Path], str]) -> list[str]:
    """Short names where they tell the files apart, otherwise their paths."""
    names = [short(path) for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _stem(path: Path) -> str:
    """``bm25`` of ``runs/bm25.trec.gz``."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]
