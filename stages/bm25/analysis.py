"""From text to the terms that BM25 counts.

Text is brought to NFKC, cut into words, case-folded, freed of stop words and stemmed.

- Hyphens separate. Dots, underscores and ``::`` inside a word hold it together: such a compound, and a CamelCase word,
  is a term as a whole and in parts, so that both ``csv.reader`` and ``reader`` find ``csv.reader``.
- ``U.S.A.`` is ``usa``, ``1,000`` is ``1000``; decimals, versions and addresses (``3.14``, ``10.0.0.1``) stay whole.
- Scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) become overlapping pairs of characters;
  a character that stands alone is a term itself.
- Nothing is longer than ``MAX_TERM`` characters: longer words are cut into pieces of that length.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from typing import Any

from stages.bm25.kind import Stemmer, StopWords

MAX_TERM = 128
_CACHED_WORDS = 1 << 17

ENGLISH_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
        *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was"),
        *("will", "with"),
    )
)
"""The 33 words that Lucene's English analyser leaves out."""

_UNSPACED = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ecd\u1000-\u1049\u1780-\u17d3"
)
# Python's \w leaves out the vowel signs that Indic and other scripts write inside words.
_MARKS = "".join(chr(c) for c in range(0x300, 0xFE00) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
_PIECE = rf"[^\W_{_UNSPACED}]+(?:[{_MARKS}]+[^\W_{_UNSPACED}]*)*"
_JOINT = r"(?:\.|_+|'|’|::|(?<=\d),(?=\d{3}(?!\d)))"
_TOKEN = re.compile(rf"([{_UNSPACED}]+)|({_PIECE}(?:{_JOINT}{_PIECE})*)")
_SEPARATOR = re.compile(r"\.|_+|::")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_ASCII = re.compile(r"[!-\x7f]?[^\x00-\x7f]{1,256}")


class Analyser:
    """Turns text into terms; may be called from several threads."""

    def __init__(self, stemmer: Stemmer = "english", stopwords: StopWords = "english") -> None:
        self._stop_words = ENGLISH_STOP_WORDS if stopwords == "english" else frozenset[str]()
        self._stemmer = None if stemmer == "none" else _snowball(stemmer)
        self._stemming = threading.Lock()
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, text: str) -> list[str]:
        """The terms of a text in order, repetitions included.

        >>> Analyser()("The csv.reader reads U.S. prices: 1,000.50 dollars")
        ['csv.reader', 'csv', 'reader', 'read', 'us', 'price', '1000.50', 'dollar']
        """
        terms: list[str] = []
        known = self._known
        for unspaced, word in _TOKEN.findall(_normalise(text)):
            if unspaced:
                terms.extend(_pairs(unspaced))
                continue
            found = known.get(word)
            if found is None:
                found = self._terms(word)
                if len(word) <= MAX_TERM:
                    if len(known) >= _CACHED_WORDS:
                        known.clear()
                    known[word] = found
            terms.extend(found)
        return terms

    def _terms(self, word: str) -> tuple[str, ...]:
        folded = (form.casefold() for form in _forms(word.replace("’", "'")))
        kept = [form for form in folded if form not in self._stop_words]
        if self._stemmer is None:
            return tuple(kept)
        with self._stemming:  # one PyStemmer object must not be used by two threads at once
            return tuple(self._stemmer.stemWords(kept))


def _snowball(language: str) -> Any:
    import Stemmer

    return Stemmer.Stemmer(language, 0)


def _normalise(text: str) -> str:
    """NFKC in runs of bounded length: over a long run of combining marks it takes quadratic time."""
    if text.isascii():
        return text
    return _NOT_ASCII.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] if len(run) > 1 else [run]


def _forms(word: str) -> list[str]:
    """A word as a whole, then its parts if it has several."""
    word = word.replace(",", "")
    pieces = _SEPARATOR.split(word)
    if len(pieces) > 1:
        if all(piece.isdigit() for piece in pieces) and len(word) <= MAX_TERM:
            return [word]
        if "." in word and all(len(piece) == 1 for piece in pieces) and len(pieces) <= MAX_TERM:
            return ["".join(pieces)]
    parts = [part for piece in pieces for part in _HUMP.split(piece)]
    if parts == [word]:
        return _chunks(word)
    whole = [word] if len(word) <= MAX_TERM else []
    return whole + [chunk for part in parts for chunk in _chunks(part)]


def _chunks(part: str) -> list[str]:
    return [part[i : i + MAX_TERM] for i in range(0, len(part), MAX_TERM)]
