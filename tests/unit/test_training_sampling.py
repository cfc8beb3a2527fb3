from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import InputError
from stages.training.collections import Judged, read_judged
from stages.training.mining import NONE, Candidates, bm25_candidates, dense_candidates
from stages.training.sampling import Groups, Sampler, by_length, draw_questions
from stages.training.settings import Collection

PASSAGES = 60


def judged() -> Judged:
    """Two collections of 30 passages and one question each; the second's relevant passage is 45."""
    texts = [f"passage {i}" for i in range(PASSAGES)]
    starts = np.array([0, 30, 60]), np.array([0, 1, 2])
    no_titles = np.zeros(PASSAGES, np.int64)
    return Judged(("a", "b"), texts, no_titles, ["first", "second"], [{3: 1, 4: 0}, {45: 2, 50: 1}], *starts)


def candidates() -> Candidates:
    """Passage vectors at growing angles from the second question's: 30 the nearest, 59 the farthest."""
    angles = np.linspace(0, 1.5, 30)
    vectors = np.tile(np.stack((np.cos(angles), np.sin(angles)), 1), (2, 1)).astype(np.float16)
    found = np.stack((np.arange(30), np.arange(30, 60))).astype(np.int32)
    limits = np.array([2.0, np.cos(angles[15]) * 0.97], np.float32)
    return Candidates(found[:, ::-1].copy(), found, np.array([[1, 0], [1, 0]], np.float16), vectors, limits)


def test_a_group_is_one_relevant_passage_and_others_of_its_collection() -> None:
    sampler = Sampler(judged(), candidates(), filtered=False)
    for seed in range(20):
        group = sampler.group(0, 7, np.random.default_rng(seed))
        assert group[0] == 3
        assert 4 in group  # judged not relevant
        assert len(set(group)) == 8
        assert max(group) < 30


def test_mined_passages_that_look_relevant_are_no_negatives() -> None:
    found = candidates()
    sampler = Sampler(judged(), found, filtered=True)
    usable = sampler._usable(1, found.dense)
    assert usable
    assert (found.similarity(1, np.array(usable)) < found.limits[1]).all()
    assert not {45, 50} & set(usable)
    assert 31 in Sampler(judged(), found, filtered=False)._usable(1, found.dense)


def test_a_collection_of_one_passage_still_gives_groups() -> None:
    alone = Judged(("a",), ["only"], np.array([0]), ["q"], [{0: 1}], np.array([0, 1]), np.array([0, 1]))
    vectors = np.ones((1, 1), np.float16)
    nothing = np.full((1, 50), NONE, np.int32)
    sampler = Sampler(alone, Candidates(nothing, nothing, vectors, vectors, np.ones(1, np.float32)), filtered=True)
    assert sampler.group(0, 3, np.random.default_rng(0)) == [0, 0, 0, 0]


def test_questions_are_drawn_by_weight_and_none_again_before_all() -> None:
    many, few = np.arange(100, dtype=np.int32), np.arange(100, 110, dtype=np.int32)
    drawn = draw_questions([many, few, many[:0]], [3.0, 1.0, 9.0], 400, np.random.default_rng(0))
    share = (drawn >= 100).mean()
    assert 0.2 < share < 0.3
    assert sorted(drawn[drawn >= 100][:10]) == few.tolist()
    again = draw_questions([many, few, many[:0]], [3.0, 1.0, 9.0], 400, np.random.default_rng(0))
    assert drawn.tolist() == again.tolist()


def test_batches_hold_groups_of_similar_length_and_all_groups() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 100, 64)
    groups = Groups(np.arange(64, dtype=np.int32), np.arange(64, dtype=np.int32)[:, None])
    ordered = by_length(groups, lengths, 8, rng)
    assert sorted(ordered.questions.tolist()) == list(range(64))
    spread = np.ptp(lengths[ordered.rows].reshape(8, 8), axis=1)
    assert spread.max() < 40


def test_bm25_finds_by_words_and_leaves_out_what_shares_none() -> None:
    passages = ["the cat sat", "a dog ran", "cats and dogs", ""]
    found = bm25_candidates(passages, ["dogs", "zebra", ""], 3)
    assert set(found[0].tolist()) == {1, 2, NONE}
    assert (found[1:] == NONE).all()
    assert (bm25_candidates(["", "the"], ["cat"], 2) == NONE).all()


def test_dense_candidates_are_in_order_of_the_product() -> None:
    rng = np.random.default_rng(1)
    passages, questions = (rng.normal(size=(n, 8)).astype(np.float16) for n in (40, 5))
    expected = np.argsort(-(questions.astype(np.float32) @ passages.astype(np.float32).T), axis=1)[:, :7]
    assert dense_candidates(questions, passages, 7).tolist() == expected.tolist()
    assert (dense_candidates(questions, passages[:3], 7)[:, 3:] == NONE).all()


def beir(folder: Path, judgments: str = "q1\td1\t1\nq2\td2\t0\n") -> Path:
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "T", "text": f"text {i}"} for i in range(1, 6)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    queries = [{"_id": f"q{i}", "text": f"question {i}"} for i in range(1, 4)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    return folder


def test_only_questions_with_a_relevant_passage_are_read(tmp_path: Path) -> None:
    both = [Collection(path=beir(tmp_path / name)) for name in ("one", "two")]
    read = read_judged(both, seed=0)
    assert read.questions == ["question 1", "question 1"]
    assert read.relevance == [{0: 1}, {5: 1}]
    assert read.passages[5][read.text_starts[5] :] == "text 1"
    assert read.passages[5] == "T text 1"
    held = read.held_out(0.5)
    assert held[0] == held[1]  # the same words, so on the same side


def test_fewer_passages_keep_those_that_are_judged(tmp_path: Path) -> None:
    read = read_judged([Collection(path=beir(tmp_path / "c", "q3\td5\t1\n"), max_passages=2)], seed=0)
    assert len(read.passages) == 2
    assert read.passages[next(iter(read.relevance[0]))] == "T text 5"


def test_judgments_of_another_corpus_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="found none among 1 judged ones; do corpus, queries and qrels belong together"
    ):
        read_judged([Collection(path=beir(tmp_path / "c", "q1\tunknown\t1\n"))], seed=0)
