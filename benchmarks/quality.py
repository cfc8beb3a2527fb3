"""How good are the cascades, and each model alone? nDCG@10 and more on BEIR-style collections, from run files.

    python -m benchmarks.quality --work /tmp/quality --out benchmarks/results/quality.json DATA/scifact DATA/npl

Each folder holds corpus.jsonl, queries.jsonl and qrels/test.tsv. Every cascade runs without a budget; its run is
written as TREC, read back and measured by ir-measures. Beside each figure stands which weights it is of, so that one of
weights that have changed since is not kept. A reranking model alone reorders the first 50 of fused BM25
and bi-encoder retrieval. A folder that holds runs/bm25.trec has its candidates given: that run is reranked, whole, and
measured against qrels/official.trec. Folders that are not there are skipped, saying so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.common import RETRIEVAL, machine_record, print_table
from cascade.api import Cascade, index_corpus
from cascade.evaluation import evaluate, ranked
from cascade.index import Index
from cascade.io import read_corpus, read_qrels, read_queries, read_run, write_json_atomic, write_run
from cascade.load import load_config, parse_config
from cascade.schema import CascadeConfig
from cascade.stage import Context
from cascade.types import Document, ScoredDoc
from stages.models import CATALOGUE, fingerprint, locate

MEASURES = ("nDCG@10", "RR@10", "P@10", "R@100")
DEPTH = 100
CONFIGS = Path(__file__).parent.parent / "configs"

RERANKER = "  - {{name: reranker, kind: {kind}, model: bundled:{model}, top_k: {top_k}{more}}}\n"
RERANKERS = {
    "untrained-late-interaction": ("colbert", "bi-encoder", ""),
    "late-interaction-idf": ("colbert", "bi-encoder", ", query_weights: idf"),
    "colbert": ("colbert", "colbert", ""),
    "distilbert": ("cross_encoder", "distilbert", ", dtype: bfloat16"),
    "cross-encoder": ("cross_encoder", "cross-encoder", ", dtype: bfloat16"),
    "listwise": ("listwise", "listwise", ", dtype: bfloat16"),
}
"""Each reranking model: kind, name in the catalogue, further settings."""
RERANKED = 50
CASCADES = ("two-stage", "four-stage", "default")
ALONE = "version: 1\nname: {name}\nstages:\n  - {{name: {name}, kind: {name}, top_k: 100}}\n"
GIVEN_RUN = Path("runs", "bm25.trec")

Row: TypeAlias = dict[str, Any]
"""The figures of a cascade, by measure, and the fingerprints of its models, as ``weights``."""
Measured: TypeAlias = Iterator[tuple[str, CascadeConfig, dict[str, float]]]
"""Of each cascade: its name, itself, and its figures."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="BEIR-style collections")
    parser.add_argument("--work", type=Path, required=True, help="where indexes and runs go; found again next time")
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")
    parser.add_argument("--only", nargs="*", help="of the cascades, only those of these names; default: all")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, Row]] = {}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text())["figures"]
        figures = {c: {name: row for name, row in by.items() if still_true(row)} for c, by in before.items()}
    for folder in arguments.folders:
        if not (folder / "corpus.jsonl").exists():
            print(f"{folder}: skipped, there is no corpus.jsonl", file=sys.stderr)
            continue
        measure = _reranking if (folder / GIVEN_RUN).exists() else _end_to_end
        for name, config, values in measure(folder, arguments.work, arguments.only):
            figures.setdefault(folder.name, {})[name] = {**values, "weights": weights_of(config)}
            print(f"{folder.name} {name}: {values['nDCG@10']:.4f}", file=sys.stderr)
            write_json_atomic(arguments.out, {"machine": machine_record(), "measures": MEASURES, "figures": figures})
    rows = [
        [collection, name, *(f"{values[measure]:.3f}" for measure in MEASURES)]
        for collection, by_cascade in figures.items()
        for name, values in by_cascade.items()
    ]
    print_table(["collection", "cascade", *MEASURES], rows)
    return 0


def _models(top_k: int) -> dict[str, str]:
    """The reranking stages whose models are installed, as a line of YAML each."""
    there = {model.name for model in CATALOGUE}
    return {
        name: RERANKER.format(kind=kind, model=model, more=more, top_k=top_k)
        for name, (kind, model, more) in RERANKERS.items()
        if model in there
    }


def weights_of(config: CascadeConfig) -> dict[str, str]:
    """The fingerprint of every model that a cascade names."""
    models = {model for entry in config.entries() if (model := getattr(entry.settings, "model", None))}
    return {model: _fingerprint(model) for model in sorted(models)}


def still_true(row: Row) -> bool:
    """Whether a figure is of models that are what they were."""
    return all(_fingerprint(model) == weights for model, weights in row["weights"].items())


