"""Stages that combine their scores with those of stages before them, in the engine."""

from __future__ import annotations

import numpy as np
import pytest

from cascade.api import Cascade
from cascade.combining import combine
from cascade.tasks import OpenedCascade
from cascade.types import Candidates, Rows
from tests.fakes import (
    FakeFuser,
    FakeListwise,
    FakeReranker,
    FakeRetriever,
    all_nan,
    answer,
    cascade,
    no_fault,
    raises,
    relevance,
    stage,
    varied_lengths,
)
from tests.tuner_for_tests import Machine, config_of

N = 100
LENGTHS = varied_lengths(N)
SEEDS = {"words": 1, "late": 2, "cross": 5}
WEIGHTS = {"words": 0.5, "late": 1.0, "cross": 0.8}


def chain(late_fault=no_fault, **cross) -> OpenedCascade:
    """Retrieves 60 of 100 passages, scores them, scores the best 30 again and combines all three scores."""
    return cascade(
        stage("words", FakeRetriever(N, 25, SEEDS["words"]), 60, combined_later=True),
        stage("late", FakeReranker(LENGTHS, SEEDS["late"], late_fault), 30, combined_later=True),
        stage("cross", FakeReranker(LENGTHS, SEEDS["cross"]), 10, combine=WEIGHTS, **cross),
        passages=N,
    )


def said(name: str, rows) -> tuple[Rows, np.ndarray]:
    rows = np.asarray(rows, np.int32)
    return rows, relevance(SEEDS[name], rows)


def best_first(rows, *names: str) -> list[int]:
    """Rows by the combined scores of stages, of which the last has scored just these."""
    rows = np.asarray(rows, np.int32)
    scores, used = combine(rows, {name: said(name, rows) for name in names}, WEIGHTS)
    assert used == names
    return rows[np.lexsort((-relevance(SEEDS[names[-1]], rows), -scores))].tolist()


def test_the_order_is_that_of_the_combined_scores_and_hits_have_them():
    run = answer(chain())
    received = run.passed_by(1).rows
    order = best_first(received, "words", "late", "cross")
    assert run.order_after(2).rows.tolist()[:30] == order
    assert order != best_first(received, "cross")
    scores, _ = combine(received, {name: said(name, np.arange(N)) for name in SEEDS}, WEIGHTS)
    assert [hit.score for hit in run.result()] == np.sort(scores)[::-1][:10].astype(np.float32).tolist()
    assert [hit.stage for hit in run.result()] == ["cross"] * 10
    assert [trace.combined for trace in run.trace.stages] == [(), (), ("words", "late", "cross")]
    assert run.trace.to_dict()["stages"][2]["combined"] == ["words", "late", "cross"]


def test_only_what_was_scored_in_time_is_combined_and_comes_first():
    run = answer(chain(), 0.075)
    scored = run.trace.stages[2].scored
    assert 3 < scored < 30
    received = run.passed_by(1).rows.tolist()
    order = best_first(received[:scored], "words", "late", "cross") + received[scored:]
    assert run.order_after(2).rows.tolist()[:30] == order


@pytest.mark.parametrize("fault", [raises, all_nan])
def test_an_earlier_stage_that_failed_is_left_out(fault):
    run = answer(chain(late_fault=fault))
    received = run.passed_by(1).rows
    assert run.trace.stages[2].combined == ("words", "cross")
    assert run.order_after(2).rows.tolist()[:30] == best_first(received, "words", "cross")


def test_a_stage_that_skips_rather_than_do_a_part_gives_no_scores():
    opened = cascade(
        stage("words", FakeRetriever(N, 25, SEEDS["words"]), 60),
        stage("late", FakeReranker(LENGTHS, SEEDS["late"]), 30, combined_later=True, on_overrun="skip", budget_s=0.01),
        stage("cross", FakeReranker(LENGTHS, SEEDS["cross"]), 10, combine=WEIGHTS),
        passages=N,
    )
    run = answer(opened)
    assert run.trace.stages[1].reason == "skipped"
    assert run.trace.stages[2].combined == ("cross",)


