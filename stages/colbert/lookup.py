"""MaxSim over compressed embeddings, without decompressing any.

The cosine of a query token with a record is ``scale * (query . centroid + sum over dimensions of query * level)``. Four
bits of a record stand for one of 16 possible pieces of a residual, whatever the number of bits a dimension. So all that
the query can meet is worked out once: its product with each centroid and with each piece. Then a token costs one row of
that table for every four bits; 32 query tokens are summed at a time, as 16-bit integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

from cascade.types import Scores
from stages.colbert.codec import HEAD_BYTES, SCALES, Codec, Records
from stages.colbert.maxsim import WORST_SIMILARITY
from stages.compiled import compiled

LANES = 32
"""Query tokens in one row of the table; a query of more has several tables."""

_PIECES = 16
_HIGHEST = 65535


@dataclass(frozen=True, slots=True)
class QueryTables:
    """A query as compressed embeddings are compared with it.

    Args:
        tokens: of the query.
        sums: uint16 [tables, rows, LANES]: 16 rows for every four bits of a record, then one for each centroid.
        affine: float32 [tables, 2, LANES]: factor and summand that make a product out of a sum of rows.
    """

    tokens: int
    sums: npt.NDArray[np.uint16]
    affine: npt.NDArray[np.float32]


class Lookup:
    """Makes the tables of queries for one codec."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        together = 4 // codec.bits
        self._positions = 2 * (codec.record_bytes - HEAD_BYTES)
        padding = self._positions * together - codec.dim
        levels = np.pad(codec.levels, ((0, padding), (0, 0))).reshape(self._positions, together, -1)
        numbers = np.arange(together)
        chosen = (np.arange(_PIECES)[:, None] >> codec.bits * numbers) & (2**codec.bits - 1)
        self._pieces = np.ascontiguousarray(levels[:, numbers, chosen], np.float32)
        """float32 [positions, 16, dimensions together]: all that four bits of a record can stand for."""

    def tables(self, query: npt.NDArray[np.float32]) -> QueryTables:
        """The tables of a query, float32 [query tokens, dim]; a token that is not finite makes scores that are not."""
        import torch

        finite = np.isfinite(query).all(axis=1)
        tokens, blocks = len(query), max(-(-len(query) // LANES), 1)
        dim, together = self._codec.dim, self._pieces.shape[2]
        by_dimension = np.zeros((self._positions * together, blocks * LANES), np.float32)
        by_dimension[:dim, :tokens][:, finite] = query[finite].T
        products = torch.mm(torch.from_numpy(self._codec.centroids), torch.from_numpy(by_dimension[:dim])).numpy()
        sums = np.empty((blocks, self._positions * _PIECES + len(products), LANES), np.uint16)
        affine = np.empty((blocks, 2, LANES), np.float32)
        _quantise(self._pieces, by_dimension, products, sums, affine)
        for token in np.flatnonzero(~finite):
            affine[token // LANES, 1, token % LANES] = np.nan
        return QueryTables(tokens, sums, affine)


@compiled
def _products(
    pieces: npt.NDArray[np.float32],
    query: npt.NDArray[np.float32],
    position: int,
    found: npt.NDArray[np.float32],
) -> None:
    """Stores in ``found``, float32 [16, query tokens], products of the query with the pieces of one position."""
    _, choices, together = pieces.shape
    for number in range(together):
        dimension = position * together + number
        for piece in range(choices):
            value = pieces[position, piece, number]
            for token in range(query.shape[1]):
                added = value * query[dimension, token]
                found[piece, token] = added if number == 0 else found[piece, token] + added


@compiled
def _store(
    products: npt.NDArray[np.float32],
    least: npt.NDArray[np.float32],
    steps: npt.NDArray[np.float32],
    sums: npt.NDArray[np.uint16],
    first: int,
) -> None:
    """Stores products, float32 [n, query tokens], in the tables' rows from ``first`` on."""
    for number in range(len(products)):
        for table in range(len(sums)):
            for lane in range(LANES):
                token = table * LANES + lane
                above = (products[number, token] - least[token]) * steps[token]
                sums[table, first + number, lane] = np.uint16(np.rint(above))


@compiled
def _quantise(
    pieces: npt.NDArray[np.float32],
    query: npt.NDArray[np.float32],
    products: npt.NDArray[np.float32],
    sums: npt.NDArray[np.uint16],
    affine: npt.NDArray[np.float32],
) -> None:
    """Fills ``sums`` and ``affine`` of a ``QueryTables``, so that no sum of rows exceeds 16 bits.

    Args:
        pieces: float32 [positions, 16, dimensions together], all that four bits can stand for.
        query: float32 [positions * dimensions together, query tokens].
        products: float32 [centroids, query tokens], of the query with each centroid.
        sums: uint16 [tables, rows, LANES].
        affine: float32 [tables, 2, LANES].
    """
    positions, choices = pieces.shape[:2]
    tokens = query.shape[1]
    low, high = products[0].copy(), products[0].copy()
    for number in range(1, len(products)):
        for token in range(tokens):
            low[token] = min(low[token], products[number, token])
            high[token] = max(high[token], products[number, token])
    spread, offset = high - low, low.copy()
    least, greatest = np.empty((positions, tokens), np.float32), np.empty(tokens, np.float32)
    found = np.empty((choices, tokens), np.float32)
    for position in range(positions):
        _products(pieces, query, position, found)
        for token in range(tokens):
            least[position, token] = greatest[token] = found[0, token]
        for piece in range(1, choices):
            for token in range(tokens):
                least[position, token] = min(least[position, token], found[piece, token])
                greatest[token] = max(greatest[token], found[piece, token])
        for token in range(tokens):
            spread[token] += greatest[token] - least[position, token]
            offset[token] += least[position, token]
    steps = np.empty(tokens, np.float32)
    for token in range(tokens):  # a sum of so many rounded numbers can exceed the rounded sum by half of one each
        steps[token] = np.float32(_HIGHEST - positions - 1) / (spread[token] if spread[token] > 0 else np.float32(1))
        affine[token // LANES, 0, token % LANES] = np.float32(1) / steps[token]
        affine[token // LANES, 1, token % LANES] = offset[token]
    for position in range(positions):
        _products(pieces, query, position, found)
        _store(found, least[position], steps, sums, position * choices)
    _store(products, low, steps, sums, positions * choices)


def maxsim_compressed(
    query: QueryTables, records: Records, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> Scores:
    """MaxSim of one query and documents that are ranges of compressed tokens; see ``maxsim``.

    Runs on the calling thread alone and copies nothing.

    Args:
        query: tables made for the codec of the records.
        records: uint8 [all tokens, record bytes], C-contiguous, all centroid numbers being within the codec.
        starts: int64 [documents], first token of each document.
        stops: int64 [documents], one past its last.

    Returns:
        float32 [documents]; a document without tokens gets the least.
    """
    scores = np.zeros(len(starts), np.float32)
    for sums, affine in zip(query.sums, query.affine, strict=True):
        _add_best(records, starts, stops, sums, affine, SCALES, scores)
    scores[starts == stops] = WORST_SIMILARITY * query.tokens
    return scores


cgutils: Any = untyped_cgutils

_ROW = ir.VectorType(ir.IntType(16), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INT = ir.IntType(64)


def _constant(value: int) -> Any:
    return ir.Constant(_INT, value)


def _load(builder: Any, data: Any, index: Any, kind: Any) -> Any:
    """The vector number ``index`` in an array, which need not be aligned."""
    loaded = builder.load(builder.gep(builder.bitcast(data, kind.as_pointer()), [index]))
    loaded.align = 2
    return loaded


def _byte(builder: Any, data: Any, index: Any) -> Any:
    return builder.zext(builder.load(builder.gep(data, [index])), _INT)


def _sum_of_rows(builder: Any, record: Any, record_bytes: Any, sums: Any) -> Any:
    """The table's rows for one record, added up."""
    total = cgutils.alloca_once(builder, _ROW)
    centroid = builder.or_(
        _byte(builder, record, _constant(0)), builder.shl(_byte(builder, record, _constant(1)), _constant(8))
    )
    head = _constant(HEAD_BYTES)
    pieces = builder.mul(builder.sub(record_bytes, head), _constant(2 * _PIECES))
    builder.store(_load(builder, sums, builder.add(pieces, centroid), _ROW), total)
    with cgutils.for_range_slice(builder, head, record_bytes, _constant(1), _INT) as (number, _):
        code = _byte(builder, record, number)
        first = builder.mul(builder.sub(number, head), _constant(2 * _PIECES))
        low = builder.add(first, builder.and_(code, _constant(_PIECES - 1)))
        high = builder.add(builder.add(first, _constant(_PIECES)), builder.lshr(code, _constant(4)))
        both = builder.add(_load(builder, sums, low, _ROW), _load(builder, sums, high, _ROW))
        builder.store(builder.add(builder.load(total), both), total)
    return builder.load(total)


def _generate_best(
    typing: Any, records: Any, start: Any, stop: Any, sums: Any, affine: Any, scales: Any, best: Any
) -> Any:
    """Stores in ``best``, float32 [LANES], the greatest product of each query token with records start to stop.

    Written in LLVM's vectors, which compile for every processor: left to itself, LLVM gathers across the loop's rounds.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = {
            name: cgutils.create_struct_proxy(signature.args[i])(context, builder, arguments[i])
            for i, name in ((0, "records"), (3, "sums"), (4, "affine"), (5, "scales"), (6, "best"))
        }
        record_bytes = cgutils.unpack_tuple(builder, arrays["records"].shape)[1]
        zero, one = _constant(0), _constant(1)
        factors = _load(builder, arrays["affine"].data, zero, _FLOATS)
        summands = _load(builder, arrays["affine"].data, one, _FLOATS)
        greatest = cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, [float("-inf")] * LANES))
        with cgutils.for_range_slice(builder, arguments[1], arguments[2], one, _INT) as (token, _):
            record = builder.gep(arrays["records"].data, [builder.mul(token, record_bytes)])
            total = _sum_of_rows(builder, record, record_bytes, arrays["sums"].data)
            products = builder.fadd(builder.fmul(builder.uitofp(total, _FLOATS), factors), summands)
            scale = builder.load(builder.gep(arrays["scales"].data, [_byte(builder, record, _constant(2))]))
            first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scale, ir.Constant(ir.IntType(32), 0))
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            cosines = builder.fmul(products, builder.shuffle_vector(first, first, everywhere))
            before = builder.load(greatest)
            builder.store(builder.select(builder.fcmp_ordered(">", cosines, before), cosines, before), greatest)
        target = builder.bitcast(arrays["best"].data, _FLOATS.as_pointer())
        builder.store(builder.load(greatest), target).align = 2
        return context.get_dummy_value()

    return numba.void(records, start, stop, sums, affine, scales, best), generate


_best: Any = intrinsic(_generate_best)


@compiled
def _add_best(
    records: Records,
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    sums: npt.NDArray[np.uint16],
    affine: npt.NDArray[np.float32],
    scales: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
) -> None:
    """Adds, to each document's score, what the query tokens of one table get from it."""
    best = np.empty(LANES, np.float32)
    for document in range(len(starts)):
        _best(records, starts[document], stops[document], sums, affine, scales, best)
        total = np.float32(0)
        for lane in range(LANES):
            total += best[lane]
        scores[document] += total
