"""What the user says of a student's parts."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.errors import InputError
from stages.training.students.base import Student


def learning_rates(student: Student, wanted: Mapping[str, float]) -> dict[str, float]:
    """The rate of each part: the student's own where none is wanted.

    Raises:
        InputError: the student has no such part.
    """
    for part in wanted:
        if part not in student.learning_rates:
            raise InputError(
                f"learning_rates: expected parts of this student ({', '.join(student.learning_rates)}), got {part!r}"
            )
    return {**student.learning_rates, **wanted}
