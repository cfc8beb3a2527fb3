"""Queries made from passages: what to learn from where there are more passages than judged questions.

A passage is what its own title, sentences and words ask for, as in the inverse cloze task (Lee et al. 2019, arXiv
1906.00300). A teacher then says how well all the others fit, so that it does not matter that some of them fit better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from stages.bm25.analysis import ENGLISH_STOP_WORDS

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w[\w'-]*")
_CHARACTERS_OF_A_SENTENCE = range(20, 220)
_WORDS_OF_A_STRETCH = (3, 8)
_MOST_KEYWORDS = 6
_SHARES = (0.15, 0.3, 0.15, 0.4)
"""Of titles, sentences, stretches and keywords."""
_NEARBY = 40
"""Keywords are taken from so many neighbouring words that carry a meaning: about one thing, as a query is."""


def make_queries(
    passages: Sequence[str], text_starts: Sequence[int], wanted: int, rng: np.random.Generator
) -> list[tuple[str, int]]:
    """Queries, each with the number of the passage that it was made from; fewer than wanted from very short passages.

    Args:
        passages: texts, with titles before them.
        text_starts: how many characters of each are its title's.
        wanted: how many.
        rng: the source of chance.
    """
    made: list[tuple[str, int]] = []
    for passage in rng.integers(len(passages), size=wanted).tolist():
        start = text_starts[passage]
        title, text = passages[passage][:start].strip(), passages[passage][start:]
        way = rng.choice(len(_SHARES), p=_SHARES)
        query = title if way == 0 else (sentence, stretch, keywords)[way - 1](text, rng)
        if query:
            made.append((query, passage))
    return made


def sentence(text: str, rng: np.random.Generator) -> str:
    """One sentence of a text, neither very short nor very long; nothing where there is none.

    >>> sentence("So. The moon has no air at all. No.", np.random.default_rng(0))
    'The moon has no air at all.'
    """
    found = [part for part in _SENTENCE_END.split(text) if len(part) in _CHARACTERS_OF_A_SENTENCE]
    return found[rng.integers(len(found))] if found else ""


def stretch(text: str, rng: np.random.Generator) -> str:
    """Some consecutive words of a text; nothing where it has too few."""
    words = _WORD.findall(text)
    least, most = _WORDS_OF_A_STRETCH
    if len(words) <= most:
        return ""
    size = int(rng.integers(least, most + 1))
    first = int(rng.integers(len(words) - size + 1))
    return " ".join(words[first : first + size])


def keywords(text: str, rng: np.random.Generator) -> str:
    """Some words of a text that carry a meaning and are near each other, in any order; nothing where it has too few."""
    words = [word for word in _WORD.findall(text) if len(word) > 2 and word.lower() not in ENGLISH_STOP_WORDS]
    if len(words) < _MOST_KEYWORDS:
        return ""
    middle = int(rng.integers(len(words)))
    near = rng.permutation(words[max(0, middle - _NEARBY // 2) : middle + _NEARBY // 2])
    return " ".join(dict.fromkeys(near[: rng.integers(1, _MOST_KEYWORDS + 1)].tolist()))
