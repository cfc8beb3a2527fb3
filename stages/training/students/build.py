"""From the name of a student to the student."""

from __future__ import annotations

from stages.training.settings import CommonSettings, StudentKind
from stages.training.students.base import Base, Student
from stages.training.students.distilbert import DistilBert
from stages.training.students.encoder import BiEncoder, Colbert
from stages.training.students.joint import CrossEncoder, Listwise


def build(kind: StudentKind, base: Base, settings: CommonSettings) -> Student:
    """A student that starts from a base.

    Raises:
        ModelError: the base lacks what the student needs, or the inputs would be too long for it.
    """
    limits = settings.max_query_tokens, settings.max_passage_tokens
    if kind == "listwise":
        return Listwise(base, *limits, settings.list_size)
    if kind == "colbert":
        return Colbert(base, *limits, expand_queries=settings.expand_queries)
    plain: dict[str, type[Student]] = {
        "cross-encoder": CrossEncoder,
        "bi-encoder": BiEncoder,
        "distilbert": DistilBert,
    }
    return plain[kind](base, *limits)
