"""A listwise ranker as it is optimized: a question with as many passages as it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.optimizing import JudgedQuestion
from cascade.stage import Context
from cascade.types import Query, Scores
from stages.listwise.kind import ListwiseSettings
from stages.listwise.stage import ListwiseStage, window_scorer
from stages.models.layout import passages_at_once
from stages.optimizing.ranking import CALIBRATION_QUESTIONS, QUERY_TOKENS, Reader, candidates
from stages.runtimes import Runtime
from stages.runtimes.choice import Ints


class Windows(Reader):
    """Scores candidates in windows, in the order in which they are judged.

    Args:
        model: as the user named it.
        folder: of the model.
        questions: judged ones.

    Raises:
        ModelError: the model cannot be loaded.
    """

    use = "windows"

    def __init__(self, model: str, folder: Path, questions: Sequence[JudgedQuestion]) -> None:
        self._window = passages_at_once(folder)
        settings = ListwiseSettings(
            name="model",
            kind="listwise",
            top_k=1,
            model=model,
            window=self._window,
            max_query_tokens=QUERY_TOKENS,
            runtime="torch",
            dtype="float32",
        )
        passages, self._rows = candidates(questions)
        self._folder = folder
        self._ranker = ListwiseStage(settings, Context(Path())).open(passages, None)
        self._queries = [self._ranker.encode_query(Query("", question.text)) for question in questions]

    def module(self) -> Any:
        """The model, over whole windows."""
        return window_scorer(self._folder, self._window)

    def inputs(self) -> list[tuple[Ints, Ints, Ints]]:
        """Each question with its first window."""
        each = list(zip(self._queries, self._rows, strict=True))[:CALIBRATION_QUESTIONS]
        return [self._ranker.assemble(query, rows[: self._window]) for query, rows in each]

    @property
    def outputs(self) -> int:
        """A score for each passage of a window."""
        return self._window

    def scores(self, runtime: Runtime | None, question: int) -> Scores:
        """float32 [candidates]."""
        ranker = self._ranker if runtime is None else self._ranker.on(runtime)
        rows = self._rows[question]
        windows = [rows[at : at + self._window] for at in range(0, len(rows), self._window)]
        return np.concatenate([ranker.score_window(self._queries[question], window) for window in windows])
