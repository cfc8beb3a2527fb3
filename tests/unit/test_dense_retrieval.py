import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import IndexCorrupt, ModelError
from cascade.stage import Context, Retriever, Stage
from cascade.types import Query
from stages.dense import KIND, DenseSettings
from stages.models import CATALOGUE
from tests.models_for_tests import TEXTS, passages, tiny_bert_classifier, tiny_roberta_classifier

pytestmark = pytest.mark.usefixtures("in_float32")

CONTEXT = Context(Path())
MINILM = CATALOGUE[0].folder()
QUESTION = Query("q", "who sat on the mat?")


def settings(**changes) -> DenseSettings:
    return DenseSettings(name="dense", kind="dense", top_k=10, **changes)


def load(**changes) -> Stage:
    return KIND.load(settings(**changes), CONTEXT)


def silent(done: int, total: int) -> None:
    """Takes progress and does nothing with it."""


def built(stage: Stage, folder: Path, texts=TEXTS) -> Retriever:
    stage.build(passages(texts), folder, silent)
    return stage.open(passages(texts), folder)


def all_rows(retriever: Retriever, query: Query = QUESTION, k: int = 100) -> tuple[np.ndarray, np.ndarray]:
    [(start, stop)] = retriever.ranges()
    return retriever.search(retriever.encode_query(query), k, start, stop)


@pytest.fixture(scope="module")
def minilm() -> Stage:
    return load()


@pytest.fixture(scope="module")
def retriever(minilm: Stage, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return built(minilm, tmp_path_factory.mktemp("dense"))


def test_embeddings_are_those_of_sentence_transformers(minilm: Stage, retriever: Retriever) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(str(MINILM), device="cpu", local_files_only=True)
    expected = reference.encode(list(TEXTS), show_progress_bar=False)
    np.testing.assert_allclose(retriever.vectors.between(0, len(TEXTS)), expected, atol=1e-3)
    np.testing.assert_allclose(
        retriever.encode_query(QUESTION), reference.encode(QUESTION.text, show_progress_bar=False), atol=1e-3
    )


def test_the_passage_that_answers_comes_first_and_scores_are_cosines(retriever: Retriever) -> None:
    rows, scores = all_rows(retriever, Query("q", "where did the pets sit down?"))
    assert TEXTS[rows[0]].startswith("The cat sat on the mat")
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)
    assert sorted(rows) == list(range(len(TEXTS)))
    assert np.all(np.diff(scores) <= 0)
    assert np.all(np.abs(scores) <= 1.0001)


def test_an_index_and_vectors_computed_now_agree(minilm: Stage, retriever: Retriever) -> None:
    now = minilm.open(passages(), None)
    np.testing.assert_allclose(all_rows(now)[1], all_rows(retriever)[1], atol=1e-6)
    np.testing.assert_array_equal(all_rows(now)[0], all_rows(retriever)[0])


def test_a_part_of_the_rows_is_searched_alone(retriever: Retriever) -> None:
    query = retriever.encode_query(QUESTION)
    rows, scores = retriever.search(query, 2, 2, 6)
    everything = dict(zip(*all_rows(retriever), strict=True))
    expected = sorted(range(2, 6), key=lambda row: -everything[row])[:2]
    assert rows.tolist() == expected
    np.testing.assert_allclose(scores, [everything[row] for row in expected], atol=1e-6)
    assert len(retriever.search(query, 0, 0, 7)[0]) == 0
    assert len(retriever.search(query, 5, 3, 3)[0]) == 0


@pytest.mark.parametrize("copies", [6, 15, 16, 37])
def test_equal_passages_come_in_the_order_of_their_rows(minilm: Stage, copies: int) -> None:
    rows, scores = all_rows(minilm.open(passages(["same text"] * copies), None), k=copies)
    assert rows.tolist() == list(range(copies))
    assert len(set(scores)) == 1


def test_float16_halves_the_file_and_hardly_moves_scores(retriever: Retriever, tmp_path: Path) -> None:
    half = built(load(dtype="float16"), tmp_path)
    assert np.load(tmp_path / "vectors.npy").dtype == np.float16
    np.testing.assert_allclose(all_rows(half)[1], all_rows(retriever)[1], atol=2e-3)
    np.testing.assert_allclose(half.vectors.take(np.array([3, 1])), retriever.vectors.take(np.array([3, 1])), atol=1e-3)


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_an_empty_collection_has_no_answers(search: str, tmp_path: Path) -> None:
    stage = load(search=search)
    for retriever in (built(stage, tmp_path, []), stage.open(passages([]), None)):
        assert list(retriever.ranges()) == []
        assert len(retriever.search(retriever.encode_query(QUESTION), 5, 0, 0)[0]) == 0


@pytest.mark.parametrize("text", ["", "\ud800", "\0", "x" * 1_000_000, "word " * 100_000])
def test_any_query_has_a_finite_vector(retriever: Retriever, text: str) -> None:
    vector = retriever.encode_query(Query("q", text))
    assert vector.shape == (384,)
    assert np.isfinite(vector).all()


def test_queries_and_passages_are_cut_at_their_windows(tmp_path: Path) -> None:
    stage = load(max_passage_tokens=2, max_query_tokens=2)
    retriever = stage.open(passages(["cat sat", "cat sat on a mat"]), None)
    vectors = retriever.vectors.between(0, 2)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(retriever.encode_query(Query("q", "cat sat down")), vectors[0], atol=1e-6)


