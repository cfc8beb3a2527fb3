"""What the entry points of the group ``cascade.trainers`` name; the work is imported when it begins."""

from __future__ import annotations

import importlib.util

from cascade.errors import ModelError
from cascade.stage import StepProgress
from cascade.training import Trainer, TrainingReport
from stages.training.settings import DistillSettings, TrainSettings


def _train(settings: TrainSettings, told: StepProgress) -> TrainingReport:
    _require_accelerate()
    from stages.training.pipeline import train

    return train(settings, told)


def _distill(settings: DistillSettings, told: StepProgress) -> TrainingReport:
    _require_accelerate()
    from stages.training.pipeline import distill

    return distill(settings, told)


def _require_accelerate() -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError("training needs the package accelerate; run `pip install 'cascade-ranking[train]'`")


TRAIN = Trainer(TrainSettings, _train)
DISTILL = Trainer(DistillSettings, _distill)
