import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from cascade.errors import InputError
from cascade.evaluation import StagedRun, StageRun, gap_report, render
from cascade.evaluation.measures import evaluate
from cascade.evaluation.tables import gap_tables
from cascade.types import Qrel

QUERIES = [f"q{i}" for i in range(10)]
QRELS = [Qrel(query_id, "good", 1) for query_id in QUERIES] + [Qrel(query_id, "also", 1) for query_id in QUERIES]


def stage(name: str, order: list[str], keep: int, ms: float, **options: object) -> StageRun:
    return StageRun(
        name=name,
        ranked=dict.fromkeys(QUERIES, order),
        survivors=dict.fromkeys(QUERIES, order[:keep]),
        seconds=dict.fromkeys(QUERIES, ms / 1000),
        scored=dict.fromkeys(QUERIES, len(order)),
        **options,  # type: ignore[arg-type]
    )


def staged(*stages: StageRun, total_ms: float = 10.0, budget_s: float | None = None) -> StagedRun:
    return StagedRun(stages, dict.fromkeys(QUERIES, total_ms / 1000), budget_s, {"name": "demo"})


BM25 = stage("bm25", ["x", "y", "good", "also", "z"], 4, 1.0)
GOOD = stage(
    "good_reranker", ["good", "x", "y", "also"], 3, 8.0, inputs=("bm25",), granted_s=dict.fromkeys(QUERIES, 0.005)
)
BAD = stage("bad_reranker", ["x", "y", "good"], 3, 4.0, inputs=("good_reranker",))
SAME = stage("same", ["x", "y", "good"], 3, 4.0, inputs=("bad_reranker",))


def test_each_stage_is_judged_against_its_input() -> None:
    report = gap_report(staged(BM25, GOOD, BAD, SAME), QRELS)
    assert [s.verdict for s in report.stages] == ["starts", "pays", "hurts", "does not pay"]
    before = evaluate(BM25.ranked, QRELS).means["nDCG@10"]
    after = evaluate(GOOD.ranked, QRELS).means["nDCG@10"]
    gain = report.stages[1].gain
    assert gain is not None
    assert gain.compared_with == "bm25"
    assert gain.difference == pytest.approx(after - before)
    assert (gain.low, gain.high) == pytest.approx((after - before, after - before))
    assert gain.p_value == 2 / 2**10
    assert gain.p_adjusted == 3 * 2 / 2**10
    assert report.stages[1].ms_per_point == pytest.approx(8.0 / (100 * (after - before)))
    assert report.stages[2].ms_per_point is None
    assert report.stages[1].sentence == (
        f"good_reranker pays: nDCG@10 {after - before:+.3f} over bm25 ({before:.3f} to {after:.3f}, p = 0.0059) "
        "for 8 ms a query."
    )
    assert report.stages[3].sentence == (
        "same does not pay: nDCG@10 stays what bad_reranker made it, 0.307, for 4 ms a query."
    )


def test_difference_that_may_be_chance_does_not_pay() -> None:
    ranked = {**BM25.ranked, "q0": ["good", "also", "x"]}
    report = gap_report(staged(BM25, replace(GOOD, name="lucky", ranked=ranked, survivors=ranked)), QRELS)
    gain = report.stages[1].gain
    assert gain is not None
    assert gain.difference > 0
    assert report.stages[1].verdict == "does not pay"
    assert "p = 1) may be chance, for 8 ms a query." in report.stages[1].sentence


def test_stage_that_never_ran_is_not_judged_and_one_cut_short_says_so() -> None:
    absent = replace(SAME, scored=dict.fromkeys(QUERIES, 0), shortfalls=dict.fromkeys(QUERIES, "skipped"))
    hasty = replace(GOOD, shortfalls={"q0": "budget", "q1": "budget", "q2": "failed"})
    report = gap_report(staged(BM25, hasty, BAD, absent), QRELS)
    assert [s.verdict for s in report.stages] == ["starts", "pays", "hurts", "did not run"]
    assert report.stages[1].shortfalls == {"budget": 2, "failed": 1}
    assert report.stages[1].sentence.endswith(" It ran out of time on 2, failed on 1 of 10 queries.")
    assert report.stages[3].sentence.startswith("same did not run, so nothing can be said of it")
    assert report.stages[3].sentence.endswith(" It was skipped on 10 of 10 queries.")


