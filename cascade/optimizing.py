"""The seam of ``cascade models optimize``: what an entry point of the group ``cascade.optimizers`` names.

The command knows nothing of runtimes; it brings judged questions, since a faster form of a model is made, and must
prove itself, on text that every installation has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, cast

from cascade.registry import load_entry, offered
from cascade.stage import StepProgress

OPTIMIZERS_GROUP = "cascade.optimizers"

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """A question and candidates for it.

    Args:
        text: the question.
        passages: texts.
        relevance: the judgment of each of them, at least one above 0.
    """

    text: str
    passages: tuple[str, ...]
    relevance: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Optimized:
    """A faster form of a model.

    Args:
        folder: where it is.
        precision: of the form.
        figures: how its rankings compare with the model's, by name.
        refused: why forms in other precisions, tried before, are not kept.
    """

    folder: Path
    precision: Precision
    figures: Mapping[str, float]
    refused: Sequence[str] = ()


class Optimizer(Protocol):
    """Makes a faster form of a model for one runtime."""

    def __call__(
        self, model: str, precision: Precision | None, questions: Sequence[JudgedQuestion], progress: StepProgress
    ) -> Optimized:
        """The form, kept where the runtime finds it; without a precision, the fastest one that ranks alike.

        Raises:
            ModelError: the model cannot be converted, or its forms rank too differently.
        """
        ...


def optimizer(runtime: str) -> Optimizer:
    """The installed optimizer for that runtime.

    Raises:
        UnknownKind: nothing installed offers it, or what does cannot be imported.
    """
    entry = offered(OPTIMIZERS_GROUP, runtime, f"no optimizer for the runtime {runtime!r}")
    return cast(Optimizer, load_entry(entry))
