"""What one would write without an engine: retrieve, rerank the first candidates in a loop, and perhaps give up in time.

``benchmarks/baseline.py`` measures it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from cascade.index import Index
from cascade.schema import CascadeConfig, StageEntry
from cascade.stage import Context
from cascade.types import Query, Rows, Scores

TOP_K = 10
BATCH = 32
"""Pairs in a batch, as sentence-transformers has it."""
HANDOVER_S = 0.002
"""Kept back by the timeouts, so that not every answer that they cut short is late by a hair."""

Value = TypeVar("Value")


class Reply(NamedTuple):
    """An answer, best first, and how many candidates the cross-encoder scored: with 0 it is the first stage's order."""

    doc_ids: tuple[str, ...]
    scored: int


NOTHING = Reply((), 0)

Ask: TypeAlias = Callable[[Query, float], Awaitable[Reply]]
"""Answers a query for which there are so many seconds left."""


class Pipeline(Protocol):
    """Two steps and no clock."""

    def find(self, query: Query) -> Rows:
        """int32 [n], best first."""
        ...

    def rerank(self, query: Query, rows: Rows, depth: int) -> Rows:
        """int32 [n]: the first ``depth`` in a new order, then the rest."""
        ...

    def best(self, rows: Rows) -> tuple[str, ...]:
        """The doc_ids of an answer."""
        ...


class Program:
    """What one would write: retrieve with bm25s and a matrix product, then score pairs batch by batch.

    Args:
        config: a fusion of BM25 and dense retrieval, then a cross-encoder; says which models.
        index: whose passages and vectors are used.
    """

    def __init__(self, config: CascadeConfig, index: Index) -> None:
        import bm25s
        import torch

        from stages.bm25.analysis import Analyser
        from stages.cross_encoder.kind import CrossEncoderSettings
        from stages.models import HFTokenizer, layout, load_cross_encoder, locate
        from stages.models.tokenizer import read_tokenizer
        from stages.runtimes import load_runtime

        hybrid, last = config.stages
        bm25, dense = hybrid.retrievers
        assert isinstance(last.settings, CrossEncoderSettings)
        self._index, self._hybrid, self._settings = index, hybrid.settings, last.settings
        self._texts = list(index.iterate())
        self._analyse = Analyser()
        self._bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        self._bm25.index([self._analyse(text) for text in self._texts], show_progress=False)
        self._top_ks = bm25.settings.top_k, dense.settings.top_k
        self._dense = _opened(dense, index)
        self._vectors = self._dense.vectors.between(0, len(index))
        folder = locate(last.settings.model, Context(config.folder))
        around = layout(folder)
        self._segments = around.segments
        self._tokenizer = read_tokenizer(folder)
        self._tokenizer.enable_truncation(
            last.settings.max_query_tokens + last.settings.max_passage_tokens + around.pair_extra
        )
        self._tokenizer.enable_padding(pad_id=HFTokenizer(folder, last.settings.max_passage_tokens).pad_id)
        self._runtime = load_runtime(
            last.settings.model, folder, load_cross_encoder, last.settings.runtime, last.settings.dtype
        )
        self._runtime.prepare(torch.get_num_threads())

    def find(self, query: Query) -> Rows:
        """int32 [at most ``candidates``]: both retrievers, fused with the weights of the configuration."""
        from stages.fusion.formulas import min_max, weighted_sum
        from stages.fusion.kind import FusionSettings

        assert isinstance(self._hybrid, FusionSettings)
        weights = [self._hybrid.weight_of(name) for name in self._hybrid.retrievers]
        rows, _ = weighted_sum([self._by_words(query), self._by_meaning(query)], weights, min_max)
        return rows[: self._hybrid.top_k]

    def _by_words(self, query: Query) -> tuple[Rows, Scores]:
        k = min(self._top_ks[0], len(self._texts))
        rows, scores = self._bm25.retrieve([self._analyse(query.text)], k=k, show_progress=False)
        matches = scores[0] > 0
        return rows[0][matches].astype(np.int32), scores[0][matches]

    def _by_meaning(self, query: Query) -> tuple[Rows, Scores]:
        scores = self._vectors @ self._dense.encode_query(query)
        k = min(self._top_ks[1], len(scores))
        rows = np.argpartition(-scores, k - 1)[:k].astype(np.int32)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        return rows, scores[rows]

    def rerank(self, query: Query, rows: Rows, depth: int) -> Rows:
        """int32 [n]: the first ``depth`` by the cross-encoder, longest texts first, then the rest."""
        head = rows[:depth]
        texts = [self._texts[row] for row in head.tolist()]
        scores = np.empty(len(head), np.float32)
        by_length = np.argsort([-len(text) for text in texts], kind="stable")
        for start in range(0, len(head), BATCH):
            batch = by_length[start : start + BATCH]
            scores[batch] = self._score([(query.text, texts[i]) for i in batch.tolist()])
        return np.concatenate((head[np.argsort(-scores, kind="stable")], rows[depth:]))

    def _score(self, pairs: list[tuple[str, str]]) -> Scores:
        encoded = self._tokenizer.encode_batch(pairs)
        ids = np.array([pair.ids for pair in encoded], np.int64)
        mask = np.array([pair.attention_mask for pair in encoded], np.int64)
        segments = np.array([pair.type_ids for pair in encoded], np.int64) if self._segments else None
        logits = self._runtime.run(ids, mask, segments)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]

    def best(self, rows: Rows) -> tuple[str, ...]:
        """The first ten documents."""
        return tuple(dict.fromkeys(self._index.doc_ids(rows)))[:TOP_K]


