"""The bi-encoder that negatives come from is not computed again when it is a teacher, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.stage import Context
from cascade.types import Rows, Scores
from stages.models import HFTokenizer, locate
from stages.training import DistillSettings
from stages.training.cache import Cache
from stages.training.device import Device, choose_device
from stages.training.embedding import embed
from stages.training.mining import NONE, Candidates
from stages.training.settings import CommonSettings
from stages.training.teachers import Teaching
from stages.training.tokens import Texts, tokenise

QUESTIONS = ["how do plants make sugar", "who walked on the moon?"]
PASSAGES = ["Photosynthesis makes glucose.", "Neil Armstrong was the first on the moon.", "The moon has no air."]
GROUPS = [np.array([0, 2], np.int32), np.array([1, 2, 0], np.int32)]


def teaching(folder: Path, **more: Any) -> Teaching:
    """Of a bi-encoder whose vectors are known already."""
    given = {"data": [{"path": "x"}], "out": "y", "teachers": ["t"], "kind": "colbert", "threads": 1, **more}
    settings = DistillSettings.model_validate({**given, "precision": "float32"})
    device = choose_device(settings)
    vectors = [_vectors(texts, settings, device) for texts in (QUESTIONS, PASSAGES)]
    nothing = np.full((len(QUESTIONS), 50), NONE, np.int32)
    candidates = Candidates(nothing, nothing, vectors[0], vectors[1], np.ones(len(QUESTIONS), np.float32))
    return Teaching(Texts(QUESTIONS, PASSAGES), candidates, "digest", settings, Cache(folder), device, _nothing)


def _vectors(texts: list[str], settings: CommonSettings, device: Device) -> Any:
    folder = locate(settings.bi_encoder, Context(Path()))
    return embed(folder, tokenise(HFTokenizer(folder, 110), texts, 110), device, _nothing, "")


def _nothing(step: str, done: int, total: int) -> None:
    pass


def asked(teaching: Teaching, *refs: str) -> list[Scores]:
    questions: Rows = np.arange(len(QUESTIONS), dtype=np.int32)
    return teaching.scores(refs, questions, GROUPS)


@pytest.mark.parametrize("ref", ["bundled:bi-encoder", "bi-encoder=bundled:bi-encoder"])
def test_known_vectors_give_the_scores_that_the_model_gives(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = teaching(tmp_path)
    computed = [*known._one("bi-encoder=" + str(locate(ref.rpartition("=")[2], Context(Path()))), *_all())]

    def never(*given: object) -> None:
        raise AssertionError("loaded, although its vectors are known")

    monkeypatch.setattr("stages.training.teachers.load_teacher", never)
    for fast, slow in zip(asked(known, ref), computed, strict=True):
        np.testing.assert_allclose(fast, slow, atol=0.03)  # vectors are kept in float16


def test_a_teacher_that_reads_apart_is_asked_about_many_passages_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, given = "colbert=bundled:bi-encoder", teaching(tmp_path)
    whole = asked(given, ref)
    assert len(list(tmp_path.glob("teacher-*.npz"))) == 1
    monkeypatch.setattr("stages.training.teachers._PASSAGES", 2)
    parts = asked(given, ref)
    assert len(list(tmp_path.glob("teacher-*.npz"))) == 3
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def _all() -> tuple[Rows, list[Rows]]:
    return np.arange(len(QUESTIONS), dtype=np.int32), GROUPS


def test_another_kind_of_reader_is_computed_although_its_weights_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.training.teachers.load_teacher", _refused)
    with pytest.raises(LookupError, match="colbert=bundled:bi-encoder"):
        asked(teaching(tmp_path), "colbert=bundled:bi-encoder")


def _refused(ref: str, settings: CommonSettings) -> None:
    raise LookupError(ref)
