"""A trained student, once saved, scores in the stages as it did in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cascade.errors import InputError, ModelError
from cascade.types import TokenIds
from stages.colbert.encoder import TokenEncoder
from stages.dense.encoder import Encoder
from stages.models import HFTokenizer, load_transformer
from stages.models.catalogue import bundled
from stages.models.pooling import stated_pooling
from stages.training.device import Device
from stages.training.embedding import embed
from stages.training.hints import token_hints
from stages.training.losses import own_candidates
from stages.training.pipeline import chosen_layers
from stages.training.scoring import score_groups
from stages.training.settings import TrainSettings
from stages.training.students import Base, Student, build, read_base
from stages.training.students.base import Hinted, spread
from stages.training.students.options import learning_rates
from stages.training.teachers import PairClassifier, load_teacher
from stages.training.tokens import Ragged, Texts
from tests.models_for_tests_colbert import minilm_pylate

pytestmark = pytest.mark.usefixtures("in_float32")

BASE = "bundled:bi-encoder"
QUESTIONS = ("how do plants make sugar", "who walked on the moon?")
PASSAGES = (
    "Photosynthesis turns carbon dioxide and water into glucose.",
    "Sugar cane, it is said, is planted in autumn!",
    "Neil Armstrong was the first person on the moon.",
    "The moon has no air.",
)
SETTINGS = TrainSettings(kind="colbert", data=[{"path": "x"}], out="y", list_size=2)  # type: ignore[arg-type, list-item]


@pytest.fixture(scope="module")
def base() -> Base:
    return read_base(BASE).keep((0, 5))


@pytest.fixture(scope="module")
def tokens() -> tuple[list[TokenIds], list[TokenIds]]:
    tokenizer = HFTokenizer(bundled(BASE).folder(), 110)
    return tokenizer.encode(QUESTIONS), tokenizer.encode(PASSAGES)


def made(kind: str, base: Base, settings: TrainSettings = SETTINGS) -> Student:
    """A student whose weights are no longer its base's."""
    student = build(kind, base, settings).eval()  # type: ignore[arg-type]
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "word_embeddings" not in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return student


def scores(student: Student | PairClassifier, tokens: tuple[list[TokenIds], list[TokenIds]]) -> torch.Tensor:
    """float32 [2, 2]."""
    with torch.inference_mode():
        found: torch.Tensor = student(**student.collate(*tokens, 2))
    return own_candidates(found, 2) if student.in_batch else found


@pytest.mark.parametrize("kind", ["bi-encoder", "colbert", "expanded", "untrained"])
def test_texts_read_once_give_the_scores_that_batches_give(kind: str, base: Base, monkeypatch) -> None:
    if kind == "untrained":
        student = load_teacher("colbert=bundled:bi-encoder", SETTINGS)
    else:
        more = {"expand_queries": True} if kind == "expanded" else {}
        student = made("bi-encoder" if kind == "bi-encoder" else "colbert", base, SETTINGS.model_copy(update=more))
    groups = [np.array([0, 1], np.int32), np.array([2, 3], np.int32), np.array([], np.int32)]
    texts = Texts([*QUESTIONS, QUESTIONS[0]], PASSAGES)
    read: list[int] = []
    represent = student.represent
    monkeypatch.setattr(student, "represent", lambda texts, **how: read.append(len(texts)) or represent(texts, **how))
    found = score_groups(student, texts, [0, 1, 2], groups, Device("cpu", half=False), lambda *told: None, "")
    assert sum(read) == len(PASSAGES) + 3
    asked, passages = texts.tokens(student.tokenizer, student.max_query_tokens, student.max_passage_tokens)
    expected = scores(student, ([asked[0], asked[1]], list(map(passages.__getitem__, range(4)))))
    np.testing.assert_allclose(np.stack(found[:2]), expected, atol=1e-3, rtol=1e-4)
    assert found[2].shape == (0,)


