"""Token hints: what a late-interaction teacher knows of single tokens.

A score says of a whole pair how well question and passage fit. Late interaction knows more: how well the passage
matches each token of the question, and the question each token of the passage. A student that has to tell these from
its inner layers learns what its score is to be made of, as from the hints of FitNets (Romero et al. 2015, arXiv
1412.6550).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cascade.stage import StepProgress
from cascade.types import Rows
from stages.colbert.store import ragged_offsets
from stages.training.device import Device
from stages.training.scoring import Encoder, Vectors, read_apart
from stages.training.students.base import Matches
from stages.training.tokens import Texts


@dataclass(frozen=True, slots=True)
class Hints:
    """Best matches in pairs of a question and a passage, special tokens left out.

    Args:
        values: float16 [tokens]: of each pair the question's tokens, then the passage's.
        offsets: int64 [2 * pairs + 1]: where those of each text begin, and where the last end.
    """

    values: Matches
    offsets: npt.NDArray[np.int64]

    def of(self, pair: int) -> tuple[Matches, Matches]:
        """Those of the question's tokens and of the passage's."""
        start, middle, end = self.offsets[2 * pair : 2 * pair + 3].tolist()
        return self.values[start:middle], self.values[middle:end]

    @classmethod
    def joined(cls, parts: Sequence[Hints]) -> Hints:
        """Several after each other."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.values for part in parts]), ragged_offsets(lengths))


def token_hints(
    teacher: Encoder,
    texts: Texts,
    questions: Sequence[int],
    groups: Sequence[Rows],
    device: Device,
    told: StepProgress,
    step: str,
) -> Hints:
    """Hints for each question with each of its candidates, pair after pair.

    Args:
        teacher: late interaction that reads [CLS] and [SEP] around a text, and nothing else that is not in it.
        texts: what the numbers stand for.
        questions: their numbers.
        groups: for each of them its candidates' numbers.
        device: where to compute.
        told: of the texts read.
        step: what to call that.
    """
    of_question, of_passage = read_apart(teacher, texts, questions, groups, device, told, step)
    matches: list[Matches] = []
    with torch.inference_mode():
        for question, group in zip(questions, groups, strict=True):
            for row in group.tolist():
                matches += _best(of_question, question, of_passage, row)
    return Hints(np.concatenate(matches), ragged_offsets(np.array([len(one) for one in matches], np.int64)))


def _best(of_question: Vectors, question: int, of_passage: Vectors, row: int) -> tuple[Matches, Matches]:
    asked, read = of_question[question][1:-1].float(), of_passage[row][1:-1].float()
    if not len(asked) or not len(read):
        return np.zeros(len(asked), np.float16), np.zeros(len(read), np.float16)
    cosines = asked @ read.T
    of_asked, of_read = (cosines.amax(dim).half().cpu().numpy() for dim in (1, 0))
    return of_asked, of_read
