"""The cross-encoder stage."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cascade.errors import ModelError
from cascade.stage import Batch, Context, Passages, Reranker, Stage
from cascade.types import Query, Rows, Scores, TokenIds
from stages.cross_encoder.kind import CrossEncoderSettings
from stages.cross_encoder.pairs import PairInput, Pairs
from stages.models import HFTokenizer, layout, load_cross_encoder, locate, longest_input
from stages.runtimes import Runtime, load_runtime

_URGENT = 4
"""Pairs that may be scored at once where time is short; batches of so many find everything compiled."""


class CrossEncoderStage(Stage):
    """One cross-encoder with its weights loaded."""

    def __init__(self, settings: CrossEncoderSettings, context: Context) -> None:
        folder = locate(settings.model, context)
        self._settings = settings
        self._tokenizer = HFTokenizer(folder, settings.max_passage_tokens)
        self._layout = layout(folder)
        self._prefixes = tuple(self._tokenizer.encode([settings.query_prefix, settings.passage_prefix]))
        self._longest = self._longest_pair(folder)
        self._runtime = load_runtime(settings.model, folder, load_cross_encoder, settings.runtime, settings.dtype)
        if self._runtime.outputs not in (1, 2):
            raise ModelError(
                f"{settings.model}: expected a model with one label (its score) or two (irrelevant, relevant), "
                f"got {self._runtime.outputs}; it is a classifier of another kind"
            )

    @property
    def tokenizer(self) -> HFTokenizer:
        """The checkpoint's own: with it the index stores the passages' token ids."""
        return self._tokenizer

    def open(self, passages: Passages, directory: Path | None) -> CrossEncoder:
        """The reranker over these passages."""
        self._runtime.prepare(torch.get_num_threads(), self._longest, _URGENT)
        tokens = passages.tokens(self._tokenizer)
        query_prefix, passage_prefix = self._prefixes
        limit = self._settings.max_passage_tokens
        pairs = Pairs(self._layout, self._tokenizer.pad_id, tokens, limit, passage_prefix)
        return CrossEncoder(self._settings, self._tokenizer, pairs, self._runtime, query_prefix)

    def _longest_pair(self, folder: Path) -> int:
        """Tokens of the longest input.

        Raises:
            ModelError: it is too long for the model.
        """
        settings, limit = self._settings, longest_input(folder)
        extra = self._layout.pair_extra + sum(map(len, self._prefixes))
        needed = settings.max_query_tokens + settings.max_passage_tokens + extra
        if limit is not None and needed > limit:
            raise ModelError(
                f"{settings.model}: expected pairs of at most {limit} tokens, got max_query_tokens + "
                f"max_passage_tokens + {extra} special and prefix tokens = {needed}; lower one of the two"
            )
        return needed


class CrossEncoder(Reranker):
    """Scores pairs by the logit of relevance; may be used by many threads at once.

    Args:
        settings: the stage's.
        tokenizer: for queries.
        pairs: puts the model's input together.
        runtime: the model.
        query_prefix: int32 [p], ids put before every query.
    """

    def __init__(
        self,
        settings: CrossEncoderSettings,
        tokenizer: HFTokenizer,
        pairs: Pairs,
        runtime: Runtime,
        query_prefix: TokenIds,
    ) -> None:
        self.batch_tokens = settings.batch_tokens
        self._max_query_tokens = settings.max_query_tokens
        self._tokenizer = tokenizer
        self._pairs = pairs
        self.runtime = runtime
        self._query_prefix = query_prefix

    def on(self, runtime: Runtime) -> CrossEncoder:
        """The same reranker on another runtime."""
        other = copy.copy(self)
        other.runtime = runtime
        return other

    def encode_query(self, query: Query) -> TokenIds:
        """int32 [tokens], without special tokens, the text cut off at ``max_query_tokens``."""
        text = self._tokenizer.encode_start(query.text, self._max_query_tokens)
        return np.concatenate((self._query_prefix, text))

    def lengths(self, query: TokenIds, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each pair, special tokens included."""
        return self._pairs.lengths(query, rows)

    def assemble(self, batch: Batch) -> PairInput:
        """What the model reads for a batch."""
        return self._pairs.assemble(batch)

    def score(self, batch: Batch) -> Scores:
        """float32 [n]: the logit of relevance, or by how much it exceeds that of irrelevance where there are two."""
        if not len(batch):
            return np.empty(0, np.float32)
        pairs = self.assemble(batch)
        logits = self.runtime.run(pairs.ids, pairs.mask, pairs.segments)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