def test_hints_are_the_best_matches_of_every_token_and_stand_where_it_is_read(base: Base) -> None:
    teacher = load_teacher("colbert=bundled:bi-encoder", SETTINGS)
    texts, device = Texts(QUESTIONS, PASSAGES), Device("cpu", half=False)
    hints = token_hints(teacher, texts, [1, 0], [np.array([2], np.int32), np.array([1, 0], np.int32)], device, told, "")
    asked, read = texts.tokens(teacher.tokenizer, 32, 110)
    states = [
        one[1:-1]
        for one in teacher.represent([asked[0], read[1]], questions=False)  # without [CLS] and [SEP]
    ]
    expected = (states[0] @ states[1].T).detach().numpy()
    of_question, of_passage = hints.of(1)
    np.testing.assert_allclose(of_question, expected.max(1), atol=2e-3)
    np.testing.assert_allclose(of_passage, expected.max(0), atol=2e-3)

    student = build("distilbert", base, SETTINGS)
    inputs = student.collate([asked[1], asked[0]], [read[2], read[1]], 1)
    placed = student.place_hints([asked[1], asked[0]], [hints.of(0), hints.of(1)], inputs)["hints"][1]
    assert placed.shape == (inputs["ids"].shape[1], 2)
    first, second = (inputs["ids"][1][~placed[:, side].isnan()].tolist() for side in (0, 1))
    assert (first, second) == (asked[0].tolist(), read[1].tolist())
    np.testing.assert_array_equal(placed[:, 1][~placed[:, 1].isnan()], of_passage)

    with torch.inference_mode():
        found = student(**inputs, hints=placed[None].expand(2, -1, -1))
    assert isinstance(found, Hinted)
    torch.testing.assert_close(found.scores, student(**inputs))
    told_first = torch.cat([placed[~placed.isnan()]] * 2)
    torch.testing.assert_close(found.error, ((told_first - 0.5) ** 2).mean())  # what it tells before it has learned


def told(step: str, done: int, total: int) -> None:
    pass


def test_a_student_without_inner_layers_takes_no_hints(base: Base) -> None:
    student = build("distilbert", base.keep((1,)), SETTINGS)
    assert student.place_hints([], [], {}) == {}


def test_a_joint_encoder_reads_the_pairs_that_its_tokenizer_makes(base: Base, tokens, tmp_path: Path) -> None:
    student = made("cross-encoder", base)
    student.save(tmp_path, half=False, shared=False)
    assert json.loads((tmp_path / "config.json").read_text())["separate_layers"] == 1
    torch.testing.assert_close(scores(PairClassifier(tmp_path, 32, 110), tokens), scores(student, tokens))
    again = build("cross-encoder", read_base(str(tmp_path)), SETTINGS).eval()
    torch.testing.assert_close(scores(again, tokens), scores(student, tokens))


def test_a_listwise_student_sees_the_other_passages_but_not_other_questions(base: Base, tokens) -> None:
    student = made("listwise", base)
    together = scores(student, tokens)
    questions, passages = tokens
    alone = scores(student, (questions[:1], passages[:2]))
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        student.get_parameter("encoder.passage_gates").fill_(5.0)
    assert not torch.allclose(scores(student, tokens), together, atol=1e-3)


def test_a_listwise_input_has_to_fit() -> None:
    long = SETTINGS.model_copy(update={"list_size": 5})
    with pytest.raises(ModelError, match="expected inputs of at most 512 tokens, got 594"):
        build("listwise", read_base(BASE), long)


def test_distilbert_of_all_layers_is_the_bert_it_was_made_from(tokens, tmp_path: Path) -> None:
    whole = read_base(BASE)
    student = build("distilbert", whole, SETTINGS).eval()
    inputs = student.collate(*tokens, 2)
    with torch.inference_mode():
        ours = student.get_submodule("model.distilbert")(inputs["ids"], inputs["mask"]).last_hidden_state
        theirs = load_transformer(bundled(BASE).folder(), "encoder")(inputs["ids"], inputs["mask"]).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_narrower_base_keeps_the_units_that_do_most(tokens, tmp_path: Path) -> None:
    whole = read_base(BASE).keep((0, 5))
    out = "encoder.layer.1.output.dense.weight"
    dead = torch.zeros(1536, dtype=torch.bool)
    dead[::6] = True
    for layer in (0, 1):
        whole.state[f"encoder.layer.{layer}.output.dense.weight"][:, dead] = 0.0
    narrow = whole.narrow(1280)
    assert narrow.config["intermediate_size"] == narrow.state[out].shape[1] == 1280
    torch.testing.assert_close(narrow.state[out], whole.state[out][:, ~dead])
    student = made("distilbert", narrow)
    student.save(tmp_path, half=False, shared=False)
    found = scores(PairClassifier(tmp_path, 32, 110), tokens)
    torch.testing.assert_close(found, scores(student, tokens), atol=1e-4, rtol=1e-4)
    both = (build("distilbert", base, SETTINGS).eval() for base in (whole, narrow))
    torch.testing.assert_close(*(_states(student, tokens) for student in both), atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="at most the 1280 feed-forward units"):
        narrow.narrow(1281)


