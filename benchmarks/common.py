"""What the benchmark scripts share: arguments, a record of the machine, nDCG, and tables for Markdown."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.cost import machine
from cascade.types import Qrel

RETRIEVAL = """version: 1
name: {name}
stages:
  - name: hybrid
    kind: fusion
    method: weighted
    weights: {{bm25: 0.3, dense: 0.7}}
    top_k: {depth}
    retrievers:
      - {{name: bm25, kind: bm25, top_k: {retrieved}}}
      - {{name: dense, kind: dense, model: bundled:bi-encoder, top_k: {retrieved}}}
"""
"""What finds the candidates of a reranker that is measured by itself; a line for that follows."""
PACKAGES = ("cascade-ranking", "torch", "transformers", "numpy", "numba", "bm25s")


def add_collection_arguments(parser: argparse.ArgumentParser, queries: int) -> None:
    """Adds what every script needs that puts the questions of a collection to an index of it.

    Args:
        parser: gets ``--index``, ``--data``, ``--queries`` and ``--out``.
        queries: default of ``--queries``.
    """
    parser.add_argument("--index", type=Path, required=True, help="as 'cascade index' makes it")
    parser.add_argument("--data", type=Path, required=True, help="BEIR-style folder with queries and qrels/test.tsv")
    parser.add_argument("--queries", type=int, default=queries, help="queries of each measurement")
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")


def is_missing(data: Path) -> bool:
    """Whether a folder holds no collection; says so, since scripts then end without an error."""
    if (data / "queries.jsonl").exists():
        return False
    print(f"{data}: skipped, there is no queries.jsonl", file=sys.stderr)
    return True


def machine_record() -> dict[str, str]:
    """The machine and the versions that decide the figures."""
    return {"machine": machine(), "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def ndcg_of_each(answers: Sequence[tuple[str, Sequence[str]]], qrels: Sequence[Qrel]) -> npt.NDArray[np.float64]:
    """float64 [answers]: nDCG@10 of every answer, 0 for an empty one; a query may have been asked several times.

    Args:
        answers: query_id and doc_ids, best first.
        qrels: judgments; a query without any counts as 0.
    """
    from cascade.evaluation import evaluate

    judged: dict[str, list[Qrel]] = {}
    for qrel in qrels:
        judged.setdefault(qrel.query_id, []).append(qrel)
    run = {str(number): doc_ids for number, (_, doc_ids) in enumerate(answers)}
    repeated = [
        Qrel(str(number), qrel.doc_id, qrel.relevance)
        for number, (query_id, _) in enumerate(answers)
        for qrel in judged.get(query_id, ())
    ]
    found = evaluate(run, repeated, ["nDCG@10"]).by_query["nDCG@10"]
    return np.array([found.get(str(number), 0.0) for number in range(len(answers))])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown on stdout."""
    print(markdown_table(header, rows))


def print_cells(cells: Sequence[Mapping[str, object]]) -> None:
    """Records with the same keys as a table on stdout."""
    print_table(list(cells[0]), [[_shown(value) for value in cell.values()] for cell in cells])


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