def test_a_combining_stage_that_fails_keeps_the_earlier_order():
    opened = cascade(
        stage("words", FakeRetriever(N, 25, SEEDS["words"]), 60, combined_later=True),
        stage("cross", FakeReranker(LENGTHS, fault=raises), 10, combine=WEIGHTS),
        passages=N,
    )
    run = answer(opened)
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]
    assert run.trace.stages[1].combined == ()


def hybrid(fuser_fault=no_fault, **weights: float) -> OpenedCascade:
    pair = [
        stage("words", FakeRetriever(N, 25, SEEDS["words"]), 40, combined_later="words" in weights),
        stage("meaning", FakeRetriever(N, 50, 7), 40, combined_later="meaning" in weights),
    ]
    return cascade(
        stage("rrf", FakeFuser(fuser_fault), 50, retrievers=pair, combined_later="rrf" in weights),
        stage("cross", FakeReranker(LENGTHS, SEEDS["cross"]), 10, combine=weights),
        passages=N,
    )


def test_fused_and_single_rankings_of_retrievers_can_be_combined():
    weights = {"rrf": 0.4, "meaning": 0.3, "cross": 0.3}
    run = answer(hybrid(**weights))
    received, found = run.passed_by(0), run.retrieved["meaning"]
    given = {
        "rrf": (received.rows, received.scores),
        "meaning": (found.rows, found.scores),
        "cross": said("cross", received.rows),
    }
    scores, names = combine(received.rows, given, weights)
    assert run.trace.stages[1].combined == names == ("rrf", "meaning", "cross")
    assert run.order_after(1).rows.tolist()[:50] == received.rows[np.argsort(-scores, kind="stable")].tolist()


def test_rankings_that_could_not_be_fused_have_no_scores_to_combine():
    run = answer(hybrid(raises, rrf=1.0, words=1.0, cross=1.0))
    assert run.trace.stages[0].reason == "failed"
    assert run.trace.stages[1].combined == ("words", "cross")


def test_a_listwise_stage_combines_too():
    opened = cascade(
        stage("words", FakeRetriever(N, 25, SEEDS["words"]), 40, combined_later=True),
        stage("windows", FakeListwise(LENGTHS), 10, combine={"words": 1.0, "windows": 0.0}),
        passages=N,
    )
    run = answer(opened)
    assert run.passed_by(1).rows.tolist() == run.passed_by(0).rows.tolist()[:10]
    assert run.trace.stages[1].combined == ("words", "windows")


def test_given_candidates_are_combined_without_the_retrievers_that_did_not_run():
    rows = np.arange(40, dtype=np.int32)
    scored = Candidates(rows, np.linspace(9, 1, 40, dtype=np.float32), np.full(40, -1, np.int16))
    for candidates in (Candidates.unscored(rows), scored):
        run = answer(chain(), candidates=candidates)
        assert run.trace.stages[1].combined == ("late", "cross")
        assert run.order_after(1).rows.tolist()[:30] == best_first(run.passed_by(0).rows, "late", "cross")


def test_texts_are_reranked_by_combined_scores():
    text = """
version: 1
name: combining
stages:
  - {name: words, kind: made_up_retriever, top_k: 60}
  - {name: late, kind: made_up_reranker, seed: 3, top_k: 40}
  - {name: cross, kind: made_up_reranker, seed: 4, top_k: 10, combine: {words: 1, late: 1, cross: 0}}
"""
    texts = [f"text {number}" for number in range(20)]
    with Cascade(config_of(text, Machine())) as engine:
        ranking = engine.rerank("which?", texts)
    with Cascade(config_of(text[: text.index("  - {name: cross")], Machine())) as engine:
        by_late = engine.rerank("which?", texts)
    assert [hit.doc_id for hit in ranking] == [hit.doc_id for hit in by_late]
    assert [stage.combined for stage in ranking.trace.stages] == [(), ("late", "cross")]