def _states(student: Student, tokens: tuple[list[TokenIds], list[TokenIds]]) -> torch.Tensor:
    inputs = student.collate(*tokens, 2)
    with torch.inference_mode():
        found: torch.Tensor = student.get_submodule("model.distilbert")(inputs["ids"], inputs["mask"]).last_hidden_state
    return found


def test_a_saved_distilbert_is_one_of_transformers(base: Base, tokens, tmp_path: Path) -> None:
    student = made("distilbert", base)
    student.save(tmp_path, half=False, shared=False)
    assert load_transformer(tmp_path, "sequence-classification").config.n_layers == 2
    torch.testing.assert_close(scores(PairClassifier(tmp_path, 32, 110), tokens), scores(student, tokens))


def test_a_bi_encoder_scores_as_the_dense_stage_does(base: Base, tokens, tmp_path: Path) -> None:
    student = made("bi-encoder", base)
    student.save(tmp_path, half=False, shared=False)
    encoder = Encoder(tmp_path, HFTokenizer(tmp_path, 110), "mean", normalise=True)
    cosine = encoder.encode(tokens[0]) @ encoder.encode(tokens[1]).T
    with torch.inference_mode():
        ours = student(**student.collate(*tokens, 2))
    np.testing.assert_allclose(20 * cosine, ours.numpy(), atol=1e-3)


