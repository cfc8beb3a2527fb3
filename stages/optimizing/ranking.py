"""Makes a faster form of what reads questions and passages together, and lets it prove that it still ranks alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cascade.index.memory import MemoryPassages
from cascade.optimizing import JudgedQuestion, Optimized, Precision
from cascade.stage import StepProgress
from cascade.types import Document, Rows, Scores
from stages.runtimes import Runtime
from stages.runtimes.choice import Ints
from stages.runtimes.engines import Engine
from stages.runtimes.forms import Use, described, form_folder, new_form
from stages.runtimes.parity import Refused, compare

QUERY_TOKENS = 32
"""Of a question that is read."""
CALIBRATION_QUESTIONS = 300
"""Whose inputs activations learn their ranges from, at most."""


def candidates(questions: Sequence[JudgedQuestion]) -> tuple[MemoryPassages, list[Rows]]:
    """The passages of all questions, and int32 [candidates] for each question: which of them are its own."""
    texts = [text for question in questions for text in question.passages]
    ends = np.cumsum([len(question.passages) for question in questions])
    passages = MemoryPassages([Document(str(number), text) for number, text in enumerate(texts)])
    return passages, np.split(np.arange(len(texts), dtype=np.int32), ends[:-1])


class Reader(ABC):
    """A model as it is, over judged questions, and on any runtime."""

    use: Use
    """What its forms are for."""

    @abstractmethod
    def module(self) -> Any:
        """What is converted: a torch module of ids, mask and segments."""

    @abstractmethod
    def inputs(self) -> list[tuple[Ints, Ints, Ints]]:
        """Some inputs, to trace the module with, and for int8 to learn the range of every activation."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the module gives for each input."""

    @abstractmethod
    def scores(self, runtime: Runtime | None, question: int) -> Scores:
        """float32 [candidates] of a question; on torch in float32 without a runtime."""


def optimize(
    engine: Engine,
    model: str,
    folder: Path,
    precisions: Sequence[Precision],
    questions: Sequence[JudgedQuestion],
    reader: Reader,
    progress: StepProgress,
) -> Optimized:
    """Puts a form of the model in ``folder`` into the cache folder, in the first precision that ranks alike.

    Activations learn their ranges from inputs of the questions, which need not be of the domain that the model will
    serve: what is hard to quantise in a transformer, a few wide channels, depends on its weights and special tokens,
    not on the topic (Xiao et al. 2022, arXiv 2211.10438, section 3).

    Raises:
        ModelError: the model cannot be converted, or every form ranks too differently.
    """

    def ranked(runtime: Runtime | None, step: str) -> list[Scores]:
        found = []
        for number in range(len(questions)):
            progress(f"ranking in {step}", number, len(questions))
            found.append(reader.scores(runtime, number))
        return found

    reference, inputs = ranked(None, "float32"), reader.inputs()
    refused: list[Refused] = []
    for precision in precisions:
        progress(f"converting to {precision}", 0, 1)
        try:
            with new_form(folder, engine, precision, reader.use) as (target, report):
                engine.convert(reader.module(), inputs, precision, target)
                progress(f"converting to {precision}", 1, 1)
                runtime = engine.load(target, precision, reader.outputs)
                runtime.prepare(torch.get_num_threads())
                scores = ranked(runtime, precision)
                parity = compare(reference, scores, [question.relevance for question in questions])
                parity.require(f"{model} in {precision}", "use another --precision, or runtime: torch")
                report |= described(model, engine, precision, reader.outputs, parity)
        except Refused as error:
            refused.append(error)
        else:
            made = form_folder(folder, engine, precision, reader.use)
            return Optimized(made, precision, asdict(parity), tuple(map(str, refused)))
    raise refused[-1]
