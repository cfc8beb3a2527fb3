"""Everything in the README runs: its YAML, its Python, its commands."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.cli.app import run_command
from cascade.demo import gather, load_questions
from cascade.load import parse_config
from cascade.planner import plan
from cascade.registry import Registry
from cascade.training import Progress, Trainer, TrainingReport, trainer
from stages.training import DistillSettings, TrainSettings

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
MODULES = {"csv", "shutil", "builtins"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the README stands: a checkout, and a corpus, queries and judgments of their own."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", folder / "configs")
    documents = [document for document in gather() if document.metadata["module"] in MODULES]
    queries, qrels, _ = load_questions({document.doc_id for document in documents})
    corpus = ({"_id": d.doc_id, "title": d.title, "text": d.text} for d in documents)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": query.query_id, "text": query.text}) + "\n" for query in queries[:8])
    )
    (folder / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q.query_id}\t{q.doc_id}\t{q.relevance}\n" for q in qrels)
    )
    return folder


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_planned(text: str) -> None:
    assert plan(parse_config(text)).stages


def test_commands_run_in_order_and_then_the_python(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("cascade ")]
    assert len(lines) >= 5
    for line in lines:
        assert run_command(shlex.split(line)[1:]) == 0, line
    assert Path("run.trec").read_text().count("\n") > 100
    capsys.readouterr()
    users = [block for block in blocks("python") if "KIND" not in block]
    assert len(users) >= 2
    for block in users:
        exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "csv." in shown
    assert "['hotels in Rome'," in shown
    assert Path("out.trec").read_text() != Path("run.trec").read_text()


def test_commands_that_train_have_flags_and_recipes_that_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are read, but nothing is trained, which would take hours."""
    monkeypatch.chdir(folder)
    read = []

    def without_training(name: str) -> Trainer:
        def run(settings: TrainSettings | DistillSettings, told: Progress) -> TrainingReport:
            read.append((name, settings))
            return TrainingReport(settings.out, {})

        return Trainer(trainer(name).settings, run)

    monkeypatch.setattr("cascade.cli.training.trainer", without_training)
    lines = re.findall(r"^cascade (?:train|distill) .*$", README, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        assert run_command(shlex.split(line)[1:]) == 0, f"{line}: {capsys.readouterr().err}"
    assert [name for name, _ in read] == [line.split()[1] for line in lines]
    assert {settings.kind for _, settings in read} >= {"cross-encoder", "colbert", "distilbert"}


def test_the_stage_of_the_readme_is_a_full_citizen(tmp_path: Path) -> None:
    from cascade.api import Cascade
    from cascade.types import Document

    (block,) = (block for block in blocks("python") if "KIND" in block)
    names: dict[str, object] = {"__name__": "recency"}
    exec(compile(block, "README.md", "exec"), names)
    registry = Registry([names["KIND"]])
    config = parse_config(
        "version: 1\nname: news\nstages:\n"
        "  - {name: bm25, kind: bm25, top_k: 10}\n"
        "  - {name: newest, kind: recency, newest: 2030, top_k: 5}\n",
        registry=registry,
    )
    news = [Document(str(year), "the news", metadata={"year": year}) for year in (2019, 2025, 2022)]
    with Cascade(config) as engine:
        ranking = engine.rerank("the news", news)
    assert [hit.doc_id for hit in ranking] == ["2025", "2022", "2019"]
    assert ranking[0].score == -5
    assert ranking[0].stage == "newest"


def test_figures_are_those_of_the_results() -> None:
    check = [sys.executable, "-m", "benchmarks.readme", "--check"]
    assert subprocess.run(check, check=False, cwd=ROOT).returncode == 0, "run python -m benchmarks.readme"


def test_every_file_and_folder_that_the_readme_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    for name in re.findall(r"`(benchmarks/[\w./-]+)`", README):
        assert (ROOT / name).exists(), name
