from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from stages.models import load_transformer
from stages.models.catalogue import bundled
from stages.runtimes.states import BatchStates, TorchStates

SHAPE = {"vocab_size": 50, "max_position_embeddings": 40}
RNG = np.random.default_rng(0)


def random_bert(**changes):
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    return BertModel(BertConfig(**{**SHAPE, **size, **changes}), add_pooling_layer=False).eval()


def random_distilbert():
    torch.manual_seed(0)
    return DistilBertModel(DistilBertConfig(**SHAPE, dim=24, n_layers=2, n_heads=3, hidden_dim=48)).eval()


@pytest.mark.parametrize(
    "model",
    [random_bert(), random_bert(hidden_act="relu"), random_distilbert()],
    ids=["bert", "bert with relu", "distilbert"],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_states_are_those_of_transformers(model: torch.nn.Module, padding: int) -> None:
    ids = RNG.integers(1, 50, (2, 9))
    mask = np.ones_like(ids)
    mask[1, 9 - padding :] = 0
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    found = TorchStates(model).states(ids, mask)
    assert np.ptp(found) > 0.1
    np.testing.assert_allclose(found[mask == 1], expected.numpy()[mask == 1], atol=1e-5)


def test_real_weights_give_the_same_states() -> None:
    folder: Path = bundled("bundled:bi-encoder").folder()
    model = load_transformer(folder, "encoder")
    ids = RNG.integers(1000, 20000, (1, 12))
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(TorchStates(model).states(ids, np.ones_like(ids)), expected, atol=1e-5)


def test_the_number_of_threads_is_as_before() -> None:
    before = torch.get_num_threads()
    TorchStates(random_bert()).states(np.ones((1, 3), np.int64), np.ones((1, 3), np.int64))
    assert torch.get_num_threads() == before


HALF = ["cpu:0", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("device", ["cpu", *HALF])
def test_batches_have_the_same_states_wherever_they_are_made(
    device: str, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.runtimes.states.cpu_has_bfloat16", lambda: bfloat16)
    model = random_bert()
    ids, mask = torch.from_numpy(RNG.integers(1, 50, (3, 7))), torch.ones(3, 7, dtype=torch.int64)
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    found = BatchStates(model, device).states(ids, mask, exact=False)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    np.testing.assert_allclose(found, expected, atol=1e-6 if device == "cpu" and not bfloat16 else 2e-2)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_products_in_bfloat16_hardly_move_real_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_transformer(bundled("bundled:bi-encoder").folder(), "encoder")
    ids = torch.from_numpy(RNG.integers(1000, 20000, (4, 40)))
    made = []
    for has in (False, True):
        monkeypatch.setattr("stages.runtimes.states.cpu_has_bfloat16", lambda has=has: has)
        made.append(BatchStates(model, "cpu").states(ids, torch.ones_like(ids), exact=False))
    assert not torch.equal(*made)
    torch.testing.assert_close(BatchStates(model, "cpu").states(ids, torch.ones_like(ids)), made[0])
    assert torch.nn.functional.cosine_similarity(*made, dim=-1).min() > 0.999
