"""``cascade rerank``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade.api import Cascade
from cascade.arguments import as_documents
from cascade.cli.options import BudgetMs, Config, CorpusPath, NoBudget, OutputRun, Queries, budget
from cascade.cli.output import progress_bar, say
from cascade.errors import InputError
from cascade.io import read_corpus, read_queries, read_run, write_run
from cascade.load import load_config
from cascade.types import Document


def rerank(
    config: Config,
    corpus: CorpusPath,
    queries: Queries,
    run: Annotated[Path, typer.Option("--run", metavar="FILE", help="The TREC run to reorder.")],
    output: OutputRun,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=0, help="Documents wanted of each query; default: all of them.")
    ] = None,
    budget_ms: BudgetMs = None,
    no_budget: NoBudget = False,
) -> None:
    """Reorders a run by the cascade's rerankers; its retrievers are passed over and no index is needed.

    Without an index every passage is encoded anew, so there is no time limit unless --budget-ms gives one.

    Example: cascade rerank --config configs/two-stage.yaml --corpus corpus.jsonl --queries queries.jsonl --run in.trec
    --output out.trec
    """
    cascade = load_config(config)
    if all(entry.role in ("retriever", "fuser") for entry in cascade.stages):
        raise InputError(
            f"{config}: expected a cascade with a reranker, got none; there is nothing to reorder a run by"
        )
    texts = {query.query_id: query for query in read_queries(queries)}
    candidates = read_run(run)
    missing = sorted(set(candidates) - set(texts))
    if missing:
        raise InputError(f"{run}: query {missing[0]!r}{_and_more(missing)} is not in {queries}; give its queries")
    wanted = {scored.doc_id for found in candidates.values() for scored in found}
    documents = _documents(corpus, wanted, run)
    passages = {query: [documents[scored.doc_id] for scored in found] for query, found in candidates.items()}
    for query_id, given in passages.items():
        try:
            as_documents(given)
        except InputError as error:
            raise InputError(f"{run}: query {query_id!r}: {error}") from error
    granted = None if budget_ms is None else budget(budget_ms, no_budget)
    degraded = 0
    with Cascade(cascade) as engine, write_run(output, engine.plan.name) as writer, progress_bar() as told:
        for done, (query_id, given) in enumerate(passages.items(), start=1):
            ranking = engine.rerank(texts[query_id], given, top_k=top_k, budget_ms=granted)
            writer.write(query_id, [(hit.doc_id, hit.score) for hit in ranking])
            degraded += ranking.degraded
            told("queries", done, len(candidates))
    say(f"{output}: {len(candidates)} queries, {degraded} of them degraded")


def _documents(corpus: Path, wanted: set[str], run: Path) -> dict[str, Document]:
    found = {}
    for sourced in read_corpus(corpus):
        if sourced.document.doc_id in wanted:
            found[sourced.document.doc_id] = sourced.document
    missing = sorted(wanted - set(found))
    if missing:
        raise InputError(f"{run}: document {missing[0]!r}{_and_more(missing)} is not in {corpus}; give its corpus")
    return found


def _and_more(missing: list[str]) -> str:
    return f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
