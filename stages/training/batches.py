"""Groups as a student's input, with what the loss needs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cascade.types import Rows, TokenIds
from stages.training.collections import Judged
from stages.training.keywords import Keywords
from stages.training.losses import LEFT_OUT
from stages.training.mining import Candidates
from stages.training.sampling import Groups, Lessons
from stages.training.students import Student

BI_ENCODER_SCALE = 20.0
"""Of cosines, so that a softmax over them can be sure of something; all-MiniLM-L6-v2 was trained with it."""

Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes batches.

    Args:
        student: that reads them.
        lessons: all there are.
        judged: the collections.
        candidates: of every question.
        keywords: cuts some questions short.
    """

    student: Student
    lessons: Lessons
    judged: Judged
    candidates: Candidates
    keywords: Keywords | None = None

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The batch of these groups.

        Returns:
            ``student``: its inputs; ``targets`` int64 [q] and ``left_out`` bool [q, n], as ``losses.softmax_loss``
            takes them; ``bi_encoder`` float32 [q, n], as ``losses.anchor_kl`` does; ``teacher`` float32 [q, k] where
            there is one.
        """
        batch = self.lessons.groups[np.array(numbers, np.int64)]
        size = batch.rows.shape[1]
        asked = [self.lessons.questions[question] for question in batch.questions.tolist()]
        kept = [self._kept(*one) for one in zip(asked, numbers, strict=True)]
        asked = [question[own] for question, own in zip(asked, kept, strict=True)]
        read = [self.lessons.passages[row] for row in batch.rows.ravel().tolist()]
        made: dict[str, Any] = {"student": self.student.collate(asked, read, size)}
        if batch.pairs is not None and self.lessons.hints is not None:
            hints = [self.lessons.hints.of(pair) for pair in batch.pairs.ravel().tolist()]
            hints = [(one[kept[i // size][: len(one)]], other) for i, (one, other) in enumerate(hints)]
            made["student"] |= self.student.place_hints(asked, hints, made["student"])
        targets, seen, own = _scored(batch, self.student.in_batch)
        sources = self.lessons.sources[seen]
        lookalike = sources != seen
        pairs = list(zip(batch.questions.tolist(), sources, strict=True))
        cosines = np.stack([self.candidates.similarity(question, rows) for question, rows in pairs])
        resembling = np.stack([np.isin(rows, self._irrelevant(question)) for question, rows in pairs])
        left_out = (
            np.stack([self._relevant(*pair, own) for pair, own in zip(pairs, cosines, strict=True)]) & ~resembling
        )
        left_out &= ~(lookalike & own)
        left_out[np.arange(len(batch)), targets] = False
        # the bi-encoder hardly tells a lookalike from what it was made from or resembles, so it is not asked
        logits = np.where(lookalike | resembling, LEFT_OUT, BI_ENCODER_SCALE * cosines).astype(np.float32)
        made["targets"], made["left_out"] = torch.from_numpy(targets), torch.from_numpy(left_out)
        made["bi_encoder"] = torch.from_numpy(logits)
        if batch.teacher is not None:
            made["teacher"] = torch.from_numpy(batch.teacher)
        return made

    def _kept(self, question: TokenIds, number: int) -> Marks:
        """Which tokens of a group's question are asked."""
        return np.ones(len(question), np.bool_) if self.keywords is None else self.keywords.kept(question, number)

    def _relevant(self, question: int, rows: Rows, cosines: npt.NDArray[np.float32]) -> Marks:
        """Which passages are judged relevant, or look it, those judged irrelevant among them."""
        looks: Marks = cosines >= self.candidates.limits[question]
        return looks | np.isin(rows, self.judged.positives(question))

    def _irrelevant(self, question: int) -> list[int]:
        """What was judged and is not relevant."""
        return [row for row, relevance in self.judged.relevance[question].items() if relevance <= 0]


def _scored(groups: Groups, in_batch: bool) -> tuple[npt.NDArray[np.int64], Rows, Marks]:
    """What is scored for each question: the column of the relevant one, all [q, n], and which are of its own group."""
    questions, size = groups.rows.shape
    if not in_batch:
        return np.zeros(questions, np.int64), groups.rows, np.ones_like(groups.rows, np.bool_)
    column, number = np.arange(questions * size), np.arange(questions)
    seen = np.tile(groups.rows.ravel(), (questions, 1))
    return number * size, seen, column // size == number[:, None]
