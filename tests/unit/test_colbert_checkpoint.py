from __future__ import annotations

import json
import string

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cascade.errors import ModelError
from stages.colbert.checkpoint import read_format, read_projection
from stages.colbert.encoder import TokenEncoder
from stages.colbert.plaid import standing_alone
from stages.models.catalogue import bundled
from tests.models_for_tests_colbert import (
    MINILM,
    listed,
    minilm_colbert,
    minilm_projection,
    minilm_pylate,
    tiny_colbert,
)

pytestmark = pytest.mark.usefixtures("in_float32")

TEXTS = ["The quick, brown fox.", "", "!", "jumps " * 100]


@pytest.fixture(scope="module")
def colbert(tmp_path_factory):
    return minilm_colbert(tmp_path_factory.mktemp("models") / "colbert")


@pytest.fixture(scope="module")
def pylate(tmp_path_factory):
    return minilm_pylate(tmp_path_factory.mktemp("models") / "pylate")


@pytest.fixture(scope="module")
def plain():
    return TokenEncoder(MINILM)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TokenEncoder(tiny_colbert(tmp_path_factory.mktemp("models") / "tiny"))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def counts(encoder, texts):
    tokens = listed(texts).tokens(encoder.tokenizer)
    return encoder.kept(tokens, np.arange(len(texts))).tolist()


def test_reads_the_conventions_of_colbert_ai(colbert):
    form = read_format(colbert)
    assert (form.kind, form.query_marker, form.document_marker) == ("colbert-ai", "[unused0]", "[unused1]")
    assert (form.query_tokens, form.passage_tokens) == (32, 180)
    assert (form.expand_queries, form.attend_to_expansion) == (True, False)
    assert form.skip_words == tuple(string.punctuation)


def test_reads_the_conventions_of_pylate(tmp_path):
    folder = minilm_pylate(
        tmp_path / "model",
        query_length=48,
        do_query_expansion=False,
        attend_to_expansion_tokens=True,
        skiplist_words=["."],
    )
    form = read_format(folder)
    assert (form.kind, form.query_marker, form.document_marker) == ("pylate", "[unused0]", "[unused1]")
    assert (form.query_tokens, form.passage_tokens) == (48, 180)
    assert (form.expand_queries, form.attend_to_expansion, form.skip_words) == (False, False, (".",))


def test_any_other_encoder_is_used_as_it_is():
    form = read_format(MINILM)
    assert (form.kind, form.query_marker, form.document_marker, form.skip_words) == ("encoder", "", "", ())
    assert not form.expand_queries
    assert read_projection(form) is None


def test_both_libraries_formats_of_one_model_encode_alike(colbert, pylate):
    first, second = TokenEncoder(colbert), TokenEncoder(pylate)
    ids = first.tokenizer.encode(TEXTS)
    np.testing.assert_allclose(first.encode_passages(ids), second.encode_passages(ids), atol=1e-6)
    np.testing.assert_allclose(first.encode_query(TEXTS[0]), second.encode_query(TEXTS[0]), atol=1e-6)


def test_several_projections_are_applied_one_after_the_other(tmp_path):
    folder = minilm_pylate(tmp_path / "model")
    (folder / "2_Dense").mkdir()
    second = torch.randn(8, 128)
    save_file({"linear.weight": second}, folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "config.json").write_text((folder / "1_Dense" / "config.json").read_text())
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {**modules[1], "path": "2_Dense"}]))
    expected = (second @ minilm_projection()).numpy()
    np.testing.assert_allclose(read_projection(read_format(folder)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": "l2"}, "similarity: expected 'cosine', got 'l2'"),
        ({"interaction": "flipr"}, "interaction"),
        ({"query_maxlen": 0}, "query_maxlen"),
        ({"doc_maxlen": "many"}, "doc_maxlen"),
    ],
)
def test_metadata_that_cannot_be_followed_are_refused(tmp_path, changes, message):
    folder = tiny_colbert(tmp_path / "model", **changes)
    with pytest.raises(ModelError, match=message):
        read_format(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_damaged_metadata_are_refused(tmp_path, content):
    folder = tiny_colbert(tmp_path / "model")
    (folder / "artifact.metadata").write_text(content)
    with pytest.raises(ModelError, match=r"artifact\.metadata"):
        read_format(folder)


def test_a_colbert_checkpoint_without_projection_is_refused(tmp_path):
    folder = tiny_colbert(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    del state["linear.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"linear\.weight"):
        read_format(folder)


def test_damaged_weights_are_refused(tmp_path):
    folder = tiny_colbert(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="safetensors"):
        read_format(folder)


@pytest.mark.parametrize("path", ["../1_Dense", "/tmp", "..", "1_Dense/../../x"])
def test_a_projection_outside_the_model_folder_is_refused(tmp_path, path):
    folder = minilm_pylate(tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0], {**modules[1], "path": path}]))
    with pytest.raises(ModelError, match=r"modules\.json"):
        read_format(folder)


@pytest.mark.parametrize("changes", [{"bias": True}, {"activation_function": "torch.nn.Tanh"}, {"use_residual": True}])
def test_a_projection_that_is_more_than_a_matrix_is_refused(tmp_path, changes):
    folder = minilm_pylate(tmp_path / "model")
    edit(folder / "1_Dense" / "config.json", **changes)
    with pytest.raises(ModelError, match="without bias"):
        read_format(folder)


