"""``cascade search``."""

from __future__ import annotations

from typing import Annotated

import typer

from cascade.api import Cascade
from cascade.cli.options import BudgetMs, Config, IndexDir, NoBudget, TopK, Verify, budget
from cascade.cli.output import answer_dict, print_hits, print_json, say, show, waterfall
from cascade.types import Ranking


def search(
    config: Config,
    index: IndexDir,
    question: Annotated[str, typer.Argument(help="What to look for.")],
    top_k: TopK = None,
    budget_ms: BudgetMs = None,
    no_budget: NoBudget = False,
    verify: Verify = True,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each stage planned, did and why.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, trace included.")] = False,
) -> None:
    """Answers one question from an index.

    Example: cascade search --config configs/default.yaml --index idx "how do vaccines work?" --explain
    """
    with Cascade.from_yaml(config, index=index, verify=verify) as engine:
        ranking = engine.search(question, top_k=top_k, budget_ms=budget(budget_ms, no_budget))
    if json:
        print_json(answer_dict(ranking))
        return
    print_hits(ranking)
    if explain:
        show(waterfall(ranking.trace))
    elif not ranking.hits:
        say(f"no hits: {_why_none(ranking)}")
    elif ranking.degraded:
        say("degraded: not every stage did all it was planned to; --explain shows which and why")


def _why_none(ranking: Ranking) -> str:
    for stage in ranking.trace.stages:
        if stage.reason not in ("complete", "saturated"):
            return f"{stage.name}: {stage.reason}, {stage.detail}; --explain shows where the time went"
    return "nothing in the index matches, or is held probable enough"
