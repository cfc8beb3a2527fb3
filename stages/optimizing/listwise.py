"""A listwise ranker as it is optimized: a question with as many passages as it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.index.memory import MemoryPassages
from cascade.optimizing import JudgedQuestion
from cascade.stage import Context
from cascade.types import Document, Query, Scores
from stages.listwise.kind import ListwiseSettings
from stages.listwise.stage import ListwiseStage, window_scorer
from stages.models.layout import passages_at_once
from stages.optimizing.ranking import Reader
from stages.runtimes import Runtime
from stages.runtimes.choice import Ints

_QUERY_TOKENS = 32
_CALIBRATION_QUESTIONS = 300


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
            max_query_tokens=_QUERY_TOKENS,
            runtime="torch",
            dtype="float32",
        )
        texts = [text for question in questions for text in question.passages]
        passages = MemoryPassages([Document(str(number), text) for number, text in enumerate(texts)])
        self._folder = folder
        self._ranker = ListwiseStage(settings, Context(Path())).open(passages, None)
        self._queries = [self._ranker.encode_query(Query("", question.text)) for question in questions]
        self._starts = np.cumsum([0, *(len(question.passages) for question in questions)]).tolist()

    def module(self) -> Any:
        """The model, over whole windows."""
        return window_scorer(self._folder, self._window)

    def inputs(self) -> list[tuple[Ints, Ints, Ints]]:
        """Each question with its first window."""
        starts = self._starts[:-1][:_CALIBRATION_QUESTIONS]
        stops = (min(start + self._window, end) for start, end in zip(starts, self._starts[1:], strict=False))
        return [
            self._ranker.assemble(query, np.arange(start, stop, dtype=np.int32))
            for query, start, stop in zip(self._queries, starts, stops, strict=False)
        ]

    @property
    def outputs(self) -> int:
        """A score for each passage of a window."""
        return self._window

    def scores(self, runtime: Runtime | None, question: int) -> Scores:
        """float32 [candidates]."""
        ranker = self._ranker if runtime is None else self._ranker.on(runtime)
        rows = np.arange(self._starts[question], self._starts[question + 1], dtype=np.int32)
        windows = [rows[at : at + self._window] for at in range(0, len(rows), self._window)]
        return np.concatenate([ranker.score_window(self._queries[question], window) for window in windows])
