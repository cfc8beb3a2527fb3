from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from cascade.errors import IndexCorrupt
from cascade.stage import Batch, Context
from cascade.testing import HOSTILE_TEXTS, check_stage
from cascade.types import Query
from stages.colbert import KIND
from stages.colbert.store import Writer
from stages.dense import KIND as DENSE
from tests.models_for_tests_colbert import MINILM, listed, tiny_colbert

pytestmark = pytest.mark.usefixtures("in_float32")

TEXTS = [
    "Rain falls from clouds that have grown heavy with water.",
    "",
    "Sourdough bread rises because wild yeast ferments the flour.",
    "The heart pumps blood through arteries and veins.",
    "?!",
    "Yeast is a fungus; bakers and brewers have used it for millennia.",
]
ROWS = np.arange(len(TEXTS), dtype=np.int32)


def settings(model, **more):
    return KIND.settings(name="late", kind="colbert", top_k=5, model=str(model), **more)


def load(model, **more):
    return KIND.load(settings(model, **more), Context(MINILM))


def ignore(done, total):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_colbert(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def stage(folder):
    return load(folder, bits=32)


@pytest.fixture(scope="module")
def passages():
    return listed(TEXTS)


@pytest.fixture(scope="module")
def built(tmp_path_factory, stage, passages):
    directory = tmp_path_factory.mktemp("index")
    stage.build(passages, directory, ignore)
    return directory


def scores(opened, text, rows=ROWS):
    return opened.score(Batch.single(opened.encode_query(Query("q", text)), rows))


def test_an_untrained_encoder_reads_queries_as_a_dense_retriever_of_the_same_model_does():
    late = load("bundled:bi-encoder").open(listed(TEXTS), None)

    def retriever(**more):
        own = DENSE.settings(name="dense", kind="dense", top_k=5, **more)
        return DENSE.load(own, Context(MINILM)).open(listed(TEXTS), None)

    dense, query = retriever(), Query("q", "why does bread dough rise " * 30)
    assert late.query_reader == dense.query_reader
    one, other = late.read_query(query), dense.read_query(query)
    np.testing.assert_array_equal(one.states, other.states)
    np.testing.assert_array_equal(late.encode_read(query, other), late.encode_query(query))
    others = [retriever(query_prefix="query: "), retriever(max_query_tokens=32), retriever(runtime="torch")]
    others += [load("bundled:colbert").open(listed(TEXTS), None)]
    assert len({late.query_reader, *(other.query_reader for other in others)}) == 5


def test_an_untrained_encoder_ranks_the_passage_that_answers_first():
    opened = load("bundled:bi-encoder").open(listed(TEXTS), None)
    assert np.argmax(scores(opened, "why does bread dough rise")) == 2
    assert np.argmax(scores(opened, "what moves blood around the body")) == 3


def test_scores_from_the_index_equal_those_without_one(stage, passages, built):
    indexed, unindexed = stage.open(passages, built), stage.open(passages, None)
    np.testing.assert_allclose(scores(indexed, "bread"), scores(unindexed, "bread"), atol=1e-5)


def test_rare_tokens_count_more_than_common_ones(tmp_path):
    common = listed([f"the bread of the town number {number}" for number in range(20)] + ["yeast of the town"])
    stage = load("bundled:bi-encoder", query_weights="idf", bits=16)
    stage.build(common, tmp_path, ignore)
    plain = stage.open(common, None).encode_query(Query("q", "the yeast"))
    rare = stage.open(common, tmp_path).encode_query(Query("q", "the yeast"))
    lengths = np.linalg.norm(rare, axis=1)
    np.testing.assert_allclose(rare / lengths[:, None], plain, atol=1e-6)
    cls, the, yeast, sep = lengths
    assert cls == pytest.approx(1)
    assert sep == pytest.approx(1)
    assert the + yeast == pytest.approx(2)
    frequent, seldom = np.log1p((0.5 + 0) / 21.5), np.log1p(20.5 / 1.5)
    assert yeast / the == pytest.approx(np.sqrt(seldom / frequent))


@pytest.mark.parametrize("bits", [2, 16])
def test_an_index_knows_how_rare_tokens_are_and_an_older_one_counts_them(tmp_path, bits):
    passages, stage = listed(TEXTS), load("bundled:bi-encoder", bits=bits, query_weights="idf")
    stage.build(passages, tmp_path, ignore)
    stored = scores(stage.open(passages, tmp_path), "why does bread dough rise")
    (tmp_path / "frequencies.npy").unlink()
    np.testing.assert_array_equal(scores(stage.open(passages, tmp_path), "why does bread dough rise"), stored)


def test_damaged_frequencies_are_reported(passages, tmp_path, folder):
    stage = load(folder, query_weights="idf")
    stage.build(passages, tmp_path, ignore)
    np.save(tmp_path / "frequencies.npy", np.zeros(3))
    with pytest.raises(IndexCorrupt, match=r"frequencies\.npy: expected int32"):
        stage.open(passages, tmp_path)
    (tmp_path / "frequencies.npy").write_bytes(b"x")
    with pytest.raises(IndexCorrupt, match="rebuild the index"):
        stage.open(passages, tmp_path)


def test_half_precision_storage_hardly_moves_scores(folder, passages, tmp_path):
    half = load(folder, bits=16)
    half.build(passages, tmp_path, ignore)
    exact = scores(half.open(passages, None), "bread")
    np.testing.assert_allclose(scores(half.open(passages, tmp_path), "bread"), exact, atol=0.01)


@pytest.mark.parametrize(("bits", "tolerance"), [(1, 0.45), (2, 0.25), (4, 0.1)])
def test_compressed_scores_of_a_real_model_stay_close_a_query_token(passages, tmp_path, bits, tolerance):
    stage = load("bundled:bi-encoder", bits=bits)
    stage.build(passages, tmp_path, ignore)
    query = Query("q", "why does bread dough rise")
    exact = stage.open(passages, None)
    tokens = len(exact.encode_query(query))
    found, expected = scores(stage.open(passages, tmp_path), query.text), scores(exact, query.text)
    assert np.abs(found - expected).max() / tokens < tolerance
    assert np.argmax(found) == np.argmax(expected) == 2


def test_a_token_takes_at_most_36_bytes_at_128_dimensions_and_2_bits(tmp_path):
    stage = load(tiny_colbert(tmp_path / "model", dim=128), bits=2)
    (tmp_path / "index").mkdir()
    stage.build(listed(TEXTS * 50), tmp_path / "index", ignore)
    tokens = int(np.load(tmp_path / "index" / "offsets.npy")[-1])
    stored = (tmp_path / "index" / "vectors.npy").stat().st_size
    assert tokens > 2000
    assert stored / tokens < 36


def test_pooling_stores_half_as_many_embeddings(folder, passages, built, tmp_path):
    pooled = load(folder, pooling=2)
    pooled.build(passages, tmp_path, ignore)
    whole = np.diff(np.load(built / "offsets.npy"))
    opened = pooled.open(passages, tmp_path)
    assert opened.lengths(opened.encode_query(Query("q", "bread")), ROWS).tolist() == ((whole + 1) // 2).tolist()
    assert scores(opened, "bread")[1] == -12


@pytest.mark.parametrize(
    "own", [{"bits": 1, "pooling": 2}, {"bits": 2}, {"bits": 4}, {"bits": 16, "pooling": 2}, {"query_weights": "idf"}]
)
def test_every_form_of_storage_keeps_the_contract(folder, tmp_path, own):
    texts = listed([*HOSTILE_TEXTS[:3], *TEXTS, HOSTILE_TEXTS[5]])
    check_stage(KIND, {"name": "late", "kind": "colbert", "top_k": 5, "model": str(folder), **own}, texts, tmp_path)


def test_two_builds_of_the_same_passages_are_equal_to_the_byte(folder, passages, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        load(folder).build(passages, tmp_path / name, ignore)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert set(one) == {"codec.safetensors", "frequencies.npy", "offsets.npy", "vectors.npy"}


def test_an_interrupted_compressed_build_goes_on_with_its_codec(folder, passages, tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "block", 2)

    def interrupted(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(folder).build(passages, tmp_path, interrupted)
    codec = (tmp_path / "codec.safetensors").read_bytes()
    monkeypatch.setattr("stages.colbert.rescore.train", None)  # not to be called again
    reported = []
    load(folder).build(passages, tmp_path, lambda done, total: reported.append((done, total)))
    assert reported == [(6, 6)]
    assert (tmp_path / "codec.safetensors").read_bytes() == codec


def test_a_codec_of_other_passages_or_a_damaged_one_is_trained_again(folder, passages, tmp_path):
    stage = load(folder)
    stage.build(listed(TEXTS[::-1]), tmp_path, ignore)
    before = (tmp_path / "codec.safetensors").read_bytes()
    stage.build(passages, tmp_path, ignore)
    trained = (tmp_path / "codec.safetensors").read_bytes()
    assert trained != before
    (tmp_path / "codec.safetensors").write_bytes(before[:100])
    stage.build(passages, tmp_path, ignore)
    assert (tmp_path / "codec.safetensors").read_bytes() == trained


def test_an_empty_passage_scores_the_least_there_is(stage, passages, built):
    for directory in (built, None):
        found = scores(stage.open(passages, directory), "bread")
        assert found[1] == -12
        assert np.all(np.delete(found, 1) > -12)


def test_a_batch_of_several_queries_scores_like_batches_of_one(stage, passages, built):
    opened = stage.open(passages, built)
    queries = tuple(opened.encode_query(Query("q", text)) for text in ("bread", "blood", "unused"))
    batch = Batch(queries, np.array([1, 0, 1, 0], np.int32), np.array([5, 5, 0, 2], np.int32))
    expected = [scores(opened, text, np.array([row], np.int32))[0] for text, row in
                (("blood", 5), ("bread", 5), ("blood", 0), ("bread", 2))]  # fmt: skip
    np.testing.assert_allclose(opened.score(batch), expected, atol=1e-5)


def test_an_empty_batch_has_no_scores(stage, passages, built):
    assert scores(stage.open(passages, built), "bread", ROWS[:0]).shape == (0,)


def test_lengths_are_what_is_stored_or_what_would_be_encoded(stage, passages, built):
    query = np.zeros((1, 16), np.float32)
    ids = np.array([len(one) for one in stage.tokenizer.encode(TEXTS)])
    stored = stage.open(passages, built).lengths(query, ROWS)
    encoded = stage.open(passages, None).lengths(query, ROWS)
    assert encoded.tolist() == np.where(ids == 0, 0, ids + 3).tolist()
    assert stored.tolist() == [encoded[0] - 1, 0, encoded[2] - 1, encoded[3] - 1, 3, encoded[5] - 2]


def test_an_interrupted_build_goes_on_where_it_stopped(stage, passages, built, tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "block", 2)

    class Interruptedly:
        def __call__(self, done, total):
            if done == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.build(passages, tmp_path, Interruptedly())
    with pytest.raises(IndexCorrupt):
        stage.open(passages, tmp_path)
    reported = []
    stage.build(passages, tmp_path, lambda done, total: reported.append((done, total)))
    assert reported == [(6, 6)]
    whole, resumed = stage.open(passages, built), stage.open(passages, tmp_path)
    np.testing.assert_allclose(scores(whole, "bread"), scores(resumed, "bread"), atol=1e-5)


def test_what_was_interrupted_over_other_passages_is_built_anew(stage, passages, tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "block", 2)
    with pytest.raises(ZeroDivisionError):
        stage.build(passages, tmp_path, lambda done, total: 1 / 0)
    reported = []
    others = listed([TEXTS[3], *TEXTS[1:]])
    stage.build(others, tmp_path, lambda done, total: reported.append(done))
    assert reported == [2, 4, 6]


def test_an_index_of_other_passages_does_not_open(stage, built):
    with pytest.raises(IndexCorrupt, match="offsets"):
        stage.open(listed(TEXTS[:3]), built)


@pytest.mark.parametrize("bits", [2, 16])
def test_an_empty_collection_can_be_built_and_opened(folder, tmp_path, bits):
    nothing, stage = listed([]), load(folder, bits=bits)
    stage.build(nothing, tmp_path, ignore)
    assert scores(stage.open(nothing, tmp_path), "bread", ROWS[:0]).shape == (0,)


def test_the_role_follows_the_backend(folder):
    assert KIND.role_of(settings(folder)) == "reranker"
    assert KIND.role_of(settings(folder, backend="plaid")) == "retriever"


def test_settings_that_shape_the_index_are_marked(folder):
    shaping = settings(folder, max_passage_tokens=100, max_query_tokens=20).index_settings()
    assert shaping == {"backend": "rescore", "max_passage_tokens": 100, "bits": 2, "pooling": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"similarity": "l2"},
        {"bits": 8},
        {"dtype": "float16"},
        {"pooling": 3},
        {"max_passage_tokens": 2},
        {"backend": "x"},
    ],
)
def test_unknown_settings_and_values_are_refused(folder, wrong):
    with pytest.raises(ValidationError):
        settings(folder, **wrong)


def test_nothing_is_wrong_with_a_good_model(folder):
    assert KIND.check(settings(folder), Context(folder)) == []
    assert KIND.check(settings("bundled:bi-encoder"), Context(folder)) == []


def test_problems_are_found_before_loading(folder, tmp_path):
    context = Context(tmp_path)
    [(field, message)] = KIND.check(settings("nowhere"), context)
    assert (field, "nowhere" in message) == ("model", True)
    bad = tiny_colbert(tmp_path / "bad", similarity="l2")
    [(field, message)] = KIND.check(settings(bad), context)
    assert (field, "l2" in message) == ("model", True)
    found = dict(KIND.check(settings("bundled:bi-encoder", backend="plaid", bits=4), context))
    assert "colbert-ai" in found["model"]
    assert "no effect" in found["bits"]


def test_plaid_says_what_to_install(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("stages.colbert.settings._PLAID_PACKAGES", {"faiss": "faiss-cpu"})
    found = KIND.check(settings(folder, backend="plaid"), Context(folder))
    assert [field for field, _ in found] == ["backend", "backend"]
    assert "faiss-cpu" in found[0][1]
    assert "g++" in found[1][1]


def test_naming_the_kind_imports_nothing_heavy():
    program = "import sys, stages.colbert; print({'torch', 'transformers', 'numba', 'tokenizers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