@cache
def _fingerprint(model: str) -> str:
    return fingerprint(locate(model, Context(CONFIGS)))


def _end_to_end(folder: Path, work: Path, only: Sequence[str] | None) -> Measured:
    """Every cascade over an index of the folder's corpus."""
    configs = {name: parse_config(ALONE.format(name=name)) for name in ("bm25", "dense")}
    retrieval = RETRIEVAL.format(name="model", depth=RERANKED, retrieved=200)
    configs |= {name: parse_config(retrieval + line) for name, line in _models(RERANKED).items()}
    configs |= {file.stem: load_config(file) for file in (CONFIGS / f"{name}.yaml" for name in CASCADES)}
    index = _index(folder, work / folder.name)
    for name, config in _chosen(configs, only):
        path = work / f"{folder.name}.{name}.trec"
        with Cascade(config, index=index) as engine, write_run(path, name) as writer:
            for ranking in engine.stream(read_queries(folder), top_k=DEPTH):
                writer.write(ranking.query.query_id, [(hit.doc_id, hit.score) for hit in ranking])
        yield name, config, _measured(path, folder / "qrels" / "test.tsv")


def _reranking(folder: Path, work: Path, only: Sequence[str] | None) -> Measured:
    """Every reranker over the run that the folder gives, all of its candidates reread."""
    qrels = folder / "qrels" / "official.trec"
    given = read_run(folder / GIVEN_RUN)
    yield "bm25", parse_config(ALONE.format(name="bm25")), _measured(folder / GIVEN_RUN, qrels)
    wanted = {scored.doc_id for found in given.values() for scored in found}
    documents = {item.document.doc_id: item.document for item in read_corpus(folder) if item.document.doc_id in wanted}
    configs = {name: parse_config(ALONE.format(name="bm25") + line) for name, line in _models(DEPTH).items()}
    configs["default"] = load_config(CONFIGS / "default.yaml")
    for name, config in _chosen(configs, only):
        path = work / f"{folder.name}.{name}.trec"
        with Cascade(config) as engine, write_run(path, name) as writer:
            for query in read_queries(folder):
                passages = [documents[scored.doc_id] for scored in given[query.query_id]]
                ranking = engine.rerank(query, passages, budget_ms=None)
                writer.write(query.query_id, [(hit.doc_id, hit.score) for hit in ranking])
        yield name, config, _measured(path, qrels)
    if only is None or "dense" in only:
        dense = parse_config(ALONE.format(name="dense"))
        yield "dense", dense, _measured(_by_bi_encoder(folder, work, given, documents), qrels)


def _by_bi_encoder(
    folder: Path, work: Path, given: Mapping[str, Sequence[ScoredDoc]], documents: Mapping[str, Document]
) -> Path:
    """The given run in the order of the bi-encoder's cosines, as a run file."""
    config = parse_config(
        "version: 1\nname: dense\nstages:\n  - {name: dense, kind: dense, model: bundled:bi-encoder, top_k: 100000}\n"
    )
    target = work / f"{folder.name}.candidates"
    if not (target / "CURRENT").exists():
        corpus = work / f"{folder.name}.candidates.jsonl"
        lines = (json.dumps({"_id": d.doc_id, "title": d.title, "text": d.text}) for d in documents.values())
        corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
        index_corpus(config, read_corpus(corpus), target)
    path = work / f"{folder.name}.dense.trec"
    with Cascade(config, index=Index.open(target)) as engine, write_run(path, "dense") as writer:
        for query in read_queries(folder):
            candidates = {scored.doc_id for scored in given[query.query_id]}
            ranking = engine.search(query, top_k=100_000, budget_ms=None)
            writer.write(query.query_id, [(hit.doc_id, hit.score) for hit in ranking if hit.doc_id in candidates])
    return path


def _chosen(configs: Mapping[str, CascadeConfig], only: Sequence[str] | None) -> list[tuple[str, CascadeConfig]]:
    return [(name, config) for name, config in configs.items() if only is None or name in only]


def _index(folder: Path, target: Path) -> Index:
    if not (target / "CURRENT").exists():
        print(f"{folder}: indexing", file=sys.stderr)
        stages = _models(DEPTH).values()
        everything = RETRIEVAL.format(name="everything", depth=200, retrieved=200) + "".join(
            line.replace("name: reranker", f"name: reranker-{number}") for number, line in enumerate(stages)
        )
        index_corpus(parse_config(everything), read_corpus(folder), target)
    return Index.open(target)


def _measured(run: Path, qrels: Path) -> dict[str, float]:
    return dict(evaluate(ranked(read_run(run)), read_qrels(qrels), MEASURES).means)


if __name__ == "__main__":
    sys.exit(main())
