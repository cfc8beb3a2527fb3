"""How good are the cascades, and each retriever alone? nDCG@10 and more on BEIR-style collections, from run files.

    python benchmarks/quality.py --work /tmp/quality --out benchmarks/results/quality.json DATA/scifact DATA/npl

Each folder holds corpus.jsonl, queries.jsonl and qrels/test.tsv. Every cascade runs without a budget; its run is
written as TREC, read back and measured by ir-measures. Folders that are not there are skipped, saying so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import machine_record, print_table

from cascade.api import Cascade, index_corpus
from cascade.evaluation import evaluate, ranked
from cascade.index import Index
from cascade.io import read_corpus, read_qrels, read_queries, read_run, write_json_atomic, write_run
from cascade.load import load_config, parse_config
from cascade.schema import CascadeConfig

MEASURES = ("nDCG@10", "RR@10", "P@10", "R@100")
DEPTH = 100
CONFIGS = Path(__file__).parent.parent / "configs"

EVERYTHING = """
version: 1
name: everything
stages:
  - name: hybrid
    kind: fusion
    top_k: 200
    retrievers:
      - {name: bm25, kind: bm25, top_k: 400}
      - {name: dense, kind: dense, model: bundled:bi-encoder, top_k: 400}
  - {name: late-interaction, kind: colbert, model: bundled:bi-encoder, top_k: 100}
"""
ALONE = "version: 1\nname: {name}\nstages:\n  - {{name: {name}, kind: {name}, top_k: 100}}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="BEIR-style collections")
    parser.add_argument("--work", type=Path, required=True, help="where indexes and runs go; found again next time")
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")
    arguments = parser.parse_args()
    cascades = [parse_config(ALONE.format(name=name)) for name in ("bm25", "dense")]
    cascades += [load_config(CONFIGS / name) for name in ("two-stage.yaml", "default.yaml", "hybrid.yaml")]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for folder in arguments.folders:
        if not (folder / "corpus.jsonl").exists():
            print(f"{folder}: skipped, there is no corpus.jsonl", file=sys.stderr)
            continue
        index = _index(folder, arguments.work / folder.name)
        figures[folder.name] = {
            cascade.settings.name: _measure(cascade, index, folder, arguments.work) for cascade in cascades
        }
    write_json_atomic(arguments.out, {"machine": machine_record(), "measures": MEASURES, "figures": figures})
    rows = [
        [collection, name, *(f"{values[measure]:.3f}" for measure in MEASURES)]
        for collection, by_cascade in figures.items()
        for name, values in by_cascade.items()
    ]
    print_table(["collection", "cascade", *MEASURES], rows)
    return 0


def _index(folder: Path, target: Path) -> Index:
    if not (target / "CURRENT").exists():
        print(f"{folder}: indexing", file=sys.stderr)
        index_corpus(parse_config(EVERYTHING), read_corpus(folder), target)
    return Index.open(target)


def _measure(config: CascadeConfig, index: Index, folder: Path, work: Path) -> dict[str, float]:
    path = work / f"{folder.name}.{config.settings.name}.trec"
    queries = read_queries(folder)
    with Cascade(config, index=index) as engine, write_run(path, config.settings.name) as writer:
        for ranking in engine.stream(queries, top_k=DEPTH):
            writer.write(ranking.query.query_id, [(hit.doc_id, hit.score) for hit in ranking])
    evaluation = evaluate(ranked(read_run(path)), read_qrels(folder / "qrels" / "test.tsv"), MEASURES)
    print(f"{folder.name} {config.settings.name}: {evaluation.means['nDCG@10']:.4f}", file=sys.stderr)
    return dict(evaluation.means)


if __name__ == "__main__":
    sys.exit(main())
