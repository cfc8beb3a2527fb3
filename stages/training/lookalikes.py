"""Negatives made from relevant passages, so that they look right and are wrong.

What retrievers find differs from the answer in many ways at once, and a student that compares topics tells it apart.
These passages differ in the one thing that was asked for: a number, a name, who did it to whom, whether at all or in
which direction, or the sentence that answers, in whose place the question may be repeated. Altering names, numbers and
words until a text answers something else is how Jia and Liang 2017 (arXiv 1707.07328) fooled readers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stages.bm25.analysis import ENGLISH_STOP_WORDS
from stages.training.collections import Judged
from stages.training.opposites import OPPOSITES
from stages.training.sampling import Lessons
from stages.training.tokens import Ragged

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?<!\w)(?<!\d[.,])\d{2,4}(?!\w|[.,]\d)")
_AFTER_A_WORD = re.compile(r"(?<=\w )[^\W\d_]{3,}(?!\w)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w+")
_FUNCTION_WORDS = ENGLISH_STOP_WORDS | frozenset(
    (
        *("can", "could", "did", "do", "does", "from", "had", "has", "have", "its", "were", "would"),
        *("how", "what", "when", "where", "which", "who", "whom", "whose", "why"),
    )
)
_AUXILIARY = re.compile(r"\b(is|are|was|were|can|could|will|would|has|have|had|may|should|does|do|did|must)\b(?! not)")
_NEGATION = re.compile(r"\b(?:not|never) ")
_NAME = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")
_FARTHEST = 30
_PASSAGES_BORROWED_FROM = 3


def add_lookalikes(
    lessons: Lessons, judged: Judged, share: float, read: Callable[[Sequence[str]], Ragged], rng: np.random.Generator
) -> Lessons:
    """The same, but the last negative of about ``share`` of the groups is made from their relevant passage.

    A group keeps its negative where nothing can be changed, or nothing among the tokens that are read, and where that
    negative was judged.

    Args:
        lessons: groups of passages of the collections.
        judged: the collections.
        share: of the groups for which it is tried.
        read: token ids of texts, cut off as those of the passages are.
        rng: the source of chance.
    """
    groups = lessons.groups
    chosen = np.flatnonzero(rng.random(len(groups)) < share)
    last = zip(groups.questions[chosen].tolist(), groups.rows[chosen, -1].tolist(), strict=True)
    chosen = chosen[[row not in judged.relevance[question] for question, row in last]]
    sources = groups.rows[chosen, 0]
    asked = groups.questions[chosen].tolist()
    made = read([make_lookalike(judged, *pair, rng) for pair in zip(asked, sources.tolist(), strict=True)])
    differ = [i for i, source in enumerate(sources) if not np.array_equal(made[i], lessons.passages[source])]
    logger.info("lookalikes: %d of %d groups have one", len(differ), len(groups))
    rows = groups.rows.copy()
    rows[chosen[differ], -1] = len(lessons.passages) + np.arange(len(differ))
    return replace(
        lessons,
        groups=replace(groups, rows=rows),
        passages=lessons.passages.followed_by(Ragged.of([made[i] for i in differ])),
        sources=np.concatenate((lessons.sources, sources[differ])),
    )


def make_lookalike(judged: Judged, question: int, passage: int, rng: np.random.Generator) -> str:
    """A relevant passage changed in one way, the first of a random order that is possible; as it is where none is."""
    asked, whole, start = judged.questions[question], judged.passages[passage], judged.text_starts[passage]
    borrowed = _borrowed(judged, question, passage, rng)
    title, text = whole[:start], whole[start:]
    ways: tuple[tuple[float, Callable[[], str]], ...] = (
        (0.2, lambda: change_numbers(asked, whole, rng)),
        (0.1, lambda: change_name(asked, whole, borrowed, rng)),
        (0.15, lambda: title + swap_names(asked, text, rng)),
        (0.15, lambda: title + negate(asked, text, rng)),
        (0.2, lambda: title + turn_round(asked, text, rng)),
        (0.1, lambda: title + change_sentence(asked, text, borrowed, rng)),
        (0.1, lambda: title + repeat_question(asked, text)),
    )
    for way in rng.choice(len(ways), len(ways), replace=False, p=[share for share, _ in ways]):
        changed: str = ways[way][1]()
        if changed != whole:
            return changed
    return whole


def change_numbers(question: str, passage: str, rng: np.random.Generator) -> str:
    """The passage with the question's numbers and years replaced by others nearby, the same one everywhere.

    >>> change_numbers("who won in 1998?", "In 1998 Bo won, 12 years before Cy.", np.random.default_rng(0))
    'In 2023 Bo won, 12 years before Cy.'
    """
    others = {number: _another_number(number, rng) for number in _NUMBER.findall(question)}
    return _NUMBER.sub(lambda found: others.get(found[0], found[0]), passage)


def change_name(question: str, passage: str, borrowed: str, rng: np.random.Generator) -> str:
    """The passage with one name that the question has replaced by one of another text, everywhere.

    Args:
        question: text.
        passage: text.
        borrowed: text whose names may be used.
        rng: the source of chance.

    >>> rng = np.random.default_rng(0)
    >>> change_name("when did armstrong land?", "In 1969 Neil Armstrong did.", "Physics owes Planck much.", rng)
    'In 1969 Neil Planck did.'
    """
    asked = _words(question)
    own = sorted(name for name in _names(passage) if name.lower() in asked)
    others = sorted(name for name in _names(borrowed) if name.lower() not in asked)
    if not own or not others:
        return passage
    old, new = own[rng.integers(len(own))], others[rng.integers(len(others))]
    return re.sub(rf"(?<!\w){old}(?!\w)", new, passage)


def change_sentence(question: str, text: str, borrowed: str, rng: np.random.Generator) -> str:
    """The text without the sentence that has most words of the question, or with another one in its place.

    Nothing changes where there are fewer than three sentences, or where it is not clear which one answers: none has two
    words of the question, or several have equally many.

    Args:
        question: text.
        text: of the passage, without its title.
        borrowed: text whose sentences may be used.
        rng: the source of chance.
    """
    sentences = _SENTENCE_END.split(text)
    asked = _words(question)
    shared = [len(asked & _words(sentence)) for sentence in sentences]
    most = max(shared)
    if len(sentences) < 3 or most < 2 or shared.count(most) > 1:
        return text
    answering = shared.index(most)
    others = _SENTENCE_END.split(borrowed) if borrowed and rng.random() < 0.5 else []
    instead = [others[rng.integers(len(others))]] if others else []
    return " ".join([*sentences[:answering], *instead, *sentences[answering + 1 :]])


def swap_names(question: str, text: str, rng: np.random.Generator) -> str:
    """The text with two names of the sentence that has most words of the question in each other's place.

    One of them at least is in the question; nothing changes where the sentence has no such two.

    >>> swap_names("whom did Ajax fight?", "So it was that Ajax fought Hector.", np.random.default_rng(0))
    'So it was that Hector fought Ajax.'
    """
    before, sentence, after = _answering(question, text)
    asked = _words(question)
    names = list(dict.fromkeys(_NAME.findall(sentence)))
    own = [name for name in names if _words(name) & asked]
    if not own:
        return text
    one = own[rng.integers(len(own))]
    others = [name for name in names if name not in one and one not in name]
    if not others:
        return text
    other = others[rng.integers(len(others))]
    either = re.compile(rf"\b(?:{re.escape(one)}|{re.escape(other)})\b")
    return before + either.sub(lambda found: other if found[0] == one else one, sentence) + after


def negate(question: str, text: str, rng: np.random.Generator) -> str:
    """The text with a negation put into the sentence that has most words of the question, or taken out of it.

    >>> negate("can a cat swim?", "A cat can swim.", np.random.default_rng(0))
    'A cat can not swim.'
    """
    before, sentence, after = _answering(question, text)
    if _NEGATION.search(sentence):
        return before + _NEGATION.sub("", sentence, count=1) + after
    places = [found.end() for found in _AUXILIARY.finditer(sentence)]
    if not places:
        return text
    place = places[rng.integers(len(places))]
    return f"{before}{sentence[:place]} not{sentence[place:]}{after}"


def turn_round(question: str, text: str, rng: np.random.Generator) -> str:
    """The text with a word of the sentence that has most words of the question replaced by its opposite.

    A word of the question goes first.

    >>> turn_round("what is the largest moon?", "The largest moon is not new.", np.random.default_rng(0))
    'The smallest moon is not new.'
    """
    before, sentence, after = _answering(question, text)
    found = [word for word in _WORD.finditer(sentence) if word[0].lower() in OPPOSITES]
    asked = set(_WORD.findall(question.lower()))
    found = [word for word in found if word[0].lower() in asked] or found
    if not found:
        return text
    word = found[rng.integers(len(found))]
    opposite = OPPOSITES[word[0].lower()]
    opposite = opposite.capitalize() if word[0].istitle() else opposite
    return before + sentence[: word.start()] + opposite + sentence[word.end() :] + after


def repeat_question(question: str, text: str) -> str:
    """The text with the question in place of the sentence that has most of its words; as it is where that is all.

    >>> repeat_question("where is Oz", "Oz is in Kansas. Few know it.")
    'Where is Oz? Few know it.'
    """
    before, sentence, after = _answering(question, text)
    if not sentence or not (before or after):
        return text
    repeated = question.strip().rstrip("?.")
    return f"{before}{repeated[:1].upper()}{repeated[1:]}?{after}"


def _answering(question: str, text: str) -> tuple[str, str, str]:
    """What is before, in and after the sentence that has most words of the question, the first of several.

    Where no sentence has one, all is before.
    """
    ends = [found.start() for found in _SENTENCE_END.finditer(text)]
    spans = list(zip([0, *ends], [*ends, len(text)], strict=True))
    asked = _words(question)
    shared = [len(asked & _words(text[start:stop])) for start, stop in spans]
    if not any(shared):
        return text, "", ""
    start, stop = spans[shared.index(max(shared))]
    start += len(text[start:stop]) - len(text[start:stop].lstrip())
    return text[:start], text[start:stop], text[stop:]


def _borrowed(judged: Judged, question: int, passage: int, rng: np.random.Generator) -> str:
    """Texts of a few other passages of the collection, none of them relevant; empty where there are none."""
    collection = int(np.searchsorted(judged.question_starts, question, "right")) - 1
    first, end = judged.passage_starts[collection : collection + 2]
    relevant = {passage, *judged.positives(question)}
    drawn = [row for row in rng.integers(first, end, _PASSAGES_BORROWED_FROM).tolist() if row not in relevant]
    return " ".join(judged.passages[row][judged.text_starts[row] :] for row in drawn)


def _another_number(number: str, rng: np.random.Generator) -> str:
    """One of as many digits and less than ``_FARTHEST`` away, round the corner where those digits end."""
    least = 10 ** (len(number) - 1)
    shift = int(rng.integers(1, _FARTHEST)) * int(rng.choice((-1, 1)))
    return str(least + (int(number) - least + shift) % (9 * least))


def _names(text: str) -> set[str]:
    """Capitalised words that follow a word, so that the capital is not that of a sentence."""
    return {word for word in _AFTER_A_WORD.findall(text) if word.istitle() and word.lower() not in _FUNCTION_WORDS}


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _FUNCTION_WORDS
