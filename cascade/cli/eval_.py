"""``cascade eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.api import Cascade
from cascade.cli.judged import read_judged
from cascade.cli.options import (
    BudgetMs,
    Config,
    IndexDir,
    Measures,
    NoBudget,
    QrelsPath,
    Queries,
    budget,
    in_a_folder,
)
from cascade.cli.output import progress_bar, say, show
from cascade.evaluation import (
    DEFAULT_MEASURES,
    LastScores,
    Method,
    calibrate_scores,
    gap_report,
    parse_measures,
    render,
    render_calibration,
    report_page,
    run_staged,
)
from cascade.io import atomic_write, write_json_atomic


def evaluate(
    config: Config,
    index: IndexDir,
    queries: Queries,
    qrels: QrelsPath,
    measures: Measures = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", callback=in_a_folder, help="Write the report as JSON, too.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", callback=in_a_folder, help="Write the report as a page for a browser, too."
        ),
    ] = None,
    budget_ms: BudgetMs = None,
    no_budget: NoBudget = False,
    calibrate: Annotated[
        Method | None,
        typer.Option("--calibrate", help="Fit a probability of relevance to the last stage's scores, as YAML for it."),
    ] = None,
) -> None:
    """Measures the cascade after each of its stages: quality, what each cut loses, time, and a verdict for each stage.

    Only queries with judgments are run, and only judgments of the queries given count.

    Example: cascade eval --config configs/default.yaml --index idx --queries queries.jsonl --qrels qrels/test.tsv
    """
    names = tuple(measures) if measures else DEFAULT_MEASURES
    parse_measures(names)  # wrong names are found before the work, not after it
    wanted, judgments = read_judged(queries, qrels)
    granted = budget(budget_ms, no_budget)
    scores = None
    with Cascade.from_yaml(config, index=index) as engine, progress_bar() as told:
        if calibrate is not None:
            scores = LastScores(engine.plan.stages[-1], judgments)
        observe = (lambda run: None) if scores is None else scores.add
        staged = run_staged(engine, wanted, granted, lambda done, total: told("queries", done, total), observe)
    report = gap_report(staged, judgments, measures=names)
    show(render(report))
    if json is not None:
        write_json_atomic(json, report.to_json())
        say(f"{json}: written")
    if html is not None:
        with atomic_write(html) as file:
            file.write(report_page(report))
        say(f"{html}: written")
    if scores is not None and calibrate is not None:
        fitted = calibrate_scores(scores.labelled(), calibrate)
        show(render_calibration(fitted))
        print(fitted.yaml())  # whole, however long, to be pasted
