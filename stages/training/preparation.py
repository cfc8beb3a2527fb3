"""Everything that is known before a student learns: data, candidates, what is evaluated, what is learned from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.stage import Context, StepProgress
from cascade.types import Rows, TokenIds
from stages.models import locate
from stages.training.collections import Judged, read_judged
from stages.training.device import Device, choose_device
from stages.training.lookalikes import add_lookalikes
from stages.training.mining import Candidates, Miner
from stages.training.quality import HeldOut, choose_held_out
from stages.training.sampling import Groups, Lessons, Sampler, draw_questions
from stages.training.settings import CommonSettings, DistillSettings
from stages.training.students import Student
from stages.training.teachers import Teaching
from stages.training.tokens import Ragged, Texts, tokenise
from stages.training.workplace import Workplace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data and what was found out about them.

    Args:
        settings: of the training.
        place: where files go.
        device: where to compute.
        judged: the collections.
        texts: the same, to be tokenised.
        candidates: of every question.
        eligible: for each collection the questions to learn from.
        held: the questions to evaluate on.
        told: of progress.
    """

    settings: CommonSettings
    place: Workplace
    device: Device
    judged: Judged
    texts: Texts
    candidates: Candidates
    eligible: tuple[Rows, ...]
    held: HeldOut
    told: StepProgress

    def tokens(self, student: Student) -> tuple[Ragged, Ragged]:
        """Questions and passages as the student reads them."""
        return self.texts.tokens(student.tokenizer, student.max_query_tokens, student.max_passage_tokens)

    def batch(self, student: Student) -> int:
        """Questions in a batch, at most as many as there are."""
        wanted = self.settings.batch_queries
        return min(student.batch_queries if wanted is None else wanted, sum(map(len, self.eligible)))

    def steps(self, student: Student) -> int:
        """Batches to learn from."""
        if self.settings.steps is not None:
            return self.settings.steps
        questions = sum(map(len, self.eligible))
        return max(1, round(self.settings.epochs * questions / self.batch(student)))

    def labelled(self, student: Student, lookalikes: float) -> Lessons:
        """All that is learned from judgments, with lookalikes in that share of the groups."""
        rng = np.random.default_rng(self.settings.seed)
        drawn = self._drawn(student, rng)
        sampler = Sampler(self.judged, self.candidates, filtered=True)
        lessons = Lessons.of(self._groups(sampler, drawn, self.settings.negatives, rng), *self.tokens(student))

        def read(texts: Sequence[str]) -> Ragged:
            return tokenise(student.tokenizer, texts, student.max_passage_tokens)

        lessons = add_lookalikes(lessons, self.judged, lookalikes, read, rng)
        return lessons.by_length(self.batch(student), rng)

    def taught(self, student: Student, teaching: Teaching, settings: DistillSettings) -> Lessons:
        """All that is learned from teachers.

        Each question has one pool of passages, which the teachers score once; a group is a part of it.
        """
        rng = np.random.default_rng(settings.seed)
        drawn = self._drawn(student, rng)
        asked, place = np.unique(drawn, return_inverse=True)
        sampler = Sampler(self.judged, self.candidates, filtered=False)
        pool = self._groups(sampler, asked.astype(np.int32), settings.pool - 1, rng)
        scores = np.stack(teaching.scores(settings.teachers, pool.questions, list(pool.rows)))
        columns = np.zeros((len(drawn), 1 + settings.negatives), np.int64)
        columns[:, 1:] = 1 + rng.random((len(drawn), settings.pool - 1)).argsort(1)[:, : settings.negatives]
        groups = Groups(drawn, pool.rows[place[:, None], columns], scores[place[:, None], columns])
        hints = None
        if settings.hints > 0:
            hints = teaching.hints(settings.teachers, student.tokenizer, pool.questions, list(pool.rows))
            groups = replace(groups, pairs=place[:, None] * settings.pool + columns)
        return Lessons.of(groups, *self.tokens(student), hints).by_length(self.batch(student), rng)

    def _drawn(self, student: Student, rng: np.random.Generator) -> Rows:
        weights = [collection.weight for collection in self.settings.data]
        return draw_questions(self.eligible, weights, self.steps(student) * self.batch(student), rng)

    def _groups(self, sampler: Sampler, drawn: Rows, negatives: int, rng: np.random.Generator) -> Groups:
        rows = np.empty((len(drawn), 1 + negatives), np.int32)
        for i, question in enumerate(drawn.tolist()):
            rows[i] = sampler.group(question, negatives, rng)
            if i % 1000 == 0:
                self.told("negatives", i, len(drawn))
        return Groups(drawn, rows)


def prepare(settings: CommonSettings, told: StepProgress) -> Prepared:
    """Reads the data and mines candidates.

    Raises:
        InputError: the data are wrong, or another training began in the same place.
        ModelError: the bi-encoder cannot be used.
    """
    place = Workplace.open(settings)
    device = choose_device(settings)
    bi_encoder = locate(settings.bi_encoder, Context(folder=Path()))
    judged = read_judged(settings.data, settings.seed)
    place.require_same(settings, judged.digest)
    limits = settings.max_query_tokens, settings.max_passage_tokens
    miner = Miner(bi_encoder, *limits, settings.false_negative_margin, place.cache, device, told)
    candidates = miner.candidates(judged)
    held_out = judged.held_out(settings.held_out)
    held = choose_held_out(judged, candidates, held_out, settings.eval_queries, settings.eval_depth, settings.seed)
    eligible = _eligible(judged, candidates, held_out, settings.positive_depth)
    texts = Texts(judged.questions, judged.passages)
    return Prepared(settings, place, device, judged, texts, candidates, eligible, held, told)


def _eligible(judged: Judged, candidates: Candidates, held_out: npt.NDArray[np.bool_], depth: int) -> tuple[Rows, ...]:
    found: list[Rows] = []
    for name, first, end in zip(judged.names, judged.question_starts, judged.question_starts[1:], strict=False):
        own = [
            question
            for question in range(int(first), int(end))
            if not held_out[question] and candidates.reach(question, judged.positives(question), depth)
        ]
        logger.info("%s: learning from %d of %d questions", name, len(own), end - first)
        found.append(np.array(own, np.int32))
    if not any(map(len, found)):
        raise InputError(
            f"expected questions whose relevant passages a retriever has among its first {depth}, found none of "
            f"{len(judged.questions)}, {int(held_out.sum())} of them held out; raise positive_depth or lower held_out"
        )
    return tuple(found)


def typical_candidates(
    held: HeldOut, questions: Ragged, passages: Ragged, wanted: int
) -> tuple[TokenIds, list[TokenIds]]:
    """A question of median length, and as many candidates of held-out questions as wanted."""
    lengths = questions.lengths
    by_size = sorted(held.questions, key=lambda question: int(lengths[question]))
    rows: Sequence[int] = np.concatenate(held.groups).tolist()
    return questions[by_size[len(by_size) // 2]], [passages[rows[i % len(rows)]] for i in range(wanted)]
