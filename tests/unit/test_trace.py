from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cascade.trace import StageTrace, Trace
from tests.fakes import FakeFuser, FakeReranker, FakeRetriever, answer, cascade, raises, stage, varied_lengths

GOLDEN = Path(__file__).parents[1] / "golden" / "trace.json"
N = 100


def fixed_run() -> Trace:
    """Two retrievers fused, a reranker cut short, one that fails, one left without time."""
    lengths = varied_lengths(N)
    pair = [stage("bm25", FakeRetriever(N, 25, 1), 30), stage("dense", FakeRetriever(N, 50, 2), 30, budget_s=0.005)]
    opened = cascade(
        stage("rrf", FakeFuser(), 50, retrievers=pair),
        stage("colbert", FakeReranker(lengths), 20, budget_s=0.02),
        stage("broken", FakeReranker(lengths, fault=raises), 10, budget_s=0.01),
        stage("cross_encoder", FakeReranker(lengths, seed=7), 5, on_overrun="skip"),
        passages=N,
        budget_s=0.04,
    )
    return answer(opened, 0.04).trace


def test_the_json_of_a_trace_is_as_it_was():
    """The keys are an interface: when they change on purpose, write the file anew, and raise TRACE_VERSION if one of
    them means something else.
    """
    assert json.loads(fixed_run().to_json()) == json.loads(GOLDEN.read_text())


def part(**changes) -> StageTrace:
    fields = {
        "name": "ce",
        "kind": "cross_encoder",
        "received": 10,
        "planned": 10,
        "scored": 10,
        "passed": 5,
        "batches": 2,
        "predicted_s": 0.01,
        "waited_s": 0.0,
        "seconds": 0.009,
        "budget_s": math.inf,
        "slack_s": math.inf,
        "reason": "complete",
        **changes,
    }
    return StageTrace(**fields)


@pytest.mark.parametrize("reason", ["budget", "skipped", "failed", "cancelled"])
def test_a_stage_that_ended_early_is_degraded(reason):
    assert part(reason=reason).degraded
    assert part(retrievers=(part(reason=reason),)).degraded


def test_a_stage_that_did_all_it_could_is_not():
    assert not part().degraded
    assert not part(reason="saturated").degraded
    assert part(quarantined=1).degraded


def test_a_trace_is_late_by_what_it_took_too_long():
    trace = Trace("c", 0.1, 0.15, 0.0, (part(),))
    assert trace.overshoot_s == pytest.approx(0.05)
    assert Trace("c", math.inf, 9.0, 0.0, ()).overshoot_s == 0.0


def test_json_has_no_infinity_and_no_nan():
    text = Trace("c", math.inf, 0.15, 0.0, (part(predicted_s=math.nan),)).to_json()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert data["budget_ms"] is None
    assert data["stages"][0]["predicted_ms"] is None
    assert data["ms"] == 150.0
