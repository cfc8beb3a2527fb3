import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from cascade.errors import ModelError
from cascade.stage import Context
from stages.models import CATALOGUE, ModelRef, check, fingerprint, locate
from tests.models_for_tests import tiny_bert_classifier

HERE = Context(Path())


def test_importing_models_and_kinds_loads_no_heavy_library() -> None:
    code = (
        "import sys, stages.models, stages.dense, stages.cross_encoder\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'faiss', 'huggingface_hub') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("model", CATALOGUE, ids=lambda model: model.name)
def test_every_bundled_model_is_complete_and_described(model) -> None:
    assert check(f"bundled:{model.name}", HERE) is None
    assert locate(f"bundled:{model.name}", HERE) == model.folder()
    assert all((model.summary, model.architecture, model.licence, model.provenance))
    assert all((model.training_data, model.metrics))


def test_a_bundled_models_parameters_are_those_of_its_weights() -> None:
    from safetensors import safe_open

    model = CATALOGUE[0]
    with safe_open(model.folder() / "model.safetensors", "np") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    counted = sum(math.prod(s) for n, s in shapes.items() if not n.endswith("position_ids"))
    assert counted == model.parameters


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("bundled:bert", "no such bundled model; there are bundled:bi-encoder"),
        ("bundled:../../etc", "no such bundled model"),
        ("hf:org/name", "expected hf:ORG/NAME@REVISION"),
        ("hf:org/..@main", "expected hf:ORG/NAME@REVISION"),
        ("hf:../../x@main", "expected hf:ORG/NAME@REVISION"),
        ("hf:org/name@refs/pr/1", "expected hf:ORG/NAME@REVISION"),
        ("hf:org/name@main\n", "expected hf:ORG/NAME@REVISION"),
        ("models/none", "no model folder"),
        ("nul\0", "NUL"),
        ("\ud800", "no model folder"),
    ],
)
def test_what_is_no_model_is_explained(ref: str, said: str) -> None:
    problem = check(ref, HERE)
    assert problem is not None
    assert said in problem
    with pytest.raises(ModelError, match=r"expected|no such|no model|NUL"):
        locate(ref, HERE)


def test_a_well_formed_hub_reference_is_not_looked_up_by_check() -> None:
    assert check("hf:no-such-organisation/no-such-model@0123456789abcdef", HERE) is None


def test_a_hub_model_that_cannot_be_fetched_is_a_model_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"hf:org/name@main: cannot be fetched: .*copy the model's files"):
        locate("hf:org/name@main", HERE)


def test_a_folder_is_relative_to_the_yaml_file(tmp_path: Path) -> None:
    tiny_bert_classifier(tmp_path / "models" / "tiny")
    context = Context(tmp_path / "configs")
    (tmp_path / "configs").mkdir()
    assert check("../models/tiny", context) is None
    assert locate("../models/tiny", context).samefile(tmp_path / "models" / "tiny")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "expected a config.json"),
        ("tokenizer.json", "expected a tokenizer.json"),
        ("model.safetensors", r"expected weights as \*.safetensors .*, got none"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str, said: str) -> None:
    (tiny_bert_classifier(tmp_path) / missing).unlink()
    with pytest.raises(ModelError, match=said):
        locate(str(tmp_path), HERE)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    tiny_bert_classifier(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match=r"got only pytorch_model.bin, a pickle"):
        locate(str(tmp_path), HERE)
    assert not (tmp_path / "ran").exists()


def test_the_fingerprint_follows_every_file_that_shapes_scores(tmp_path: Path) -> None:
    tiny_bert_classifier(tmp_path)
    seen = {fingerprint(tmp_path)}
    assert fingerprint(tmp_path) in seen
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in seen)


def test_the_fingerprint_follows_the_base_that_weights_are_left_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = tmp_path / "base", tmp_path / "model"
    for made in (base, folder):
        made.mkdir()
        tiny_bert_classifier(made)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "base_model": "bundled:bi-encoder"}))
    monkeypatch.setattr("stages.models.catalogue.BundledModel.folder", lambda model: base)
    before = fingerprint(folder)
    with (base / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert fingerprint(folder) != before


def test_a_reference_is_a_string_in_settings() -> None:
    adapter = TypeAdapter(ModelRef)
    assert adapter.validate_python("bundled:bi-encoder", strict=True) == "bundled:bi-encoder"
    with pytest.raises(ValueError, match="at least 1 character"):
        adapter.validate_python("", strict=True)
