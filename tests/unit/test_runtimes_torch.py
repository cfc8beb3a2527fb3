from pathlib import Path

import numpy as np
import pytest
import torch

from cascade.errors import ModelError
from stages.models import load_cross_encoder
from stages.models.catalogue import bundled
from stages.runtimes import load_runtime, runtime_problems
from stages.runtimes.first_token import first_token_only
from stages.runtimes.torch import TorchRuntime
from tests.models_for_tests import (
    tiny_bert_classifier,
    tiny_distilbert_classifier,
    tiny_roberta_classifier,
)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five pairs of 3 to 24 tokens."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([24, 3, 11, 24, 8])[:, None]
    columns = torch.arange(24)[None]
    mask = (columns < lengths).long()
    ids = torch.randint(5, 30, (5, 24), generator=generator) * mask
    return ids, mask, (columns >= lengths // 2).long() * mask


def joint_encoder(_: Path) -> Path:
    return bundled("bundled:cross-encoder").folder()


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("build", [tiny_bert_classifier, tiny_distilbert_classifier])
def test_computing_the_last_layer_for_the_first_token_alone_changes_nothing(build, labels: int, tmp_path: Path) -> None:
    whole = load_cross_encoder(build(tmp_path, labels))
    narrow = first_token_only(whole)
    assert narrow is not whole
    with torch.inference_mode():
        expected, found = whole(*inputs()), narrow(*inputs())
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_other_architectures_stay_as_they_are(tmp_path: Path) -> None:
    whole = load_cross_encoder(tiny_roberta_classifier(tmp_path))
    assert first_token_only(whole) is whole


def test_the_last_layer_is_asked_for_one_token(tmp_path: Path) -> None:
    module = first_token_only(load_cross_encoder(tiny_bert_classifier(tmp_path)))
    seen = []
    layers = module.bert.encoder.layer
    for layer in layers:
        layer.intermediate.register_forward_hook(lambda _, given, out: seen.append(out.shape[1]))
    with torch.inference_mode():
        module(*inputs())
    assert seen == [24] * (len(layers) - 1) + [1]


def test_torch_gives_float32_whatever_it_computes_in(tmp_path: Path) -> None:
    folder = tiny_bert_classifier(tmp_path, labels=2)
    ids, mask, segments = (part.numpy() for part in inputs())
    exact = TorchRuntime(load_cross_encoder(folder), "float32").run(ids, mask, segments)
    half = TorchRuntime(load_cross_encoder(folder), "bfloat16").run(ids, mask, segments)
    assert (exact.dtype, half.dtype, half.shape) == (np.float32, np.float32, (5, 2))
    np.testing.assert_allclose(half, exact, atol=0.1)
    assert (half != exact).any()


@pytest.mark.parametrize("build", [tiny_bert_classifier, tiny_distilbert_classifier, joint_encoder])
def test_scores_in_bfloat16_are_finer_than_bfloat16(build, tmp_path: Path) -> None:
    """Rounded to it, scores of twenty would lie an eighth apart, and candidates that are not alike would be equal."""
    ids, mask, segments = (part.numpy() for part in inputs())
    scores = TorchRuntime(load_cross_encoder(build(tmp_path)), "bfloat16").run(ids, mask, segments)
    assert (torch.from_numpy(scores).bfloat16().float().numpy() != scores).any()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_float16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a CUDA GPU for dtype: float16, found none"):
        load_runtime("m", tiny_bert_classifier(tmp_path), load_cross_encoder, "auto", "float16")


def test_settings_that_exclude_each_other_are_named() -> None:
    assert [field for field, _ in runtime_problems("torch", "int8")] == ["dtype"]
    assert [field for field, _ in runtime_problems("openvino", "float16")] == ["dtype"]
    assert runtime_problems("torch", "bfloat16") == []
