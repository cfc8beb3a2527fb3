r"""What is a budget worth? nDCG@10 against milliseconds: the cascade, its cross-encoder alone, and BM25.

    cascade index --config configs/default.yaml --corpus DATA/npl --index IDX
    python -m benchmarks.budgets --config configs/default.yaml --model bundled:cross-encoder --index IDX \\
        --data DATA/npl --out benchmarks/results/budgets.json

The configuration is any cascade. Alone, the cross-encoder reads what BM25 finds, as many of ``--candidates`` as the
budget affords, on time like the cascade. One client; an unanswered query counts 0. The curves go into the JSON file and
a PNG of the same name.

Then everything without a budget: the cascade as it is, without its last stage, and with that reading fewer
(``--depths``), beside the cross-encoder over all candidates, BM25's and those of the cascade's own first stage. The
goal is to keep 98 % of the latter's nDCG@10 in 10 % of its time. Which setting does best is seen on the same queries
that it is measured on.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import add_collection_arguments, is_missing, machine_record, ndcg_of_each, print_cells
from cascade.api import Cascade
from cascade.errors import InputError, Overloaded
from cascade.evaluation import judged_queries
from cascade.index import Index
from cascade.io import atomic_write_bytes, read_qrels, read_queries, write_json_atomic
from cascade.load import load_config, parse_config
from cascade.schema import CascadeConfig, StageEntry
from cascade.types import Qrel, Query

BUDGETS_MS = (10.0, 15.0, 23.0, 34.0, 52.0, 78.0, 117.0, 177.0, 266.0, 400.0)
DEPTHS = (2, 3, 5, 10, 20, 50)
BM25 = "version: 1\nname: bm25\nbudget_ms: 100\nstages:\n  - {name: bm25, kind: bm25, top_k: 10}\n"
ALONE = """
version: 1
name: cross-encoder
budget_ms: 100
stages:
  - {{name: bm25, kind: bm25, top_k: {candidates}}}
  - {{name: cross-encoder, kind: cross_encoder, model: {model}, top_k: 10}}
"""
TOP_K = 10
WARM_UP = 10
KEPT, TIME = 0.98, 0.1
"""The goal: at least this share of the quality, in at most this share of the time."""
LINES = (("-", "o", "black"), ("--", "s", "tab:orange"), (":", "^", "tab:blue"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="the cascade")
    parser.add_argument("--model", default="bundled:cross-encoder", help="what a configuration's model: may say")
    add_collection_arguments(parser, queries=300)
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS_MS), metavar="MS")
    parser.add_argument("--depths", type=int, nargs="*", default=list(DEPTHS), help="of the cascade's last stage")
    parser.add_argument("--candidates", type=int, default=100, help="most that the cross-encoder alone reads")
    parser.add_argument("--threads", type=int, help="of each task; by default all cores")
    arguments = parser.parse_args()
    if is_missing(arguments.data):
        return 0
    index = Index.open(arguments.index)
    queries, qrels = judged_queries(read_queries(arguments.data), read_qrels(arguments.data / "qrels" / "test.tsv"))
    bench = Bench(index, queries[: arguments.queries], qrels, arguments.threads)
    config = load_config(arguments.config)
    alone = parse_config(ALONE.format(candidates=arguments.candidates, model=json.dumps(arguments.model)))
    curves = {"cascade": config, "cross-encoder alone": alone, "BM25": parse_config(BM25)}
    cells = [cell for name, system in curves.items() for cell in bench.curve(name, system, arguments.budgets)]
    whole = _without_budget(bench, config, alone, arguments.depths, arguments.candidates)
    report = {
        "machine": machine_record(),
        "collection": arguments.data.name,
        "documents": index.manifest.corpus.documents,
        "config": str(arguments.config),
        "model": arguments.model,
        "candidates": arguments.candidates,
        "cells": cells,
        **whole,
    }
    write_json_atomic(arguments.out, report)
    with atomic_write_bytes(arguments.out.with_suffix(".png")) as file:
        file.write(plot(report))
    for table in (cells, whole["whole"], whole["goals"]):
        print_cells(table)
        print()
    return 0


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement has in common.

    Args:
        index: of the collection.
        queries: asked one after the other.
        qrels: their judgments, and perhaps others.
        threads: of each task; None for all cores.
    """

    index: Index
    queries: Sequence[Query]
    qrels: Sequence[Qrel]
    threads: int | None

    def curve(self, name: str, config: CascadeConfig, budgets_ms: Sequence[float]) -> list[dict[str, Any]]:
        """A row for each budget."""
        rows = []
        with Cascade(config, index=self.index, threads=self.threads) as engine:
            engine.calibrate()
            for budget_ms in budgets_ms:
                rows.append({"system": name, "budget ms": budget_ms, **self.measure(engine, budget_ms)})
                print(rows[-1], file=sys.stderr)
        return rows

    def whole(self, name: str, config: CascadeConfig) -> dict[str, Any]:
        """A row without a budget."""
        with Cascade(config, index=self.index, threads=self.threads) as engine:
            row = {"system": name, **self.measure(engine, None)}
        print(row, file=sys.stderr)
        return row

    def measure(self, engine: Cascade, budget_ms: float | None) -> dict[str, Any]:
        """Quality and time of all queries, and how many candidates the last stage reranked."""
        taken_ms, scored, answers = [], [], []
        for number, query in enumerate([*self.queries[:WARM_UP], *self.queries], -min(WARM_UP, len(self.queries))):
            began = time.perf_counter()
            try:
                ranking = engine.search(query, top_k=TOP_K, budget_ms=budget_ms)
            except Overloaded:
                ranking = None
            if number < 0:
                continue
            taken_ms.append((time.perf_counter() - began) * 1000)
            answers.append((query.query_id, [hit.doc_id for hit in ranking or ()]))
            scored.append(sum(stage.scored for stage in ranking.trace.stages[1:][-1:]) if ranking is not None else 0)
        wanted = {query.query_id for query in self.queries}
        gains = ndcg_of_each(answers, [qrel for qrel in self.qrels if qrel.query_id in wanted])
        return {
            "queries": len(answers),
            "nDCG@10": float(gains.mean()),
            "mean ms": statistics.fmean(taken_ms),
            "p95 ms": float(np.quantile(taken_ms, 0.95)),
            "over budget": sum(budget_ms is not None and taken > budget_ms for taken in taken_ms),
            "mean depth": statistics.fmean(scored),
        }


