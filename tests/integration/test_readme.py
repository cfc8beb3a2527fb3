"""Everything in the README runs: its YAML, its Python, its commands. What it and RESULTS.md name and say is there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from benchmarks.readme import PAGES
from cascade.cli.app import run_command
from cascade.demo import gather, load_questions
from cascade.demo.questions import Report
from cascade.load import parse_config
from cascade.planner import plan
from cascade.registry import Registry
from cascade.stage import StepProgress
from cascade.training import Trainer, TrainingReport, trainer
from cascade.tuner.space import SpaceSettings
from cascade.types import Document, Qrel, Query
from cascade.yamltree import parse_yaml
from stages.training import DistillSettings, TrainSettings

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
MODULES = {"csv", "shutil", "builtins"}
QUESTIONS = 8
FOR_FEW_QUESTIONS = " --budget-ms 500 --percentile 75 --confidence 0.8"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the README stands: a checkout, and a corpus, queries and judgments of their own."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", folder / "configs")
    documents = _few_documents()
    queries, qrels, _ = _few_questions({document.doc_id for document in documents})
    corpus = ({"_id": d.doc_id, "title": d.title, "text": d.text} for d in documents)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": query.query_id, "text": query.text}) + "\n" for query in queries)
    )
    (folder / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q.query_id}\t{q.doc_id}\t{q.relevance}\n" for q in qrels)
    )
    return folder


def _few_documents() -> list[Document]:
    return [document for document in gather() if document.metadata["module"] in MODULES]


def _few_questions(doc_ids: Collection[str]) -> tuple[list[Query], list[Qrel], Report]:
    """The demo's collection at small size."""
    queries, qrels, report = load_questions(doc_ids)
    asked = {query.query_id for query in queries[:QUESTIONS]}
    return queries[:QUESTIONS], [qrel for qrel in qrels if qrel.query_id in asked], report


@pytest.mark.parametrize("text", [text for text in blocks("yaml") if "stages:" in text])
def test_yaml_is_planned(text: str) -> None:
    assert plan(parse_config(text)).stages


@pytest.mark.parametrize("text", [text for text in blocks("yaml") if "stages:" not in text])
def test_yaml_without_stages_is_a_search_space(text: str) -> None:
    assert SpaceSettings.model_validate(parse_yaml(text, "README.md").data).rerankers


def test_commands_run_in_order_and_then_the_python(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("cascade.demo.export.gather", _few_documents)
    monkeypatch.setattr("cascade.demo.export.load_questions", _few_questions)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("cascade ")]
    assert len(lines) >= 10
    for line in lines:
        few = FOR_FEW_QUESTIONS if line.startswith("cascade tune") else ""
        assert run_command(shlex.split(line + few)[1:]) == 0, line
    assert json.loads(Path("tuned.verified.json").read_text())
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
        def run(settings: TrainSettings | DistillSettings, told: StepProgress) -> TrainingReport:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_folder_that_is_named_is_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for name in re.findall(r"`(benchmarks/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
