"""The listwise stage: one input holds the query and a window of passages.

Passages do not know their place in the window (see ``stages.models.joint``), so the order in which they come does not
change what they score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cascade.errors import ModelError
from cascade.stage import Context, ListwiseReranker, Passages, Stage, Tokens
from cascade.types import Query, Rows, Scores, TokenIds
from stages.listwise.kind import ListwiseSettings
from stages.models import HFTokenizer, Layout, layout, load_cross_encoder, locate, longest_input
from stages.models.joint import JointEncoder


class ListwiseStage(Stage):
    """One listwise ranker with its weights loaded."""

    def __init__(self, settings: ListwiseSettings, context: Context) -> None:
        folder = locate(settings.model, context)
        model = load_cross_encoder(folder)
        if not isinstance(model, JointEncoder):
            raise ModelError(
                f"{settings.model}: expected a joint encoder, the only architecture that reads several passages at "
                "once, got a sequence classifier; use it with kind: cross_encoder"
            )
        longest = max(settings.max_passage_tokens, settings.max_query_tokens)
        self._layout = layout(folder)
        limit = longest_input(folder)
        if limit is not None and longest + self._layout.single_extra > limit:
            raise ModelError(
                f"{settings.model}: expected texts of at most {limit} tokens, got {longest} and "
                f"{self._layout.single_extra} special ones; lower max_passage_tokens or max_query_tokens"
            )
        self._settings = settings
        self._model = model.to(getattr(torch, settings.dtype))
        self._tokenizer = HFTokenizer(folder, settings.max_passage_tokens)

    @property
    def tokenizer(self) -> HFTokenizer:
        """The checkpoint's own: with it the index stores the passages' token ids."""
        return self._tokenizer

    def open(self, passages: Passages, directory: Path | None) -> Listwise:
        """The reranker over these passages."""
        return Listwise(self._settings, self._tokenizer, passages.tokens(self._tokenizer), self._layout, self._model)


class Listwise(ListwiseReranker):
    """Scores windows of passages; may be used by many threads at once.

    Args:
        settings: the stage's.
        tokenizer: for queries.
        tokens: token ids of all passages.
        layout: the special tokens around each text.
        model: the ranker.
    """

    def __init__(
        self, settings: ListwiseSettings, tokenizer: HFTokenizer, tokens: Tokens, layout: Layout, model: JointEncoder
    ) -> None:
        self.window = settings.window
        self.batch_tokens = settings.batch_tokens
        self._max_query_tokens = settings.max_query_tokens
        self._max_passage_tokens = settings.max_passage_tokens
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._head, self._tail = (np.array(part, np.int32) for part in (layout.head, layout.tail))
        self._model = model

    def encode_query(self, query: Query) -> TokenIds:
        """int32 [tokens], special tokens included, the text cut off at ``max_query_tokens``."""
        return self._framed(self._tokenizer.encode_start(query.text, self._max_query_tokens))

    def lengths(self, query: TokenIds, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens that each passage adds, special tokens included, and its part of the query's."""
        offsets = self._tokens.offsets
        text = np.minimum(offsets[rows + 1] - offsets[rows], self._max_passage_tokens)
        share = -(-len(query) // self.window)
        lengths: npt.NDArray[np.int32] = (text + len(self._head) + len(self._tail) + share).astype(np.int32)
        return lengths

    def score_window(self, query: TokenIds, rows: Rows) -> Scores:
        """float32 [n]: a score for each of the rows, given the others."""
        if not len(rows):
            return np.empty(0, np.float32)
        parts = [query, *(self._passage(row) for row in rows.tolist())]
        ids = torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]
        texts = torch.from_numpy(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))[None]
        with torch.inference_mode():
            scores = self._model.listwise(ids, torch.ones_like(ids), texts, len(rows))[0].float()
        found: Scores = scores.numpy()
        return found

    def _passage(self, row: int) -> TokenIds:
        start, stop = self._tokens.offsets[row : row + 2].tolist()
        return self._framed(self._tokens.ids[start : min(stop, start + self._max_passage_tokens)])

    def _framed(self, ids: TokenIds) -> TokenIds:
        return np.concatenate((self._head, ids, self._tail))
