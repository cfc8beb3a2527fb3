"""Quality on held-out questions: nDCG@10 over what BM25 and the bi-encoder find together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.types import Rows, Scores
from stages.measures import ndcg
from stages.training.collections import Judged
from stages.training.mining import NONE, Candidates

MEAN = "mean"
"""What the mean over collections is called, each counting the same."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Questions to evaluate on.

    Args:
        questions: their numbers.
        groups: for each of them the candidates' numbers, all relevant ones included: reranking alone is measured.
        gains: float64 [candidates] for each of them.
        collections: the name of each one's collection.
        bm25: float32 [candidates] for each of them, higher the better BM25 ranks it.
        dense: the same by the bi-encoder's cosine.
    """

    questions: tuple[int, ...]
    groups: tuple[Rows, ...]
    gains: tuple[npt.NDArray[np.float64], ...]
    collections: tuple[str, ...]
    bm25: tuple[Scores, ...]
    dense: tuple[Scores, ...]

    def quality(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Mean nDCG@10 of each collection, and the mean of those."""
        each: dict[str, list[float]] = {}
        for name, own, gains in zip(self.collections, scores, self.gains, strict=True):
            each.setdefault(name, []).append(ndcg(own, gains))
        means = {name: float(np.mean(values)) for name, values in each.items()}
        return {**means, MEAN: float(np.mean(list(means.values())))}


def choose_held_out(
    judged: Judged, candidates: Candidates, held_out: npt.NDArray[np.bool_], most: int, depth: int, seed: int
) -> HeldOut:
    """At most ``most`` held-out questions of each collection.

    Args:
        judged: the collections.
        candidates: of every question.
        held_out: bool [q].
        most: of each collection.
        depth: candidates from each retriever.
        seed: of the choice.

    Raises:
        InputError: no question is held out.
    """
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for collection in range(len(judged.names)):
        own = np.flatnonzero(held_out & (judged.collection_of == collection))
        chosen += np.sort(rng.permutation(own)[:most]).tolist()
    if not chosen:
        raise InputError(
            f"held_out: expected at least one of {len(judged.questions)} questions for evaluation, got none; raise it"
        )
    groups = [_candidates(judged, candidates, question, depth) for question in chosen]
    pairs = list(zip(chosen, groups, strict=True))
    collection_of = judged.collection_of
    return HeldOut(
        questions=tuple(chosen),
        groups=tuple(groups),
        gains=tuple(
            np.array([max(judged.relevance[question].get(row, 0), 0) for row in rows.tolist()], np.float64)
            for question, rows in pairs
        ),
        collections=tuple(judged.names[collection_of[question]] for question in chosen),
        bm25=tuple(_rank_scores(candidates.bm25[question], rows) for question, rows in pairs),
        dense=tuple(candidates.similarity(question, rows) for question, rows in pairs),
    )


def _candidates(judged: Judged, candidates: Candidates, question: int, depth: int) -> Rows:
    found = [*candidates.bm25[question, :depth].tolist(), *candidates.dense[question, :depth].tolist()]
    rows = dict.fromkeys(row for row in [*found, *judged.positives(question)] if row != NONE)
    return np.array(sorted(rows), np.int32)


def _rank_scores(ranking: Rows, rows: Rows) -> Scores:
    place = {row: rank for rank, row in enumerate(ranking.tolist())}
    return np.array([-place.get(row, len(ranking)) for row in rows.tolist()], np.float32)
