import asyncio
import importlib
import threading
from pathlib import Path

import numpy as np
import pytest

from cascade.api import Cascade, index_corpus
from cascade.index import Index
from cascade.io import read_corpus
from cascade.types import Query
from tests.models_for_tests import joint_encoder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SUBJECTS = ("cat", "dog", "ship", "whale", "king", "river", "clock", "engine")
ACTIONS = ("sleeps on the mat", "chases a stick for hours", "leaves the harbour at dawn", "is late")
QUERY = Query("q", "the whale leaves at dawn")


@pytest.fixture(scope="module")
def baseline():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("baseline")


@pytest.fixture(scope="module")
def opened(baseline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    texts = [f"the {subject} {action}" for subject in SUBJECTS for action in ACTIONS]
    lines = [f'{{"_id": "d{number}", "text": "{text}"}}' for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    model = folder / "model"
    model.mkdir()
    config = baseline.cascade(str(joint_encoder(model)), "torch", 20)
    index_corpus(config, read_corpus(folder / "corpus.jsonl"), folder / "index", threads=1)
    index = Index.open(folder / "index")
    return config, index, baseline.Program(config, index)


def test_both_sides_give_the_same_answer_when_there_is_time(opened):
    config, index, program = opened
    with Cascade(config, index=index, threads=1) as engine:
        ours = [hit.doc_id for hit in engine.search(QUERY, top_k=10, budget_ms=None)]
    theirs = program.best(program.rerank(QUERY, program.find(QUERY), 20))
    assert len(ours) == 10
    assert ours == list(theirs)


def test_what_is_not_reranked_keeps_its_order(opened):
    _, _, program = opened
    rows = program.find(QUERY)
    ranked = program.rerank(QUERY, rows, 5)
    assert sorted(ranked[:5].tolist()) == sorted(rows[:5].tolist())
    assert ranked[5:].tolist() == rows[5:].tolist()
    assert program.rerank(QUERY, rows, 0).tolist() == rows.tolist()


class Slow:
    """A pipeline with a clock of its own, one step of which uses up all time and lasts until it is let go."""

    def __init__(self, step):
        self.step, self.now_s, self.go_on = step, 0.0, threading.Event()

    def now(self):
        return self.now_s

    def find(self, query):
        if self.step == "find":
            self.go_on.wait()
        if self.step == "rerank":
            self.now_s = 100.0
        return np.array([2, 0, 1], np.int32)

    def rerank(self, query, rows, depth):
        if self.step == "rerank":
            self.go_on.wait()
        return rows[::-1]

    def best(self, rows):
        return tuple(f"d{row}" for row in rows.tolist())


@pytest.mark.parametrize(
    ("slow", "fall_back", "expected"),
    [
        ("none", True, (("d1", "d0", "d2"), 3)),
        ("rerank", True, (("d2", "d0", "d1"), 0)),
        ("rerank", False, ((), 0)),
        ("find", True, ((), 0)),
    ],
)
def test_a_timeout_falls_back_on_what_is_there(baseline, slow, fall_back, expected):
    pipeline = Slow(slow)

    async def one():
        with baseline.with_timeout(pipeline, 3, fall_back=fall_back, now=pipeline.now) as ask:
            reply = await ask(QUERY, 0.0 if slow == "find" else 60.0)
            pipeline.go_on.set()
            return reply

    assert asyncio.run(one()) == expected


def test_the_depth_is_the_largest_within_the_budget(baseline):
    asked = []

    def taken_s(depth):
        asked.append(depth)
        return np.array([depth * 0.001, depth * 0.003])

    assert baseline.deepest(taken_s, baseline.FITS["mean"], 0.05, 100) == 25
    assert len(set(asked)) < 10
    assert baseline.deepest(taken_s, baseline.FITS["mean"], 9.0, 100) == 100
    assert baseline.deepest(lambda depth: np.array([1.0]), baseline.FITS["mean"], 0.05, 100) == 0


def cell(baseline, system, late_or_empty, gains):
    row = {"load": "one client", "budget ms": 50.0, "system": system, "queries": 128, "late or empty": late_or_empty}
    return baseline.Cell(row, ("a", "b"), np.array(gains))


@pytest.mark.parametrize(
    ("ours", "theirs", "times", "met"),
    [
        ((2 / 128, [0.5, 0.5]), (32 / 128, [0.5, 0.5]), 16, True),
        ((4 / 128, [0.5, 0.5]), (32 / 128, [0.4, 0.5]), 8, False),
        ((2 / 128, [0.4, 0.5]), (32 / 128, [0.5, 0.5]), 16, False),
        ((0.0, [0.5, 0.5]), (16 / 128, [0.5, 0.5]), 16, True),
        ((0.0, [0.5, 0.5]), (1 / 128, [0.5, 0.5]), 1, False),
        ((0.0, [0.5, 0.5]), (0.0, [0.5, 0.5]), 0, False),
    ],
)
def test_the_goal_wants_ten_times_fewer_late_answers_and_no_worse_ones(baseline, ours, theirs, times, met):
    cells = [cell(baseline, "cascade", *ours), cell(baseline, "other", *theirs)]
    (goal,) = baseline.compared(cells)
    assert goal["met"] is met
    assert goal["times fewer"] == times


def test_ndcg_counts_every_answer_also_of_a_query_asked_twice(baseline):
    from cascade.types import Qrel

    answers = [("a", ("x", "y")), ("a", ("y", "x")), ("a", ()), ("unjudged", ("x",))]
    found = baseline.ndcg_of_each(answers, [Qrel("a", "x", 1)])
    assert found.tolist() == pytest.approx([1.0, 1 / np.log2(3), 0.0, 0.0])
