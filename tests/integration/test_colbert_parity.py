"""Our encoding and scoring against colbert-ai's own, over one checkpoint that both read."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from stages.colbert.encoder import TokenEncoder
from stages.colbert.maxsim import maxsim
from tests.models_for_tests_colbert import minilm_colbert

pytest.importorskip("colbert", reason="colbert-ai is not installed: pip install 'cascade-ranking[plaid]'")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("in_float32")]

QUERIES = [
    "what is a black hole",
    "who wrote 'the origin of species', and when?",
    "x",
    "a question that goes on for so long that it has to be cut off, because it asks about the weather, the harvest, "
    "the price of bread and the state of the roads in every single county of the kingdom",
]
PASSAGES = [
    "A black hole is a region of spacetime where gravity is so strong that nothing, not even light, can escape.",
    "On the Origin of Species (1859), by Charles Darwin, founded evolutionary biology.",
    "...!?",
    "Bread, roads; harvests - & the weather. " * 30,
    "short",
]


@pytest.fixture(scope="module", params=[False, True], ids=["expansion unattended", "expansion attended"])
def checkpoint(request, tmp_path_factory) -> Path:
    return minilm_colbert(tmp_path_factory.mktemp("model") / "colbert", attend_to_mask_tokens=request.param)


@pytest.fixture(scope="module")
def ours(checkpoint) -> TokenEncoder:
    return TokenEncoder(checkpoint)


@pytest.fixture(scope="module")
def theirs(checkpoint):
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        # Its C++ serves packed scoring only, which is not what is compared here; compiling it takes a minute.
        patch.setattr(Checkpoint, "try_load_torch_extensions", lambda use_gpu: None)
        return Checkpoint(str(checkpoint), colbert_config=ColBERTConfig(), verbose=0)


@pytest.mark.parametrize("query", QUERIES)
def test_query_embeddings_are_equal(ours, theirs, query):
    expected = theirs.queryFromText([query])[0].numpy()
    np.testing.assert_allclose(ours.encode_query(query), expected, atol=1e-5)


def test_passage_embeddings_are_equal_punctuation_left_out(ours, theirs):
    expected = theirs.docFromText(PASSAGES, keep_dims=False)
    embeddings = ours.encode_passages(ours.tokenizer.encode(PASSAGES))
    np.testing.assert_allclose(embeddings, np.concatenate([one.numpy() for one in expected]), atol=1e-5)


def test_scores_are_equal(ours, theirs):
    from colbert.modeling.colbert import colbert_score

    padded, mask = theirs.doc(*theirs.doc_tokenizer.tensorize(PASSAGES), keep_dims="return_mask")
    ids = ours.tokenizer.encode(PASSAGES)
    offsets = np.cumsum([0, *(len(ours.encode_passages([one])) for one in ids)])
    for query in QUERIES:
        expected = colbert_score(theirs.queryFromText([query]), padded, mask).numpy()
        scores = maxsim(ours.encode_query(query), ours.encode_passages(ids), offsets)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
