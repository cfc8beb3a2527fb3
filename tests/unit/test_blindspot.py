import re
from collections import Counter

import numpy as np
import pytest

from benchmarks.blindspot import MODELS, TRIPLES, Triple, accuracy, credits_of, read_triples, score, score_pair, wilson
from cascade.errors import CascadeError
from cascade.stage import ListwiseReranker
from cascade.types import Query
from stages.models import CATALOGUE

CATEGORIES = [
    "prevention-vs-statistics",
    "negation",
    "swapped-entities",
    "wrong-year",
    "cause-vs-cure",
    "superlatives",
    "conditions",
    "direction-and-order",
    "part-vs-whole",
    "definition-vs-mention",
]
LEAST = 22


@pytest.fixture(scope="module")
def triples():
    return read_triples()


@pytest.fixture(scope="module")
def by_category(triples):
    return {name: [triple for triple in triples if triple.category == name] for name in CATEGORIES}


def words(texts):
    return np.array([len(text.split()) for text in texts])


def test_there_are_ten_categories_of_at_least_22_triples(triples):
    counts = Counter(triple.category for triple in triples)
    assert list(counts) == CATEGORIES
    assert min(counts.values()) >= LEAST
    assert len(triples) >= 10 * LEAST


def test_every_bundled_model_is_asked_where_no_others_are_named():
    asked = {name.rpartition("=")[2] for name in MODELS}
    assert asked == {"bm25", *(f"bundled:{model.name}" for model in CATALOGUE)}
    assert "colbert=bundled:colbert" in MODELS


def test_ids_are_the_category_and_a_running_number(by_category):
    for name, members in by_category.items():
        assert [triple.id for triple in members] == [f"{name}-{n:02d}" for n in range(1, len(members) + 1)]


def test_questions_and_passages_are_all_different(triples):
    assert len({triple.question.lower() for triple in triples}) == len(triples)
    assert len({text for triple in triples for text in (triple.answers, triple.resembles)}) == 2 * len(triples)


def test_every_field_is_text_without_stray_blanks(triples):
    for triple in triples:
        for text in (triple.question, triple.answers, triple.resembles):
            assert text
            assert text == " ".join(text.split()), triple.id
        for passage in (triple.answers, triple.resembles):
            assert re.search(r"[.?”]$", passage), triple.id


def test_passages_have_20_to_90_words(triples):
    lengths = words([text for triple in triples for text in (triple.answers, triple.resembles)])
    assert lengths.min() >= 20
    assert lengths.max() <= 90


def test_length_gives_nothing_away(triples, by_category):
    answers, resembles = words([t.answers for t in triples]), words([t.resembles for t in triples])
    assert abs(answers.mean() / resembles.mean() - 1) < 0.05
    assert 0.45 < credits_of(np.stack((answers, resembles), axis=1)).mean() < 0.55
    for members in by_category.values():
        ratio = words([t.answers for t in members]).mean() / words([t.resembles for t in members]).mean()
        assert abs(ratio - 1) < 0.1


def test_the_lookalike_repeats_more_of_the_question_than_the_answer_does(triples):
    def shared(triple, passage):
        return len(terms(triple.question) & terms(passage))

    def terms(text):
        return set(re.findall(r"\w{4,}", text.lower()))

    counts = np.array([(shared(t, t.answers), shared(t, t.resembles)) for t in triples])
    assert (counts[:, 1] >= counts[:, 0]).mean() > 0.95


def test_questions_begin_in_many_ways(triples):
    openings = Counter(" ".join(re.findall(r"\w+", triple.question.lower())[:3]) for triple in triples)
    assert openings.most_common(1)[0][1] <= 3


def test_the_file_has_a_line_for_each_triple_and_ends_with_one():
    text = TRIPLES.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert text.count("\n") == len(read_triples())


def test_a_higher_score_counts_one_a_tie_one_half_a_lower_score_nothing():
    scores = np.array([[2.0, 1.0], [0.0, 0.0], [-3.0, -1.0], [1e-9, 0.0]])
    assert credits_of(scores).tolist() == [1.0, 0.5, 0.0, 1.0]


def test_accuracy_is_the_mean_by_category_and_overall():
    suite = [Triple(f"{name}-{n}", name, "", "", "") for name in ("a", "b") for n in range(2)]
    found = accuracy(suite, np.array([1.0, 0.5, 0.0, 0.0]))
    assert found.by_category == {"a": 0.75, "b": 0.0}
    assert found.overall == 0.375
    assert found.low < found.overall < found.high


def test_the_interval_is_wilsons():
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0, abs=1e-12)


def test_bm25_scores_every_passage_and_nothing_for_one_without_a_term_of_the_question():
    suite = [
        Triple("x-1", "x", "steam engine", "A steam engine turns heat into motion.", "Nothing of the kind."),
        Triple("x-2", "x", "sleeping cats", "Dogs bark.", "Cats are sleeping beside other cats."),
    ]
    scores = score("bm25", suite)
    assert scores.shape == (2, 2)
    assert scores[0, 0] > 0 == scores[0, 1]
    assert credits_of(scores).tolist() == [1.0, 0.0]


class FirstPlaceLover(ListwiseReranker):
    """Says nothing of the passages, only of their place in the window."""

    def score_window(self, query, rows):
        return -np.arange(len(rows), dtype=np.float32)


def test_a_listwise_scorer_gains_nothing_by_favouring_a_place():
    scores = score_pair(FirstPlaceLover(), Query("q", "which?"), np.array([4, 5], np.int32))
    assert scores[0] == scores[1]


@pytest.mark.parametrize("name", ["bm-25", "no_such_kind=x", "cross_encoder=./no/such/folder", "bm25=x"])
def test_what_is_not_there_is_refused_with_a_reason(name, triples):
    with pytest.raises(CascadeError):
        score(name, triples[:1])
