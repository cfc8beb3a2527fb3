"""Which questions are learned from, in which order, with which negatives: all decided before the first step.

A training that was stopped goes on exactly where it was, because nothing about its batches depends on what ran before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cascade.types import Rows
from stages.training.collections import Judged
from stages.training.hints import Hints
from stages.training.mining import NONE, Candidates
from stages.training.tokens import Ragged

_DENSE_NEAR = 12
_DENSE_FAR = 40
_BM25_NEAR = 20
_SORTED_TOGETHER = 64
"""Batches whose groups are sorted by length together: little padding, and still a mixture."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Questions, each with passages to tell apart; the first passage is relevant.

    Args:
        questions: int32 [n].
        rows: int32 [n, k].
        teacher: float32 [n, k], scores to learn; None where there is no teacher.
        pairs: int64 [n, k], the number of each pair among ``Lessons.hints``; None where there are no hints.
    """

    questions: Rows
    rows: Rows
    teacher: npt.NDArray[np.float32] | None = None
    pairs: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, part: npt.NDArray[np.int64]) -> Groups:
        teacher = None if self.teacher is None else self.teacher[part]
        pairs = None if self.pairs is None else self.pairs[part]
        return Groups(self.questions[part], self.rows[part], teacher, pairs)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Groups, and what their numbers stand for.

    Args:
        groups: in the order in which they are learned from.
        questions: token ids of every question.
        passages: token ids of every passage of the collections, and then of those made for these groups.
        sources: int32 [passages]: each one's own number, or that of the passage that it was made from.
        hints: what the student's inner layers are to tell; None for nothing.
    """

    groups: Groups
    questions: Ragged
    passages: Ragged
    sources: Rows
    hints: Hints | None = None

    @classmethod
    def of(cls, groups: Groups, questions: Ragged, passages: Ragged, hints: Hints | None = None) -> Lessons:
        """With the passages of the collections alone."""
        return cls(groups, questions, passages, np.arange(len(passages), dtype=np.int32), hints)

    def by_length(self, batch: int, rng: np.random.Generator) -> Lessons:
        """The same in an order in which the groups of one batch are of similar length."""
        return replace(self, groups=by_length(self.groups, self.passages.lengths, batch, rng))


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws negatives.

    Args:
        judged: the collections.
        candidates: of every question.
        filtered: whether passages that look relevant are never drawn; a teacher that scores them wants them, too.
    """

    judged: Judged
    candidates: Candidates
    filtered: bool

    def group(self, question: int, negatives: int, rng: np.random.Generator) -> list[int]:
        """A relevant passage and then different others: a third each of the best by both retrievers.

        The rest is one passage further down, one that was judged not relevant, and others of the collection at random;
        the order of the negatives is random. A passage occurs twice only where the collection has no other.
        """
        relevance = self.judged.relevance[question]
        positives = self.judged.positives(question)
        positive = int(positives[rng.integers(len(positives))])
        dense, lexical = self._usable(question, self.candidates.dense), self._usable(question, self.candidates.bm25)
        taken: list[int] = []

        def take(offered: Sequence[int], wanted: int) -> None:
            left = [row for row in offered if row not in taken]
            size = min(wanted, negatives - len(taken), len(left))
            if size > 0:
                taken.extend(rng.choice(left, size, replace=False).tolist())

        take([row for row, value in relevance.items() if value <= 0], 1)
        take(dense[:_DENSE_NEAR], negatives // 3)
        take(lexical[:_BM25_NEAR], negatives // 3)
        take(dense[_DENSE_NEAR:_DENSE_FAR], 1)
        take(self._anything(question, 4 * negatives, rng), negatives)
        while len(taken) < negatives:
            taken.append(taken[-1] if taken else positive)
        return [positive, *rng.permutation(taken).tolist()]

    def _usable(self, question: int, found: Rows) -> list[int]:
        rows = found[question]
        rows = rows[rows != NONE]
        if self.filtered:
            rows = rows[self.candidates.similarity(question, rows) < self.candidates.limits[question]]
        relevance = self.judged.relevance[question]
        return [row for row in rows.tolist() if relevance.get(row, 0) <= 0]

    def _anything(self, question: int, wanted: int, rng: np.random.Generator) -> list[int]:
        starts = self.judged.passage_starts
        collection = int(np.searchsorted(self.judged.question_starts, question, "right")) - 1
        drawn = rng.integers(starts[collection], starts[collection + 1], wanted).tolist()
        relevance = self.judged.relevance[question]
        return list(dict.fromkeys(row for row in drawn if relevance.get(row, 0) <= 0))


def draw_questions(
    by_collection: Sequence[Rows], weights: Sequence[float], wanted: int, rng: np.random.Generator
) -> Rows:
    """int32 [wanted]: questions from collections by their weights; within one, none comes again before all have come.

    Args:
        by_collection: the questions of each; one without any is never drawn from.
        weights: relative shares.
        wanted: how many.
        rng: the source of chance.
    """
    shares = np.array([weight if len(rows) else 0.0 for rows, weight in zip(by_collection, weights, strict=True)])
    from_which = rng.choice(len(shares), wanted, p=shares / shares.sum())
    drawn = np.empty(wanted, np.int32)
    for i, rows in enumerate(by_collection):
        places = np.flatnonzero(from_which == i)
        if len(places):
            rounds = -(-len(places) // len(rows))
            drawn[places] = np.concatenate([rng.permutation(rows) for _ in range(rounds)])[: len(places)]
    return drawn


def by_length(groups: Groups, lengths: npt.NDArray[np.int64], batch: int, rng: np.random.Generator) -> Groups:
    """The same groups in an order in which those of one batch are of similar length.

    Args:
        groups: n of them, a multiple of ``batch``.
        lengths: int64 [passages], tokens of each.
        batch: groups in a batch.
        rng: the source of chance.
    """
    longest = lengths[groups.rows].max(1)
    order: list[npt.NDArray[np.int64]] = []
    for first in range(0, len(groups), batch * _SORTED_TOGETHER):
        part = first + np.argsort(longest[first : first + batch * _SORTED_TOGETHER], kind="stable")
        batches = part.reshape(-1, batch)
        order.append(batches[rng.permutation(len(batches))].ravel())
    return groups[np.concatenate(order)]
