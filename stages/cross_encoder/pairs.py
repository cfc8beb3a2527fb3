"""Model input for query-passage pairs, put together from token ids that are already known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.stage import Batch, Tokens
from cascade.types import Rows, TokenIds
from stages.models import Layout

_MULTIPLE = 8

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairInput:
    """What a cross-encoder reads.

    Args:
        ids: int64 [n, L].
        mask: int64 [n, L], 1 for a token and 0 for padding.
        segments: int64 [n, L], 1 from the passage on; None for a model without segments.
    """

    ids: Ints
    mask: Ints
    segments: Ints | None


class Pairs:
    """Puts pairs together without tokenising passages again and without a loop over pairs.

    Args:
        layout: the special tokens of the checkpoint.
        pad_id: fills up shorter pairs.
        tokens: token ids of all passages.
        max_passage_tokens: longer passages are cut off there.
        passage_prefix: int32 [p], ids put before every passage.
    """

    def __init__(
        self, layout: Layout, pad_id: int, tokens: Tokens, max_passage_tokens: int, passage_prefix: TokenIds
    ) -> None:
        self._layout = layout
        self._pad_id = pad_id
        self._tokens = tokens
        self._max_passage_tokens = max_passage_tokens
        self._passage_prefix = passage_prefix

    def lengths(self, query: TokenIds, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each pair, special tokens included, padding not."""
        fixed = len(query) + self._layout.pair_extra + len(self._passage_prefix)
        return (self._passage_lengths(rows) + fixed).astype(np.int32)

    def assemble(self, batch: Batch) -> PairInput:
        """The pairs of a batch, padded on the right to a multiple of 8 tokens."""
        before, between, after = (np.array(part, np.int64) for part in self._special())
        query_ids = np.concatenate([*batch.queries, np.empty(0, np.int32)])
        query_ends = np.cumsum([len(query) for query in batch.queries])
        query_starts = np.concatenate(([0], query_ends[:-1]))

        # columns [n] where each part of a pair begins; query and passage then cover [first, end) of their own
        query_first = np.full(len(batch), len(before))
        query_end = query_first + (query_ends - query_starts)[batch.query_of]
        passage_segment = query_end + self._layout.first_between
        passage_first = query_end + len(between)
        passage_end = passage_first + self._passage_lengths(batch.rows)
        ends = passage_end + len(after)
        length = -(-int(ends.max(initial=0)) // _MULTIPLE) * _MULTIPLE

        ids = np.full((len(batch), length), self._pad_id, np.int64)
        ids[:, : len(before)] = before
        _fill(ids, query_ids, query_starts[batch.query_of], query_first, query_end)
        _fill(ids, self._tokens.ids, self._tokens.offsets[batch.rows], passage_first, passage_end)
        pair = np.arange(len(batch))[:, None]
        ids[pair, query_end[:, None] + np.arange(len(between))] = between
        ids[pair, passage_end[:, None] + np.arange(len(after))] = after

        columns = np.arange(length)
        mask = (columns < ends[:, None]).astype(np.int64)
        if not self._layout.segments:
            return PairInput(ids, mask, None)
        return PairInput(ids, mask, (columns >= passage_segment[:, None]) * mask)

    def _special(self) -> tuple[tuple[int, ...], ...]:
        between = (*self._layout.between, *self._passage_prefix.tolist())
        return self._layout.before, between, self._layout.after

    def _passage_lengths(self, rows: Rows) -> Ints:
        offsets = self._tokens.offsets
        lengths: Ints = np.minimum(offsets[rows + 1] - offsets[rows], self._max_passage_tokens)
        return lengths


def _fill(target: Ints, source: npt.NDArray[Any], source_first: Ints, first: Ints, end: Ints) -> None:
    """Copies into columns [first, end) of each row of ``target`` from ``source``, beginning at ``source_first``."""
    columns = np.arange(target.shape[1])
    inside = (columns >= first[:, None]) & (columns < end[:, None])
    places = columns + (source_first - first)[:, None]
    target[inside] = source[places[inside]]
