"""``cascade search``."""

from __future__ import annotations

from typing import Annotated

import typer

from cascade.api import Cascade
from cascade.cli.options import BudgetMs, Config, IndexDir, NoBudget, TopK, budget
from cascade.cli.output import answer_dict, print_hits, print_json, say, show, waterfall


def search(
    config: Config,
    index: IndexDir,
    question: Annotated[str, typer.Argument(help="What to look for.")],
    top_k: TopK = None,
    budget_ms: BudgetMs = None,
    no_budget: NoBudget = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each stage planned, did and why.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, trace included.")] = False,
) -> None:
    """Answers one question from an index.

    Example: cascade search --config configs/default.yaml --index idx "how do vaccines work?" --explain
    """
    with Cascade.from_yaml(config, index=index) as engine:
        ranking = engine.search(question, top_k=top_k, budget_ms=budget(budget_ms, no_budget))
    if json:
        print_json(answer_dict(ranking))
        return
    print_hits(ranking)
    if explain:
        show(waterfall(ranking.trace))
    elif ranking.degraded and not ranking.hits:
        say("no hits: the time ended before anything was found; --explain shows where it went")
    elif ranking.degraded:
        say("degraded: not every stage did all it was planned to; --explain shows which and why")
