"""Relevance judgments: TREC qrels and BEIR's TSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cascade.errors import InputError
from cascade.io.lines import MAX_BYTES, read_lines
from cascade.io.records import check_id, show
from cascade.types import Qrel

_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_MAX_RELEVANCE = 1000
"""trec_eval allocates a slot for every level up to the highest."""


def read_qrels(path: Path, *, max_bytes: int = MAX_BYTES) -> list[Qrel]:
    """The judgments of a file, in its order, or of a BEIR folder with one split.

    A first line ``query-id``, ``corpus-id``, ``score`` makes it BEIR's TSV; otherwise it is TREC's four columns: query,
    iteration (ignored), document, relevance. An exact repetition counts once.

    Raises:
        InputError: the file cannot be read or is empty, a line has other columns, or a document is judged twice and
            differently; or the folder has no split, or several.
    """
    file = _split(path) if path.is_dir() else path
    qrels: list[Qrel] = []
    judged: dict[tuple[str, str], tuple[int, str]] = {}
    for place, qrel in _parse(file, max_bytes):
        key = (qrel.query_id, qrel.doc_id)
        relevance, earlier = judged.setdefault(key, (qrel.relevance, place))
        if relevance != qrel.relevance:
            raise InputError(
                f"{place}: expected one judgment of {qrel.doc_id!r} for query {qrel.query_id!r}, got "
                f"{qrel.relevance} here and {relevance} at {earlier}; keep one"
            )
        if earlier == place:
            qrels.append(qrel)
    if not qrels:
        raise InputError(f"{file}: expected at least one judgment, found none; check the path")
    return qrels


def _parse(path: Path, max_bytes: int) -> Iterator[tuple[str, Qrel]]:
    beir: bool | None = None
    for place, line in read_lines(path, max_bytes):
        cells = line.split()
        if not cells:
            continue
        if beir is None:
            beir = cells == _BEIR_HEADER
            if beir:
                continue
        if len(cells) != (3 if beir else 4):
            expected = "query-id, corpus-id, score" if beir else "query, iteration, document, relevance"
            raise InputError(
                f"{place}: expected {3 if beir else 4} columns ({expected}), got {len(cells)}; correct the line"
                + ("" if beir else ", or begin a BEIR file with its header query-id, corpus-id, score")
            )
        query_id, doc_id, relevance = cells if beir else (cells[0], cells[2], cells[3])
        yield (
            place,
            Qrel(
                check_id(query_id, "query_id", place),
                check_id(doc_id, "doc_id", place),
                _relevance(relevance, place),
            ),
        )


def _relevance(text: str, place: str) -> int:
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 4 and int(digits) <= _MAX_RELEVANCE:
        return int(text)
    raise InputError(
        f"{place}: relevance: expected an integer from -{_MAX_RELEVANCE} to {_MAX_RELEVANCE}, got {show(text)}; "
        "correct the line"
    )


def _split(folder: Path) -> Path:
    splits = sorted(path for pattern in ("*.tsv", "*.tsv.gz") for path in (folder / "qrels").glob(pattern))
    if not splits:
        raise InputError(f"{folder}: expected judgments in qrels/*.tsv, found none; name the file")
    if len(splits) > 1:
        raise InputError(
            f"{folder}: expected one file of judgments, got {', '.join(map(str, splits))}; name the one to use"
        )
    return splits[0]
