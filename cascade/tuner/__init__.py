"""From "I have 50 ms" to the best cascade, with evidence: record once, replay any cascade, tune.

>>> from cascade.tuner import Recording, replay
>>> recording = Recording.load("T.parquet")  # doctest: +SKIP
>>> replay(recording, "configs/default.yaml", read_qrels(Path("qrels/test.tsv"))).mean("nDCG@10")  # doctest: +SKIP
"""

from cascade.tuner.choice import Goal, Tuning
from cascade.tuner.evaluated import Evaluation
from cascade.tuner.front import FrontPoint, ParetoFront
from cascade.tuner.point import First, Limits, Point
from cascade.tuner.quality import Judgments
from cascade.tuner.recorder import Subject, record
from cascade.tuner.recording import Recording
from cascade.tuner.replayer import Load, Replayer, Turn, replay
from cascade.tuner.space import SearchSpace, SpaceSettings
from cascade.tuner.stopping import Learned, Stopping, learn_stopping
from cascade.tuner.tuning import Effort, Tuned, Worth, tune
from cascade.tuner.verification import Verified, verify

__all__ = [
    "Effort",
    "Evaluation",
    "First",
    "FrontPoint",
    "Goal",
    "Judgments",
    "Learned",
    "Limits",
    "Load",
    "ParetoFront",
    "Point",
    "Recording",
    "Replayer",
    "SearchSpace",
    "SpaceSettings",
    "Stopping",
    "Subject",
    "Tuned",
    "Tuning",
    "Turn",
    "Verified",
    "Worth",
    "learn_stopping",
    "record",
    "replay",
    "tune",
    "verify",
]