def test_time_of_a_fusion_holds_that_of_its_inputs() -> None:
    dense = stage("dense", ["x", "good", "y"], 3, 2.0)
    fused = stage("rrf", ["good", "also", "x"], 3, 4.0, inputs=("bm25", "dense"), holds_inputs=True)
    last = stage("last", ["good", "also", "x"], 3, 10.0, inputs=("rrf",))
    report = gap_report(staged(BM25, dense, fused, last), QRELS)
    assert [s.elapsed_ms for s in report.stages] == pytest.approx([1.0, 2.0, 4.0, 14.0])
    gain = report.stages[2].gain
    assert gain is not None
    assert gain.compared_with == "bm25"
    assert report.stages[2].ms_per_point == pytest.approx((4.0 - 1.0) / (100 * gain.difference))
    assert report.stages[2].latency_ms.mean == pytest.approx(4.0)


def test_time_until_the_end_of_a_stage_is_added_up_query_by_query() -> None:
    slow_first = {query_id: (9.0 if number == 0 else 1.0) / 1000 for number, query_id in enumerate(QUERIES)}
    slow_last = {query_id: (9.0 if number == 9 else 1.0) / 1000 for number, query_id in enumerate(QUERIES)}
    first, last = replace(BM25, seconds=slow_first), replace(GOOD, seconds=slow_last)
    report = gap_report(staged(first, last), QRELS)
    until, own = report.stages[1].until_end_ms, report.stages[1].latency_ms
    assert (until.mean, until.p50, until.p95, until.p99) == pytest.approx((3.6, 2.0, 10.0, 10.0))
    assert (own.mean, own.p50, own.p95, own.p99) == pytest.approx((1.8, 1.0, 9.0, 9.0))
    assert report.stages[1].to_json()["elapsed_ms"] == until.mean
    assert report.stages[1].to_json()["until_end_ms"] == until.to_json()
    (table,) = [table for table in gap_tables(report) if table.title.startswith("Time until the end")]
    assert table.rows == (("bm25", "1.00", "9.00", "9.00"), ("good_reranker", "2.00", "10.00", "10.00"))


def test_cuts_show_their_ceiling_and_what_they_lose() -> None:
    report = gap_report(staged(BM25, GOOD, BAD), QRELS)
    assert [s.recall_ceiling for s in report.stages] == [1.0, 0.5, 0.5]
    assert [s.relevant_lost for s in report.stages] == [0, 10, 0]
    assert [s.relevant_received for s in report.stages] == [20, 20, 10]
    assert [(s.precision_before, s.precision_after) for s in report.stages] == [
        (None, pytest.approx(0.2)),
        (pytest.approx(0.2), pytest.approx(0.2)),
        (pytest.approx(0.2), pytest.approx(0.1)),
    ]


def test_what_a_retriever_never_found_counts_as_lost_by_it() -> None:
    report = gap_report(staged(stage("bm25", ["good"], 1, 1.0)), [*QRELS, Qrel("elsewhere", "d", 1)])
    assert report.stages[0].relevant_lost == 11
    assert report.missing == ("elsewhere",)
    assert report.stages[0].recall_ceiling == pytest.approx(0.5 * 10 / 11)


