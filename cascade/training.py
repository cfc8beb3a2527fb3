"""The seam of training: what an entry point of the group ``cascade.trainers`` names.

The commands ``cascade train`` and ``cascade distill`` know nothing of torch and nothing of models: they turn flags and
a YAML file into the settings that a trainer declares, run it, and print its report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cascade.errors import UnknownKind
from cascade.registry import load_entry, offered
from cascade.stage import StepProgress

TRAINERS_GROUP = "cascade.trainers"


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came of a training.

    Args:
        folder: the model.
        quality: nDCG@10 on held-out questions, by what ranked them, then by collection.
        notes: what else its user should know, a sentence each.
    """

    folder: Path
    quality: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trainer:
    """A way of making a model from data.

    Args:
        settings: what it can be told; unknown keys are refused.
        run: makes the model; takes checked settings and something to report to.
    """

    settings: type[BaseModel]
    run: Callable[[Any, StepProgress], TrainingReport]


def trainer(name: str) -> Trainer:
    """The installed trainer of that name.

    Raises:
        UnknownKind: nothing installed offers it, or what does cannot be imported.
    """
    entry = offered(TRAINERS_GROUP, name, f"no trainer is called {name!r}")
    found = load_entry(entry)
    if not isinstance(found, Trainer):
        raise UnknownKind(f"{name!r}: {entry.value} is a {type(found).__name__}, expected a Trainer")
    return found
