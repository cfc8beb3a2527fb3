"""What the loss is given beside a student's inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.training.batches import Collator
from stages.training.collections import Judged
from stages.training.losses import LEFT_OUT
from stages.training.mining import NONE, Candidates
from stages.training.sampling import Groups, Lessons
from stages.training.settings import TrainSettings
from stages.training.students import Student, build, read_base
from stages.training.tokens import Ragged

COSINES = np.array([[0.9, 0.2, 0.95, 0.1], [0.1, 0.9, 0.3, 0.95]], np.float16)
"""Of two questions with four passages; passage 4 is made from 0, and 5 from 1."""
SETTINGS = TrainSettings(kind="colbert", data=[{"path": "x"}], out="y")  # type: ignore[arg-type, list-item]


@pytest.fixture(scope="module")
def colbert() -> Student:
    return build("colbert", read_base("bundled:bi-encoder").keep((0,)), SETTINGS)


@pytest.fixture(scope="module")
def cross_encoder() -> Student:
    return build("cross-encoder", read_base("bundled:bi-encoder").keep((0,)), SETTINGS)


def batch(student: Student) -> dict[str, Any]:
    """Of groups (0, 2, 4) and (1, 3, 5): a relevant passage, one that looks relevant, a lookalike.

    Passage 1 answers the first question, too. For the second the one that looks relevant is judged not to be.
    """
    judged = Judged(
        ("a",),
        [""] * 4,
        np.zeros(4, np.int64),
        ["", ""],
        [{0: 1, 1: 1}, {1: 1, 3: 0}],
        np.array([0, 4]),
        np.array([0, 2]),
    )
    nothing = np.full((2, 50), NONE, np.int32)
    vectors = np.eye(2, dtype=np.float16)
    candidates = Candidates(nothing, nothing, vectors, COSINES.T.copy(), np.array([0.92, 0.92], np.float32))
    groups = Groups(np.array([0, 1], np.int32), np.array([[0, 2, 4], [1, 3, 5]], np.int32))
    texts = Ragged.of([np.array([2000 + i], np.int32) for i in range(6)])
    sources = np.array([0, 1, 2, 3, 0, 1], np.int32)
    return Collator(student, Lessons(groups, texts, texts, sources), judged, candidates)([0, 1])


def test_a_lookalike_is_a_negative_whatever_the_bi_encoder_thinks(cross_encoder: Student) -> None:
    made = batch(cross_encoder)
    assert made["targets"].tolist() == [0, 0]
    assert made["left_out"].tolist() == [[False, True, False], [False, False, False]]


def test_a_lookalike_is_to_other_questions_what_it_was_made_from(colbert: Student) -> None:
    made = batch(colbert)
    assert made["targets"].tolist() == [0, 3]
    assert made["left_out"].tolist() == [[False, True, False, True, False, True], [False] * 6]


def test_the_bi_encoder_is_asked_about_all_but_what_only_resembles_an_answer(
    colbert: Student, cross_encoder: Student
) -> None:
    own = batch(cross_encoder)["bi_encoder"]
    np.testing.assert_allclose(own, [[18, 19, LEFT_OUT], [18, LEFT_OUT, LEFT_OUT]], atol=0.01)
    together = batch(colbert)["bi_encoder"]
    expected = [[18, 19, LEFT_OUT, 4, 2, LEFT_OUT], [2, 6, LEFT_OUT, 18, LEFT_OUT, LEFT_OUT]]
    np.testing.assert_allclose(together, expected, atol=0.02)
