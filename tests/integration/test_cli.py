"""The command line: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml
from jsonschema import Draft202012Validator

from cascade import Cascade, api
from cascade.calibration import WARM_UP, calibrate
from cascade.cli.app import build_app, run_command
from cascade.io import read_run
from cascade.resources import config_path

COMMANDS = sorted(typer.main.get_command(build_app()).commands)  # type: ignore[attr-defined]
QUESTION = "configure logging to a file"
BM25 = "version: 1\nname: words\nstages: [{name: bm25, kind: bm25, top_k: 10}]\n"
LATE = """\
version: 1
name: late
stages:
  - {name: bm25, kind: bm25, top_k: 10}
  - {name: late, kind: colbert, model: "bundled:bi-encoder", top_k: 5}
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Ran:
        code = run_command([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


def child(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """A command of its own process, as a shell starts it."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A cascade of BM25 alone, which needs no model."""
    path = tmp_path / "words.yaml"
    path.write_text(BM25)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.jsonl"
    lines = [{"_id": f"d{i}", "text": f"the {word} sat here"} for i, word in enumerate(("cat", "dog", "owl"))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_has_an_example_that_parses(cli: Any, command: str) -> None:
    ran = cli(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    text = " ".join(ran.out.split())
    assert f"Example: cascade {command}" in text
    example = text.partition("Example: cascade ")[2].partition(" Options:")[0].partition(" Arguments:")[0]
    arguments = shlex.split(example.partition(" > ")[0])
    click_command = typer.main.get_command(build_app()).commands[arguments[0]]  # type: ignore[attr-defined]
    click_command.make_context(arguments[0], arguments[1:])


def test_the_list_of_commands_names_every_command_and_exit_code(cli: Any) -> None:
    ran = cli("--help")
    assert ran.code == 0
    assert all(f"  {command} " in ran.out for command in COMMANDS)
    codes = "0 done, 1 failed, 2 usage, 3 configuration, 4 input, 5 index, 6 model, 130 interrupted"
    assert codes in " ".join(ran.out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["search"],
        ["search", "--frobnicate"],
        ["validate"],
        ["search", "-c", "x", "-i", "y", "q", "-k-1"],
    ],
)
def test_wrong_usage_exits_2_and_says_why_on_stderr(cli: Any, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error" in ran.err


# What needs no index


def test_validate_prints_the_chain_of_every_file(cli: Any) -> None:
    path = config_path("two-stage.yaml")
    assert cli("validate", path, path) == (0, f"{path}: bm25 200 -> late-interaction 20\n" * 2, "")


def test_a_cascade_of_the_package_is_known_by_name(cli: Any) -> None:
    ran = cli("validate", "bundled:two-stage", "bundled:three-stage")
    assert (ran.code, ran.out.startswith("bundled:two-stage: bm25 200")) == (3, True)
    assert ran.err.startswith(
        "bundled:three-stage: no cascade 'three-stage' comes with the package; there are default, "
    )


def test_validate_names_every_problem_of_every_file_and_exits_3(cli: Any, tmp_path: Path, words: Path) -> None:
    bad = tmp_path / "[bold]:smile: a-folder-with-a-name-so-long-that-a-terminal-would-break-the-line.yaml"
    bad.write_text("version: 1\nname: x\nstages: [{name: a, kind: bm26}]\nfoo: 1\n")
    ran = cli("validate", bad, tmp_path / "none.yaml", words)
    assert ran.code == 3
    assert ran.out == f"{words}: bm25 10\n"
    lines = ran.err.splitlines()
    assert lines[0] == f"{bad}:3: stages[0].kind: unknown 'bm26'; did you mean 'bm25'?"
    assert lines[1].startswith(f"{bad}:4: foo: unknown key")
    assert lines[2].startswith(f"{tmp_path / 'none.yaml'}: cannot be read: ")
    assert len(lines) == 3


def test_schema_is_a_json_schema_that_accepts_our_files(cli: Any) -> None:
    ran = cli("schema")
    assert (ran.code, ran.err) == (0, "")
    schema = json.loads(ran.out)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(yaml.safe_load(config_path("default.yaml").read_text()))


FIELDS_OF_MODELS = ("licence", "provenance", "training_data", "metrics")


def test_models_are_listed_for_people_and_for_programs(cli: Any) -> None:
    people, programs = cli("models"), cli("models", "--json")
    assert (people.code, programs.code) == (0, 0)
    found = json.loads(programs.out)
    lines = people.out.splitlines()
    assert len(lines) == 1 + len(found)  # no line is broken where stdout is no terminal
    for model in found:
        (line,) = (line for line in lines if line.startswith(f"bundled:{model['name']} "))
        assert all(model[field] and model[field] in line for field in FIELDS_OF_MODELS)


def test_stages_are_listed_with_their_roles(cli: Any) -> None:
    ran = cli("stages")
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[0] for line in lines] == ["kind", "bm25", "colbert", "cross_encoder", "dense", "fusion", "listwise"]
    assert lines[1][1] == "retriever"


def test_version_names_what_decides_results(cli: Any) -> None:
    ran = cli("version")
    names = [line.split()[0] for line in ran.out.splitlines()]
    assert ran.code == 0
    assert {"python", "cascade-ranking", "torch"} <= set(names)


# Indexing


def test_index_builds_refuses_to_replace_and_replaces_when_told(
    cli: Any, tmp_path: Path, words: Path, tiny: Path
) -> None:
    index = tmp_path / "idx"
    command = ("index", "--config", words, "--corpus", tiny, "--index", index)
    assert cli(*command) == (0, "", f"{index}: 3 documents in 3 passages\n")
    ran = cli(*command)
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("error: ")
    assert "--force" in ran.err
    tiny.write_text(tiny.read_text() + '{"_id": "d3", "text": "a bee sat here"}\n')
    assert cli(*command, "--force") == (0, "", f"{index}: 4 documents in 4 passages\n")
    assert cli("search", "-c", words, "-i", index, "bee").out.startswith("1\td3\t")


def test_an_interrupted_index_is_taken_up_again(
    cli: Any, tmp_path: Path, words: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.bm25.stage import Bm25Stage

    index = tmp_path / "idx"
    command = ("index", "--config", words, "--corpus", tiny, "--index", index)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Bm25Stage, "build", interrupted)
        assert cli(*command) == (130, "", "interrupted\n")
    assert cli("search", "-c", words, "-i", index, "owl").code == 5
    assert cli(*command).code == 0
    assert cli("search", "-c", words, "-i", index, "owl").out.startswith("1\td2\t")


def test_a_wrong_corpus_exits_4_with_its_line(cli: Any, tmp_path: Path, words: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n')
    ran = cli("index", "-c", words, "--corpus", corpus, "-i", tmp_path / "idx")
    assert (ran.code, ran.out) == (4, "")
    assert f"{corpus}:2" in ran.err
    assert cli("index", "-c", words, "--corpus", tmp_path / "none", "-i", tmp_path / "idx").code == 4


# Searching


def test_search_prints_one_line_a_hit_for_a_pipe(cli: Any, small: Any) -> None:
    ran = cli("search", "--config", small.config, "--index", small.index, QUESTION, "--top-k", 7)
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert [row[0] for row in rows] == [str(rank) for rank in range(1, 8)]
    assert "logging.basicConfig" in [row[1] for row in rows]
    assert {row[3] for row in rows} == {"late-short"}


def test_a_search_that_finds_nothing_says_why(cli: Any, tmp_path: Path, words: Path, tiny: Path) -> None:
    index = tmp_path / "idx"
    cli("index", "-c", words, "--corpus", tiny, "-i", index, "--threads", "1")
    ran = cli("search", "-c", words, "-i", index, "zebra", "--no-verify")
    assert ran == (0, "", "no hits: nothing in the index matches, or is held probable enough\n")
    ran = cli("search", "-c", words, "-i", index, "owl", "--budget-ms", "0")
    assert ran.err.startswith(
        "no hits: bm25: skipped, no time to encode the query; --explain shows where the time went"
    )


def test_search_as_json_has_hits_and_trace(cli: Any, small: Any) -> None:
    ran = cli("search", "-c", small.config, "-i", small.index, "caf\u00e9 \ud800", "--json", "--no-budget")
    assert ran.code == 0
    answer = json.loads(ran.out)
    assert answer["query"] == "caf\u00e9 \ud800"
    assert len(answer["hits"]) == 5
    assert {"rank", "doc_id", "score", "stage", "probability", "title", "text", "metadata"} == set(answer["hits"][0])
    assert [stage["name"] for stage in answer["trace"]["stages"]] == ["hybrid", "late", "late-short"]


def test_explain_adds_a_table_of_the_stages_whose_lines_are_whole(cli: Any, small: Any) -> None:
    ran = cli("search", "-c", small.config, "-i", small.index, QUESTION, "--explain")
    lines = ran.out.splitlines()
    (header,) = [line.split() for line in lines if line.startswith("stage ")]
    assert header == ["stage", "in", "planned", "scored", "out", "predicted", "ms", "budget", "slack", "ended"]
    for name in ("hybrid", "  bm25", "  dense", "late", "late-short"):
        (row, bar) = [line for line in lines if line.startswith(name + " ")]
        assert row.split()[-1] == "complete"
        assert "█" in bar


def test_a_budget_that_is_too_short_is_said_on_stderr(cli: Any, small: Any) -> None:
    command = ("search", "-c", small.config, "-i", small.index, QUESTION)
    ran = cli(*command, "--budget-ms", "0")
    assert ran.code == 0
    assert ran.err.startswith("no hits: ")
    ran = cli(*command, "--budget-ms", "0", "--no-budget")
    assert (ran.code, ran.out) == (2, "")
    assert "--budget-ms and --no-budget exclude each other" in ran.err


def test_each_kind_of_error_has_its_exit_code_and_nothing_on_stdout(
    cli: Any, small: Any, tmp_path: Path, words: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\n")
    other = tmp_path / "other.yaml"
    other.write_text(BM25.replace("kind: bm25", "kind: bm25, k1: 0.3"))
    calls = {
        ("search", "-c", bad, "-i", small.index, "q"): (3, f"{bad}:1: "),
        ("search", "-c", small.config, "-i", tmp_path / "none", "q"): (5, "error: "),
        ("search", "-c", other, "-i", small.index, "q"): (5, "error: "),
        ("search", "-c", small.config, "-i", small.index, "x" * 1_000_001): (4, "error: query: expected at most"),
        ("run", "-c", words, "-i", small.index, "-q", tmp_path / "none", "-o", tmp_path / "o"): (4, "error: "),
    }
    for command, (code, start) in calls.items():
        ran = cli(*command)
        assert (ran.code, ran.out) == (code, "")
        assert ran.err.startswith(start)


# Runs


def test_run_writes_a_trec_run_whose_scores_fall(cli: Any, small: Any, engine: Cascade, tmp_path: Path) -> None:
    output = tmp_path / "run.trec"
    ran = cli("run", "-c", small.config, "-i", small.index, "-q", small.queries, "-o", output, "-k", 70)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"{output}: 4 queries, 0 of them degraded\n"
    results = read_run(output)
    assert list(results) == ["q1", "q2", "q3", "q4"]
    for found in results.values():
        assert len(found) > 60
        scores = [scored.score for scored in found]
        assert all(before > after for before, after in pairwise(scores))
    assert output.read_text().splitlines()[0].split()[1::2] == ["Q0", "1", "small"]
    found = engine.search(QUESTION, top_k=70)
    assert [scored.doc_id for scored in results["q1"]] == [hit.doc_id for hit in found]


def test_a_run_that_cannot_be_written_is_refused_and_leaves_nothing(cli: Any, small: Any, tmp_path: Path) -> None:
    ran = cli("run", "-c", small.config, "-i", small.index, "-q", small.queries, "-o", tmp_path / "none" / "o")
    assert ran.code == 2
    assert list(tmp_path.iterdir()) == []


def test_rerank_reorders_a_run_and_keeps_its_documents(cli: Any, small: Any, tmp_path: Path) -> None:
    config, first, output = tmp_path / "late.yaml", tmp_path / "in.trec", tmp_path / "out.trec"
    config.write_text(LATE)
    names = [document.doc_id for document in small.documents if document.doc_id.startswith("logging")]
    first.write_text("".join(f"q1 Q0 {name} {i} {-i} x\n" for i, name in enumerate(names, 1)))
    command = ("rerank", "-c", config, "--corpus", small.corpus, "-q", small.queries, "--run", first, "-o", output)
    ran = cli(*command)
    assert (ran.code, ran.out, ran.err) == (0, "", f"{output}: 1 queries, 0 of them degraded\n")
    reordered = [scored.doc_id for scored in read_run(output)["q1"]]
    assert sorted(reordered) == sorted(names)
    assert reordered != names
    assert cli(*command, "--top-k", 2).code == 0
    assert [scored.doc_id for scored in read_run(output)["q1"]] == reordered[:2]


def test_rerank_wants_something_to_rerank_by(cli: Any, tmp_path: Path, words: Path, tiny: Path) -> None:
    for name, text in (("q.jsonl", '{"_id": "q", "text": "owl"}\n'), ("in.trec", "q Q0 d2 1 1.0 words\n")):
        (tmp_path / name).write_text(text)
    out = tmp_path / "out.trec"
    ran = cli(
        "rerank", "-c", words, "--corpus", tiny, "-q", tmp_path / "q.jsonl", "--run", tmp_path / "in.trec", "-o", out
    )
    assert (ran.code, out.exists()) == (4, False)
    assert "expected a cascade with a reranker, got none" in ran.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q9 Q0 logging.basicConfig 1 1 x", "query 'q9' is not in "),
        ("q1 Q0 no.such.thing 1 1 x", "document 'no.such.thing' is not in "),
        ("q1 Q0 logging.basicConfig 1 x", "expected 6 columns"),
    ],
)
def test_rerank_names_what_its_run_has_and_its_files_have_not(
    cli: Any, small: Any, tmp_path: Path, line: str, message: str
) -> None:
    config, first, output = tmp_path / "late.yaml", tmp_path / "in.trec", tmp_path / "out.trec"
    config.write_text(LATE)
    first.write_text(line + "\n")
    ran = cli("rerank", "-c", config, "--corpus", small.corpus, "-q", small.queries, "--run", first, "-o", output)
    assert (ran.code, ran.out) == (4, "")
    assert message in ran.err
    assert not output.exists()


# Measuring


def test_eval_reports_every_stage_on_stdout_and_as_json(cli: Any, small: Any, tmp_path: Path) -> None:
    qrels, report = tmp_path / "qrels.tsv", tmp_path / "report.json"
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\tlogging.basicConfig\t1\nq9\tabc.ABC\t1\n")
    command = ("eval", "-c", small.config, "-i", small.index, "-q", small.queries, "--qrels", qrels)
    ran = cli(*command, "--json", report, "-m", "nDCG@10", "--no-budget")
    assert ran.code == 0
    assert all(name in ran.out for name in ("hybrid", "late", "late-short", "nDCG@10"))
    found = json.loads(report.read_text())
    assert {"hybrid", "late", "late-short"} <= {stage["name"] for stage in found["stages"]}
    assert all(0 <= stage["measures"]["nDCG@10"] <= 1 for stage in found["stages"])
    assert cli(*command, "-m", "nDGC@10").code == 4
    assert cli(*command[:-1], tmp_path / "none").code == 4


def test_eval_fits_a_probability_that_a_cascade_file_can_state(
    cli: Any, small: Any, engine: Cascade, tmp_path: Path
) -> None:
    texts = [QUESTION, "open a file", "sort a list", "wait for a thread", "square root", "parse a date"]
    queries, qrels, config = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv", tmp_path / "calibrated.yaml"
    queries.write_text("".join(json.dumps({"_id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    best = [engine.search(text, budget_ms=None).hits[0].doc_id for text in texts]
    lines = "".join(f"q{i}\t{doc_id}\t1\n" for i, doc_id in enumerate(best))
    qrels.write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    command = ("eval", "-c", small.config, "-i", small.index, "-q", queries, "--qrels", qrels, "--no-budget")
    ran = cli(*command, "--calibrate", "platt")
    assert ran.code == 0
    assert "120 scores of 6 queries, 6 of them of relevant documents; calibration error on queries left" in ran.out
    fitted = ran.out.splitlines()[-1]
    assert fitted.startswith('probability: {"platt": {"a": ')
    config.write_text(small.config.read_text().replace("top_k: 5}", f"top_k: 5, {fitted}}}"))
    ran = cli("search", "-c", config, "-i", small.index, texts[0], "--no-budget", "--json")
    hits = json.loads(ran.out)["hits"]
    assert [hit["stage"] for hit in hits] == ["late-short"] * 5
    assert all(0 < hit["probability"] < 1 for hit in hits)


def test_calibrate_writes_the_profile_that_search_finds(
    cli: Any, tmp_path: Path, words: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "calibrate", partial(calibrate, effort=WARM_UP))
    index = tmp_path / "idx"
    cli("index", "-c", words, "--corpus", tiny, "-i", index)

    def costs() -> str:
        answer = json.loads(cli("search", "-c", words, "-i", index, "owl", "--json").out)
        return str(answer["trace"]["costs"])

    assert costs() == "none"
    ran = cli("calibrate", "-c", words, "-i", index)
    assert ran.code == 0
    assert ran.err.startswith(f"{index / 'costs.json'}: ")
    assert [line.rpartition(" ms; ")[0].rpartition(" ")[0] for line in ran.out.splitlines()] == [
        "bm25, encode: a question",
        "bm25, search: a range of the index",
    ]
    assert costs() == "warm-up"


def test_calibrating_for_another_cascade_keeps_what_is_known_of_the_first(
    cli: Any, tmp_path: Path, words: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "calibrate", partial(calibrate, effort=WARM_UP))
    index, longer = tmp_path / "idx", tmp_path / "longer.yaml"
    longer.write_text(LATE)
    cli("index", "-c", longer, "--corpus", tiny, "-i", index)

    def costs() -> set[str]:
        return set(json.loads((index / "costs.json").read_text())["costs"])

    ran = cli("calibrate", "-c", longer, "-i", index)
    assert ran.code == 0
    assert "encode_read: a question that another stage has read" in ran.out
    whole = costs()
    assert cli("calibrate", "-c", words, "-i", index).code == 0
    assert costs() == whole
    assert any(key.startswith("colbert-") for key in whole)


# As processes


def test_the_installed_command_and_the_module_agree() -> None:
    command = Path(sys.executable).with_name("cascade")
    ran = subprocess.run([command, "version"], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("python 3.")
    assert child(["-m", "cascade", "version"]).stdout == ran.stdout


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for command in (["schema"], ["stages"], ["version"]):
        ran = subprocess.run(
            [sys.executable, "-m", "cascade", *command],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        assert (command, ran.returncode, ran.stderr) == (command, 0, "")
    os.close(writer)


def test_text_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "\u2603.yaml"
    path.write_text(BM25)
    ran = child(["-m", "cascade", "validate", str(path)], env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert ran.returncode == 0
    assert ran.stdout == f"{tmp_path}/\\u2603.yaml: bm25 10\n"


HEAVY = ("torch", "transformers", "numba", "bm25s", "faiss", "pyarrow", "scipy", "pandas")


@pytest.mark.parametrize(
    "code",
    [
        "import cascade",
        "from cascade import *",
        "import cascade.cli",
        "from cascade.cli.app import run_command\nassert run_command(['validate', CONFIG]) == 0",
        "from cascade.cli.app import run_command\nassert run_command(['--help']) == 0",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    config = str(config_path("default.yaml"))
    check = f"import sys\nassert not set({HEAVY!r}) & set(sys.modules), set({HEAVY!r}) & set(sys.modules)"
    ran = child(["-c", f"CONFIG = {config!r}\n{code}\n{check}"])
    assert (ran.returncode, ran.stderr) == (0, "")


def test_importing_the_package_imports_nothing_of_its_own() -> None:
    ran = child(["-c", "import sys, cascade; print([name for name in sys.modules if name.startswith('cascade.')])"])
    assert ran.stdout.strip() == "[]"
