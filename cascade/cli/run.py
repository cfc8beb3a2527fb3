"""``cascade run``."""

from __future__ import annotations

from cascade.api import Cascade
from cascade.cli.options import BudgetMs, Config, IndexDir, NoBudget, OutputRun, Queries, TopK, budget
from cascade.cli.output import progress_bar, say
from cascade.io import read_queries, write_run


def run(
    config: Config,
    index: IndexDir,
    queries: Queries,
    output: OutputRun,
    top_k: TopK = None,
    budget_ms: BudgetMs = None,
    no_budget: NoBudget = False,
) -> None:
    """Answers a file of questions and writes a TREC run.

    Scores in a run decrease strictly, as tools that sort by score expect: scores of different stages are not
    comparable, so they are lowered where the order needs it.

    Example: cascade run --config configs/default.yaml --index idx --queries queries.jsonl --output run.trec --top-k 100
    """
    wanted = read_queries(queries)
    granted = budget(budget_ms, no_budget)
    degraded = 0
    with (
        Cascade.from_yaml(config, index=index) as engine,
        write_run(output, engine.plan.name) as writer,
        progress_bar() as told,
    ):
        for done, ranking in enumerate(engine.stream(wanted, top_k=top_k, budget_ms=granted), start=1):
            writer.write(ranking.query.query_id, [(hit.doc_id, hit.score) for hit in ranking])
            degraded += ranking.degraded
            told("queries", done, len(wanted))
    say(f"{output}: {len(wanted)} queries, {degraded} of them degraded")
