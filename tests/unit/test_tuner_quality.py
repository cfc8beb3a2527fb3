"""Measures over arrays equal those of ir-measures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import InputError
from cascade.evaluation import evaluate
from cascade.tuner import Judgments, Recording
from cascade.tuner.quality import Answers, measure
from cascade.types import Qrel
from tests.tuner_for_tests import Machine, judgments, recorded

NAMES = ("nDCG@10", "nDCG@3", "RR@10", "P@5", "R@100", "AP", "P(rel=2)@10", "Judged@10", "nDCG@1000")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(tmp_path_factory.mktemp("quality"), Machine(), queries=4)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_arrays_and_ir_measures_agree_on_any_rankings_and_judgments(recording: Recording, data: st.DataObject) -> None:
    rankings, qrels = [], []
    for number, query in enumerate(recording.queries):
        rows = recording.rows[number]
        size = data.draw(st.integers(0, 60))
        order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(rows))[:size]
        rankings.append(rows[order])
        judged = data.draw(st.dictionaries(st.integers(0, 120), st.integers(-1, 3), max_size=15))
        qrels += [Qrel(query.query_id, f"d{rows[place % len(rows)]}", rel) for place, rel in judged.items()]
        qrels.append(Qrel(query.query_id, "d-elsewhere", data.draw(st.integers(0, 3))))
    qrels = list({(qrel.query_id, qrel.doc_id): qrel for qrel in qrels}.values())
    answers = Answers(np.arange(len(recording)), rankings)
    found = measure(NAMES, answers, Judgments.of(qrels, recording), recording)
    run = {query.query_id: [f"d{row}" for row in rows] for query, rows in zip(recording.queries, rankings, strict=True)}
    expected = evaluate(run, qrels, NAMES).by_query
    for name in NAMES:
        wanted = [expected[name][query.query_id] for query in recording.queries]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_query_without_judgments_is_not_a_zero(recording: Recording) -> None:
    qrels = [Qrel("q0", recording.doc_ids[0], 1)]
    answers = Answers(np.arange(2), [recording.rows[0][:5], recording.rows[1][:5]])
    found = measure(["nDCG@10", "AP"], answers, Judgments.of(qrels, recording), recording)
    for values in found.values():
        assert np.isfinite(values[0])
        assert np.isnan(values[1])


def test_judgments_of_queries_that_were_not_recorded_are_refused_unless_asked_for(recording: Recording) -> None:
    qrels = [*judgments(recording), Qrel("q999", "d1", 1)]
    with pytest.raises(InputError, match=r"1 judged queries are not in .*'q999'; record them, too, or pass --partial"):
        Judgments.of(qrels, recording)
    assert Judgments.of(qrels, recording, partial=True).judged.all()


def test_judgments_of_other_queries_altogether_are_refused(recording: Recording) -> None:
    with pytest.raises(InputError, match="expected judgments of the 4 queries"):
        Judgments.of([Qrel("q999", "d1", 1)], recording, partial=True)


def test_an_unknown_measure_is_refused(recording: Recording) -> None:
    answers = Answers(np.arange(1), [recording.rows[0][:5]])
    with pytest.raises(InputError, match="did you mean 'nDCG'"):
        measure(["nDGC@10"], answers, Judgments.of(judgments(recording), recording), recording)
