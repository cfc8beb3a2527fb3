"""A corpus, questions and judgments that need no download: see ``gather`` and ``load_questions``."""

from cascade.demo.corpus import gather
from cascade.demo.questions import Report, load_questions

__all__ = ["Report", "gather", "load_questions"]