def test_a_bi_encoder_is_pooled_as_its_base_is(base: Base, tokens, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    made("bi-encoder", base).save(theirs, half=False, shared=False)
    pooling = theirs / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    student = made("bi-encoder", read_base(str(theirs)))
    ours.mkdir()
    student.save(ours, half=False, shared=False)
    assert stated_pooling(ours) == "cls"
    encoder = Encoder(ours, HFTokenizer(ours, 110), "cls", normalise=True)
    cosine = encoder.encode(tokens[0]) @ encoder.encode(tokens[1]).T
    with torch.inference_mode():
        trained = student(**student.collate(*tokens, 2))
    np.testing.assert_allclose(20 * cosine, trained.numpy(), atol=1e-3)
    starts = np.concatenate([[0], np.cumsum([len(text) for text in tokens[1]])])
    vectors = embed(ours, Ragged(np.concatenate(tokens[1]), starts), Device("cpu", False), lambda *_: None, "")
    np.testing.assert_allclose(vectors, encoder.encode(tokens[1]), atol=2e-3)


def test_a_checkpoint_of_pylate_is_not_trained_without_its_projection(tmp_path: Path) -> None:
    folder = minilm_pylate(tmp_path / "model")
    for ref in (str(folder), f"colbert={folder}"):
        with pytest.raises(ModelError, match="got one of PyLate"):
            load_teacher(ref, SETTINGS)


@pytest.mark.parametrize("expand", [False, True])
def test_late_interaction_scores_as_its_stage_does(base: Base, tokens, tmp_path: Path, expand: bool) -> None:
    student = made("colbert", base, SETTINGS.model_copy(update={"expand_queries": expand}))
    student.save(tmp_path, half=False, shared=False)
    encoder = TokenEncoder(tmp_path)
    assert encoder.dim == 128
    for question, own in zip(QUESTIONS, scores_of_all(student, tokens), strict=True):
        query = encoder.encode_query(question)
        assert (len(query) == 32) == expand
        for passage, score in zip(tokens[1], own, strict=True):
            best = (query @ encoder.encode_passages([passage]).T).max(1)
            assert score == pytest.approx(30 * best.mean(), abs=1e-3)


def test_an_encoder_teaches_late_interaction_untrained(tokens) -> None:
    teacher = load_teacher("colbert=bundled:bi-encoder", SETTINGS)
    encoder = TokenEncoder(bundled("bundled:bi-encoder").folder())
    with torch.inference_mode():
        found = teacher(**teacher.collate(*tokens, 2)).tolist()
    for question, own in zip(QUESTIONS, found, strict=True):
        query = encoder.encode_query(question)
        for passage, score in zip(tokens[1], own, strict=True):
            assert score == pytest.approx(30 * (query @ encoder.encode_passages([passage]).T).max(1).mean(), abs=1e-3)


def scores_of_all(student: Student, tokens: tuple[list[TokenIds], list[TokenIds]]) -> list[list[float]]:
    with torch.inference_mode():
        found: list[list[float]] = student(**student.collate(*tokens, 2)).tolist()
    return found


def test_a_fresh_projection_keeps_the_base_s_cosines(tokens) -> None:
    student = build("colbert", read_base(BASE), SETTINGS).eval()
    student.warm_up(tokens[1] * 3)
    inputs = student.collate(*tokens, 2)
    with torch.inference_mode():
        states = student.get_submodule("bert")(inputs["passage_ids"], inputs["passage_mask"]).last_hidden_state
        states = states[inputs["passage_mask"].bool()]
        projected = functional.normalize(student.get_submodule("linear")(states), dim=-1)
        whole = functional.normalize(states, dim=-1)
    assert (projected @ projected.T - whole @ whole.T).abs().max() < 0.02


def test_frozen_parts_do_not_learn_and_others_do(base: Base) -> None:
    for kind in ("cross-encoder", "colbert", "bi-encoder", "distilbert"):
        student = build(kind, base, SETTINGS)  # type: ignore[arg-type]
        student.freeze(1, True)
        learning = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
        assert not any("layer.0." in name or "embeddings" in name for name in learning)
        assert any("layer.1." in name for name in learning)
        assert {student.part_of(name) for name in learning} == set(student.learning_rates)


def test_gates_of_frozen_layers_learn(tokens) -> None:
    student = build("listwise", read_base(BASE), SETTINGS)
    student.freeze(5, True)
    student(**student.collate(*tokens, 2)).sum().backward()
    assert all(student.get_parameter(f"encoder.{gates}").grad.ne(0).all() for gates in ("gates", "passage_gates"))
    learned = {
        name.split(".")[3] for name, one in student.named_parameters() if ".layer." in name and one.grad is not None
    }
    assert learned == {"5"}


def test_a_teacher_is_read_as_what_it_was_trained_to_be(base: Base, tmp_path: Path) -> None:
    """A listwise model reads several passages at once; a cross-encoder that began as one does not."""
    several, pairs = tmp_path / "several", tmp_path / "pairs"
    for folder in (several, pairs):
        folder.mkdir()
    made("listwise", base).save(several, half=False, shared=True)
    build("cross-encoder", read_base(str(several)), SETTINGS).save(pairs, half=False, shared=True)
    teachers = [load_teacher(str(folder), SETTINGS) for folder in (several, pairs)]
    assert [getattr(teacher, "passages_at_once", None) for teacher in teachers] == [2, 1]


def test_layers_are_renumbered_and_missing_ones_refused(base: Base) -> None:
    whole = read_base(BASE)
    name = "attention.self.query.weight"
    assert torch.equal(base.state[f"encoder.layer.1.{name}"], whole.state[f"encoder.layer.5.{name}"])
    assert base.layers == 2
    with pytest.raises(ModelError, match="expected layers below 6, got 6"):
        whole.keep((0, 6))
    assert [spread(n, 6) for n in (1, 2, 3)] == [(5,), (2, 5), (1, 3, 5)]


def test_a_joint_encoder_loses_the_gates_of_lost_layers(tmp_path: Path) -> None:
    student = made("cross-encoder", read_base(BASE))
    student.save(tmp_path, half=False, shared=True)
    kept = read_base(str(tmp_path)).keep((1, 3, 5))
    assert kept.config["separate_layers"] == 1
    gates = student.get_parameter("encoder.gates")
    assert kept.state["gates"].tolist() == gates[[0, 2]].tolist()


def test_learning_rates_of_unknown_parts_are_refused(base: Base) -> None:
    student = build("colbert", base, SETTINGS)
    assert learning_rates(student, {"layers": 1e-6}) == {"layers": 1e-6, "projection": 5e-4}
    with pytest.raises(InputError, match=r"expected parts of this student \(layers, projection\), got 'head'"):
        learning_rates(student, {"head": 1.0})


def test_half_precision_and_shared_weights_make_a_small_folder(base: Base, tmp_path: Path) -> None:
    sizes = {}
    for name, half, shared in (("whole", False, False), ("small", True, True)):
        folder = tmp_path / name
        folder.mkdir()
        made("cross-encoder", base).save(folder, half, shared)
        sizes[name] = (folder / "model.safetensors").stat().st_size
    assert sizes["small"] < sizes["whole"] / 5


def test_more_layers_than_the_base_has_are_refused(base: Base) -> None:
    with pytest.raises(InputError, match=r"layers: expected at most the 2 of .*, got 8"):
        chosen_layers(base, SETTINGS.model_copy(update={"layers": 8}))
