"""``cascade compare`` and ``cascade eval --html`` as a user calls them, over a small real index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade.cli.app import EXIT_INPUT, EXIT_USAGE, run_command

TOPICS = ("copper kettle", "glass bridge", "quiet harbour", "steel violin", "paper lantern", "amber clock")
CONFIG = """
version: 1
name: {name}
budget_ms: 10000
stages:
  - {{name: bm25, kind: bm25, top_k: {top_k}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four documents a topic, questions, judgments, two configurations, an index and two runs."""
    folder = tmp_path_factory.mktemp("compare")
    documents, questions, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number, topic in enumerate(TOPICS):
        questions.append({"_id": f"q{number}", "text": f"where is the {topic}?"})
        for copy in range(4):
            documents.append({"_id": f"d{number}-{copy}", "text": f"{topic} " * (copy + 1) + "and other things"})
            qrels.append(f"q{number}\td{number}-{copy}\t1")
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)), "utf-8")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, questions)), "utf-8")
    (folder / "qrels.tsv").write_text("\n".join(qrels), "utf-8")
    for name, top_k in (("deep", 4), ("shallow", 2)):
        (folder / f"{name}.yaml").write_text(CONFIG.format(name=name, top_k=top_k), "utf-8")
    index = ["--config", str(folder / "deep.yaml"), "--index", str(folder / "idx")]
    assert run_command(["index", *index, "--corpus", str(folder / "corpus.jsonl")]) == 0
    for name, top_k in (("deep", "4"), ("shallow", "1")):
        options = ["--queries", str(folder / "queries.jsonl"), "--output", str(folder / f"{name}.trec"), "-k", top_k]
        assert run_command(["run", *index, *options]) == 0
    return folder


def test_runs_are_compared(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(folder / "deep.trec"), str(folder / "shallow.trec")]
    output = tmp_path / "comparison.json"
    options = ["--qrels", str(folder / "qrels.tsv"), "--queries", str(folder / "queries.jsonl"), "--json", str(output)]
    assert run_command(["compare", *runs, *options, "-m", "R@100", "-m", "RR@10", "--worst", "2"]) == 0
    comparison = json.loads(output.read_text("utf-8"))
    (pair,) = comparison["pairs"]
    recall, reciprocal_rank = pair["changes"]
    assert (pair["before"], pair["after"]) == ("deep", "shallow")
    assert (recall["before"], recall["after"], recall["losses"]) == (1.0, 0.25, len(TOPICS))
    assert recall["randomisation"] == {"p_value": 2 / 2**6, "p_adjusted": 4 / 2**6}
    assert reciprocal_rank["difference"] == 0.0
    assert [loss["text"] for loss in pair["worst"]] == ["where is the copper kettle?", "where is the glass bridge?"]
    printed = capsys.readouterr().out
    assert "shallow over deep: R@100 -0.750 (1.000 to 0.250, p = 0.062) may be chance." in " ".join(printed.split())
    assert "Too few queries" in printed


def test_cascades_are_run_and_compared(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "comparison.json"
    configs = ["--config", str(folder / "deep.yaml"), "--config", str(folder / "shallow.yaml")]
    files = ["--queries", str(folder / "queries.jsonl"), "--qrels", str(folder / "qrels.tsv"), "--json", str(output)]
    assert run_command(["compare", *configs, "--index", str(folder / "idx"), *files, "--no-budget"]) == 0
    comparison = json.loads(output.read_text("utf-8"))
    assert [system["name"] for system in comparison["systems"]] == ["deep", "shallow"]
    assert [system["means"]["R@100"] for system in comparison["systems"]] == [1.0, 0.5]
    assert all(system["latency_ms"]["p99"] > 0 for system in comparison["systems"])
    assert [system["over_budget"] for system in comparison["systems"]] == [None, None]
    assert "Latency of a query" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deep.trec"], "two or more different runs"),
        (["deep.trec", "deep.trec"], "two or more different runs"),
        (["deep.trec", "shallow.trec", "--config", "deep.yaml"], "two or more different runs"),
        (["deep.trec", "shallow.trec", "--budget-ms", "10"], "are for --config"),
        (["--config", "deep.yaml", "--config", "shallow.yaml"], "--config needs --index and --queries"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    folder: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert run_command(["compare", "--qrels", "qrels.tsv", *arguments]) == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_run_for_other_queries_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.trec"
    other.write_text("z1 Q0 d0-0 1 2.5 other\n", "utf-8")
    runs = [str(folder / "deep.trec"), str(other)]
    assert run_command(["compare", *runs, "--qrels", str(folder / "qrels.tsv")]) == EXIT_INPUT
    assert "other: expected results for judged queries, such as 'q0', got 'z1'" in capsys.readouterr().err


def test_eval_counts_the_queries_asked_and_writes_page_and_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "some.jsonl"
    asked = (folder / "queries.jsonl").read_text("utf-8").splitlines()[:4]
    queries.write_text("\n".join([*asked, json.dumps({"_id": "new", "text": "who?"})]), "utf-8")
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    files = ["--queries", str(queries), "--qrels", str(folder / "qrels.tsv"), "--html", str(page), "--json", str(data)]
    cascade = ["--config", str(folder / "shallow.yaml"), "--index", str(folder / "idx")]
    assert run_command(["eval", *cascade, *files]) == 0
    report = json.loads(data.read_text("utf-8"))
    (stage,) = report["stages"]
    assert (report["query_count"], report["judged_count"], report["missing"]) == (4, 4, [])
    assert report["config"]["name"] == "shallow"
    assert stage.keys() >= {"name", "measures", "latency_ms", "over_budget", "scored_mean"}
    assert stage["latency_ms"].keys() >= {"p50", "p95", "p99"}
    assert (stage["recall_ceiling"], stage["relevant_received"], stage["relevant_lost"]) == (0.5, 16, 8)
    assert stage["over_budget"] == 0.0
    assert stage["sentence"] in page.read_text("utf-8")
    messages = " ".join(capsys.readouterr().err.split())
    assert "1 of 5 queries have no judgments" in messages
    assert "2 judged queries are not among those asked" in messages


def test_eval_of_queries_without_any_judgment_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps({"_id": "new", "text": "who?"}), "utf-8")
    files = ["--queries", str(queries), "--qrels", str(folder / "qrels.tsv")]
    cascade = ["--config", str(folder / "deep.yaml"), "--index", str(folder / "idx")]
    assert run_command(["eval", *cascade, *files]) == EXIT_INPUT
    assert "expected some query_ids in both, got ['new'] and ['q0', 'q1', 'q2']" in capsys.readouterr().err
