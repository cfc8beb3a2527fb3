"""From recording to a verified cascade, over a real index, by the commands that a user types."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.api import Cascade, index_corpus
from cascade.cli.app import EXIT_INPUT, EXIT_USAGE, run_command
from cascade.errors import InputError
from cascade.index import Index
from cascade.io import read_corpus, read_qrels
from cascade.load import load_config, parse_config
from cascade.planner import plan
from cascade.tuner import Judgments, Recording, Replayer, Subject, record, replay
from cascade.tuner.verification import ANSWERS, BLOCK, MOST_PASSES, PACED, verify
from cascade.types import Query, Ranking
from tests.integration.conftest import Small

QUESTIONS = 20
DEPTH = 60
OTHERS = """\
version: 1
name: other-order
stages:
  - {{name: words, kind: bm25, top_k: {first}}}
  - {{name: short, kind: colbert, model: "bundled:bi-encoder", max_query_tokens: 8, top_k: {second}}}
  - {{name: whole, kind: colbert, model: "bundled:bi-encoder", top_k: 7}}
"""


@dataclass(frozen=True)
class Judged:
    """Questions made of documents, and the documents that they were made of."""

    small: Small
    queries: Path
    qrels: Path
    recording: Path


def questions(small: Small) -> dict[str, tuple[str, str]]:
    """By query_id, a text and the doc_id that it was taken from."""
    chosen = [document for document in small.documents if len(document.text.split()) > 5][:QUESTIONS]
    return {f"t{n}": (" ".join(document.text.split()[:8]), document.doc_id) for n, document in enumerate(chosen)}


@pytest.fixture(scope="module")
def judged(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("tuner")
    made = Judged(small, folder / "queries.jsonl", folder / "qrels.tsv", folder / "T.parquet")
    asked = questions(small)
    made.queries.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, (text, _) in asked.items()))
    lines = ["query-id\tcorpus-id\tscore", *(f"{key}\t{doc_id}\t1" for key, (_, doc_id) in asked.items())]
    made.qrels.write_text("\n".join(lines) + "\n")
    arguments = ["--config", str(small.config), "--index", str(small.index), "--queries", str(made.queries)]
    out = ["--out", str(made.recording), "--depth", str(DEPTH), "--threads", "1"]
    assert run_command(["record", *arguments, *out]) == 0
    return made


def tune(judged: Judged, out: Path, *options: str) -> int:
    given = ["--recording", str(judged.recording), "--qrels", str(judged.qrels), "--out", str(out)]
    return run_command(["tune", *given, "--percentile", "80", "--confidence", "0.9", *options])


@pytest.mark.parametrize(("first", "second"), [(60, 60), (40, 15), (9, 8)])
def test_a_replayed_cascade_ranks_as_the_live_one(judged: Judged, first: int, second: int) -> None:
    config = parse_config(OTHERS.format(first=first, second=second))
    recording = Recording.load(judged.recording)
    replayed = Replayer(recording).rankings(config)
    with Cascade(config, index=Index.open(judged.small.index)) as engine:
        for key, (text, _) in questions(judged.small).items():
            ranking = engine.search(Query(key, text), budget_ms=None)
            assert replayed[key] == [hit.doc_id for hit in ranking], key


def test_the_recorded_cascade_itself_ranks_as_it_does_live(judged: Judged) -> None:
    recording = Recording.load(judged.recording)
    text = judged.small.config.read_text().replace("top_k: 100", f"top_k: {DEPTH}")
    replayed = Replayer(recording).rankings(parse_config(text))
    with Cascade(parse_config(text), index=Index.open(judged.small.index)) as live:
        for key, (question, _) in questions(judged.small).items():
            assert replayed[key] == [hit.doc_id for hit in live.search(Query(key, question), budget_ms=None)], key


def test_tuning_writes_a_cascade_that_runs_and_a_page_and_a_picture(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.yaml"
    arguments = ["--budget-ms", "5000", "--processes", "2", "--verify", "--index", str(judged.small.index)]
    assert tune(judged, out, *arguments, "--threads", "1") == 0
    said = capsys.readouterr().out
    assert "What a p80 of so many milliseconds buys" in said
    assert re.search(r"allowing for a machine that takes \d+\.\d\d to \d+\.\d\d times as long as when recorded", said)
    report = json.loads((tmp_path / "tuned.front.json").read_text())
    tuned = load_config(out)
    evaluation = replay(Recording.load(judged.recording), tuned, read_qrels(judged.qrels))
    assert evaluation.mean("nDCG@10") > 0.5
    assert report["chosen"] in said
    assert {"tuned.front.html", "tuned.front.png", "tuned.verified.json"} <= {path.name for path in tmp_path.iterdir()}
    for verified in json.loads((tmp_path / "tuned.verified.json").read_text()):
        if " ms" not in verified["label"]:  # without a limit the ranking does not depend on the machine
            assert verified["measured"] == pytest.approx(verified["predicted"], abs=1e-9)
    with Cascade.from_yaml(out, index=judged.small.index) as engine:
        assert len(engine.search("configure logging to a file", budget_ms=None)) > 0


def test_few_queries_are_asked_several_times_to_verify(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[bool] = Counter()
    search = Cascade.search

    def counted(self: Cascade, query: Query, *, budget_ms: Any) -> Ranking:
        asked[budget_ms is None] += 1
        return search(self, query, budget_ms=budget_ms)

    monkeypatch.setattr(Cascade, "search", counted)
    recording = Recording.load(judged.recording)
    config = parse_config(OTHERS.format(first=9, second=8))
    judgments = Judgments.of(read_qrels(judged.qrels), recording)
    index = Index.open(judged.small.index)
    other = parse_config(OTHERS.format(first=9, second=7))
    configs = [("of words", config), ("of others", other)]
    both = verify(configs, recording, judgments, index, measure="nDCG@10", percentile=80)
    count = len(recording)
    assert count * MOST_PASSES < ANSWERS
    blocks = math.ceil(count * MOST_PASSES / BLOCK)
    each = {True: (blocks + 1) * (PACED + 1), False: min(BLOCK, MOST_PASSES * count) + MOST_PASSES * count}
    assert asked == {limited: 2 * times for limited, times in each.items()}
    assert [found.label for found in both] == ["of words", "of others"]
    for found in both:
        assert found.measured == pytest.approx(found.predicted)


@pytest.mark.parametrize("command", ["record", "tune"])
def test_a_folder_that_is_not_there_is_noticed_before_the_work(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    given = {
        "record": ["--config", judged.small.config, "--index", judged.small.index, "--queries", judged.queries],
        "tune": ["--recording", judged.recording, "--qrels", judged.qrels, "--budget-ms", "50"],
    }
    out = tmp_path / "no" / "file"
    assert run_command([command, *map(str, given[command]), "--out", str(out)]) == EXIT_USAGE
    assert "there is no folder" in capsys.readouterr().err


def test_when_to_stop_early_is_learned_from_a_recording(judged: Judged, capsys: pytest.CaptureFixture[str]) -> None:
    config = judged.recording.with_name("adapted.yaml")
    config.write_text(OTHERS.format(first=60, second=15))
    given = ["adapt", "--config", str(config), "--recording", str(judged.recording)]
    assert run_command([*given, "--confidence", "0.8"]) == 0
    said = capsys.readouterr()
    assert "missed something" in said.out
    assert "<- for the YAML file" in said.out or "leave 'adaptive' out" in said.err
    assert "short" in said.out + said.err
    assert run_command([*given, "--confidence", "0.999"]) == EXIT_INPUT
    assert "needs at least 999 recorded queries" in capsys.readouterr().err


def test_results_of_several_budgets_lie_in_one_folder_whatever_becomes_of_the_file(
    judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("rerankers: [[]]\nbudgets_ms: [null]\n")
    assert tune(judged, tmp_path / "fast.yaml", "--budget-ms", "4000", "--space", str(space)) == 0

    def refused(*given: object) -> str:
        raise InputError("not valid there")

    monkeypatch.setattr("cascade.cli.tune.tuned_yaml", refused)
    assert tune(judged, tmp_path / "slow.yaml", "--budget-ms", "5000", "--space", str(space)) == EXIT_INPUT
    assert "For 5000 ms at p80" in capsys.readouterr().out
    for name, budget_ms in (("fast", 4000), ("slow", 5000)):
        assert json.loads((tmp_path / f"{name}.front.json").read_text())["goal"]["budget_ms"] == budget_ms
        assert {f"{name}.front.html", f"{name}.front.png"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "fast.yaml").exists()
    assert not (tmp_path / "slow.yaml").exists()


def test_the_recorded_cascade_itself_is_tried_unless_a_space_is_given(judged: Judged, tmp_path: Path) -> None:
    config, space, recording = tmp_path / "words.yaml", tmp_path / "space.yaml", tmp_path / "T.parquet"
    config.write_text("version: 1\nname: words\nbudget_ms: 900\nstages:\n  - {name: bm25, kind: bm25, top_k: 37}\n")
    space.write_text("budgets_ms: [null]\n")
    given = ["--config", str(config), "--index", str(judged.small.index), "--queries", str(judged.queries)]
    assert run_command(["record", *given, "--out", str(recording), "--threads", "1"]) == 0
    own = dataclasses.replace(judged, recording=recording)
    for name, options in (("all", []), ("some", ["--space", str(space)])):
        assert tune(own, tmp_path / f"{name}.yaml", "--budget-ms", "5000", *options) == 0
        tried = json.loads((tmp_path / f"{name}.front.json").read_text())["tried"]
        assert ("words: bm25, 900 ms" in [trial["label"] for trial in tried]) == (name == "all")


def test_a_recording_of_another_index_is_refused(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(judged.small.corpus.read_text().splitlines(keepends=True)[:20]))
    index_corpus(load_config(bm25_only(tmp_path, 10)), read_corpus(corpus), tmp_path / "index")
    code = tune(judged, tmp_path / "t.yaml", "--budget-ms", "50", "--index", str(tmp_path / "index"))
    assert code == EXIT_INPUT
    assert "give the index that was recorded, or record this one" in capsys.readouterr().err


def bm25_only(folder: Path, top_k: int) -> Path:
    config = folder / "bm25.yaml"
    config.write_text(f"version: 1\nname: small\nstages:\n  - {{name: bm25, kind: bm25, top_k: {top_k}}}\n")
    return config


def test_twice_as_many_documents_are_recorded_as_a_retriever_finds(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "T.parquet"
    arguments = ["--config", str(bm25_only(tmp_path, 7)), "--index", str(judged.small.index), "--out", str(out)]
    assert run_command(["record", *arguments, "--queries", str(judged.queries)]) == 0
    assert Recording.load(out).header.depth == 14
    assert "takes up to 14 documents from a retriever" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_recording_goes_on_with_the_same_models_loaded_anew(judged: Judged, tmp_path: Path) -> None:
    asked = [Query(key, text) for key, (text, _) in questions(judged.small).items()]

    def interrupt(done: int, total: int) -> None:
        if done < total:
            raise KeyboardInterrupt

    def subject() -> Subject:
        return Subject.open(load_config(judged.small.config), Index.open(judged.small.index), threads=1)

    with pytest.raises(KeyboardInterrupt):
        record(subject(), asked, tmp_path / "T.parquet", depth=20, progress=interrupt)
    record(subject(), asked, tmp_path / "T.parquet", depth=20)
    assert len(Recording.load(tmp_path / "T.parquet")) == len(asked)


def test_an_existing_recording_is_refused_before_anything_is_loaded(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(bm25_only(tmp_path, 7)), "--index", str(tmp_path / "no-index")]
    arguments += ["--queries", str(judged.queries), "--out", str(judged.recording)]
    assert run_command(["record", *arguments]) == EXIT_INPUT
    assert "found one; choose another, or replace it with --force" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--budget-ms", "0.001"], EXIT_INPUT, "no cascade meets 0.001 ms"),
        (["--budget-ms", "50", "--measure", "nDGC@10"], EXIT_INPUT, "did you mean 'nDCG'"),
        (["--budget-ms", "50", "--confidence", "0.999"], EXIT_INPUT, "record and judge more"),
        (["--budget-ms", "50", "--rate", "0"], EXIT_INPUT, "rate: expected queries a second above 0"),
        (["--budget-ms", "50", "--verify"], EXIT_USAGE, "needs --index"),
        (["--budget-ms", "50", "--sampler", "grid"], EXIT_USAGE, "expected tpe or nsga2"),
    ],
)
def test_wrong_goals_are_said_in_one_message(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert tune(judged, tmp_path / "t.yaml", *options) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_recorded_costs_are_a_profile_that_the_engine_uses(judged: Judged) -> None:
    recording = Recording.load(judged.recording)
    config = parse_config(OTHERS.format(first=60, second=20))
    costs = recording.profile(0.9).costs
    for unit in plan(config).units():
        action = "search" if unit.role == "retriever" else "score"
        assert np.isfinite(costs[f"{unit.cost_key}/{action}"].rates).all()
        assert costs[f"{unit.cost_key}/encode"].rates.fixed_s > 0
