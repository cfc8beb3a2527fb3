from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cascade.ranking import best_passages, cut, hits, interleave, merge, reorder
from cascade.stage import StageSettings
from cascade.types import Candidates
from tests.fakes import FakeCollection


def candidates(*rows: int) -> Candidates:
    return Candidates.unscored(np.array(rows, np.int32))


def settings(name: str, **own) -> StageSettings:
    return StageSettings(name=name, kind="fake", top_k=10, **own)


def found(*pairs: tuple[int, float]):
    return np.array([row for row, _ in pairs], np.int32), np.array([score for _, score in pairs], np.float32)


def test_merge_takes_the_best_of_all_ranges_ties_by_row():
    rows, scores = merge([found((3, 1.0), (1, 0.5)), found((9, 2.0), (7, 1.0))], 3)
    assert rows.tolist() == [9, 3, 7]
    assert scores.tolist() == [2.0, 1.0, 1.0]
    assert merge([], 3)[0].tolist() == []


def test_merge_orders_ties_by_row_whatever_the_order_of_the_ranges():
    rows, scores = merge([found((9, 1.0), (7, 1.0)), found((3, 1.0), (1, 2.0))], 3)
    assert rows.tolist() == [1, 3, 7]
    assert scores.tolist() == [2.0, 1.0, 1.0]


def test_interleave_gives_every_row_once_by_its_best_place():
    rows, scores = interleave([found((4, 9.0), (2, 8.0)), found((7, 1.0), (4, 0.5), (1, 0.1))])
    assert rows.tolist() == [4, 7, 2, 1]
    assert scores[0] == 9.0
    assert interleave([])[0].tolist() == []


def test_scored_candidates_come_first_the_others_keep_their_order_and_scores():
    before = Candidates(np.array([10, 11, 12, 13], np.int32), np.array([4, 3, 2, 1], np.float32), np.zeros(4, np.int16))
    known = np.array([False, True, False, True])
    after = reorder(before, np.array([0, -5, 0, -1], np.float32), known, 1)
    assert after.rows.tolist() == [13, 11, 10, 12]
    assert after.scores.tolist() == [-1.0, -5.0, 4.0, 2.0]
    assert after.stages.tolist() == [1, 1, 0, 0]
    assert before.rows.tolist() == [10, 11, 12, 13]


def test_ties_keep_the_earlier_order():
    after = reorder(candidates(5, 3, 4), np.ones(3, np.float32), np.ones(3, np.bool_), 2)
    assert after.rows.tolist() == [5, 3, 4]


def test_nothing_known_changes_nothing():
    before = candidates(5, 3, 4)
    assert reorder(before, np.zeros(3, np.float32), np.zeros(3, np.bool_), 2) is before


def test_the_cut_counts_documents_and_limits_the_passages_of_each():
    collection = FakeCollection(12, per_document=3)  # rows 0-2 are d0, 3-5 d1, ...
    kept, rest = cut(candidates(0, 3, 1, 6, 2, 4, 9), 2, collection, 2)
    assert kept.rows.tolist() == [0, 3, 1, 4]
    assert rest.rows.tolist() == [6, 2, 9]


def test_the_cut_of_whole_documents_is_a_slice():
    kept, rest = cut(candidates(5, 6, 7), 2, FakeCollection(10), 3)
    assert (kept.rows.tolist(), rest.rows.tolist()) == ([5, 6], [7])


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 6), st.integers(1, 4))
def test_the_cut_loses_nothing_and_keeps_both_orders(order, n, top_k, per_document):
    rows = list(order)[:n]
    collection = FakeCollection(12, per_document=3)
    kept, rest = cut(candidates(*rows), top_k, collection, per_document)
    assert sorted(kept.rows.tolist() + rest.rows.tolist()) == sorted(rows)
    for part in (kept, rest):
        assert part.rows.tolist() == [row for row in rows if row in set(part.rows.tolist())]
    documents = collection.doc_rows(kept.rows).tolist()
    assert len(set(documents)) <= top_k
    assert all(documents.count(document) <= per_document for document in documents)


def test_a_document_is_as_good_as_its_best_passage():
    best = best_passages(candidates(4, 0, 3, 1, 7), FakeCollection(12, per_document=3), 2)
    assert best.rows.tolist() == [4, 0]
    assert best_passages(candidates(4, 0, 3), FakeCollection(12, per_document=3), None).rows.tolist() == [4, 0]


def test_hits_name_document_and_stage_and_count_from_one():
    best = Candidates(np.array([4, 0], np.int32), np.array([1.5, 0.0], np.float32), np.array([1, -1], np.int16))
    first, second = hits(best, FakeCollection(12, per_document=3), [settings("bm25"), settings("ce")])
    assert (first.rank, first.doc_id, first.score, first.stage, first.text) == (1, "d1", 1.5, "ce", "text 4")
    assert (second.rank, second.doc_id, second.stage) == (2, "d0", "")


def test_hits_are_as_probable_as_their_own_stage_says_and_may_be_too_improbable():
    late = settings("late", probability={"platt": {"a": 1.0, "b": 0.0}})
    line = {"isotonic": {"scores": [0.0, 1.0], "values": [0.0, 1.0]}}
    cross = settings("cross", probability=line, min_probability=0.5)
    stages = np.array([2, 2, 2, 1, 0, -1], np.int16)
    best = Candidates(np.arange(6, dtype=np.int32), np.array([0.75, 0.5, 0.25, 0.0, 9.0, 0.0], np.float32), stages)
    answer = hits(best, FakeCollection(6), [settings("words"), late, cross])
    assert [(hit.rank, hit.doc_id, hit.probability) for hit in answer] == [
        (1, "d0", 0.75),
        (2, "d1", 0.5),
        (3, "d3", 0.5),
        (4, "d4", None),
        (5, "d5", None),
    ]
