"""The listwise stage: one input holds the query and a window of passages.

Passages do not know their place in the window (see ``stages.models.joint``), so the order in which they come does not
change what they score.
"""

from __future__ import annotations

import copy
import functools
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cascade.errors import ModelError
from cascade.stage import Context, ListwiseReranker, Passages, Stage, Tokens
from cascade.types import Query, Rows, Scores, TokenIds
from stages.listwise.kind import ListwiseSettings
from stages.models import HFTokenizer, Layout, layout, load_cross_encoder, locate, longest_input
from stages.models.joint import JointEncoder, WindowScorer
from stages.models.layout import JOINT_ENCODER, PASSAGES_AT_ONCE, read_config
from stages.runtimes import Runtime, load_runtime
from stages.runtimes.choice import Ints

logger = logging.getLogger(__name__)


class ListwiseStage(Stage):
    """One listwise ranker with its weights loaded."""

    def __init__(self, settings: ListwiseSettings, context: Context) -> None:
        folder = locate(settings.model, context)
        if JOINT_ENCODER not in (read_config(folder).get("architectures") or []):
            raise ModelError(
                f"{settings.model}: expected a joint encoder, the only architecture that reads several passages at "
                "once, got a sequence classifier; use it with kind: cross_encoder"
            )
        if PASSAGES_AT_ONCE not in read_config(folder):
            raise ModelError(
                f"{settings.model}: expected a ranker that has learned to read several passages at once, got one that "
                "reads one; use it with kind: cross_encoder"
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
        self._runtime = self._load(folder)
        self._tokenizer = HFTokenizer(folder, settings.max_passage_tokens)

    @property
    def tokenizer(self) -> HFTokenizer:
        """The checkpoint's own: with it the index stores the passages' token ids."""
        return self._tokenizer

    def open(self, passages: Passages, directory: Path | None) -> Listwise:
        """The reranker over these passages."""
        self._runtime.prepare(torch.get_num_threads(), self._settings.batch_tokens)
        return Listwise(self._settings, self._tokenizer, passages.tokens(self._tokenizer), self._layout, self._runtime)

    def _load(self, folder: Path) -> Runtime:
        """What runs the model.

        Raises:
            ModelError: it, or the form that is asked for, cannot be used.
        """
        settings = self._settings
        load = functools.partial(window_scorer, passages=settings.window)
        found = load_runtime(settings.model, folder, load, settings.runtime, settings.dtype, "windows")
        if found.outputs >= settings.window:
            return found
        message = f"{settings.model}: its form reads {found.outputs} passages at once, not {settings.window}"
        if settings.runtime != "auto" or settings.dtype == "int8":
            raise ModelError(f"{message}; lower window, or take runtime: torch")
        logger.info("%s; runs on torch", message)
        return load_runtime(settings.model, folder, load, "torch", settings.dtype, "windows")


class Listwise(ListwiseReranker):
    """Scores windows of passages; may be used by many threads at once.

    Args:
        settings: the stage's.
        tokenizer: for queries.
        tokens: token ids of all passages.
        layout: the special tokens around each text.
        runtime: the ranker, with an output for each passage of a window.
    """

    def __init__(
        self, settings: ListwiseSettings, tokenizer: HFTokenizer, tokens: Tokens, layout: Layout, runtime: Runtime
    ) -> None:
        self.window = settings.window
        self.batch_tokens = settings.batch_tokens
        self._max_query_tokens = settings.max_query_tokens
        self._max_passage_tokens = settings.max_passage_tokens
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._head, self._tail = (np.array(part, np.int32) for part in (layout.head, layout.tail))
        self._runtime = runtime

    def on(self, runtime: Runtime) -> Listwise:
        """The same ranker on another runtime."""
        other = copy.copy(self)
        other._runtime = runtime
        return other

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
        return self._runtime.run(*self.assemble(query, rows))[0, : len(rows)]

    def assemble(self, query: TokenIds, rows: Rows) -> tuple[Ints, Ints, Ints]:
        """What the model reads: ids, mask and numbers of texts, int64 [1, tokens] each."""
        parts = [query, *(self._passage(row) for row in rows.tolist())]
        ids = np.concatenate(parts).astype(np.int64)[None]
        texts = np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts])[None]
        return ids, np.ones_like(ids), texts

    def _passage(self, row: int) -> TokenIds:
        start, stop = self._tokens.offsets[row : row + 2].tolist()
        return self._framed(self._tokens.ids[start : min(stop, start + self._max_passage_tokens)])

    def _framed(self, ids: TokenIds) -> TokenIds:
        return np.concatenate((self._head, ids, self._tail))


def window_scorer(folder: Path, passages: int) -> WindowScorer:
    """The model as a module that scores so many passages at once.

    Raises:
        ModelError: it cannot be loaded, or is no joint encoder.
    """
    model = load_cross_encoder(folder)
    if not isinstance(model, JointEncoder):
        raise ModelError(f"{folder}: expected a joint encoder, got a sequence classifier")
    return WindowScorer(model, passages).eval()
