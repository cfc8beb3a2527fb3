"""A cross-encoder as it is optimized: pairs of a question and a passage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.optimizing import JudgedQuestion
from cascade.stage import Batch, Context
from cascade.types import Query, Scores
from stages.cross_encoder.kind import CrossEncoderSettings
from stages.cross_encoder.stage import CrossEncoderStage
from stages.models import layout, load_cross_encoder, longest_input
from stages.optimizing.ranking import CALIBRATION_QUESTIONS, QUERY_TOKENS, Reader, candidates
from stages.runtimes import Runtime
from stages.runtimes.choice import Ints
from stages.runtimes.first_token import first_token_only

_PAIR_TOKENS = 256


class Pairs(Reader):
    """Scores every candidate by itself.

    Args:
        model: as the user named it.
        folder: of the model.
        questions: judged ones.

    Raises:
        ModelError: the model cannot be loaded.
    """

    use = "plain"

    def __init__(self, model: str, folder: Path, questions: Sequence[JudgedQuestion]) -> None:
        longest = longest_input(folder)
        room = _PAIR_TOKENS if longest is None else min(longest, _PAIR_TOKENS)
        settings = CrossEncoderSettings(
            name="model",
            kind="cross_encoder",
            top_k=1,
            model=model,
            runtime="torch",
            dtype="float32",
            max_query_tokens=QUERY_TOKENS,
            max_passage_tokens=room - QUERY_TOKENS - layout(folder).pair_extra,
        )
        passages, rows = candidates(questions)
        self._folder = folder
        self._reranker = CrossEncoderStage(settings, Context(Path())).open(passages, None)
        self._batches = [
            Batch.single(self._reranker.encode_query(Query("", question.text)), own)
            for question, own in zip(questions, rows, strict=True)
        ]

    def module(self) -> Any:
        """The model, its last layer at the first token only where no more is read."""
        return first_token_only(load_cross_encoder(self._folder))

    def inputs(self) -> list[tuple[Ints, Ints, Ints]]:
        """Each question with its first candidate."""
        found = []
        for batch in self._batches[:CALIBRATION_QUESTIONS]:
            pairs = self._reranker.assemble(Batch(batch.queries, batch.query_of[:1], batch.rows[:1]))
            segments = np.zeros_like(pairs.ids) if pairs.segments is None else pairs.segments
            found.append((pairs.ids, pairs.mask, segments))
        return found

    @property
    def outputs(self) -> int:
        """One label or two."""
        return self._reranker.runtime.outputs

    def scores(self, runtime: Runtime | None, question: int) -> Scores:
        """float32 [candidates]."""
        reranker = self._reranker if runtime is None else self._reranker.on(runtime)
        return reranker.score(self._batches[question])
