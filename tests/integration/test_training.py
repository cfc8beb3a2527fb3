"""Training end to end, on part of the demo corpus and its questions, from real weights."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.cli.app import run_command
from cascade.demo import gather, load_questions
from cascade.errors import InputError
from cascade.stage import StepProgress
from stages.models import load_cross_encoder, read_weights
from stages.training import DISTILL, TRAIN, DistillSettings, TrainSettings, loop
from stages.training.students.encoder import Colbert

QUESTIONS = 120
STEPS = 50
COMMON = {
    "max_passage_tokens": 48,
    "max_query_tokens": 24,
    "negatives": 3,
    "held_out": 0.3,
    "eval_depth": 5,
    "frozen_layers": 0,
    "end_weights": [1.0],
    "threads": 1,
}


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about the standard library, and every document that is judged for one of them."""
    folder = tmp_path_factory.mktemp("collection") / "library"
    documents = {document.doc_id: document for document in gather()}
    questions, judgments, _ = load_questions(documents)
    questions = questions[:QUESTIONS]
    asked = {question.query_id for question in questions}
    judgments = [judgment for judgment in judgments if judgment.query_id in asked]
    kept = sorted({judgment.doc_id for judgment in judgments})
    (folder / "qrels").mkdir(parents=True)
    _write(folder / "queries.jsonl", [{"_id": one.query_id, "text": one.text} for one in questions])
    _write(folder / "corpus.jsonl", [{"_id": i, "title": documents[i].title, "text": documents[i].text} for i in kept])
    lines = ["\t".join(map(str, judgment)) for judgment in judgments]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings and candidates, computed by whichever test comes first."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(beir: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of three layers after fifty small steps, made by the command."""
    out = tmp_path_factory.mktemp("trained") / "model"
    settings = {**COMMON, "keep_layers": [0, 1, 2], "eval_every": STEPS, "cache": str(cache)}
    more = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    fixed = ["--data", str(beir), "--out", str(out), "--steps", str(STEPS), "--batch-queries", "4"]
    assert run_command(["train", "cross-encoder", *fixed, *more]) == 0
    return out


def test_a_small_model_learns_to_beat_bm25(trained: Path) -> None:
    quality = json.loads((trained / "training.json").read_text())["nDCG@10"]
    assert quality["after"]["mean"] > quality["before"]["mean"]
    assert quality["after"]["mean"] > quality["BM25"]["mean"] + 0.01
    assert quality["after"] == {"library": quality["after"]["mean"], "mean": quality["after"]["mean"]}


