from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from stages.training.collections import Judged
from stages.training.lookalikes import (
    add_lookalikes,
    change_name,
    change_numbers,
    change_sentence,
    make_lookalike,
    negate,
    repeat_question,
    swap_names,
    turn_round,
)
from stages.training.opposites import OPPOSITES
from stages.training.sampling import Groups, Lessons
from stages.training.tokens import Ragged

SEEDS = range(30)
TITLE = "Apollo 11"
TEXT = (
    "It was a flight to the moon. In July 1969 the astronaut Neil Armstrong stepped onto the moon first. "
    "The flight took 8 days. Its launch in 1969 was seen by millions."
)
QUESTIONS = ["When did Armstrong step onto the moon first in 1969?", "zebra"]
OTHERS = ["Laws of motion are due to Isaac Newton. He wrote them down in 1687.", "Radium was found by Marie Curie."]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def judged() -> Judged:
    """One collection: passage 0 answers the first question and, so it is said, the second."""
    passages = [f"{TITLE} {TEXT}", *OTHERS]
    starts = np.array([len(TITLE) + 1, 0, 0])
    return Judged(("a",), passages, starts, QUESTIONS, [{0: 1}, {0: 1}], np.array([0, 3]), np.array([0, 2]))


def read(texts: Sequence[str], limit: int = 1000) -> Ragged:
    """A word is a token."""
    words = [re.findall(r"\w+", text)[:limit] for text in texts]
    return Ragged.of([np.array([zlib.crc32(word.encode()) >> 1 for word in own], np.int32) for own in words])


def lessons(n: int, question: int = 0, limit: int = 1000) -> Lessons:
    groups = Groups(np.full(n, question, np.int32), np.tile(np.array([0, 1, 2], np.int32), (n, 1)))
    return Lessons.of(groups, read(QUESTIONS), read(judged().passages, limit))


def test_a_judged_negative_keeps_its_place() -> None:
    """It is a lookalike already, written by somebody."""
    known = replace(judged(), relevance=[{0: 1, 2: 0}, {0: 1}])
    kept = add_lookalikes(lessons(20), known, 1.0, read, rng(0))
    assert kept.groups.rows[:, -1].tolist() == [2] * 20
    assert add_lookalikes(lessons(20), judged(), 1.0, read, rng(0)).groups.rows[:, -1].min() > 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_number_of_the_question_becomes_another_everywhere_and_others_stay(seed: int) -> None:
    passage = "From 1969 to 1970, 1,969 of 12 kg, 19.69 m, A1969 and again 1969; 10 and 99."
    changed = change_numbers("what weighed 12 kg in 1969, 10 or 99?", passage, rng(seed))
    year, weight, ten, most = re.fullmatch(
        r"From (\d{4}) to 1970, 1,969 of (\d\d) kg, 19\.69 m, A1969 and again \1; (\d\d) and (\d\d)\.", changed
    ).groups()
    assert 0 < abs(int(year) - 1969) < 30
    assert weight != "12"
    assert ten != "10"
    assert most != "99"


def test_without_a_number_in_common_nothing_changes() -> None:
    assert change_numbers("who won in 1970?", TEXT, rng(0)) == TEXT


def test_a_name_is_replaced_by_one_of_another_passage() -> None:
    made = {change_name(QUESTIONS[0], TEXT, OTHERS[0], rng(seed)) for seed in SEEDS}
    assert made == {TEXT.replace("Armstrong", "Newton"), TEXT.replace("Armstrong", "Isaac")}


@pytest.mark.parametrize(
    ("question", "borrowed"),
    [
        ("when was the flight seen?", OTHERS[0]),  # names none
        (QUESTIONS[0], ""),
        (QUESTIONS[0], "Nobody is named here. Capitals begin sentences."),
        (QUESTIONS[0], "This is about Armstrong too."),
    ],
)
def test_without_two_different_names_nothing_changes(question: str, borrowed: str) -> None:
    assert change_name(question, TEXT, borrowed, rng(0)) == TEXT


def test_the_answering_sentence_goes_or_another_stands_for_it() -> None:
    made = {change_sentence(QUESTIONS[0], TEXT, OTHERS[1], rng(seed)) for seed in SEEDS}
    answer = "In July 1969 the astronaut Neil Armstrong stepped onto the moon first."
    assert made == {TEXT.replace(f"{answer} ", ""), TEXT.replace(answer, OTHERS[1])}


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Armstrong moon", "Armstrong saw the moon. It was large."),
        ("moon", TEXT),
        ("Armstrong moon", "Armstrong saw the moon. The moon saw Armstrong. Nobody else did."),
        ("what was in the", TEXT),
    ],
    ids=["two sentences", "one word in common", "two sentences with as many", "words without meaning"],
)
def test_where_it_is_not_clear_what_answers_nothing_changes(question: str, text: str) -> None:
    assert change_sentence(question, text, OTHERS[1], rng(0)) == text


