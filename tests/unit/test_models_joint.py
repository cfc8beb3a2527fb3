"""The joint encoder begins as the bi-encoder that it is made from, and does not see the order of passages."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from cascade.errors import ModelError
from stages.models import HFTokenizer, load_cross_encoder, load_transformer, read_weights, save_weights
from stages.models.catalogue import bundled
from stages.models.joint import NEVER, JointConfig, JointEncoder
from stages.models.layout import JOINT_ENCODER

BASE = "bundled:bi-encoder"
QUERY = "how do plants make sugar"
PASSAGES = (
    "Photosynthesis turns carbon dioxide and water into glucose.",
    "Sugar cane is planted in autumn.",
    "The moon has no air.",
)
CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def config() -> dict[str, object]:
    found = json.loads((bundled(BASE).folder() / "config.json").read_text(encoding="utf-8"))
    return {**found, "architectures": [JOINT_ENCODER], "separate_layers": 3}


def fresh(config: dict[str, object], gate: float) -> JointEncoder:
    torch.manual_seed(0)
    model = JointEncoder(JointConfig.of(config), gate).eval()
    model.load_state_dict(read_weights(bundled(BASE).folder()), strict=False)
    return model


def packed(*texts: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = HFTokenizer(bundled(BASE).folder(), 256).encode(texts)
    ids = [[CLS, *part.tolist(), SEP] for part in tokens]
    numbers = [[number] * len(part) for number, part in enumerate(ids)]
    flat = torch.tensor([list(chain(*ids))])
    return flat, torch.ones_like(flat), torch.tensor([list(chain(*numbers))])


def states(text: str) -> torch.Tensor:
    ids, mask, _ = packed(text)
    with torch.inference_mode():
        out: torch.Tensor = load_transformer(bundled(BASE).folder(), "encoder")(ids, mask).last_hidden_state[0]
    return out


def test_with_its_gates_shut_it_is_the_bi_encoder(config: dict[str, object]) -> None:
    model = fresh(config, NEVER)
    query = states(QUERY)
    for passage in PASSAGES:
        other = states(passage)
        maxsim = (functional.normalize(query, dim=-1) @ functional.normalize(other, dim=-1).T).amax(1).mean()
        cosine = functional.cosine_similarity(query.mean(0), other.mean(0), dim=0)
        with torch.inference_mode():
            score = model(*packed(QUERY, passage))
        assert score.shape == (1, 1)
        assert score.item() == pytest.approx(10 * maxsim.item() + 10 * cosine.item(), abs=1e-3)


def test_open_gates_let_the_texts_see_each_other(config: dict[str, object]) -> None:
    with torch.inference_mode():
        shut, ajar = (fresh(config, gate)(*packed(QUERY, PASSAGES[0])).item() for gate in (NEVER, 0.0))
    assert abs(shut - ajar) > 0.1


def test_the_order_of_passages_changes_nothing(config: dict[str, object]) -> None:
    model = fresh(config, -1.0)
    with torch.inference_mode():
        forth = model.listwise(*packed(QUERY, *PASSAGES), 3)[0]
        back = model.listwise(*packed(QUERY, *PASSAGES[::-1]), 3)[0]
    torch.testing.assert_close(forth, back.flip(0), atol=1e-4, rtol=1e-4)


def test_a_passage_alone_scores_as_a_pair_does(config: dict[str, object]) -> None:
    model = fresh(config, -1.0)
    with torch.inference_mode():
        alone = model.listwise(*packed(QUERY, PASSAGES[0]), 1)
        pair = model(*packed(QUERY, PASSAGES[0]))
        padded = [functional.pad(part, (0, 5)) for part in packed(QUERY, PASSAGES[0])]
        with_padding = model(*padded)
    torch.testing.assert_close(alone, pair)
    torch.testing.assert_close(with_padding, pair, atol=1e-4, rtol=1e-4)


def test_frozen_layers_get_no_gradient(config: dict[str, object]) -> None:
    model = fresh(config, -1.0)
    model.frozen_layers = 5
    model(*packed(QUERY, PASSAGES[0])).sum().backward()
    layers = model.encoder["layer"]
    assert all(weight.grad is None for weight in layers[4].parameters())
    assert all(weight.grad is not None for weight in layers[5].parameters())


@pytest.fixture
def saved(config: dict[str, object], tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = fresh(config, -2.0)
    save_weights(tmp_path, model.state_dict(), base=BASE)
    return tmp_path


def test_what_the_base_has_is_not_stored_again(config: dict[str, object], saved: Path) -> None:
    assert (saved / "model.safetensors").stat().st_size < 4 << 20
    with torch.inference_mode():
        again = load_cross_encoder(saved)(*packed(QUERY, PASSAGES[0]))
        expected = fresh(config, -2.0)(*packed(QUERY, PASSAGES[0]))
    torch.testing.assert_close(again, expected)


def test_missing_weights_are_an_error(saved: Path) -> None:
    weights = read_weights(saved)
    del weights["gates"]
    save_weights(saved, weights, base=BASE)
    with pytest.raises(ModelError, match="got none for gates"):
        load_cross_encoder(saved)


def test_a_base_that_does_not_exist_is_an_error(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps({**config, "base_model": "bundled:nothing"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"bundled:nothing: no such bundled model; there are bundled:bi-encoder"):
        load_cross_encoder(saved)


def test_matrices_can_be_stored_in_half_precision(config: dict[str, object], saved: Path) -> None:
    whole = saved / "model.safetensors"
    before = whole.stat().st_size
    save_weights(saved, fresh(config, -2.0).state_dict(), base=BASE, half=True)
    assert whole.stat().st_size < 0.6 * before


def moved_a_little(config: dict[str, object], folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a model whose last layer was trained, as they were before they were saved."""
    torch.manual_seed(3)
    state = fresh(config, -2.0).state_dict()
    for name, tensor in state.items():
        if name.startswith("encoder.layer.5.") and tensor.ndim == 2:
            tensor += 0.003 * torch.randn_like(tensor)
    save_weights(folder, state, base=BASE)
    return state