def test_the_folder_holds_a_model_and_its_history(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert "eval_mean" in next(line for line in lines if line["step"] == STEPS and "loss" not in line)
    assert load_cross_encoder(trained).config.layers == 3  # type: ignore[union-attr]
    assert not list(trained.with_name("model.training").glob("checkpoint-*"))


def test_a_student_learns_from_an_ensemble(
    beir: Path, cache: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "distill.yaml"
    content = {"data": [{"path": str(beir)}], "teachers": [str(trained), "bundled:bi-encoder"], "out": "student"}
    config.write_text(json.dumps({**content, **COMMON, "eval_every": 2, "pool": 6, "cache": str(cache)}))
    flags = ["--steps", "2", "--layers", "1", "--lr", "head=1e-4", "--loss", "margin-mse"]
    assert run_command(["distill", "--config", str(config), *flags, "--set", "label_weight=0.2"]) == 0
    assert "teacher" in capsys.readouterr().out
    student = tmp_path / "student"
    assert json.loads((student / "config.json").read_text())["architectures"] == ["DistilBertForSequenceClassification"]
    assert "distilbert.transformer.layer.0.ffn.lin1.weight" in read_weights(student)
    assert list(cache.glob("teacher-*.npz"))


def test_a_student_learns_from_hints_and_from_queries_that_nobody_asked(
    beir: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = DistillSettings.model_validate(
        {
            **{**COMMON, "eval_every": 6, "steps": 6, "batch_queries": 2, "eval_queries": 2, "pool": 5, "negatives": 3},
            **{"kind": "distilbert", "teachers": ["colbert=bundled:bi-encoder"], "layers": 2, "feed_forward": 512},
            **{"hints": 10, "square_weight": 0.1, "keywords": 0.5, "out": tmp_path / "student", "cache": cache},
            "data": [{"path": beir, "synthetic_queries": 40}],
        }
    )
    with caplog.at_level("INFO"):
        DISTILL.run(settings, _nothing)
    (learning,) = [record.args for record in caplog.records if record.msg.startswith("%s: learning from")]
    assert QUESTIONS < learning[2] <= QUESTIONS + 40
    assert list(cache.glob("hints-*.npz"))
    weights = read_weights(settings.out)
    assert weights["distilbert.transformer.layer.1.ffn.lin1.weight"].shape[0] == 512
    assert not [name for name in weights if "teller" in name]


def test_an_interrupted_training_goes_on_exactly(beir: Path, cache: Path, tmp_path: Path) -> None:
    straight, interrupted = (_settings(beir, cache, tmp_path / name) for name in ("straight", "interrupted"))
    TRAIN.run(straight, _nothing)
    with pytest.raises(KeyboardInterrupt):
        TRAIN.run(interrupted, _interrupt_at_step(3))
    assert [path.name for path in (tmp_path / "interrupted.training").glob("checkpoint-*")] == ["checkpoint-3"]
    assert not interrupted.out.exists()
    with pytest.raises(InputError, match=r"training with steps = 6 began here, got 7; give the same settings"):
        TRAIN.run(interrupted.model_copy(update={"steps": 7}), _nothing)
    TRAIN.run(interrupted, _nothing)
    one, other = (read_weights(settings.out) for settings in (straight, interrupted))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match="expected a name for a new folder, got one that is there"):
        TRAIN.run(interrupted, _nothing)


def test_a_training_that_dies_goes_on_from_between_its_evaluations(
    beir: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, died = (_settings(beir, cache, tmp_path / name) for name in ("straight", "died"))
    TRAIN.run(straight, _nothing)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    with pytest.raises(MemoryError):
        TRAIN.run(died, _die_at_step(4))
    place = tmp_path / "died.training"
    assert (place / "checkpoint-3").is_dir()
    shutil.copytree(place / "checkpoint-3", place / "checkpoint-4")  # died while it wrote the next
    (place / "checkpoint-4" / "trainer_state.json").unlink()
    steps: list[int] = []
    TRAIN.run(died, lambda step, done, total: steps.append(done) if step == "training" else None)
    assert steps == [4, 5, 6]
    noted = [json.loads(line)["step"] for line in (died.out / "metrics.jsonl").read_text().splitlines()]
    assert noted == sorted(noted)
    one, other = (read_weights(settings.out) for settings in (straight, died))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_patience_outlasts_an_interruption(beir: Path, cache: Path, tmp_path: Path) -> None:
    nothing_learned = {"learning_rates": {"layers": 0, "projection": 0}, "steps": 12, "eval_every": 2, "patience": 2}
    settings = _settings(beir, cache, tmp_path / "model", **nothing_learned)
    with pytest.raises(KeyboardInterrupt):
        TRAIN.run(settings, _interrupt_at_step(5))
    TRAIN.run(settings, _nothing)
    lines = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_mean" in line] == [2, 4, 6]


def test_an_interrupt_does_not_cost_the_evaluation_of_its_step(beir: Path, cache: Path, tmp_path: Path) -> None:
    settings = _settings(beir, cache, tmp_path / "model", eval_every=2, steps=4)
    with pytest.raises(KeyboardInterrupt):
        TRAIN.run(settings, _interrupt_at_step(2))
    TRAIN.run(settings, _nothing)
    lines = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_mean" in line] == [2, 4]


def test_what_is_told_of_a_model_is_told_of_the_stored_weights(
    beir: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that loses its projection when it is saved is not the one that was measured before."""
    settings = _settings(beir, cache, tmp_path / "model", half=True, share_weights=True)
    save = Colbert.save

    def save_without(student: Colbert, folder: Path, half: bool, shared: bool) -> None:
        with torch.no_grad():
            student.linear.weight.zero_()
        save(student, folder, half, shared)

    whole = TRAIN.run(settings, _nothing).quality["after"]
    monkeypatch.setattr(Colbert, "save", save_without)
    lost = TRAIN.run(settings.model_copy(update={"out": tmp_path / "lost"}), _nothing).quality["after"]
    assert lost["mean"] < whole["mean"]


def _settings(beir: Path, cache: Path, out: Path, **others: Any) -> TrainSettings:
    few = {"steps": 6, "eval_every": 6, "batch_queries": 2, "eval_queries": 2, "keep_layers": [0]}
    more = {"lookalikes": 0.5, "anchor": 0.2}
    given = {**COMMON, **few, **more, **others, "kind": "colbert", "data": [{"path": beir}], "out": out, "cache": cache}
    return TrainSettings.model_validate(given)


def _nothing(step: str, done: int, total: int) -> None:
    pass


def _interrupt_at_step(last: int) -> StepProgress:
    def told(step: str, done: int, total: int) -> None:
        if (step, done) == ("training", last):
            signal.raise_signal(signal.SIGINT)

    return told


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _die_at_step(wanted: int) -> StepProgress:
    def told(step: str, done: int, total: int) -> None:
        if step == "training" and done == wanted:
            raise MemoryError

    return told