def test_prefixes_are_read_before_the_text() -> None:
    plain = load().open(passages(["passage: a cat"]), None)
    prefixed = load(passage_prefix="passage: ", query_prefix="query: ").open(passages(["a cat"]), None)
    np.testing.assert_allclose(prefixed.vectors.between(0, 1), plain.vectors.between(0, 1), atol=1e-6)
    np.testing.assert_allclose(
        prefixed.encode_query(Query("q", "a cat")), plain.encode_query(Query("q", "query: a cat")), atol=1e-6
    )


def test_vectors_keep_their_length_without_normalisation() -> None:
    lengths = np.linalg.norm(load(normalise=False).open(passages(), None).vectors.between(0, 7), axis=1)
    assert np.ptp(lengths) > 0.01


def test_pooling_is_what_the_checkpoint_states_unless_set(tmp_path: Path) -> None:
    tiny_bert_classifier(tmp_path)
    window = {"model": str(tmp_path), "max_passage_tokens": 60, "max_query_tokens": 60}
    vectors = {
        name: load(pooling=name, **window).open(passages(), None).vectors.between(0, 7) for name in ("mean", "cls")
    }
    assert np.abs(vectors["mean"] - vectors["cls"]).max() > 0.01
    (tmp_path / "1_Pooling").mkdir()
    stated = tmp_path / "1_Pooling" / "config.json"
    for name, key in (("cls", "pooling_mode_cls_token"), ("mean", "pooling_mode_mean_tokens")):
        stated.write_text(json.dumps({"word_embedding_dimension": 32, key: True}))
        stage = load(**window)
        assert stage.fingerprint().endswith(name)
        np.testing.assert_array_equal(stage.open(passages(), None).vectors.between(0, 7), vectors[name])
    stated.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(
        ModelError, match=r"expected pooling by mean or by cls token, got \['pooling_mode_max_tokens'\]"
    ):
        load(**window)


def test_a_checkpoint_with_further_layers_is_refused(tmp_path: Path) -> None:
    tiny_bert_classifier(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelError, match="expected only transformer, pooling and normalisation"):
        load(model=str(tmp_path), max_passage_tokens=60)


def test_a_roberta_encoder_fits_exactly_its_positions(tmp_path: Path) -> None:
    tiny_roberta_classifier(tmp_path)
    stage = load(model=str(tmp_path), max_passage_tokens=126)
    assert np.isfinite(stage.open(passages(["the " * 500]), None).vectors.between(0, 1)).all()
    with pytest.raises(ModelError, match="expected texts of at most 126 tokens, prefix included, got 127"):
        load(model=str(tmp_path), max_passage_tokens=127)


def test_threads_may_share_a_retriever(retriever: Retriever) -> None:
    alone = all_rows(retriever)
    with ThreadPoolExecutor(4) as pool:
        for rows, scores in pool.map(lambda _: all_rows(retriever), range(12)):
            np.testing.assert_array_equal(rows, alone[0])
            np.testing.assert_allclose(scores, alone[1], atol=1e-6)


def test_hnsw_finds_what_the_exact_search_finds(minilm: Stage, tmp_path: Path) -> None:
    texts = [
        f"{animal} {verb} {place}"
        for animal in ("cat", "dog", "owl", "fish")
        for verb in ("sleeps", "eats", "sings")
        for place in ("at home", "in town", "under water")
    ]
    stage = load(search="hnsw", hnsw_links=8)
    graph = built(stage, tmp_path, texts)
    assert graph.ranges() == [(0, 36)]
    exact = minilm.open(passages(texts), None)
    for text in ("who sings in town?", "sleeping fish"):
        rows, scores = all_rows(graph, Query("q", text), k=5)
        expected_rows, expected_scores = all_rows(exact, Query("q", text), k=5)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    query = graph.encode_query(QUESTION)
    np.testing.assert_array_equal(graph.search(query, 3, 5, 20)[0], exact.search(query, 3, 5, 20)[0])
    assert graph.work(query, 0, 36).pairs < 128 * 6


def test_an_hnsw_file_of_another_collection_or_damaged_is_refused(tmp_path: Path) -> None:
    stage = load(search="hnsw")
    for name, texts in (("seven", TEXTS), ("two", TEXTS[:2])):
        (tmp_path / name).mkdir()
        built(stage, tmp_path / name, texts)
    graph = tmp_path / "seven" / "hnsw.faiss"
    whole = graph.read_bytes()
    for content in ((tmp_path / "two" / "hnsw.faiss").read_bytes(), whole[: len(whole) // 2], b"", b"nonsense"):
        graph.write_bytes(content)
        with pytest.raises(IndexCorrupt, match=r"hnsw.faiss: .*rebuild the index"):
            stage.open(passages(), tmp_path / "seven")


def test_check_says_what_to_install_and_what_model_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(KIND.check(settings(search="hnsw"), CONTEXT)) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problems = dict(KIND.check(settings(search="hnsw", model="nowhere"), CONTEXT))
    assert "pip install 'cascade-ranking[hnsw]'" in problems["search"]
    assert "no model folder" in problems["model"]


def test_settings_of_the_index_are_those_that_shape_vectors() -> None:
    assert set(settings().index_settings()) == {
        "model", "max_passage_tokens", "passage_prefix", "pooling", "normalise", "dtype", "search", "hnsw_links",
        "hnsw_ef_construction",
    }  # fmt: skip
