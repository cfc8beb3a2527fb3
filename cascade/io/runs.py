"""Runs in TREC's format: ``query Q0 document rank score tag``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from cascade.errors import InputError
from cascade.io.atomic import atomic_write
from cascade.io.lines import MAX_BYTES, read_lines
from cascade.io.records import check_id, show
from cascade.types import ScoredDoc


def read_run(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, list[ScoredDoc]]:
    """For each query, in the order of the file, its documents by falling score; equal scores keep the file's order.

    The rank column is ignored, as by trec_eval.

    Raises:
        InputError: the file cannot be read or is empty, a line has other than six columns, a score is not a finite
            number, or a query has a document twice.
    """
    run: dict[str, list[ScoredDoc]] = {}
    for place, line in read_lines(path, max_bytes):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 6:
            raise InputError(
                f"{place}: expected 6 columns (query, Q0, document, rank, score, tag), got {len(cells)}; "
                "correct the line"
            )
        query_id = sys.intern(check_id(cells[0], "query_id", place))
        doc_id = check_id(cells[2], "doc_id", place)
        run.setdefault(query_id, []).append(ScoredDoc(query_id, doc_id, _score(cells[4], place)))
    if not run:
        raise InputError(f"{path}: expected at least one result, found none; check the path")
    for results in run.values():
        _refuse_repeats(path, results, max_bytes)
        results.sort(key=lambda result: -result.score)
    return run


class RunWriter:
    """Writes a run query by query; ``write_run`` makes one."""

    def __init__(self, file: TextIO, source: str, tag: str) -> None:
        self._file = file
        self._source = source
        self._tag = tag
        self._written: set[str] = set()

    def write(self, query_id: str, results: Iterable[tuple[str, float]]) -> None:
        """Writes the documents of one query with their scores, best first; the order given is the ranking.

        Scores that do not fall are lowered: see ``falling``.

        Raises:
            InputError: the query was written before, a document comes twice, an id has whitespace or control
                characters, or a score is not finite.
        """
        place = f"{self._source}: query {query_id!r}"
        check_id(query_id, "query_id", self._source)
        if query_id in self._written:
            raise InputError(f"{place}: expected each query once, got it again; write all its results in one call")
        self._written.add(query_id)
        ranked = list(results)
        doc_ids = [check_id(doc_id, "doc_id", place) for doc_id, _ in ranked]
        if len(set(doc_ids)) < len(doc_ids):
            twice = next(doc_id for doc_id in doc_ids if doc_ids.count(doc_id) > 1)
            raise InputError(f"{place}: expected each document once, got {twice!r} twice; remove duplicates first")
        try:
            scores = falling(score for _, score in ranked)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), start=1):
            self._file.write(f"{query_id} Q0 {doc_id} {rank} {score!s} {self._tag}\n")


@contextmanager
def write_run(path: Path, tag: str = "cascade") -> Iterator[RunWriter]:
    """Opens a run file to be fed query by query.

    Nothing appears under ``path`` before the block ends, and nothing at all if it raises.

    Raises:
        InputError: the tag has whitespace, or ``path`` cannot be a file.
        OSError: the disk is full or failing; ``path`` is as it was.
    """
    check_id(tag, "tag", str(path))
    with atomic_write(path) as file:
        yield RunWriter(file, str(path), tag)


def falling(scores: Iterable[float]) -> list[np.float32]:
    """float32 scores that fall strictly, so that whoever sorts by them finds the order in which they were given.

    A score stays as it is where it is below the one before it; otherwise it becomes the next smaller float32 number.
    Raw scores of different stages are not comparable, so a cascade's ranking need not be sorted by them, and trec_eval
    re-sorts, in single precision, and breaks ties by document.

    >>> [str(score) for score in falling([2.5, 2.5, 20.0, 1.0])]
    ['2.5', '2.4999998', '2.4999995', '1.0']

    Raises:
        ValueError: a score is NaN, or infinite as float32, or cannot be lowered any further.
    """
    lowered: list[np.float32] = []
    for given in scores:
        with np.errstate(over="ignore"):
            score = np.float32(given)
            if lowered and not np.isnan(score) and score >= lowered[-1]:
                score = np.nextafter(lowered[-1], np.float32(-np.inf))
        if not np.isfinite(score):
            raise ValueError(f"expected finite float32 scores, got {given}; drop or clamp the result")
        lowered.append(score)
    return lowered


def _refuse_repeats(path: Path, results: list[ScoredDoc], max_bytes: int) -> None:
    """Raises InputError with both places for a document that one query has twice."""
    if len({result.doc_id for result in results}) == len(results):
        return
    # Read again to name the lines: to keep each line's place would double the memory of every good run.
    places: dict[str, str] = {}
    for place, line in read_lines(path, max_bytes):
        cells = line.split()
        if cells and cells[0] == results[0].query_id and places.setdefault(cells[2], place) != place:
            raise InputError(
                f"{place}: expected each document once for a query, got {cells[2]!r} for query {cells[0]!r} again, "
                f"which stands at {places[cells[2]]}; keep one"
            )


def _score(text: str, place: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{place}: score: expected a finite number, got {show(text)}; correct the line")
    return score
