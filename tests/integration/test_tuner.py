"""From recording to a verified cascade, over a real index, by the commands that a user types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cascade.api import Cascade, index_corpus
from cascade.cli.app import EXIT_INPUT, EXIT_USAGE, run_command
from cascade.index import Index
from cascade.io import read_corpus, read_qrels
from cascade.load import load_config, parse_config
from cascade.planner import plan
from cascade.tuner import Recording, Replayer, replay
from cascade.types import Query
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
    report = json.loads((tmp_path / "front.json").read_text())
    tuned = load_config(out)
    evaluation = replay(Recording.load(judged.recording), tuned, read_qrels(judged.qrels))
    assert evaluation.mean("nDCG@10") > 0.5
    assert report["chosen"] in said
    assert {"front.html", "front.png", "verified.json"} <= {path.name for path in tmp_path.iterdir()}
    for verified in json.loads((tmp_path / "verified.json").read_text()):
        if " ms" not in verified["label"]:  # without a limit the ranking does not depend on the machine
            assert verified["measured"] == pytest.approx(verified["predicted"], abs=1e-9)
    with Cascade.from_yaml(out, index=judged.small.index) as engine:
        assert len(engine.search("configure logging to a file", budget_ms=None)) > 0


def test_a_recording_of_another_index_is_refused(
    judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(judged.small.corpus.read_text().splitlines(keepends=True)[:20]))
    config = tmp_path / "bm25.yaml"
    config.write_text("version: 1\nname: small\nstages:\n  - {name: bm25, kind: bm25, top_k: 10}\n")
    index_corpus(load_config(config), read_corpus(corpus), tmp_path / "index")
    code = tune(judged, tmp_path / "t.yaml", "--budget-ms", "50", "--index", str(tmp_path / "index"))
    assert code == EXIT_INPUT
    assert "give the index that was recorded, or record this one" in capsys.readouterr().err


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
