"""Models whose scores are learned from, alone or several together."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cascade.errors import ModelError
from cascade.stage import Context, StepProgress
from cascade.types import Rows, Scores, TokenIds
from stages.colbert.checkpoint import PYLATE, UNTRAINED, read_format
from stages.models import HFTokenizer, fingerprint, layout, load_cross_encoder, locate, longest_input, pad
from stages.models.layout import JOINT_ENCODER, PASSAGES_AT_ONCE, read_config
from stages.training.cache import Arrays, Cache
from stages.training.device import Device
from stages.training.hints import Hints, token_hints
from stages.training.mining import Candidates
from stages.training.scoring import Scorer, score_groups
from stages.training.settings import CommonSettings, StudentKind, kind_and_reference
from stages.training.students import build, read_base
from stages.training.students.base import framed
from stages.training.students.encoder import BiEncoder, Colbert, UntrainedColbert
from stages.training.tokens import Texts

SPREAD = 3.0
"""Standard deviation of an ensemble's scores of one question: a softmax over candidates is then sure of the best."""

_CHUNK = 1024
"""Questions whose scores are kept together."""
_PASSAGES = 16_384
"""Of a teacher that reads questions and passages apart: passages after which no more questions join a part."""


class PairClassifier(nn.Module):
    """Any sequence-classification checkpoint of transformers with one label or two.

    Args:
        folder: the checkpoint.
        max_query_tokens: without special tokens.
        max_passage_tokens: without special tokens.

    Raises:
        ModelError: it has other labels, or too few positions.
    """

    in_batch = False

    def __init__(self, folder: Path, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__()
        self.max_query_tokens = max_query_tokens
        self.max_passage_tokens = max_passage_tokens
        self.tokenizer = HFTokenizer(folder, max_passage_tokens)
        self._layout = layout(folder)
        self._model = load_cross_encoder(folder)
        limit = longest_input(folder)
        needed = max_query_tokens + max_passage_tokens + self._layout.pair_extra
        if limit is not None and needed > limit:
            raise ModelError(f"{folder}: reads {limit} tokens, {needed} are asked for; lower max_passage_tokens")

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Pairs in the checkpoint's own layout."""
        around = self._layout
        asked = [framed(around.before, question, around.between) for question in questions]
        pairs = [framed(asked[i // group].tolist(), passage, around.after) for i, passage in enumerate(passages)]
        second = len(around.between) - around.first_between  # special tokens that the second text begins with
        texts = [
            (np.arange(len(pair)) >= len(asked[i // group]) - second).astype(np.int32) for i, pair in enumerate(pairs)
        ]
        ids, mask = pad(pairs, self.tokenizer.pad_id)
        segments, _ = pad(texts, 0)
        return {"ids": ids, "mask": mask, "segments": segments if around.segments else 0 * segments, "group": group}

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Scores [q, group]."""
        logits = self._model(inputs["ids"], inputs["mask"], inputs["segments"])
        if logits.shape[1] > 2:
            raise ModelError(f"expected a teacher with one label or two, got {logits.shape[1]}; choose another")
        score: torch.Tensor = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return score.view(-1, inputs["group"])


def load_teacher(ref: str, settings: CommonSettings) -> Scorer:
    """The model that ``[KIND=]REF`` names; its files tell the kind where it is not given.

    Raises:
        ModelError: it cannot be read.
    """
    kind, ref = kind_and_reference(ref)
    folder = locate(ref, Context(folder=Path()))
    if kind is None:
        kind = _kind_of(folder)
    if kind is None:
        found: Any = PairClassifier(folder, settings.max_query_tokens, settings.max_passage_tokens)
    elif kind == "colbert":
        form, limits = read_format(folder), (settings.max_query_tokens, settings.max_passage_tokens)
        if form.kind == UNTRAINED:
            found = UntrainedColbert(read_base(ref), *limits)
        else:
            found = Colbert(read_base(ref), *limits, expand_queries=form.expand_queries)
    else:
        found = build(kind, read_base(ref), settings)
    ready: Scorer = found.eval()
    return ready


@dataclass(frozen=True, slots=True)
class Teaching:
    """Asks teachers, and keeps what they said in parts, so that an interrupted run goes on from there.

    Args:
        texts: what the numbers stand for.
        candidates: vectors of the texts by ``settings.bi_encoder``, which need not be computed again.
        digest: of those texts.
        settings: limits of the inputs.
        cache: where scores are kept.
        device: where teachers compute.
        told: of the questions done.
    """

    texts: Texts
    candidates: Candidates
    digest: str
    settings: CommonSettings
    cache: Cache
    device: Device
    told: StepProgress

    def scores(self, refs: Sequence[str], questions: Rows, groups: Sequence[Rows]) -> list[Scores]:
        """What the teachers together say: float32 [candidates] of each question's group."""
        return ensemble([self._one(ref, questions, groups) for ref in refs])

    def hints(self, refs: Sequence[str], tokenizer: HFTokenizer, questions: Rows, groups: Sequence[Rows]) -> Hints:
        """What the first teacher ``colbert=...`` knows of single tokens, of each question with all of its group.

        Args:
            refs: the teachers.
            tokenizer: the student's.
            questions: their numbers.
            groups: for each of them its candidates' numbers.

        Raises:
            ModelError: that teacher reads other tokens than the student.
        """
        ref = next(ref for ref in refs if kind_and_reference(ref)[0] == "colbert")
        found = self._load(ref)
        if not isinstance(found, UntrainedColbert) or found.tokenizer.fingerprint != tokenizer.fingerprint:
            raise ModelError(
                f"{ref}: expected, for hints, an encoder without ColBERT's markers and with the student's tokenizer; "
                "choose another teacher or leave hints out"
            )
        parts: list[Hints] = []
        for asked, part, origin, told in self._chunks(ref, questions, groups):

            def make(asked: Rows = asked, part: list[Rows] = part, told: StepProgress = told) -> Arrays:
                made = token_hints(found, self.texts, asked.tolist(), part, self.device, told, f"hints of {ref}")
                return {"values": made.values, "offsets": made.offsets}

            parts.append(Hints(**self.cache.arrays("hints", origin, make)))
        return Hints.joined(parts)

    def _one(self, ref: str, questions: Rows, groups: Sequence[Rows]) -> list[Scores]:
        load = functools.cache(functools.partial(self._load, ref))
        kind, name = kind_and_reference(ref)
        if kind in (None, "bi-encoder") and name == self.settings.bi_encoder:
            pairs = zip(questions.tolist(), groups, strict=True)
            return [BiEncoder.scale * self.candidates.similarity(question, rows) for question, rows in pairs]
        found: list[Scores] = []
        for asked, part, origin, told in self._chunks(ref, questions, groups):

            def score(asked: Rows = asked, part: list[Rows] = part, told: StepProgress = told) -> Arrays:
                scores = score_groups(load(), self.texts, asked.tolist(), part, self.device, told, f"scores of {ref}")
                return {"scores": np.concatenate(scores)}

            flat = self.cache.arrays("teacher", origin, score)["scores"]
            found += np.split(flat, np.cumsum([len(group) for group in part])[:-1])
        return found

    def _chunks(
        self, ref: str, questions: Rows, groups: Sequence[Rows]
    ) -> Iterator[tuple[Rows, list[Rows], tuple[object, ...], StepProgress]]:
        """Some questions after the others, with their groups, what an answer depends on, and whom to tell."""
        kind, name = kind_and_reference(ref)
        folder = locate(name, Context(folder=Path()))
        limits = self.settings.max_query_tokens, self.settings.max_passage_tokens, self.settings.list_size
        origin = (fingerprint(folder), kind, limits, self.device.half, self.digest)
        apart = (_kind_of(folder) if kind is None else kind) in ("colbert", "bi-encoder")
        starts = _starts(groups) if apart else list(range(0, len(questions), _CHUNK))
        for first, end in pairwise([*starts, len(questions)]):
            asked, part = questions[first:end], list(groups[first:end])

            def told(step: str, done: int, total: int, first: int = first, asked: Rows = asked) -> None:
                self.told(step, first + done * len(asked) // max(total, 1), len(questions))

            yield asked, part, (*origin, asked.tobytes(), *(group.tobytes() for group in part)), told

    def _load(self, ref: str) -> Scorer:
        model: Any = load_teacher(ref, self.settings)
        ready: Scorer = model.to(self.device.name)
        return ready


def _starts(groups: Sequence[Rows]) -> list[int]:
    """Where parts of ``_PASSAGES`` different passages begin; neighbours are of one collection, and share many."""
    starts: list[int] = []
    seen: set[int] = set()
    for number, group in enumerate(groups):
        if not starts or len(seen) >= _PASSAGES:
            starts.append(number)
            seen = set()
        seen.update(group.tolist())
    return starts


def ensemble(tables: Sequence[Sequence[Scores]]) -> list[Scores]:
    """Scores of one teacher as they are; of several, the mean of their scores brought to mean 0 and deviation 1.

    Each question is brought there by itself, and the mean of all teachers then to a deviation of ``SPREAD``.

    >>> alike = [np.array([1.0, 3.0], np.float32)], [np.array([10.0, 30.0], np.float32)]
    >>> ensemble(alike)[0].round(2).tolist()
    [-3.0, 3.0]
    """
    if len(tables) == 1:
        return list(tables[0])
    together = (np.sum([_normalised(scores) for scores in each], axis=0) for each in zip(*tables, strict=True))
    return [(SPREAD * _normalised(scores)).astype(np.float32) for scores in together]


def _normalised(scores: Scores) -> Scores:
    spread = scores.std()
    result: Scores = (scores - scores.mean()) / (spread if spread > 0 else 1)
    return result


def _kind_of(folder: Path) -> StudentKind | None:
    """None for a sequence-classification checkpoint."""
    config = read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    if architecture == JOINT_ENCODER:
        return "listwise" if PASSAGES_AT_ONCE in config else "cross-encoder"
    if (folder / "artifact.metadata").is_file() or read_format(folder).kind == PYLATE:
        return "colbert"
    return None if architecture.endswith("ForSequenceClassification") else "bi-encoder"