def _opened(dense: StageEntry, index: Index) -> Any:
    """The dense retriever over the index, for its vectors and its encoder of queries."""
    stage = dense.kind.load(dense.settings, Context(Path()))
    settings = dense.settings.index_settings()
    return stage.open(index, index.stage_directory(dense.settings.kind, settings, stage.fingerprint()))


@contextlib.contextmanager
def with_fixed_depth(program: Pipeline, depth: int) -> Iterator[Ask]:
    """One query after the other, each to its end."""

    def answer(query: Query) -> Reply:
        return Reply(program.best(program.rerank(query, program.find(query), depth)), depth)

    with ThreadPoolExecutor(1) as pool:

        async def ask(query: Query, left_s: float) -> Reply:
            return await asyncio.wrap_future(pool.submit(answer, query))

        yield ask


@contextlib.contextmanager
def with_timeout(
    program: Pipeline, depth: int, *, fall_back: bool, now: Callable[[], float] = time.perf_counter
) -> Iterator[Ask]:
    """The same, but whoever waits gives up in time; what has not begun by then is cancelled.

    Finding and reranking have a thread each, so that a long reranking does not keep other queries from being retrieved.

    Args:
        program: what runs.
        depth: candidates that are reranked.
        fall_back: whether the order of the first stage is the answer when reranking takes too long, or nothing.
        now: seconds.
    """
    with ThreadPoolExecutor(1) as finding, ThreadPoolExecutor(1) as reranking:

        async def ask(query: Query, left_s: float) -> Reply:
            end = now() + left_s - HANDOVER_S
            try:
                found = await _within(end - now(), finding.submit(program.find, query))
            except asyncio.TimeoutError:
                return NOTHING
            try:
                ranked = await _within(end - now(), reranking.submit(program.rerank, query, found, depth))
            except asyncio.TimeoutError:
                return Reply(program.best(found), 0) if fall_back else NOTHING
            return Reply(program.best(ranked), depth)

        yield ask


async def _within(left_s: float, future: Future[Value]) -> Value:
    return await asyncio.wait_for(asyncio.wrap_future(future), max(0.0, left_s))
