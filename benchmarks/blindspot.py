"""Can a scorer tell the passage that answers from the one that only looks like the question?

    python -m benchmarks.blindspot
    python -m benchmarks.blindspot --models bm25 cross_encoder=./my-reranker --out benchmarks/results/blindspot.json

A model is ``bm25`` (its statistics are of all passages of the suite), ``bundled:bi-encoder`` (the cosine), or
KIND=MODEL, where the kind is any that takes a model (dense, colbert, cross_encoder, listwise) and the model what a
configuration's ``model:`` may say. Models that are not there are left out, saying so. The triples, and what may be
done with them, are in ``benchmarks/blindspot/``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from rich.table import Table

from benchmarks.common import machine_record
from cascade.cli.output import show
from cascade.errors import CascadeError, InputError, ModelError
from cascade.index import MemoryPassages
from cascade.io import write_json_atomic
from cascade.registry import Registry
from cascade.stage import Batch, Context, ListwiseReranker, Opened, Reranker, Retriever
from cascade.types import Document, Query, Rows, Scores

TRIPLES = Path(__file__).parent / "blindspot" / "triples.jsonl"
MODELS = (
    "bm25",
    "bundled:bi-encoder",
    "colbert=bundled:bi-encoder",
    "colbert=bundled:colbert",
    "cross_encoder=bundled:distilbert",
    "cross_encoder=bundled:cross-encoder",
    "listwise=bundled:listwise",
)
SHORT = {"bm25": ("bm25", None), "bundled:bi-encoder": ("dense", "bundled:bi-encoder")}
"""Names that say no kind: the kind and the model that they stand for."""
Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Triple:
    """A question, a passage that answers it, and one that resembles it but does not answer."""

    id: str
    category: str
    question: str
    answers: str
    resembles: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of triples with the answer ahead, overall with its 95 % interval, and by category."""

    overall: float
    low: float
    high: float
    by_category: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"overall": self.overall, "interval_95": [self.low, self.high], "by_category": dict(self.by_category)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="bm25, or KIND=MODEL")
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    arguments = parser.parse_args()
    triples = read_triples()
    accuracies: dict[str, Accuracy] = {}
    for name in arguments.models:
        try:
            accuracies[name] = accuracy(triples, credits_of(score(name, triples)))
        except CascadeError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    if not accuracies:
        return 1
    show(table(accuracies))
    if arguments.out is not None:
        figures = {name: found.to_dict() for name, found in accuracies.items()}
        write_json_atomic(arguments.out, {"machine": machine_record(), "triples": len(triples), "figures": figures})
    return 0


def read_triples(path: Path = TRIPLES) -> list[Triple]:
    """The suite, in the order of the file."""
    return [Triple(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def score(name: str, triples: Sequence[Triple]) -> npt.NDArray[np.float64]:
    """float64 [triples, 2]: what a scorer says of the answer, and of the lookalike.

    Raises:
        CascadeError: there is no such kind or model.
    """
    kind_name, model = _kind_and_model(name)
    kind = Registry().get(kind_name)
    fields: dict[str, Any] = {"name": "scorer", "kind": kind_name, "top_k": 2}
    if model is not None:
        fields["model"] = model
    try:
        settings = kind.settings(**fields)
    except ValidationError as error:
        raise InputError(f"the kind {kind_name} does not take these settings: {error}") from error
    context = Context(Path())
    wrong = kind.check(settings, context)
    if wrong:
        raise ModelError("; ".join(message for _, message in wrong))
    texts = [text for triple in triples for text in (triple.answers, triple.resembles)]
    passages = MemoryPassages([Document(str(number), text) for number, text in enumerate(texts)])
    opened = kind.load(settings, context).open(passages, None)
    queries = [Query(triple.id, triple.question) for triple in triples]
    pairs = np.arange(len(texts), dtype=np.int32).reshape(-1, 2)
    return np.array([score_pair(opened, query, rows) for query, rows in zip(queries, pairs, strict=True)], np.float64)


def _kind_and_model(name: str) -> tuple[str, str | None]:
    if name in SHORT:
        return SHORT[name]
    kind, separator, model = name.partition("=")
    if not separator:
        raise InputError(f"expected {' or '.join(SHORT)}, or KIND=MODEL, such as cross_encoder=./my-reranker")
    return kind, model


def score_pair(opened: Opened, query: Query, rows: Rows) -> Scores:
    """float32 [2]: the scores of two neighbouring rows."""
    if isinstance(opened, Retriever):
        found, values = opened.search(opened.encode_query(query), 2, int(rows[0]), int(rows[1]) + 1)
        by_row = dict(zip(found.tolist(), values.tolist(), strict=True))
        unfound = 0.0  # BM25 leaves out what shares no term with the question
        return np.array([by_row.get(row, unfound) for row in rows.tolist()], np.float32)
    if isinstance(opened, Reranker):
        return opened.score(Batch.single(opened.encode_query(query), rows))
    if isinstance(opened, ListwiseReranker):  # in both orders, so that no place in the window is favoured
        encoded = opened.encode_query(query)
        forwards, backwards = opened.score_window(encoded, rows), opened.score_window(encoded, rows[::-1])
        return np.add(forwards, backwards[::-1], dtype=np.float32)
    raise InputError(f"a {type(opened).__name__} scores no passages")


def credits_of(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [triples]: 1 where the answer scores higher, 0.5 for a tie, else 0, from float64 [triples, 2].

    >>> credits_of(np.array([[0.9, 0.1], [0.5, 0.5], [-2.0, -1.0]]))
    array([1. , 0.5, 0. ])
    """
    answers, resembles = scores.T
    return np.where(answers == resembles, 0.5, (answers > resembles).astype(np.float64))


def accuracy(triples: Sequence[Triple], credit: npt.NDArray[np.float64]) -> Accuracy:
    """Means of the credits (float64 [triples])."""
    categories = np.array([triple.category for triple in triples])
    by_category = {name: float(credit[categories == name].mean()) for name in dict.fromkeys(categories.tolist())}
    overall = float(credit.mean())
    return Accuracy(overall, *wilson(overall, len(triples)), by_category)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of ``n`` trials: E. B. Wilson (1927), JASA 22.

    >>> [round(bound, 3) for bound in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    shrink = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 * math.sqrt(share * (1 - share) / n + (Z95 / (2 * n)) ** 2) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def table(accuracies: Mapping[str, Accuracy]) -> Table:
    """A row for each category, a column for each model."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("answer ahead of lookalike, %")
    for name in accuracies:
        shown.add_column(name, justify="right")
    found = list(accuracies.values())
    for category in found[0].by_category:
        shown.add_row(category, *(f"{100 * each.by_category[category]:.1f}" for each in found))
    shown.add_row("overall", *(f"{100 * each.overall:.1f}" for each in found), style="bold")
    shown.add_row("95 % interval", *(f"{100 * each.low:.1f} to {100 * each.high:.1f}" for each in found))
    return shown


if __name__ == "__main__":
    sys.exit(main())
