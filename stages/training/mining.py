"""Candidates for every question from BM25 and from a bi-encoder: the pool that hard negatives are drawn from.

Many passages that a good retriever ranks high and nobody judged are relevant. Those that the bi-encoder scores nearly
as high as the question's own relevant passage are taken for such false negatives and never used as negatives (in the
manner of Qu et al. 2021, RocketQA, and of the positive-aware margins of Moreira et al. 2024, NV-Retriever).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.stage import StepProgress
from cascade.types import Rows
from stages.bm25.analysis import Analyser
from stages.models import HFTokenizer, fingerprint
from stages.models.pooling import stated_pooling
from stages.training.cache import Arrays, Cache
from stages.training.collections import Judged
from stages.training.device import Device
from stages.training.embedding import Vectors, embed
from stages.training.tokens import Ragged, tokenise

DEPTH = 50
NONE = -1
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both retrievers find, and what the bi-encoder thinks of it.

    Args:
        bm25: int32 [q, DEPTH], passages best first; ``NONE`` where fewer have a word in common with the question.
        dense: int32 [q, DEPTH], the same by the bi-encoder; ``NONE`` only where there are fewer passages.
        question_vectors: float16 [q, d].
        passage_vectors: float16 [p, d].
        limits: float32 [q]: an unjudged passage with this bi-encoder score or more is no negative.
    """

    bm25: Rows
    dense: Rows
    question_vectors: Vectors
    passage_vectors: Vectors
    limits: npt.NDArray[np.float32]

    def similarity(self, question: int, rows: Rows) -> npt.NDArray[np.float32]:
        """float32 [n]: the bi-encoder's cosine of a question and passages."""
        found: npt.NDArray[np.float32] = self.passage_vectors[rows].astype(np.float32) @ self.question_vectors[
            question
        ].astype(np.float32)
        return found

    def reach(self, question: int, rows: Sequence[int], depth: int) -> bool:
        """Whether one of the passages is among the first ``depth`` of either retriever."""
        found = (self.bm25[question, :depth], self.dense[question, :depth])
        return any(bool(np.isin(list(rows), one).any()) for one in found)


@dataclass(frozen=True, slots=True)
class Miner:
    """Finds candidates, collection by collection, and keeps what it computed.

    Args:
        bi_encoder: its folder.
        max_query_tokens: of a question that the bi-encoder reads.
        max_passage_tokens: the same of a passage.
        margin: part of the best relevant passage's score that a negative must stay below.
        cache: where vectors and candidates are kept.
        device: where the bi-encoder computes.
        told: of progress.
    """

    bi_encoder: Path
    max_query_tokens: int
    max_passage_tokens: int
    margin: float
    cache: Cache
    device: Device
    told: StepProgress

    def candidates(self, judged: Judged) -> Candidates:
        """Candidates of all questions, each from its own collection."""
        tokenizer = HFTokenizer(self.bi_encoder, self.max_passage_tokens)
        parts: list[Arrays] = []
        for i, name in enumerate(judged.names):
            first, end = judged.passage_starts[i : i + 2].tolist()
            asked = judged.questions[slice(*judged.question_starts[i : i + 2].tolist())]
            part = self._collection(name, tokenizer, judged.passages[first:end], asked)
            shifted = {key: np.where(part[key] == NONE, NONE, part[key] + first) for key in ("bm25", "dense")}
            parts.append({**part, **shifted})
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        found = Candidates(
            joined["bm25"].astype(np.int32),
            joined["dense"].astype(np.int32),
            joined["questions"],
            joined["passages"],
            np.empty(len(judged.questions), np.float32),
        )
        for question in range(len(judged.questions)):
            best = found.similarity(question, np.array(judged.positives(question), np.int32)).max()
            found.limits[question] = best - (1 - self.margin) * abs(best)
        return found

    def _collection(
        self, name: str, tokenizer: HFTokenizer, passages: Sequence[str], questions: Sequence[str]
    ) -> Arrays:
        asked = tokenise(tokenizer, questions, self.max_query_tokens)
        read = tokenise(tokenizer, passages, self.max_passage_tokens)
        vectors = {
            key: self._vectors(texts, f"{name}: embedding {key}")
            for key, texts in (("questions", asked), ("passages", read))
        }

        def mine() -> Arrays:
            self.told(f"{name}: BM25", 0, len(questions))
            lexical = bm25_candidates(passages, questions, DEPTH)
            dense = dense_candidates(vectors["questions"], vectors["passages"], DEPTH)
            self.told(f"{name}: BM25", len(questions), len(questions))
            return {"bm25": lexical, "dense": dense}

        origin = (asked.digest, read.digest, *self._encoder(), _texts_digest(passages, questions), DEPTH)
        return {**vectors, **self.cache.arrays("candidates", origin, mine)}

    def _vectors(self, texts: Ragged, step: str) -> Vectors:
        origin = (*self._encoder(), texts.digest)
        made = self.cache.arrays(
            "vectors", origin, lambda: {"vectors": embed(self.bi_encoder, texts, self.device, self.told, step)}
        )
        return made["vectors"]

    def _encoder(self) -> tuple[str, str, bool]:
        """What vectors depend on beside the texts."""
        return fingerprint(self.bi_encoder), stated_pooling(self.bi_encoder), self.device.half


def bm25_candidates(passages: Sequence[str], questions: Sequence[str], depth: int) -> Rows:
    """int32 [q, depth]: passages best first by BM25 as bm25s computes it; ``NONE`` where none is left above zero."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.NOTSET)  # it sets itself to DEBUG, whatever its user wants to hear
    analyse = Analyser()
    found = np.full((len(questions), depth), NONE, np.int32)
    terms = [analyse(passage) for passage in passages]
    if not any(terms):
        return found
    retriever = bm25s.BM25()
    retriever.index(terms, show_progress=False)
    k = min(depth, len(passages))
    asked = [analyse(question) for question in questions]
    rows, scores = retriever.retrieve(asked, k=k, show_progress=False)
    found[:, :k] = np.where(scores > 0, rows, NONE)
    return found


def dense_candidates(questions: Vectors, passages: Vectors, depth: int) -> Rows:
    """int32 [q, depth]: passages best first by cosine of unit vectors [q, d] and [p, d]; ``NONE`` beyond the last."""
    found = np.full((len(questions), depth), NONE, np.int32)
    k = min(depth, len(passages))
    columns = np.ascontiguousarray(passages.astype(np.float32).T)
    for first in range(0, len(questions), _BLOCK):
        scores = questions[first : first + _BLOCK].astype(np.float32) @ columns
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        found[first : first + _BLOCK, :k] = np.take_along_axis(best, order, 1)
    return found


def _texts_digest(*texts: Sequence[str]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for part in texts:
        for text in part:
            digest.update(text.encode(errors="replace") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:16]
