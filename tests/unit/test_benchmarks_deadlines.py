import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from cascade.trace import StageTrace, Trace
from cascade.types import Hit, Qrel, Query, Ranking

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QRELS = [Qrel("q", "x", 1)]
BUDGET_MS = 50.0
STAGE = StageTrace(
    name="score",
    kind="scorer",
    received=9,
    planned=9,
    scored=4,
    passed=9,
    batches=1,
    predicted_s=0.01,
    waited_s=0.0,
    seconds=0.01,
    budget_s=math.inf,
    slack_s=0.0,
    reason="complete",
)


@pytest.fixture(scope="module")
def deadlines():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("deadlines")


def stage(**changes):
    return StageTrace(**{name: getattr(STAGE, name) for name in STAGE.__slots__} | changes)


def answer(deadlines, taken_s, *, due_s=0.0, doc_ids=("x",), **rest):
    return deadlines.Answer("q", due_s, due_s + taken_s, doc_ids, **rest)


def cut(deadlines, taken_s, waited_s=0.0, **rest):
    return answer(deadlines, taken_s, degraded=True, waited_s=waited_s, reasons=("score: budget",), **rest)


class Lost:
    """A machine that loses half of the time between two moments."""

    def __init__(self, start_s=0.0, end_s=0.0):
        self.start_s, self.end_s = start_s, end_s

    def between(self, start_s, end_s):
        return 0.5 * max(0.0, min(end_s, self.end_s) - max(start_s, self.start_s))


def test_a_row_tells_what_the_machine_lost_from_our_lateness_and_counts_reasons(deadlines):
    answers = [
        answer(deadlines, 0.010, scored=(("score", 8),)),
        cut(deadlines, 0.040, scored=(("score", 4),)),
        cut(deadlines, 0.060, due_s=1.0, scored=(("score", 0),)),
        cut(deadlines, 0.060, due_s=2.0, scored=(("score", 0),)),
        deadlines.Answer("q", 2.5, 2.501, reasons=("Overloaded",)),
    ]
    row = deadlines.summary("a load", BUDGET_MS, answers, QRELS, Lost(1.02, 1.06))
    assert (row["over budget"], row["of these not by the machine"]) == (2, 1)
    assert (row["refused"], row["degraded"], row["empty"], row["without a reason"]) == (1, 3, 0, 0)
    assert row["reasons"] == {"score: budget": 3, "Overloaded": 1}
    assert row["mean depth"] == {"score": 3.0}
    assert row["lost by the machine"] == pytest.approx(0.02 / 2.501)
    assert row["goodput per s"] == pytest.approx(2 / 2.501)
    assert row["nDCG@10"] == pytest.approx(4 / 5)
    assert row["late"]["by ms"] == [10.0, 10.0]
    assert row["late"]["the machine lost ms"] == [20.0, 0.0]
    json.dumps(row)


def test_only_degraded_answers_tell_how_much_of_the_budget_was_used(deadlines):
    answers = [answer(deadlines, 0.001), cut(deadlines, 0.045, waited_s=0.030), cut(deadlines, 0.040)]
    used = deadlines.budget_used(answers, 0.05)
    assert used["budget used"] == pytest.approx(0.85)
    assert used["used of what the queue left"] == pytest.approx((0.015 + 0.040) / (0.020 + 0.050))


def test_lateness_is_no_use_of_the_budget(deadlines):
    used = deadlines.budget_used([cut(deadlines, 0.5), cut(deadlines, 0.025)], 0.05)
    assert list(used.values()) == pytest.approx([0.75, 0.75])


def test_without_a_degraded_answer_nothing_is_said_of_the_budget(deadlines):
    assert set(deadlines.budget_used([answer(deadlines, 0.001)], 0.05).values()) == {None}
    assert set(deadlines.budget_used([cut(deadlines, 0.05, waited_s=0.05)], 0.05).values()) == {1.0, None}


def test_an_empty_or_degraded_answer_needs_a_reason(deadlines):
    answers = [answer(deadlines, 0.01, degraded=True), answer(deadlines, 0.01, doc_ids=()), cut(deadlines, 0.01)]
    assert deadlines.summary("a load", BUDGET_MS, answers, QRELS, Lost())["without a reason"] == 2


