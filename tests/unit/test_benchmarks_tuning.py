"""The tuning benchmark: what it compares, on which queries, and that it says what does not hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tuning as benchmark
from benchmarks.readme import tuning as table
from cascade.api import index_corpus
from cascade.cli.app import run_command
from cascade.io import read_corpus
from cascade.load import load_config, parse_config
from cascade.tuner import Evaluation, First, Goal, Judgments, Limits, Point, Replayer, SearchSpace, Tuning
from cascade.tuner.choice import Fold
from cascade.tuner.study import Trial
from tests.tuner_for_tests import CASCADE, Machine, judgments, recorded

MACHINE = Machine()
REGISTRY = MACHINE.registry()
HALF = np.array([True] * 4 + [False] * 4)
HALVES = [Fold(HALF, ~HALF)]
TURNS = [Fold(HALF, ~HALF), Fold(~HALF, HALF)]
GOAL = Goal(50, confidence=0.9)


def trial(name: str, quality: list[float], ms: list[float]) -> Trial:
    """Quality and milliseconds in the first half of eight queries, then in the second."""
    point = Point(First((name,)), (), (), Limits())
    return Trial(point, np.repeat(quality, 4), np.repeat(ms, 4) / 1000)


def tuning_of(trials: list[Trial], folds: list[Fold] = HALVES) -> Tuning:
    return Tuning(trials, np.arange(8), folds, GOAL)


def evaluation(quality: list[float], ms: list[float]) -> Evaluation:
    config = parse_config("version: 1\nname: written\nstages: [{name: bm25, kind: bm25, top_k: 10}]\n")
    one = trial("written", quality, ms)
    no = np.zeros(8, np.bool_)
    measures, query_ids = {"nDCG@10": one.quality}, [str(number) for number in range(8)]
    return Evaluation(config, np.arange(8), query_ids, measures, one.seconds, no, no, {}, {})


@pytest.mark.parametrize(
    ("tuned", "as_good", "not_slower"),
    [
        (([0.6, 0.5], [10, 20]), True, True),
        (([0.9, 0.4], [10, 20]), False, True),
        (([0.6, 0.6], [10, 21]), True, False),
    ],
)
def test_tuned_is_compared_in_quality_and_latency_on_queries_left_out(
    tuned: tuple[list[float], list[float]], as_good: bool, not_slower: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The choice is made on the first half, where the tuned cascade is always the better one."""
    trials = [trial("tuned", *tuned), trial("too-slow", [1.0, 1.0], [11, 1])]
    (row,) = benchmark.compared(tuning_of(trials), {"written.yaml": evaluation([0.5, 0.5], [10, 20])})
    assert (row["as_good"], row["not_slower"]) == (as_good, not_slower)
    assert (row["ms"], row["own"]) == (pytest.approx(20), pytest.approx(0.5))
    assert (row["tuned_ms"], row["tuned"]) == (pytest.approx(tuned[1][1]), pytest.approx(tuned[0][1]))
    assert row["low"] <= row["gain"] <= row["high"]
    said = capsys.readouterr().out
    assert ("DOES NOT HOLD: tuned is worse or slower than written.yaml" in said) == (not (as_good and not_slower))


def test_in_turns_the_latency_to_keep_is_that_of_the_queries_that_choose() -> None:
    """In one turn the configuration takes 10 ms, in the other 30; in neither may the choice go by both."""
    trials = [trial("quick", [0.4, 0.4], [10, 10]), trial("slow", [0.8, 0.8], [30, 30])]
    (row,) = benchmark.compared(tuning_of(trials, TURNS), {"written.yaml": evaluation([0.5, 0.5], [10, 30])})
    assert row["tuned"] == pytest.approx(0.6)


