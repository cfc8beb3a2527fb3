"""Where a long document is cut into passages: at sentence ends where there are any, with some overlap.

A passage is a slice of its document's text, given by its ends in characters. Documents of any size are tokenised
in pieces, so that the tokenizer never sees megabytes at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.schema import PassageSettings
from cascade.stage import Tokenizer
from cascade.types import Document, TokenIds

Slice: TypeAlias = tuple[int, int]

PIECE_CHARACTERS = 1 << 16
"""Most characters handed to a tokenizer's ``spans`` at once."""

MAX_TITLE_CHARACTERS = 4096
"""Every passage repeats its document's title, so that an endless one would multiply a document."""

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s)|[。！？]|\n")
_WORD = re.compile(r"\S+")


class Words:
    """Counts words between white space, for collections that no model's tokenizer reads."""

    fingerprint = "words"
    window = 1 << 30

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """One id for each word, all zero: only their number matters here."""
        return [np.zeros(len(_WORD.findall(text)), np.int32) for text in texts]

    def spans(self, text: str) -> npt.NDArray[np.int64]:
        """int64 [words, 2]: where each word begins and ends."""
        return np.array([match.span() for match in _WORD.finditer(text)], np.int64).reshape(-1, 2)


class Splitter:
    """Cuts documents to the length that every stage can read.

    Args:
        settings: most tokens of a passage, title included, and how many neighbours share.
        tokenizers: of the stages; the one with the smallest window decides, and counts.

    Without tokenizers and without ``max_tokens`` nothing limits a passage, and documents stay whole.
    """

    def __init__(self, settings: PassageSettings, tokenizers: Sequence[Tokenizer] = ()) -> None:
        self._tokenizer: Tokenizer = min(tokenizers, key=lambda tokenizer: tokenizer.window, default=Words())
        self._overlap = settings.overlap_tokens
        self.limit: int | None = settings.max_tokens
        if self.limit is None and tokenizers:
            self.limit = self._tokenizer.window

    @property
    def counted_by(self) -> str:
        """Fingerprint of the tokenizer that counts."""
        return self._tokenizer.fingerprint

    def split(self, documents: Sequence[Document]) -> list[list[Slice]]:
        """For each document its passages in order, at least one, as slices [start, stop) of its text."""
        if self.limit is None:
            return [[(0, len(document.text))] for document in documents]
        fits = self._fits(documents, self.limit)
        return [
            [(0, len(document.text))] if fit else self._split_long(document, self.limit)
            for document, fit in zip(documents, fits, strict=True)
        ]

    def _fits(self, documents: Sequence[Document], limit: int) -> list[bool]:
        """Whether each document is short enough to stay whole; only texts of one piece are tokenised to find out."""
        short = [position for position, item in enumerate(documents) if len(item.text) <= PIECE_CHARACTERS]
        encoded = self._tokenizer.encode([documents[position].full_text for position in short])
        fits = [False] * len(documents)
        for position, ids in zip(short, encoded, strict=True):
            fits[position] = len(ids) <= limit
        return fits

    def _split_long(self, document: Document, limit: int) -> list[Slice]:
        text, title = document.text, document.title
        room = limit - len(self._tokenizer.encode([title])[0]) if title else limit
        room = max(room, limit // 4, 1)  # a title longer than the window must not make passages of one token
        starts = self._token_starts(text)
        passages: list[Slice] = []
        first = 0
        while first + room < len(starts):
            begin = _begin(starts, first)
            cut = max(_cut(text, starts, first, room), int(np.searchsorted(starts, begin, "right")))
            if cut >= len(starts):
                break
            passages.append((begin, _without_trailing_space(text, begin, int(starts[cut]))))
            first = max(_overlapping(text, starts, cut, min(self._overlap, room // 2)), first + 1)
            first = max(first, int(np.searchsorted(starts, begin, "right")))
        passages.append((_begin(starts, first), len(text)))
        return passages

    def _token_starts(self, text: str) -> npt.NDArray[np.int64]:
        """int64 [tokens], rising: the character at which each token of ``text`` begins."""
        parts = [self._tokenizer.spans(text[start:stop])[:, 0] + start for start, stop in pieces(text)]
        return np.maximum.accumulate(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def pieces(text: str) -> Iterator[Slice]:
    """Slices of at most ``PIECE_CHARACTERS`` that make up ``text``, cut before white space where there is any."""
    start = 0
    while start < len(text):
        stop = start + PIECE_CHARACTERS
        if stop < len(text):
            space = max(text.rfind(space, start + 1, stop) for space in (" ", "\n", "\t"))
            stop = space if space > 0 else stop
        yield start, min(stop, len(text))
        start = stop


def _begin(starts: npt.NDArray[np.int64], first: int) -> int:
    """Where the passage that begins with token ``first`` begins; the text before the first token belongs to it."""
    return int(starts[first]) if first else 0


def _cut(text: str, starts: npt.NDArray[np.int64], first: int, room: int) -> int:
    """The token before which a passage from token ``first`` ends: a sentence's end, a word's, or just the last."""
    last = first + room
    earliest = min(first + max(-(-room * 3 // 4), 1), last)
    begin = int(starts[earliest - 1])
    quarter = text[begin : int(starts[last])]
    ends = [match.end() for match in _SENTENCE_END.finditer(quarter)]
    if ends:
        after = int(np.searchsorted(starts, begin + ends[-1], "left"))
        return min(max(after, earliest), last)
    return next((token for token in range(last, earliest, -1) if _starts_word(text, int(starts[token]))), last)


def _overlapping(text: str, starts: npt.NDArray[np.int64], cut: int, overlap: int) -> int:
    """The token with which the next passage begins: ``overlap`` tokens before the cut, or the next start of a word."""
    earliest = cut - overlap
    return next(
        (token for token in range(earliest, cut) if _starts_word(text, int(starts[token]))),
        earliest if overlap else cut,
    )


def _starts_word(text: str, position: int) -> bool:
    return position == 0 or text[position].isspace() or text[position - 1].isspace()


def _without_trailing_space(text: str, start: int, stop: int) -> int:
    return start + len(text[start:stop].rstrip())
