"""Scores of candidates by any model that can be a student or a teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import torch

from cascade.stage import StepProgress
from cascade.types import Rows, Scores, TokenIds
from stages.models import HFTokenizer
from stages.training.device import Device
from stages.training.tokens import Ragged, Texts

Vectors: TypeAlias = Mapping[int, torch.Tensor]
"""[vectors, d] of each text, by its number."""


class Scorer(Protocol):
    """A torch module that gives scores of groups; ``students.Student`` says what its methods mean."""

    tokenizer: HFTokenizer
    max_query_tokens: int
    max_passage_tokens: int

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Inputs of ``__call__``, on the CPU."""
        ...

    @property
    def in_batch(self) -> bool:
        """Whether it scores every question with every candidate."""
        ...

    @property
    def __call__(self) -> Callable[..., Any]:
        """From inputs to scores: [q, group], or [q, q * group] where ``in_batch``."""
        ...


class Encoder(Scorer, Protocol):
    """A scorer that reads questions and passages apart, so that each has to be read once only."""

    def represent(self, texts: Sequence[TokenIds], *, questions: bool) -> list[torch.Tensor]:
        """[vectors, d] for each text: what its scores are made of."""
        ...

    def compare(self, question: torch.Tensor, passages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores [k] of one question's vectors with those of k passages."""
        ...


def score_groups(
    model: Scorer,
    texts: Texts,
    questions: Sequence[int],
    groups: Sequence[Rows],
    device: Device,
    told: StepProgress,
    step: str,
) -> list[Scores]:
    """float32 [candidates] for each question.

    Questions with equally many candidates share batches, those of similar length together; a model that reads questions
    and passages apart reads each of them once.

    Args:
        model: in evaluation mode and on the device.
        texts: what the numbers stand for.
        questions: their numbers.
        groups: for each of them its candidates' numbers.
        device: where to compute.
        told: of the questions done.
        step: what to call that.
    """
    if _reads_apart(model):
        of_question, of_passage = read_apart(model, texts, questions, groups, device, told, step)
        pairs = zip(questions, groups, strict=True)
        return [_compared(model, of_question[one], [of_passage[row] for row in group.tolist()]) for one, group in pairs]
    asked, read = texts.tokens(model.tokenizer, model.max_query_tokens, model.max_passage_tokens)
    lengths = read.lengths
    scores: list[Scores] = [np.empty(0, np.float32)] * len(questions)
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        by_size[len(group)].append(i)
    by_size.pop(0, None)
    done = 0
    for size, members in by_size.items():
        members.sort(key=lambda i: -int(lengths[groups[i]].max()))
        at_once = max(1, device.pairs_at_once // size)
        for first in range(0, len(members), at_once):
            batch = members[first : first + at_once]
            inputs = model.collate(
                [asked[questions[i]] for i in batch], [read[row] for i in batch for row in groups[i].tolist()], size
            )
            for i, own in zip(batch, _forward(model, inputs, device), strict=True):
                scores[i] = own
            done += len(batch)
            told(step, done, len(questions))
    return scores


def on_device(inputs: dict[str, Any], device: str) -> dict[str, Any]:
    """The same with its tensors there."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def read_apart(
    model: Encoder,
    texts: Texts,
    questions: Sequence[int],
    groups: Sequence[Rows],
    device: Device,
    told: StepProgress,
    step: str,
) -> tuple[Vectors, Vectors]:
    """The vectors of all questions and of all candidates, each read once; in half precision where the device has it.

    Args:
        model: in evaluation mode and on the device.
        texts: what the numbers stand for.
        questions: their numbers.
        groups: for each of them its candidates' numbers.
        device: where to compute.
        told: of the texts read.
        step: what to call that.
    """
    asked, read = texts.tokens(model.tokenizer, model.max_query_tokens, model.max_passage_tokens)
    numbers = np.unique(np.concatenate(groups)).tolist() if len(groups) else []
    total = len(set(questions)) + len(numbers)

    def represented(source: Ragged, numbers: Iterable[int], before: int, *, asked: bool) -> Vectors:
        lengths = source.lengths
        order = sorted(numbers, key=lambda number: -int(lengths[number]))
        found: dict[int, torch.Tensor] = {}
        for first in range(0, len(order), device.pairs_at_once):
            batch = order[first : first + device.pairs_at_once]
            vectors = model.represent([source[number] for number in batch], questions=asked)
            found.update(zip(batch, (one.half() if device.half else one for one in vectors), strict=True))
            told(step, before + len(found), total)
        return found

    with torch.inference_mode(), device.autocast():
        of_passage = represented(read, numbers, 0, asked=False)
        return represented(asked, set(questions), len(numbers), asked=True), of_passage


def _reads_apart(model: Scorer) -> TypeGuard[Encoder]:
    return model.in_batch


def _compared(model: Encoder, question: torch.Tensor, passages: Sequence[torch.Tensor]) -> Scores:
    if not passages:
        return np.empty(0, np.float32)
    with torch.inference_mode():
        found: Scores = model.compare(question.float(), [passage.float() for passage in passages]).cpu().numpy()
    return found


def _forward(model: Scorer, inputs: dict[str, Any], device: Device) -> Scores:
    with torch.inference_mode(), device.autocast():
        scores = model(**on_device(inputs, device.name))
    found: Scores = scores.float().cpu().numpy()
    return found