def test_hypervolumes_are_of_the_queries_left_out_of_either_choice(capsys: pytest.CaptureFixture[str]) -> None:
    lucky, solid = trial("lucky", [0.9, 0.2], [10, 10]), trial("solid", [0.5, 0.5], [20, 20])
    found = benchmark.hypervolumes(tuning_of([lucky]), [solid, trial("slow", [0.6, 0.7], [40, 60])])
    assert found["latency_ms"] == pytest.approx(60)
    assert found["tuned"] == pytest.approx(50 * 0.2)
    assert found["grid"] == pytest.approx(40 * 0.5)
    assert (found["grid_size"], found["at_least_grid"]) == (2, False)
    assert found["low"] == found["high"] == pytest.approx(-10), "one query is left out, and drawn every time"
    assert "DOES NOT HOLD: the hypervolume" in capsys.readouterr().out
    assert benchmark.hypervolumes(tuning_of([lucky, solid]), [lucky])["at_least_grid"] is True


def test_the_grid_is_spread_over_the_space_and_replayed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recorded(tmp_path, MACHINE, queries=4)
    space = SearchSpace.of(recording, registry=REGISTRY)
    replayer = Replayer(recording, Judgments.of(judgments(recording), recording), registry=REGISTRY)
    points = list(space.points())
    monkeypatch.setattr(benchmark, "GRID", 5)
    grid = benchmark.replay_grid(replayer, space, "nDCG@10")
    assert [trial.point for trial in grid] == [points[round(at)] for at in np.linspace(0, len(points) - 1, 5)]
    alone = replayer.run(space.config(points[-1]))
    assert grid[-1].quality == pytest.approx(alone.measures["nDCG@10"])
    assert grid[-1].seconds == pytest.approx(alone.seconds)
    monkeypatch.setattr(benchmark, "GRID", 1000)
    assert len(benchmark.replay_grid(replayer, space, "nDCG@10")) == len(points)


def test_a_short_front_is_filled_up_with_the_best_of_the_others() -> None:
    trials = [
        trial("worse", [0.3, 0], [5, 5]),
        trial("front", [0.5, 0], [4, 4]),
        trial("the same", [0.5, 0], [4, 4]),
        trial("slow front", [0.9, 0], [9, 9]),
        trial("worst", [0.2, 0], [6, 6]),
        trial("useless", [0.0, 0], [1, 1]),
    ]
    names = [[trials[i].point.label() for i in benchmark.to_verify(tuning_of(trials), most)] for most in (1, 2, 3, 10)]
    assert names[0] == ["front"]
    assert names[1] == ["front", "slow front"]
    assert names[2] == ["front", "worse", "slow front"]
    assert names[3] == ["front", "worse", "worst", "slow front"]


def test_a_long_front_is_verified_at_its_ends_and_between() -> None:
    trials = [trial(f"{n}", [n / 10, 0], [n, n]) for n in range(1, 10)]
    assert benchmark.to_verify(tuning_of(trials), 3) == [0, 4, 8]


def test_configurations_that_were_not_recorded_are_named_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = recorded(tmp_path, MACHINE, queries=4)
    replayer = Replayer(recording, Judgments.of(judgments(recording), recording), registry=REGISTRY)
    (tmp_path / "own.yaml").write_text(CASCADE)
    (tmp_path / "other.yaml").write_text(CASCADE.replace("seed: 4", "seed: 5"))
    written, left_out = benchmark.replayed(
        replayer, [tmp_path / "own.yaml", tmp_path / "other.yaml", tmp_path / "none.yaml"], REGISTRY
    )
    assert list(written) == ["own.yaml"]
    assert len(written["own.yaml"]) == 4
    assert "no recorded stage has its settings" in left_out["other.yaml"]
    assert "left out: none.yaml" in capsys.readouterr().out


def result(**changes: object) -> dict[str, object]:
    row = {"config": "good.yaml", "ms": 20.0, "own": 0.5, "tuned_ms": 18.0, "tuned": 0.51, "gain": 0.01}
    row |= {"low": -0.02, "high": 0.04, "as_good": True, "not_slower": True}
    volume = {
        "latency_ms": 90.0,
        "tuned": 40.0,
        "grid": 41.5,
        "low": -3.0,
        "high": 0.5,
        "grid_size": 200,
        "at_least_grid": False,
    }
    verified = [
        {"label": "fine", "predicted_ms": 20.0, "measured_ms": 21.0, "again_ms": 24.0, "holds": True},
        {"label": "off", "predicted_ms": 20.0, "measured_ms": 30.0, "again_ms": 29.0, "holds": False},
    ]
    return {
        "budgets": [{"budget_ms": 25.0, "none": "too slow"}],
        "plot": "tuning-demo.png",
        "hand_written": [row, {**row, "config": "bad.yaml", "tuned_ms": 21.0, "not_slower": False}],
        "left_out": {"msmarco.yaml": "no recorded stage has its settings"},
        "hypervolume": volume,
        "verified": {"held": 1, "points": verified},
        **changes,
    }


