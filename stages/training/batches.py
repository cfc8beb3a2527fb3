"""Groups as a student's input, with what the loss needs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cascade.types import Rows
from stages.training.collections import Judged
from stages.training.mining import Candidates
from stages.training.sampling import Groups
from stages.training.students import Student
from stages.training.tokens import Ragged


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes batches.

    Args:
        student: that reads them.
        groups: all there are.
        questions: token ids of every question.
        passages: token ids of every passage.
        judged: the collections.
        candidates: of every question.
    """

    student: Student
    groups: Groups
    questions: Ragged
    passages: Ragged
    judged: Judged
    candidates: Candidates

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The batch of these groups.

        Returns:
            ``student``: its inputs; ``targets`` int64 [q] and ``left_out`` bool [q, n], as ``losses.softmax_loss``
            takes them; ``teacher`` float32 [q, k] where there is one.
        """
        batch = self.groups[np.array(numbers, np.int64)]
        size = batch.rows.shape[1]
        flat = batch.rows.ravel()
        asked = [self.questions[question] for question in batch.questions.tolist()]
        inputs = self.student.collate(asked, [self.passages[row] for row in flat.tolist()], size)
        made: dict[str, Any] = {"student": inputs}
        if self.student.in_batch:
            targets = np.arange(len(batch)) * size
            left_out = np.stack([self._relevant(question, flat) for question in batch.questions.tolist()])
        else:
            targets = np.zeros(len(batch), np.int64)
            left_out = np.stack(
                [
                    self._relevant(question, rows)
                    for question, rows in zip(batch.questions.tolist(), batch.rows, strict=True)
                ]
            )
        left_out[np.arange(len(batch)), targets] = False
        made["targets"], made["left_out"] = torch.from_numpy(targets), torch.from_numpy(left_out)
        if batch.teacher is not None:
            made["teacher"] = torch.from_numpy(batch.teacher)
        return made

    def _relevant(self, question: int, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which passages are judged relevant, or look it and are not judged."""
        judged = self.judged.relevance[question]
        looks: npt.NDArray[np.bool_] = self.candidates.similarity(question, rows) >= self.candidates.limits[question]
        irrelevant = [row for row, relevance in judged.items() if relevance <= 0]
        return (looks & ~np.isin(rows, irrelevant)) | np.isin(rows, self.judged.positives(question))
