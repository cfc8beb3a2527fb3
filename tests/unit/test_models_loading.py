import json
from pathlib import Path

import pytest

from cascade.errors import ModelError
from stages.models import CATALOGUE, load_transformer, longest_input
from tests.models_for_tests import CLASSIFIERS, tiny_bert_classifier

MINILM = CATALOGUE[0].folder()


def test_an_encoder_is_in_evaluation_mode_in_float32_without_pooler() -> None:
    import torch

    model = load_transformer(MINILM, "encoder")
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.pooler is None


@pytest.mark.parametrize("build", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_classifiers_of_every_architecture_load_quietly(
    build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = build(tmp_path)
    capfd.readouterr()
    assert load_transformer(folder, "sequence-classification").config.num_labels == 1
    assert capfd.readouterr() == ("", "")


def test_a_bi_encoder_is_no_classifier() -> None:
    with pytest.raises(ModelError, match=r"expected weights for sequence-classification .* classifier.bias"):
        load_transformer(MINILM, "sequence-classification")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tiny_bert_classifier(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 40}))
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_transformer(tmp_path, "sequence-classification")


def test_missing_layers_are_refused_not_drawn_at_random(tmp_path: Path) -> None:
    path = tiny_bert_classifier(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"encoder.layer.2.*and others"):
        load_transformer(tmp_path, "sequence-classification")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"\x00" * 8])
def test_damaged_weights_are_a_model_error(tmp_path: Path, damage: bytes) -> None:
    (tiny_bert_classifier(tmp_path) / "model.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match="cannot load the model"):
        load_transformer(tmp_path, "sequence-classification")


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    path = tiny_bert_classifier(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config.update(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    path.write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_transformer(tmp_path, "encoder")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "longest"), [("bert", 128), ("distilbert", 128), ("roberta", 128), ("deberta-v3", 128)]
)
def test_the_longest_input_leaves_out_positions_that_no_token_gets(tmp_path: Path, name: str, longest: int) -> None:
    assert longest_input(CLASSIFIERS[name](tmp_path)) == longest


def test_a_configuration_may_not_say_how_long_inputs_may_be(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert longest_input(tmp_path) is None
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="expected a JSON object, got list"):
        longest_input(tmp_path)
