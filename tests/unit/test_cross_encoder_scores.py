from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cascade.errors import ModelError
from cascade.stage import Batch, Context, Reranker
from cascade.types import Query
from stages.cross_encoder import KIND, CrossEncoderSettings
from tests.models_for_tests import CLASSIFIERS, TEXTS, passages, tiny_bert_classifier

QUERY = "the cat and the mat"
OTHER = "deadlines"


def settings(folder: Path, **changes) -> CrossEncoderSettings:
    given = {"max_passage_tokens": 40, "max_query_tokens": 24, **changes}
    return CrossEncoderSettings(name="ce", kind="cross_encoder", top_k=10, model=str(folder), **given)


def opened(folder: Path, texts=TEXTS, **changes) -> Reranker:
    return KIND.load(settings(folder, **changes), Context(Path())).open(passages(texts), None)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def expected_logits(folder: Path, query: str, texts, passage_tokens: int) -> np.ndarray:
    """What transformers' own tokenizer and model say of each pair."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    length = len(tokenizer(query, add_special_tokens=False).input_ids) + tokenizer.num_special_tokens_to_add(pair=True)
    inputs = tokenizer(
        [query] * len(texts),
        list(texts),
        padding=True,
        truncation="only_second",
        max_length=length + passage_tokens,
        return_tensors="pt",
    )
    with torch.inference_mode():
        return model(**inputs).logits.numpy()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_classifier(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def reranker(bert: Path) -> Reranker:
    return opened(bert)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("build", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_scores_are_those_of_transformers_own_path(build, labels: int, tmp_path: Path) -> None:
    folder = build(tmp_path, labels)
    logits = expected_logits(folder, QUERY, TEXTS, 40)
    expected = logits[:, 0] if labels == 1 else logits[:, 1] - logits[:, 0]
    stage = opened(folder)
    scores = stage.score(Batch.single(stage.encode_query(Query("q", QUERY)), np.arange(len(TEXTS), dtype=np.int32)))
    assert scores.dtype == np.float32
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_long_passages_are_cut_at_the_window(bert: Path) -> None:
    long = "the cat and the cat again " * 30
    expected = expected_logits(bert, QUERY, [long], 7)[:, 0]
    stage = opened(bert, [long], max_passage_tokens=7)
    query = stage.encode_query(Query("q", QUERY))
    np.testing.assert_allclose(stage.score(Batch.single(query, rows(0))), expected, atol=1e-5)
    assert stage.lengths(query, rows(0)).tolist() == [3 + len(query) + 7]


def test_prefixes_are_read_like_text(bert: Path) -> None:
    reranker = opened(bert, query_prefix="red", passage_prefix="blue")
    encoded = reranker.encode_query(Query("1", QUERY))
    plain = opened(bert, ["blue " + text for text in TEXTS], max_passage_tokens=40 + len("blue"))
    joined = plain.encode_query(Query("1", "red " + QUERY))
    chosen = rows(0, 1, 2)
    np.testing.assert_allclose(
        reranker.score(Batch.single(encoded, chosen)), plain.score(Batch.single(joined, chosen)), rtol=1e-5, atol=1e-6
    )


def test_a_batch_of_several_queries_scores_each_pair_as_if_alone(reranker: Reranker) -> None:
    queries = tuple(reranker.encode_query(Query("q", text)) for text in (QUERY, "", OTHER))
    query_of, of_rows = rows(2, 0, 1, 0, 2, 1), rows(0, 1, 2, 3, 4, 5)
    together = reranker.score(Batch(queries, query_of, of_rows))
    alone = [
        reranker.score(Batch.single(queries[query], rows(row)))[0] for query, row in zip(query_of, of_rows, strict=True)
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_scores_follow_their_rows_in_any_order(reranker: Reranker) -> None:
    query = reranker.encode_query(Query("q", QUERY))
    forward = reranker.score(Batch.single(query, rows(0, 1, 2, 4, 4)))
    backward = reranker.score(Batch.single(query, rows(4, 4, 2, 1, 0)))
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-5)


def test_an_empty_batch_has_no_scores(reranker: Reranker) -> None:
    assert reranker.score(Batch((), rows(), rows())).shape == (0,)
    assert reranker.lengths(reranker.encode_query(Query("q", QUERY)), rows()).shape == (0,)


@pytest.mark.parametrize("text", ["", "\ud800", "\0", "x" * 1_000_000, "word " * 100_000, "[SEP] [CLS]"])
def test_any_query_gets_finite_scores(reranker: Reranker, text: str) -> None:
    query = reranker.encode_query(Query("q", text))
    assert len(query) <= 24
    assert np.isfinite(reranker.score(Batch.single(query, rows(0, 3)))).all()


def test_bfloat16_scores_are_close_to_float32(bert: Path, reranker: Reranker) -> None:
    half = opened(bert, dtype="bfloat16")
    batch = Batch.single(reranker.encode_query(Query("q", QUERY)), rows(0, 1, 2, 3))
    scores = half.score(batch)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reranker.score(batch), atol=0.1)


def test_threads_may_share_a_reranker(reranker: Reranker) -> None:
    batch = Batch.single(reranker.encode_query(Query("q", QUERY)), rows(0, 1, 2, 3, 4))
    alone = reranker.score(batch)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(reranker.score, [batch] * 12):
            np.testing.assert_allclose(scores, alone, atol=1e-6)


def test_batch_tokens_come_from_the_settings(bert: Path) -> None:
    assert opened(bert, batch_tokens=777).batch_tokens == 777


def test_a_classifier_with_more_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a model with one label .*got 3"):
        opened(tiny_bert_classifier(tmp_path, labels=3))


def test_windows_that_the_model_has_no_positions_for_are_refused(bert: Path) -> None:
    assert opened(bert, max_passage_tokens=101).batch_tokens == 4096
    with pytest.raises(ModelError, match=r"expected pairs of at most 128 tokens, got .* = 129"):
        opened(bert, max_passage_tokens=102)


def test_check_names_the_setting_and_what_is_wrong(bert: Path, tmp_path: Path) -> None:
    context = Context(tmp_path)
    assert list(KIND.check(settings(bert), context)) == []
    [(field, message)] = KIND.check(settings(Path("none")), context)
    assert field == "model"
    assert "no model folder" in message


def test_settings_are_strict(bert: Path) -> None:
    wrong = ({"dtype": "float8"}, {"runtime": "tpu"}, {"max_passage_tokens": 0}, {"batch_tokens": "many"})
    for changes in (*wrong, {"device": "cuda"}):
        with pytest.raises(ValidationError):
            settings(bert, **changes)
