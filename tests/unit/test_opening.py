from __future__ import annotations

import math

import pytest

from cascade.opening import with_budget
from tests.fakes import FakeReranker, FakeRetriever, cascade, stage, varied_lengths


def test_another_budget_does_not_ask_the_stages_again(monkeypatch):
    retriever = FakeRetriever(100, 10)
    opened = cascade(stage("bm25", retriever, budget_s=0.05), passages=100, budget_s=0.1)
    monkeypatch.setattr(retriever, "ranges", None)
    (scaled,) = with_budget(opened, 0.2).stages
    assert (scaled.ranges, scaled.scoring, scaled.opened, scaled.cost_key) == (10, "search", retriever, "bm25")
    assert scaled.planned.budget_s == pytest.approx(0.1)
    assert opened.stages[0].planned.budget_s == 0.05


@pytest.mark.parametrize(
    ("budget_s", "expected"),
    [(0.2, (0.1, 0.1)), (0.1, (0.05, 0.05)), (0.05, (0.05, 0.025)), (math.inf, (math.inf, math.inf))],
)
def test_budgets_scale_with_the_total_but_retrieval_does_not_shrink(budget_s, expected):
    first = stage("bm25", FakeRetriever(100), budget_s=0.05)
    opened = cascade(first, stage("ce", FakeReranker(varied_lengths(100)), budget_s=0.05), passages=100, budget_s=0.1)
    scaled = with_budget(opened, budget_s)
    assert tuple(planned.budget_s for planned in scaled.plan.stages) == pytest.approx(expected)
