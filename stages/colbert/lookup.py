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
        self._pieces = np.ascontiguousarray(levels[:, numbers, chosen])  # [positions, 16, dimensions together]

    def tables(self, query: npt.NDArray[np.float32]) -> QueryTables:
        """The tables of a query, float32 [query tokens, dim]; a token that is not finite makes scores that are not."""
        import torch

        finite = np.isfinite(query).all(axis=1)
        tokens, blocks = len(query), max(-(-len(query) // LANES), 1)
        padded = np.zeros((blocks * LANES, self._codec.dim), np.float32)
        padded[:tokens][finite] = query[finite]
        products = torch.mm(torch.from_numpy(self._codec.centroids), torch.from_numpy(padded).T).numpy()
        pieces = self._by_piece(padded)
        least = products.min(axis=0), pieces.min(axis=1)
        spread = (products.max(axis=0) - least[0]) + (pieces.max(axis=1) - least[1]).sum(axis=0)
        # A sum of so many rounded numbers can exceed the rounded sum by half of one each.
        steps = np.float32(_HIGHEST - self._positions - 1) / np.where(spread > 0, spread, 1)
        rows = np.concatenate(((pieces - least[1][:, None]).reshape(-1, len(padded)), products - least[0]))
        sums = np.rint(rows * steps).astype(np.uint16).reshape(len(rows), blocks, LANES)
        affine = np.stack((1 / steps, least[0] + least[1].sum(axis=0)))
        affine[1, :tokens][~finite] = np.nan
        by_block = affine.reshape(2, blocks, LANES).transpose(1, 0, 2)
        return QueryTables(tokens, np.ascontiguousarray(sums.transpose(1, 0, 2)), np.ascontiguousarray(by_block))

    def _by_piece(self, padded: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [positions, 16, query tokens]: products with all that four bits of a record can stand for."""
        width = self._positions * self._pieces.shape[2]
        query = np.pad(padded, ((0, 0), (0, width - self._codec.dim))).T
        products: npt.NDArray[np.float32] = self._pieces @ query.reshape(self._positions, -1, len(padded))
        return products


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