def _without_budget(
    bench: Bench, config: CascadeConfig, alone: CascadeConfig, depths: Sequence[int], candidates: int
) -> dict[str, list[dict[str, Any]]]:
    """Rows without a budget, and how the best setting of the cascade stands to the cross-encoder over everything."""
    settings = [bench.whole("cascade as configured", config)]
    settings += [bench.whole("cascade without its last stage", shortened(config))]
    settings += [bench.whole(f"cascade, last stage reads {depth}", cut(config, depth)) for depth in depths]
    references = [
        bench.whole(f"cross-encoder over {candidates} of BM25", alone),
        bench.whole(f"cross-encoder over {candidates} of the first stage", over_first_stage(config, alone, candidates)),
    ]
    return {"whole": [*settings, *references], "goals": [best(settings, reference) for reference in references]}


def cut(config: CascadeConfig, depth: int) -> CascadeConfig:
    """The cascade with its last stage given so many documents.

    Raises:
        InputError: it has only one stage.
    """
    if len(config.stages) < 2:
        raise InputError(f"{config.source}: expected a reranker after the first stage, got none; pass --depths alone")
    *before, feeding, last = config.stages
    return dataclasses.replace(config, stages=(*before, _passing(feeding, depth), _passing(last, depth)))


def shortened(config: CascadeConfig) -> CascadeConfig:
    """The cascade without its last stage; one of a single stage as it is."""
    return dataclasses.replace(config, stages=config.stages[:-1] or config.stages)


def over_first_stage(config: CascadeConfig, alone: CascadeConfig, candidates: int) -> CascadeConfig:
    """The last stage of ``alone`` over so many candidates of the first stage of ``config``."""
    first = config.stages[0]
    first = dataclasses.replace(first, settings=first.settings.model_copy(update={"top_k": candidates}))
    return dataclasses.replace(config, stages=(first, alone.stages[-1]))


def _passing(entry: StageEntry, most: int) -> StageEntry:
    settings = entry.settings
    return dataclasses.replace(entry, settings=settings.model_copy(update={"top_k": min(settings.top_k, most)}))


def best(settings: Sequence[dict[str, Any]], reference: dict[str, Any]) -> dict[str, Any]:
    """The best of the settings that keep within the share of time, or the quickest, beside the reference."""
    in_time = [row for row in settings if row["mean ms"] <= TIME * reference["mean ms"]]
    chosen = max(in_time, key=_quality) if in_time else min(settings, key=_time)
    kept = chosen["nDCG@10"] / reference["nDCG@10"] if reference["nDCG@10"] else 0.0
    share = chosen["mean ms"] / reference["mean ms"]
    return {
        "reference": reference["system"],
        "best": chosen["system"],
        "quality kept": kept,
        "share of time": share,
        "met": kept >= KEPT and share <= TIME,
    }


def _quality(row: dict[str, Any]) -> float:
    return float(row["nDCG@10"])


def _time(row: dict[str, Any]) -> float:
    return float(row["mean ms"])


def plot(report: dict[str, Any]) -> bytes:
    """The curves as PNG; systems differ in line and mark, so that they are told apart in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = list(dict.fromkeys(cell["system"] for cell in report["cells"]))
    for name, (line, mark, colour) in zip(names, LINES, strict=True):
        own = [cell for cell in report["cells"] if cell["system"] == name]
        at, quality = [cell["budget ms"] for cell in own], [cell["nDCG@10"] for cell in own]
        axes.plot(at, quality, linestyle=line, marker=mark, color=colour, label=name)
    reference = next(row for row in report["whole"] if row["system"] == report["goals"][-1]["reference"])
    label = f"{reference['system']}, no budget: {reference['mean ms']:.0f} ms"
    axes.axhline(reference["nDCG@10"], color="0.5", linestyle="-.", linewidth=1, label=label)
    axes.set_xscale("log")
    budgets = sorted({cell["budget ms"] for cell in report["cells"]})
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("budget of a query, milliseconds")
    axes.set_ylabel("nDCG@10")
    title = f"{report['collection']}, {report['documents']} documents; {report['machine']['machine']}"
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
