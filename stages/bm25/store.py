"""A BM25 index on disk: written from segments in bounded memory, opened memory-mapped, checked before use.

::

    bm25.json           format, rows, and what ``values`` are
    terms.npy           uint8 [bytes], the vocabulary sorted, one term after another
    term_offsets.npy    int64 [terms + 1]
    indptr.npy          int64 [terms + 1], where each term's postings begin
    rows.npy            int32 [postings], ascending within a term
    values.npy          float32 [postings], impacts (bm25s) or counts (rank_bm25)
"""

from __future__ import annotations

import heapq
import json
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt, IndexMismatch
from cascade.stage import Passages, Progress
from stages.bm25 import kernel
from stages.bm25.formula import Formula
from stages.bm25.segments import Analyse, Segment, read_segment, read_terms, write_segments
from stages.bm25.vocabulary import Vocabulary, pack

FORMAT = 1
"""Raised whenever files or analysis change, so that an older index is refused instead of misread."""

Values: TypeAlias = Literal["impacts", "counts"]
_HEADER = "bm25.json"


@dataclass(frozen=True, slots=True)
class Postings:
    """An inverted index. Its arrays are read-only and, from disk, memory-mapped.

    Args:
        n_rows: passages.
        vocabulary: the terms.
        indptr: int64 [terms + 1]; the postings of term t are ``indptr[t]`` to ``indptr[t + 1]``.
        rows: int32 [postings], ascending within a term.
        values: float32 [postings], what each adds to the score of its row, or how often the row has the term.
    """

    n_rows: int
    vocabulary: Vocabulary
    indptr: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


def build(passages: Passages, directory: Path, analyse: Analyse, formula: Formula | None, progress: Progress) -> None:
    """Writes the index of all passages, going on from what an interrupted call left.

    Args:
        passages: read once, in order.
        directory: where to.
        analyse: text to terms.
        formula: turns counts into impacts; None keeps counts.
        progress: told after each segment.
    """
    if (directory / _HEADER).exists():
        progress(len(passages), len(passages))
        return
    folder = directory / "segments"
    folder.mkdir(exist_ok=True)
    files = write_segments(passages, folder, analyse, progress)
    _merge(files, directory, formula, len(passages))
    header = {"format": FORMAT, "rows": len(passages), "values": _kind_of(formula)}
    unfinished = directory / f"{_HEADER}.part"
    unfinished.write_text(json.dumps(header), encoding="utf-8")
    unfinished.replace(directory / _HEADER)
    shutil.rmtree(folder)


def _kind_of(formula: Formula | None) -> Values:
    return "counts" if formula is None else "impacts"


def _merge(files: list[Path], directory: Path, formula: Formula | None, n_rows: int) -> None:
    """Joins segments; holds all vocabularies in memory, but the postings of one segment only."""
    global_ids = _merge_vocabularies(files, directory)
    n_terms = 1 + max((int(ids[-1]) for ids in global_ids if len(ids)), default=-1)
    frequencies = np.zeros(n_terms, np.int64)
    n_counted = 0
    for file, ids in zip(files, global_ids, strict=True):
        segment = read_segment(file)
        frequencies[ids] += segment.frequencies
        n_counted += int(segment.lengths.sum(dtype=np.int64))
    indptr = np.zeros(n_terms + 1, np.int64)
    np.cumsum(frequencies, out=indptr[1:])
    np.save(directory / "indptr.npy", indptr)
    rows = np.lib.format.open_memmap(directory / "rows.npy", "w+", np.int32, (int(indptr[-1]),))
    values = np.lib.format.open_memmap(directory / "values.npy", "w+", np.float32, (int(indptr[-1]),))
    idf = None if formula is None else formula.idf(frequencies, n_rows)
    filled = indptr[:-1].copy()
    for file, ids in zip(files, global_ids, strict=True):
        segment = read_segment(file)
        begins = np.cumsum(segment.frequencies) - segment.frequencies
        places = np.repeat(filled[ids] - begins, segment.frequencies) + np.arange(len(segment.rows))
        filled[ids] += segment.frequencies
        rows[places] = segment.rows + np.int32(segment.start)
        if formula is None or idf is None:
            values[places] = segment.counts
        else:
            values[places] = _impacts(segment, idf[ids], formula, n_counted / n_rows)
    rows.flush()
    values.flush()


