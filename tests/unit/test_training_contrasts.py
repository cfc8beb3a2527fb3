"""The contrasts that come with the package: whole, two-sided, and nothing of the suite that they are measured by."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.blindspot import read_triples
from cascade.io import read_qrels
from stages.training.collections import Judged, read_judged
from stages.training.settings import CONTRASTS, Collection, TrainSettings

FEWEST = 2000


@pytest.fixture(scope="module")
def contrasts() -> Judged:
    return read_judged([Collection(path=Path(CONTRASTS))], 0)


def test_a_recipe_names_them_wherever_its_own_collections_lie(tmp_path: Path) -> None:
    data = [{"path": CONTRASTS}, {"path": "mine"}]
    context = {"folder": tmp_path, "folders": {"path": tmp_path / "root"}}
    settings = TrainSettings.model_validate({"kind": "cross-encoder", "data": data, "out": "out"}, context=context)
    assert (settings.data[0].path / "queries.jsonl").is_file()
    assert settings.data[1].path == tmp_path / "root" / "mine"


def test_every_passage_answers_one_question_and_resembles_another(contrasts: Judged) -> None:
    assert len(contrasts.questions) > FEWEST
    judgments = list(read_qrels(Collection(path=Path(CONTRASTS)).path))
    answers, resembles = (
        Counter(judgment.doc_id for judgment in judgments if judgment.relevance == value) for value in (1, 0)
    )
    of_questions = Counter((judgment.query_id, judgment.relevance) for judgment in judgments)
    assert set(of_questions.values()) == {1}
    assert len(of_questions) == len(judgments) == 2 * len(contrasts.questions)
    assert set(answers.values()) == set(resembles.values()) == {1}
    assert len(answers) == len(resembles) == len(contrasts.passages)


def test_nothing_of_the_blind_spot_suite_is_among_them(contrasts: Judged) -> None:
    suite = {text for triple in read_triples() for text in (triple.question, triple.answers, triple.resembles)}
    shared = _runs_of_six(suite) & _runs_of_six({*contrasts.questions, *contrasts.passages})
    assert not shared


def _runs_of_six(texts: set[str]) -> set[str]:
    """All that stands six words long in one of the texts, in lower case and without punctuation."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    return {" ".join(own[first : first + 6]) for own in words for first in range(len(own) - 5)}
