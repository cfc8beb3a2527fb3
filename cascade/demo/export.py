"""The demo's collection as files, for commands that take some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cascade.demo.corpus import gather
from cascade.demo.questions import load_questions
from cascade.io import atomic_write


def write_collection(folder: Path) -> None:
    """Writes documents, questions and judgments as a BEIR folder; files of those names are replaced.

    Raises:
        OSError: it cannot be written.
    """
    documents = list(gather())
    queries, qrels, _ = load_questions({document.doc_id for document in documents})
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(
        folder / "corpus.jsonl",
        ({"_id": one.doc_id, "title": one.title, "text": one.text, **one.metadata} for one in documents),
    )
    _write_lines(folder / "queries.jsonl", ({"_id": query.query_id, "text": query.text} for query in queries))
    with atomic_write(folder / "qrels" / "test.tsv") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines(f"{qrel.query_id}\t{qrel.doc_id}\t{qrel.relevance}\n" for qrel in qrels)


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with atomic_write(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