def test_a_projection_of_another_width_is_refused(tmp_path):
    folder = tiny_colbert(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "linear.weight": torch.zeros(16, 33)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="takes 33 values, the encoder gives 32"):
        TokenEncoder(folder)


def test_a_marker_that_the_vocabulary_lacks_is_refused(tmp_path):
    folder = tiny_colbert(tmp_path / "model", query_token_id="[no such token]")
    with pytest.raises(ModelError, match="no such token"):
        TokenEncoder(folder)


def test_more_tokens_than_positions_are_refused_and_the_checkpoints_own_are_capped(tmp_path):
    folder = tiny_colbert(tmp_path / "model", doc_maxlen=1000)
    with pytest.raises(ModelError, match="256"):
        TokenEncoder(folder, passage_tokens=257)
    assert TokenEncoder(folder).tokenizer.window == 256 - 3


def test_embeddings_have_length_one_and_the_projections_width(tiny):
    query = tiny.encode_query("a question")
    passages = tiny.encode_passages(tiny.tokenizer.encode(TEXTS))
    assert query.shape == (12, 16)
    assert passages.shape == (sum(counts(tiny, TEXTS)), 16)
    for embeddings in (query, passages):
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_kept_tokens_are_known_before_encoding(tiny):
    ids = tiny.tokenizer.encode(TEXTS)
    assert counts(tiny, TEXTS) == [len(tiny.encode_passages([one])) for one in ids]
    assert counts(tiny, TEXTS) == [4 + 3, 0, 3, 64]


def test_an_empty_passage_has_no_embeddings(tiny):
    assert tiny.encode_passages([np.empty(0, np.int32)]).shape == (0, 16)


def test_passages_are_encoded_alike_alone_and_in_batches(plain):
    ids = plain.tokenizer.encode(TEXTS)
    alone = np.concatenate([plain.encode_passages([one]) for one in ids])
    np.testing.assert_allclose(plain.encode_passages(ids), alone, atol=1e-5)


@pytest.mark.parametrize("text", ["", "a question", "word " * 500, "x" * 100_000, "\ud800 \0"])
def test_an_expanded_query_always_has_the_same_length(tiny, text):
    assert tiny.encode_query(text).shape == (12, 16)


def test_the_bundled_colbert_scores_a_query_s_own_tokens_alone():
    folder = bundled("bundled:colbert").folder()
    assert not read_format(folder).expand_queries
    assert len(TokenEncoder(folder).encode_query("a short question")) == 6


def test_masks_that_a_query_does_not_attend_to_can_be_left_out(tmp_path, colbert):
    folder = minilm_colbert(tmp_path / "model", expand_queries=False)
    expanded, plain, asked = TokenEncoder(colbert), TokenEncoder(folder), TokenEncoder(colbert, expand_queries=False)
    for encoder in (plain, asked):
        own = encoder.encode_query("a short question")
        assert own.shape == (6, 128)
        np.testing.assert_allclose(own, expanded.encode_query("a short question")[:6], atol=1e-5)
    np.testing.assert_allclose(
        TokenEncoder(folder, expand_queries=True).encode_query("x"), expanded.encode_query("x"), atol=1e-6
    )
    assert plain.fingerprint == expanded.fingerprint == asked.fingerprint


def test_a_query_without_expansion_has_its_own_length(plain):
    assert plain.encode_query("a question").shape == (4, 384)
    assert plain.encode_query("").shape == (2, 384)
    assert plain.encode_query("word " * 500).shape == (66, 384)


def test_colbert_ai_gets_a_checkpoint_with_all_weights():
    """It builds a BERT by transformers, which draws at random what a file lacks, and a projection beside it."""
    from transformers import BertModel

    folder = bundled("bundled:colbert").folder()
    with standing_alone(folder) as checkpoint:
        names = set(load_file(checkpoint / "model.safetensors"))
        _, report = BertModel.from_pretrained(checkpoint, output_loading_info=True)
        form = read_format(checkpoint)
        np.testing.assert_allclose(read_projection(form), read_projection(read_format(folder)))
    assert report["missing_keys"] == []
    assert "linear.weight" in names
    assert not any(name.endswith((".units", ".step")) for name in names)
    assert form.kind == "colbert-ai"
    assert not checkpoint.exists()


def test_a_checkpoint_that_is_whole_is_used_where_it_is(colbert):
    with standing_alone(colbert) as checkpoint:
        assert checkpoint == colbert


def test_the_fingerprint_changes_with_all_that_shapes_a_passage_and_nothing_else(tmp_path):
    folder = tiny_colbert(tmp_path / "model")
    same, longer_queries = TokenEncoder(folder), TokenEncoder(folder, query_tokens=20)
    shorter = TokenEncoder(folder, passage_tokens=20)
    edit(folder / "artifact.metadata", mask_punctuation=False)
    unmasked = TokenEncoder(folder)
    assert same.fingerprint == longer_queries.fingerprint
    assert len({same.fingerprint, shorter.fingerprint, unmasked.fingerprint}) == 3
