"""Judged collections: what is kept for evaluation together, and what the same question asked twice shares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.training.collections import Judged, read_judged
from stages.training.settings import Collection
from stages.training.synthetic import make_queries

MANY = 400


def judged(relevance: Sequence[Mapping[int, int]], questions: Sequence[str]) -> Judged:
    """One collection, of as many passages as questions."""
    n = len(questions)
    bounds = np.array([0, n])
    return Judged(("a",), [""] * n, np.zeros(n, np.int64), list(questions), list(relevance), bounds, bounds)


def test_a_question_asked_twice_is_on_one_side() -> None:
    texts = [f"Is  number {i // 2} prime?" if i % 2 else f"is number {i // 2} PRIME?" for i in range(MANY)]
    held = judged([{i: 1} for i in range(MANY)], texts).held_out(0.3)
    assert np.array_equal(held[::2], held[1::2])
    assert 0.2 < held.mean() < 0.4


def test_questions_about_a_passage_judged_irrelevant_are_kept_together() -> None:
    """What answers the one only resembles an answer to the other: knowing the one gives the other away."""
    texts = [f"question {i}" for i in range(MANY)]
    pairs = judged([{i: 1, i ^ 1: 0} for i in range(MANY)], texts).held_out(0.3)
    assert np.array_equal(pairs[::2], pairs[1::2])
    assert 0.2 < pairs.mean() < 0.4
    apart = judged([{i: 1} for i in range(MANY)], texts).held_out(0.3)
    assert not np.array_equal(apart[::2], apart[1::2])


def test_questions_tied_through_others_are_kept_together_unless_that_is_nearly_all() -> None:
    texts = [f"question {i}" for i in range(MANY)]
    chains = [{i: 1, **{MANY + i // 4 * 4 + j: 0 for j in (i % 4, i % 4 + 1) if 0 < j < 4}} for i in range(MANY)]
    held = judged(chains, texts).held_out(0.2).reshape(-1, 4)
    assert (held.all(1) | ~held.any(1)).all()
    assert 0.1 < held.mean() < 0.3
    pooled = judged([{i: 1, MANY: 0, MANY + 1 + i // 2: 0} for i in range(MANY)], texts).held_out(0.2)
    assert 0.1 < pooled.mean() < 0.3


def written(folder: Path, questions: Sequence[str], judgments: Sequence[tuple[int, int, int]]) -> Path:
    """A BEIR folder of four passages; judgments are question, passage, relevance."""
    (folder / "qrels").mkdir(parents=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, judgment)) for judgment in judgments)]
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    asked = [{"_id": str(i), "text": text} for i, text in enumerate(questions)]
    read = [{"_id": str(i), "text": f"passage {i}"} for i in range(4)]
    for name, records in (("queries", asked), ("corpus", read)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_what_answers_a_question_answers_it_when_it_is_asked_again(tmp_path: Path) -> None:
    questions = ["who won?", "who won?", "who lost?"]
    judgments = [(0, 0, 1), (0, 2, 0), (1, 1, 2), (1, 0, 0), (2, 3, 1)]
    found = read_judged([Collection(path=written(tmp_path / "a", questions, judgments))], 0)
    assert found.relevance[0] == {0: 1, 2: 0, 1: 2}
    assert found.relevance[1] == {1: 2, 0: 0}  # judged otherwise for this one; and what is irrelevant is not shared
    assert found.relevance[2] == {3: 1}


def test_synthetic_queries_are_learned_from_and_never_evaluated_on(tmp_path: Path) -> None:
    plain = written(tmp_path / "a", ["who?", "what?"], [(0, 0, 1), (1, 2, 1)])
    text = "The moon has no air at all. Nobody could breathe there without bottles, tanks or rebreathers of some sort."
    record = {"_id": "0", "title": "Air of the moon", "text": text}
    (plain / "corpus.jsonl").write_text("".join(json.dumps({**record, "_id": str(i)}) + "\n" for i in range(4)))
    one, other = (read_judged([Collection(path=plain, synthetic_queries=200)], seed=0) for _ in range(2))
    assert one.synthetic is not None
    assert one.synthetic.tolist() == [False, False, *[True] * (len(one.questions) - 2)]
    assert not one.held_out(0.999)[2:].any()
    assert one.questions == other.questions
    made = one.questions[2:]
    assert {"Air of the moon", "The moon has no air at all."} < set(made)
    assert len(made) > 150
    words = set(f"{record['title']} {text}".replace(",", "").replace(".", "").split())
    assert all(set(query.strip(".").replace(",", "").split()) <= words for query in made)
    assert all(list(judged.values()) == [1] for judged in one.relevance[2:])
    assert {next(iter(judged)) for judged in one.relevance[2:]} == {0, 1, 2, 3}


def test_passages_too_short_to_ask_anything_give_no_queries() -> None:
    assert make_queries(["a b"], [0], 50, np.random.default_rng(0)) == []
