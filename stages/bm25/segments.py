"""Pieces of an inverted index over consecutive passages, written while the corpus streams by.

A segment holds the postings of a bounded number of terms and is complete in itself: it knows its own vocabulary. An
interrupted build goes on after its last whole segment. ``merge`` joins the segments.
"""

from __future__ import annotations

import logging
import os
import zipfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.stage import Passages, Progress
from stages.bm25.vocabulary import pack, unpack

SEGMENT_TERMS = 1 << 21
"""Terms, repetitions included, after which a segment is closed: what bounds the memory of a build."""

Analyse: TypeAlias = Callable[[str], list[str]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Segment:
    """The inverted index of the passages ``start`` to ``stop``.

    Args:
        start, stop: its rows.
        blob, offsets: its vocabulary, see ``Vocabulary``.
        frequencies: int64 [terms], how many passages have each term.
        rows: int32 [postings], term after term, ascending within each, counted from ``start``.
        counts: int32 [postings], how often the passage has the term.
        lengths: int32 [stop - start], terms of each passage.
    """

    start: int
    stop: int
    blob: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    frequencies: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


class _Collector:
    """Term ids of the passages of one segment, in the order of their arrival."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._ids: dict[str, int] = {}
        self._terms = array("i")
        self._lengths = array("i")

    @property
    def full(self) -> bool:
        return len(self._terms) >= SEGMENT_TERMS

    @property
    def stop(self) -> int:
        return self.start + len(self._lengths)

    def add(self, terms: list[str]) -> None:
        ids = self._ids
        self._terms.extend([ids.setdefault(term, len(ids)) for term in terms])
        self._lengths.append(len(terms))

    def segment(self) -> Segment:
        terms = sorted((term.encode(), number) for term, number in self._ids.items())
        sorted_id = np.empty(len(terms), np.int64)
        sorted_id[[number for _, number in terms]] = np.arange(len(terms))
        lengths = np.array(self._lengths, np.int32)
        n_rows = max(1, len(lengths))
        rows = np.repeat(np.arange(len(lengths)), lengths)
        postings, counts = np.unique(sorted_id[np.array(self._terms, np.int32)] * n_rows + rows, return_counts=True)
        blob, offsets = pack(term for term, _ in terms)
        return Segment(
            self.start,
            self.stop,
            blob,
            offsets,
            np.bincount(postings // n_rows, minlength=len(terms)),
            (postings % n_rows).astype(np.int32),
            counts.astype(np.int32),
            lengths,
        )


def write_segments(passages: Passages, folder: Path, analyse: Analyse, progress: Progress) -> list[Path]:
    """Writes what is missing of the segments of all passages; returns their files in the order of rows."""
    total = len(passages)
    files, start = _written(folder)
    collector = _Collector(start)
    for text in passages.iterate(start):
        collector.add(analyse(text))
        if collector.full or collector.stop == total:
            files.append(_save(collector.segment(), folder))
            progress(collector.stop, total)
            collector = _Collector(collector.stop)
    return files


def read_segment(file: Path) -> Segment:
    """The segment in a file that ``write_segments`` wrote."""
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        start, stop = stored["range"].tolist()
        fields = ("blob", "offsets", "frequencies", "rows", "counts", "lengths")
        return Segment(start, stop, *(stored[field] for field in fields))


def read_terms(file: Path) -> Iterator[bytes]:
    """The vocabulary of the segment in a file, ascending."""
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return unpack(stored["blob"], stored["offsets"])


def _written(folder: Path) -> tuple[list[Path], int]:
    """Whole segments that an interrupted build left, and the first row that none of them has."""
    files: list[Path] = []
    start = 0
    while (file := _file(folder, start)).exists():
        try:
            stop = read_segment(file).stop
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("%s is damaged (%s) and will be written again", file, error)
            break
        files.append(file)
        start = stop
    return files, start


def _save(segment: Segment, folder: Path) -> Path:
    file = _file(folder, segment.start)
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as stream:
        np.savez(
            stream,
            range=np.array([segment.start, segment.stop]),
            blob=segment.blob,
            offsets=segment.offsets,
            frequencies=segment.frequencies,
            rows=segment.rows,
            counts=segment.counts,
            lengths=segment.lengths,
        )
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)
    return file


def _file(folder: Path, start: int) -> Path:
    return folder / f"segment-{start:010d}.npz"
