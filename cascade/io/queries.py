"""Query files."""

from __future__ import annotations

from pathlib import Path

from cascade.errors import InputError
from cascade.io.corpus import open_records
from cascade.io.lines import MAX_BYTES
from cascade.io.records import query
from cascade.types import Query


def read_queries(path: Path, *, max_bytes: int = MAX_BYTES) -> list[Query]:
    """The queries of a file, in its order, from any of the formats of a corpus file, or of a BEIR folder.

    JSONL, CSV and Parquet have the fields ``_id`` (or ``id``, ``query_id``) and ``text``; TSV has id and text.

    Raises:
        InputError: the file cannot be read, is empty, or has an id twice.
    """
    source = open_records(path, "queries", max_bytes)
    queries: list[Query] = []
    places: dict[str, str] = {}
    for record in source.records():
        parsed = query(record)
        if parsed.query_id in places:
            raise InputError(
                f"{record[0]}: expected each query once, got query_id {parsed.query_id!r} again, which stands at "
                f"{places[parsed.query_id]}; remove or rename one"
            )
        places[parsed.query_id] = record[0]
        queries.append(parsed)
    if not queries:
        raise InputError(f"{source.path}: expected at least one query, found none; check the path")
    return queries
