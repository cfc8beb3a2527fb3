"""Training and distillation of the models that stages use. Importing this loads no torch."""

from stages.training.kinds import DISTILL, TRAIN
from stages.training.settings import Collection, DistillSettings, TrainSettings

__all__ = ["DISTILL", "TRAIN", "Collection", "DistillSettings", "TrainSettings"]
