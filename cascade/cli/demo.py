"""``cascade demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cascade.arguments import FROM_CONFIG
from cascade.cli.output import ms, progress_bar, say, show
from cascade.demo import load_questions
from cascade.demo.build import open_demo
from cascade.demo.export import write_collection
from cascade.engine import QueryRun
from cascade.evaluation import gap_report, render, run_staged
from cascade.load import load_config
from cascade.ranking import best_passages
from cascade.trace import StageTrace
from cascade.types import Candidates

SHOWN = ("plain-01", "paraphrase-19", "negation-09")
TOP = 3


def demo(
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the index is kept.")] = Path(".demo"),
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="A cascade of your own; default: default.yaml."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="DIR", help="Only write its documents, questions and judgments: BEIR."),
    ] = None,
) -> None:
    """Shows the engine at work on the documentation of Python's standard library.

    Builds an index at the first call (some minutes), explains three answers stage by stage, and measures the cascade on
    hand-written questions with judgments.

    Example: cascade demo
    """
    if export is not None:
        write_collection(export)
        say(f"{export}: written; to index it:")
        say(f"  cascade index --config bundled:default --corpus {export} --index {export}-idx")
        return
    cascade = load_config("bundled:default" if config is None else config)
    with progress_bar() as told:
        engine, index, built = open_demo(cascade, folder / cascade.settings.name, told)
    corpus = index.manifest.corpus
    verb = "built" if built else "reused"
    say(f"index {verb}: {corpus.documents} documents in {corpus.passages} passages, {folder}")
    doc_ids = set(index.doc_ids(range(len(index))))
    questions, judgments, _ = load_questions(doc_ids)
    with engine:
        shown = [query for query in questions if query.query_id in SHOWN]
        for run in engine.runs(shown, FROM_CONFIG):
            run.result()
            show(Group(Text(f"\n{run.query.text}", style="bold"), _funnel(run)))
        with progress_bar() as told:
            staged = run_staged(engine, questions, FROM_CONFIG, lambda done, total: told("questions", done, total))
    show(f"\n{len(questions)} questions with {len(judgments)} judgments, each under the cascade's budget:\n")
    show(render(gap_report(staged, judgments)))
    place = folder / cascade.settings.name
    command = f'cascade search --config {cascade.source} --index {place} "…" --explain'
    say(f"\nAsk it yourself:\n  {command}")


def _funnel(run: QueryRun) -> Table:
    """What each stage was given, scored and passed on, in how much of its time, and its best documents."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "in", "scored", "out", "ms", "of"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    table.add_column(f"its best {TOP}", overflow="fold")
    for position, trace in enumerate(run.trace.stages):
        for part in trace.retrievers:
            _add(table, run, part, "  " + part.name, run.retrieved[part.name])
        _add(table, run, trace, trace.name, run.passed_by(position))
    return table


def _add(table: Table, run: QueryRun, trace: StageTrace, name: str, order: Candidates) -> None:
    collection = run.cascade.collection
    best = collection.doc_ids(best_passages(order, collection, TOP).rows)
    counts = (str(n) for n in (trace.received, trace.scored, trace.passed))
    table.add_row(Text(name), *counts, ms(trace.seconds), ms(trace.budget_s), Text(", ".join(best)))