def test_a_trained_matrix_is_stored_as_its_difference_to_that_of_the_base(
    config: dict[str, object], saved: Path
) -> None:
    before = (saved / "model.safetensors").stat().st_size
    state = moved_a_little(config, saved)
    matrices = sum(tensor.numel() for name, tensor in state.items() if name.startswith("encoder.layer.5."))
    assert (saved / "model.safetensors").stat().st_size < before + 1.02 * matrices
    stored, weights = load_file(saved / "model.safetensors"), read_weights(saved)
    assert set(weights) >= set(state)
    assert not any(name.endswith((".units", ".step")) for name in weights)
    changed = "encoder.layer.5.output.dense.weight"
    assert stored[f"{changed}.units"].dtype == torch.int8
    assert changed not in stored  # whoever does not know of differences finds a tensor missing, not a wrong one
    for name, tensor in state.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0.003 * 6 / 254)


def test_a_difference_that_fits_nothing_of_the_base_is_an_error(config: dict[str, object], saved: Path) -> None:
    moved_a_little(config, saved)
    stored = load_file(saved / "model.safetensors")
    name = "encoder.layer.5.output.dense.weight"
    save_file({**stored, f"{name}.step": torch.ones(3)}, saved / "model.safetensors")
    with pytest.raises(ModelError, match=r"a difference of shape \(384, 1536\) does not fit"):
        read_weights(saved)
    save_file({**stored, "head.step": torch.ones(3)}, saved / "model.safetensors")
    with pytest.raises(ModelError, match=r"head\.step: expected a matrix of the base"):
        read_weights(saved)


@pytest.mark.parametrize("lost", [".units", ".step"])
def test_half_of_a_difference_is_an_error(lost: str, config: dict[str, object], saved: Path) -> None:
    moved_a_little(config, saved)
    stored = load_file(saved / "model.safetensors")
    name = "encoder.layer.5.output.dense.weight"
    del stored[name + lost]
    save_file(stored, saved / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{name}: expected \.units with \.step, got one without the other"):
        read_weights(saved)


def test_units_are_not_taken_for_a_weight(config: dict[str, object], saved: Path) -> None:
    moved_a_little(config, saved)
    stored = load_file(saved / "model.safetensors")
    name = "encoder.layer.5.output.dense.weight"
    stored[name] = stored.pop(f"{name}.units")
    save_file(stored, saved / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{name}: expected torch\.float32, got torch\.int8"):
        read_weights(saved)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_an_encoder_may_leave_out_what_its_base_has(prefix: str, tmp_path: Path) -> None:
    base = bundled(BASE).folder()
    weights = read_weights(base)
    weights["encoder.layer.5.output.dense.bias"] += 0.25
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    save_weights(tmp_path, {prefix + name: tensor for name, tensor in weights.items()}, base=BASE)
    model = load_transformer(tmp_path, "encoder")
    assert (tmp_path / "model.safetensors").stat().st_size < 1 << 12
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])
