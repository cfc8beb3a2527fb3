"""Queries run stage by stage, above all those that end without an answer."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import cast

from rich.console import Console

from cascade.api import Cascade
from cascade.arguments import Budget
from cascade.engine import QueryRun
from cascade.evaluation import System, compare, gap_report, render, render_comparison, run_staged
from cascade.tasks import OpenedCascade
from cascade.types import Qrel, Query
from tests.fakes import FakeFuser, FakeReranker, FakeRetriever, answer, cascade, stage, varied_lengths


class Answering:
    """An engine under a virtual clock that grants each query its own seconds."""

    def __init__(self, opened: OpenedCascade, budgets_s: Mapping[str, float]) -> None:
        self.plan, self.config = opened.plan, SimpleNamespace(source="here.yaml")
        self._opened, self._budgets_s = opened, budgets_s

    def runs(self, queries: Sequence[Query], budget_ms: Budget) -> Iterator[QueryRun]:
        for query in queries:
            yield answer(self._opened, self._budgets_s[query.query_id], query=query)


BUDGETS_S = {"q0": 1.0, "q1": 0.03, "q2": 1.0}
QUERIES = [Query(query_id, "why?") for query_id in BUDGETS_S]


def strict() -> Cascade:
    lengths = varied_lengths(1000)
    opened = cascade(
        stage("bm25", FakeRetriever(1000), 200),
        stage("ce", FakeReranker(lengths), 50, on_overrun="fail"),
        stage("last", FakeReranker(lengths), 10),
    )
    return cast(Cascade, Answering(opened, BUDGETS_S))


def test_a_query_that_a_stage_ends_has_no_order_from_that_stage_on() -> None:
    observed: list[str] = []
    run = run_staged(strict(), QUERIES, observe=lambda run: observed.append(run.query.query_id))
    assert run.unanswered == ("q1",)
    assert observed == ["q0", "q2"]
    first, ended, last = run.stages
    assert {query_id: len(order) for query_id, order in first.survivors.items()} == {"q0": 200, "q1": 200, "q2": 200}
    assert {query_id: len(order) for query_id, order in ended.survivors.items()} == {"q0": 50, "q1": 0, "q2": 50}
    assert {query_id: len(order) for query_id, order in last.ranked.items()} == {"q0": 200, "q1": 0, "q2": 200}
    assert (ended.shortfalls, last.shortfalls) == ({"q1": "budget"}, {"q1": "skipped"})
    assert ended.seconds["q1"] > 0
    assert last.seconds["q1"] == 0
    assert run.seconds.keys() == BUDGETS_S.keys()


def test_a_fused_retriever_that_ends_the_query_leaves_no_order_of_the_fusion() -> None:
    strictly = stage("words", FakeRetriever(1000), on_overrun="fail")
    opened = cascade(stage("hybrid", FakeFuser(), retrievers=[strictly, stage("meaning", FakeRetriever(1000, seed=2))]))
    engine = cast(Cascade, Answering(opened, {"q0": 1.0, "q1": 0.0}))
    run = run_staged(engine, QUERIES[:2])
    assert run.unanswered == ("q1",)
    hybrid = run.stages[-1]
    assert (len(hybrid.ranked["q0"]) > 0, hybrid.ranked["q1"]) == (True, [])


def test_queries_without_an_answer_count_as_zero_and_are_reported() -> None:
    run = run_staged(strict(), QUERIES)
    qrels = [Qrel(query_id, run.stages[-1].ranked["q0"][0], 1) for query_id in BUDGETS_S]
    report = gap_report(run, qrels)
    assert report.stages[-1].measures["nDCG@10"] == 2 / 3
    assert report.unanswered == report.missing == ("q1",)
    assert report.to_json()["unanswered"] == ["q1"]
    comparison = compare([System.of("strict", run), System("other", run.stages[0].ranked)], qrels)
    assert [system.unanswered for system in comparison.systems] == [1, 0]
    ended = "1 query was ended by a stage that says on_overrun: fail, which counts as zero"
    console = Console(file=io.StringIO(), width=200)
    console.print(render(report), render_comparison(comparison))
    said = " ".join(cast(io.StringIO, console.file).getvalue().split())
    assert f"{ended}: q1." in said
    assert "1 judged query has no results, which counts as zero: q1" not in said
    assert f"strict: {ended}." in said