def _impacts(
    segment: Segment, idf: npt.NDArray[np.float32], formula: Formula, mean_length: float
) -> npt.NDArray[np.float64]:
    lengths = segment.lengths[segment.rows]
    return np.repeat(idf, segment.frequencies) * formula.saturation(segment.counts, lengths, mean_length)


def _merge_vocabularies(files: list[Path], directory: Path) -> list[npt.NDArray[np.int64]]:
    """Writes the common vocabulary; returns for each segment the common ids of its terms, ascending."""
    ids = [array("q") for _ in files]
    tagged = [zip(read_terms(file), repeat(holder)) for holder, file in enumerate(files)]

    def common() -> Iterator[bytes]:
        for number, (term, same) in enumerate(groupby(heapq.merge(*tagged), key=itemgetter(0))):
            for _, holder in same:
                ids[holder].append(number)
            yield term

    blob, offsets = pack(common())
    np.save(directory / "terms.npy", blob)
    np.save(directory / "term_offsets.npy", offsets)
    return [np.frombuffer(numbers, np.int64) for numbers in ids]


def open_postings(directory: Path, values: Values, mapped: bool = True) -> Postings:
    """The index that ``build`` wrote, after a check of its whole structure.

    Args:
        directory: where it lies.
        values: what the caller expects ``Postings.values`` to be.
        mapped: whether to leave the arrays on disk; they must not change there.

    Raises:
        IndexMismatch: it was written in another format or for another backend.
        IndexCorrupt: a file is missing or damaged.
    """
    n_rows = _read_header(directory / _HEADER, values)
    blob = _array(directory / "terms.npy", np.uint8, mapped)
    offsets = _array(directory / "term_offsets.npy", np.int64, mapped)
    indptr = _array(directory / "indptr.npy", np.int64, mapped)
    rows = _array(directory / "rows.npy", np.int32, mapped)
    numbers = _array(directory / "values.npy", np.float32, mapped)
    _check_offsets(directory / "term_offsets.npy", offsets, len(blob))
    _check_offsets(directory / "indptr.npy", indptr, len(rows))
    if len(indptr) != len(offsets) or len(numbers) != len(rows):
        raise _corrupt(
            directory,
            f"one list of postings per term and one value per posting, got {len(offsets) - 1} terms, "
            f"{len(indptr) - 1} lists, {len(rows)} postings, {len(numbers)} values",
        )
    bad = kernel.first_bad_posting(indptr, rows, numbers, n_rows)
    if bad >= 0:
        raise _corrupt(
            directory / "rows.npy",
            f"ascending rows below {n_rows} with finite values, got row {rows[bad]} with {numbers[bad]} "
            f"as posting {bad}",
        )
    return Postings(n_rows, Vocabulary(blob, offsets), indptr, rows, numbers)


def _read_header(file: Path, values: Values) -> int:
    try:
        header = json.loads(file.read_bytes())
        found, n_rows = (header["format"], header["values"]), header["rows"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _corrupt(file, f"a JSON object with format, rows and values, got {error!r}") from error
    if found != (FORMAT, values):
        raise IndexMismatch(
            f"{file}: expected format {FORMAT} with {values}, got format {found[0]!r} with {found[1]!r}; "
            "build the index again"
        )
    if type(n_rows) is not int or not 0 <= n_rows < 1 << 31:
        raise _corrupt(file, f"rows from 0 to 2^31 - 1, got {n_rows!r}")
    return n_rows


def _array(file: Path, dtype: type[np.generic], mapped: bool) -> npt.NDArray[Any]:
    try:
        stored = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(file, f"a NumPy array file, got {error}") from error
    if stored.dtype != dtype or stored.ndim != 1:
        raise _corrupt(file, f"{np.dtype(dtype)} with 1 dimension, got {stored.dtype} with {stored.ndim}")
    # Plain read-only arrays, mapped or not, so that the kernels are compiled once.
    plain: npt.NDArray[Any] = stored.view(np.ndarray)
    plain.flags.writeable = False
    return plain


def _check_offsets(file: Path, offsets: npt.NDArray[np.int64], end: int) -> None:
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != end or np.any(offsets[1:] < offsets[:-1]):
        raise _corrupt(file, f"offsets that ascend from 0 to {end}")


def _corrupt(file: Path, expected: str) -> IndexCorrupt:
    return IndexCorrupt(f"{file}: expected {expected}; build the index again or restore it from a copy")