def test_reasons_name_every_stage_that_fell_short(deadlines):
    retrievers = (stage(name="words"), stage(name="meaning", reason="failed", detail="OSError: gone"))
    stages = (
        stage(name="hybrid", retrievers=retrievers),
        stage(reason="saturated", detail="enough"),
        stage(name="odd", quarantined=2),
        stage(name="cut", reason="budget"),
        stage(name="last", reason="skipped", detail="no time left"),
    )
    assert list(deadlines.why(stages)) == [
        "meaning: failed, OSError: gone",
        "odd: scores that were not finite",
        "cut: budget",
        "last: skipped, no time left",
    ]


def test_an_answer_keeps_its_waiting_and_its_reasons(deadlines):
    stages = (stage(name="first", waited_s=0.25), stage(waited_s=0.125, reason="budget"))
    hit = Hit(1, "x", 1.0, "score", "its text")
    ranking = Ranking(Query("q", "?"), (hit,), Trace("chain", 1.0, 0.5, 0.25, stages))
    kept = deadlines.kept(Query("q", "?"), 0.0, ranking)
    assert (kept.doc_ids, kept.degraded, kept.waited_s, kept.reasons) == (("x",), True, 0.375, ("score: budget",))
    assert kept.scored == (("first", 4), ("score", 4))


def test_the_runtime_of_a_stage_is_the_one_that_was_chosen(deadlines):
    def opened(name, **what):
        return SimpleNamespace(planned=SimpleNamespace(name=name), opened=SimpleNamespace(**what))

    run = SimpleNamespace(cascade=SimpleNamespace(stages=(opened("words"), opened("score", runtime=Path()))))
    engine = SimpleNamespace(runs=lambda queries: [run for _ in queries])
    assert deadlines.runtimes(engine, Query("q", "?")) == {"score": type(Path()).__name__}


def cells(deadlines, late=4, queries=10_000, used=0.8, goodput=8.0):
    common = {"budget ms": BUDGET_MS, "without a reason": 0, "budget used": 0.9, "used of what the queue left": used}
    return [
        {**common, "load": "one client", "queries per s": 10.0},
        {**common, "load": "70% of capacity", "queries": queries, "of these not by the machine": late},
        {**common, "load": "150% of capacity", "goodput per s": goodput},
    ]


def test_every_goal_is_met_at_its_very_edge(deadlines):
    goals = deadlines.goals(cells(deadlines), BUDGET_MS)
    assert [goal["measured"] for goal in goals] == [4, 0.9, 0.8, 0.8, 0]
    assert all(goal["met"] for goal in goals)


@pytest.mark.parametrize(
    ("missed", "changes"),
    [(0, {"late": 5}), (0, {"late": 0, "queries": 9_999}), (2, {"used": 0.79}), (3, {"goodput": 7.9})],
)
def test_a_goal_that_is_missed_is_said_to_be(deadlines, missed, changes):
    goals = deadlines.goals(cells(deadlines, **changes), BUDGET_MS)
    assert [number for number, goal in enumerate(goals) if not goal["met"]] == [missed]


def test_lateness_is_asked_of_the_main_budget_and_use_only_where_something_was_cut(deadlines):
    goals = deadlines.goals(cells(deadlines, used=None), 25.0)
    assert [goal["goal"] for goal in goals] == [
        "budget used",
        "goodput, of capacity",
        "degraded, refused or empty without a reason",
    ]


def test_the_readme_shows_the_goals(deadlines):
    readme = importlib.import_module("benchmarks.readme")
    rows = [
        {"load": "a load", "budget used": None, "reasons": {}},
        {"load": "other", "budget used": 0.5, "reasons": {}},
    ]
    table = readme.deadlines({"cells": rows, "goals": deadlines.goals(cells(deadlines, late=5), BUDGET_MS)})
    assert "| a load |  |\n| other | 0.5 |" in table
    assert (
        "| 70% of capacity | 50 | over budget and not by the machine, of 10,000 | 5 | at most 4 of 10,000 | no |"
        in table
    )
    assert "| 150% of capacity | 50 | goodput, of capacity | 0.8 | at least 0.8 | yes |" in table
    assert "goal" not in readme.deadlines({"cells": rows})