def test_each_way_is_taken_and_the_title_stays() -> None:
    made = [make_lookalike(judged(), 0, 0, rng(seed)) for seed in SEEDS]
    assert all(text.startswith(f"{TITLE} ") and text != judged().passages[0] for text in made)
    assert any("Armstrong" in text and "1969" not in text for text in made)
    assert any(re.search("Newton|Isaac|Curie", text) and "stepped" in text for text in made)
    assert any("stepped" not in text for text in made)
    assert any("Armstrong the astronaut" in text or "not stepped" in text or "last" in text for text in made)
    assert any(QUESTIONS[0] in text for text in made)


def test_two_names_of_the_answering_sentence_change_places() -> None:
    text = "All was quiet. On that day Mary Hill beat Bob Lang by a nose. Bob Lang was not amused."
    expected = "All was quiet. On that day Bob Lang beat Mary Hill by a nose. Bob Lang was not amused."
    assert swap_names("who was beaten by Mary Hill?", text, rng(0)) == expected
    assert swap_names("who was beaten by a nose?", text, rng(0)) == text
    assert swap_names("who is Mary Hill?", "It was Mary Hill.", rng(0)) == "It was Mary Hill."


def test_a_negation_goes_in_or_out() -> None:
    text = "Cats are small. A cat can swim and has fur."
    made = {negate("does a cat swim?", text, rng(seed)) for seed in SEEDS}
    first, rest = text.split(". ")
    assert made == {f"{first}. {rest.replace(' can', ' can not')}", f"{first}. {rest.replace(' has', ' has not')}"}
    assert negate("does a cat swim?", "A cat does not swim.", rng(0)) == "A cat does swim."
    assert negate("zebra", "No verb.", rng(0)) == "No verb."


def test_a_word_of_the_question_turns_into_its_opposite_first() -> None:
    text = "It is old. The Highest peak with snow is far away."
    assert turn_round("what is the highest peak?", text, rng(0)) == text.replace("Highest", "Lowest")
    made = {turn_round("which peak has snow?", text, rng(seed)) for seed in SEEDS}
    assert made == {text.replace(*pair) for pair in (("Highest", "Lowest"), ("with", "without"), ("far", "near"))}
    assert turn_round("zebra", "Nothing here.", rng(0)) == "Nothing here."


def test_every_opposite_is_another_word() -> None:
    assert all(word != other and word.islower() for word, other in OPPOSITES.items())


def test_the_question_stands_where_the_answer_was() -> None:
    assert repeat_question(QUESTIONS[0], TEXT) == TEXT.replace(
        "In July 1969 the astronaut Neil Armstrong stepped onto the moon first.", QUESTIONS[0]
    )
    assert repeat_question(QUESTIONS[0], "One sentence.") == "One sentence."


def test_the_last_negative_of_a_share_of_groups_is_one() -> None:
    before = lessons(200)
    after = add_lookalikes(before, judged(), 0.5, read, rng(0))
    has = after.groups.rows[:, -1] >= 3
    assert 80 < has.sum() < 120
    assert (after.groups.rows[:, :-1] == before.groups.rows[:, :-1]).all()
    assert (after.groups.rows[~has, -1] == 2).all()
    assert after.groups.rows[has, -1].tolist() == list(range(3, len(after.passages)))
    assert after.sources.tolist() == [0, 1, 2] + [0] * has.sum()
    assert before.groups.rows.max() == 2
    again = add_lookalikes(before, judged(), 0.5, read, rng(0))
    assert (again.groups.rows == after.groups.rows).all()
    assert again.passages.digest == after.passages.digest


def test_groups_keep_their_negatives_where_nothing_can_be_changed_or_read() -> None:
    nothing_to_change = add_lookalikes(lessons(20, question=1), judged(), 1.0, read, rng(0))
    assert nothing_to_change.groups.rows.max() == 2
    assert len(nothing_to_change.passages) == 3
    cut_off = add_lookalikes(lessons(20, limit=8), judged(), 1.0, lambda texts: read(texts, 8), rng(0))
    assert cut_off.groups.rows.max() == 2
    none = add_lookalikes(lessons(20), judged(), 0.0, read, rng(0))
    assert (none.groups.rows == lessons(20).groups.rows).all()