def test_the_readme_says_what_does_not_hold() -> None:
    text = table(result())
    lines = text.splitlines()
    assert "| 25 | none is fast enough |  |  |" in lines
    assert "| good.yaml | 20 | 0.5 | 18 | 0.51 | +0.010 (-0.020 to +0.040) | yes | yes |" in lines
    assert "| bad.yaml | 20 | 0.5 | 21 | 0.51 | +0.010 (-0.020 to +0.040) | yes | **no** |" in lines
    assert "Tuned is at least as good and not slower in 1 of 2, and worse beyond chance in 0." in lines
    assert "Not compared, since not all of it was recorded: msmarco.yaml." in lines
    volumes = "Hypervolume on queries left out 40.00 ms, of a grid of 200 cascades 41.50 ms"
    assert f"{volumes}: **less**, -1.50 (-3.00 to +0.50)." in lines
    assert "| off | 20 | 30 | 29 | **no** |" in lines
    held = "1 of 2 within 10% of the latency and 0.005 of the quality."
    assert f"{held} Measured once more, 1 of them are that far from what they were themselves." in lines
    assert "(results/tuning-demo.png)" in text


BM25 = """
version: 1
name: recorded
stages:
  - name: hybrid
    kind: fusion
    method: rrf
    top_k: 20
    retrievers:
      - {name: one, kind: bm25, top_k: 20}
      - {name: other, kind: bm25, k1: 0.5, b: 0.3, top_k: 20}
"""
WRITTEN = """
version: 1
name: by-hand
stages:
  - {name: mine, kind: bm25, top_k: 7}
"""
SUBJECTS = ("cat", "dog", "ship", "whale", "king", "river")
ACTIONS = ("sleeps on the mat", "chases a stick", "leaves at dawn", "is late")


@pytest.mark.slow
def test_from_a_recording_to_figures_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    texts = [f"the {subject} {action}" for subject in SUBJECTS for action in ACTIONS]
    corpus, queries, qrels = (tmp_path / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    corpus.write_text("".join(f'{{"_id": "d{n}", "text": "{text}"}}\n' for n, text in enumerate(texts)))
    queries.write_text("".join(f'{{"_id": "q{n}", "text": "{text[4:]}"}}\n' for n, text in enumerate(texts)))
    qrels.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(len(texts))))
    config, written = tmp_path / "recorded.yaml", tmp_path / "by-hand.yaml"
    config.write_text(BM25)
    written.write_text(WRITTEN)
    index, recording, out = tmp_path / "index", tmp_path / "T.parquet", tmp_path / "found.json"
    index_corpus(load_config(config), read_corpus(corpus), index, threads=1)
    given = ["--config", config, "--index", index, "--queries", queries, "--out", recording, "--depth", "20"]
    assert run_command(["record", *map(str, given), "--threads", "1"]) == 0
    given = ["--recording", recording, "--qrels", qrels, "--configs", written, "--index", index, "--out", out]
    options = ["--percentile", "80", "--budgets-ms", "0.0001", "1000", "--verify", "3", "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["tuning", *map(str, given), *options])
    assert benchmark.main() == 0
    report = json.loads(out.read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert report["plot"] == "found.png"
    assert [row["config"] for row in report["hand_written"]] == ["by-hand.yaml"]
    assert "by-hand: one" in [one["label"] for one in report["front"]["tried"]]
    assert report["hypervolume"]["grid_size"] == len(report["front"]["tried"]) - 1
    assert len(report["verified"]["points"]) == 3
    assert report["verified"]["held"] == sum(one["holds"] for one in report["verified"]["points"])
    assert "none is fast enough" in capsys.readouterr().out
    assert "by-hand.yaml" in table(report)
