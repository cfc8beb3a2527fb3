"""Questions about Python's standard library, written and judged by hand, with the judgments that go with them.

The files are BEIR's: ``questions.jsonl`` with a category for each question, ``qrels.tsv`` with a relevance of 2 for a
document that answers the question, 1 for one that helps, 0 for one that looks as if it did. Relevant documents were
sought in the union of the best 20 of BM25 and the best 20 of a dense retriever, besides what their author knew, so that
neither kind of retrieval is favoured; documents without a judgment count as not relevant.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

from cascade.errors import InputError
from cascade.types import Qrel, Query


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the questions when they met a corpus.

    Args:
        categories: query_id to category, for every question that was kept.
        judgments: judgments kept.
        dropped_judgments: judgments of documents that the corpus lacks, which this version of Python does not have.
        dropped_questions: ids of questions left without a relevant document.
    """

    categories: Mapping[str, str]
    judgments: int
    dropped_judgments: int
    dropped_questions: tuple[str, ...]


def load_questions(doc_ids: Collection[str]) -> tuple[list[Query], list[Qrel], Report]:
    """Questions and judgments for the documents of ``gather``, in the order of the files.

    Args:
        doc_ids: the documents there are; a set or dict is quickest.

    Raises:
        InputError: if no question has a relevant document among them.
    """
    known = frozenset(doc_ids)
    judged = list(_judgments())
    present = [qrel for qrel in judged if qrel.doc_id in known]
    answerable = {qrel.query_id for qrel in present if qrel.relevance > 0}
    if not answerable:
        raise InputError(f"doc_ids: expected ids of the demo corpus, got {len(known)} others; take them from gather()")
    queries: list[Query] = []
    categories: dict[str, str] = {}
    dropped: list[str] = []
    for query, category in _questions():
        if query.query_id in answerable:
            queries.append(query)
            categories[query.query_id] = category
        else:
            dropped.append(query.query_id)
    qrels = [qrel for qrel in present if qrel.query_id in answerable]
    return queries, qrels, Report(categories, len(qrels), len(judged) - len(qrels), tuple(dropped))


def _questions() -> Iterator[tuple[Query, str]]:
    for line in _text("questions.jsonl").splitlines():
        record = json.loads(line)
        yield Query(record["_id"], record["text"]), record["category"]


def _judgments() -> Iterator[Qrel]:
    rows = csv.reader(_text("qrels.tsv").splitlines(), delimiter="\t")
    next(rows)
    for query_id, doc_id, relevance in rows:
        yield Qrel(query_id, doc_id, int(relevance))


def _text(name: str) -> str:
    return files("cascade.demo").joinpath(name).read_text(encoding="utf-8")