def test_latency_percentiles_are_nearest_ranks_and_budgets_are_counted() -> None:
    seconds = {q: (i + 1) / 1000 for i, q in enumerate(QUERIES)}
    slow = replace(BM25, seconds=seconds, granted_s=dict.fromkeys(QUERIES[1:], 0.008))
    run = replace(staged(slow), seconds={q: (i + 1) / 100 for i, q in enumerate(QUERIES)}, budget_s=0.05)
    report = gap_report(run, QRELS)
    latency = report.stages[0].latency_ms
    assert (latency.mean, latency.p50, latency.p95, latency.p99) == pytest.approx((5.5, 5.0, 10.0, 10.0))
    assert report.stages[0].over_budget == pytest.approx(0.2)
    assert report.stages[0].scored_mean == 5
    assert report.latency_ms.p50 == pytest.approx(50)
    assert report.over_budget == pytest.approx(0.5)
    assert gap_report(staged(BM25), QRELS).over_budget is None


def test_fusion_is_compared_with_the_best_of_its_inputs() -> None:
    weak = stage("dense", ["x", "y", "z", "also"], 4, 1.0)
    fused = stage("rrf", ["good", "also", "x"], 3, 0.1, inputs=("dense", "bm25"))
    report = gap_report(staged(BM25, weak, fused), QRELS)
    assert report.stages[2].gain is not None
    assert report.stages[2].gain.compared_with == "bm25"
    assert [s.relevant_lost for s in report.stages] == [0, 10, 0]


def test_report_is_json_with_the_documented_keys() -> None:
    report = gap_report(staged(BM25, GOOD), QRELS, ["RR@10"]).to_json()
    parsed = json.loads(json.dumps(report, allow_nan=False))
    assert parsed == report
    assert parsed["query_count"] == parsed["judged_count"] == 10
    assert parsed["config"] == {"name": "demo"}
    assert parsed["stages"][1]["name"] == "good_reranker"
    assert list(parsed["stages"][1]["measures"]) == ["RR@10", "nDCG@10", "P@10"]
    assert parsed["stages"][1]["over_budget"] == 1.0
    assert parsed["stages"][0]["latency_ms"] == pytest.approx({"mean": 1.0, "p50": 1.0, "p95": 1.0, "p99": 1.0})
    assert parsed["stages"][0]["gain"] is None


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "at least one stage"),
        ([BM25, BM25], "got 'bm25' twice"),
        ([GOOD], r"good_reranker: expected inputs among the earlier stages \[\], got \['bm25'\]"),
        ([replace(BM25, scored={})], r"bm25\.scored: expected the 10 queries of the run"),
        ([replace(BM25, survivors={q: ["other"] for q in QUERIES})], "expected survivors among the ranked"),
    ],
)
def test_inconsistent_run_is_refused(stages: list[StageRun], message: str) -> None:
    with pytest.raises(InputError, match=message):
        staged(*stages)


def test_rendering_fits_a_terminal_of_80_characters_and_shows_every_number() -> None:
    unjudged = [qrel for qrel in QRELS if qrel.query_id != "q0"]
    report = gap_report(staged(BM25, GOOD, BAD), [*unjudged, Qrel("elsewhere", "d", 1)])
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(render(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    words = " ".join(text.split())
    for stage_report in report.stages:
        assert stage_report.sentence in words
        assert f"{stage_report.name} " + " ".join(f"{v:.3f}" for v in stage_report.measures.values()) in words
    gain = report.stages[1].gain
    assert gain is not None
    interval = f"[{gain.low:+.3f}, {gain.high:+.3f}]"
    assert f"good_reranker bm25 {gain.difference:+.3f} {interval} 0.180 → 0.180" in words
    assert "good_reranker 4.0 8.00 8.00 8.00 100.0%" in words
    assert "1 judged query has no results, which counts as zero: elsewhere." in words
    assert "1 query without judgments, for latency only: q0." in words
    assert "Without a budget queries may share batches" in words
    assert "…" not in text


def test_many_measures_are_spread_over_tables() -> None:
    measures = [f"P@{k}" for k in range(1, 9)]
    tables = gap_tables(gap_report(staged(BM25), QRELS, measures))
    assert [len(table.headings) for table in tables[:2]] == [6, 6]
    assert tables[0].headings[1:] + tables[1].headings[1:] == (*measures, "nDCG@10", "P@10")
