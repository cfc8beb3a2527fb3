"""Token ids of many texts in one array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cascade.types import TokenIds
from stages.models import HFTokenizer

_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences of unequal length.

    Args:
        ids: int32 [tokens], one sequence after the other.
        offsets: int64 [n + 1]: sequence i is ``ids[offsets[i] : offsets[i + 1]]``.
    """

    ids: TokenIds
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> TokenIds:
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [n], computed each time."""
        return np.diff(self.offsets)

    @property
    def digest(self) -> str:
        """16 hex digits over the content."""
        hashed = hashlib.sha256(np.ascontiguousarray(self.offsets).data)
        hashed.update(np.ascontiguousarray(self.ids).data)
        return hashed.hexdigest()[:16]

    def followed_by(self, other: Ragged) -> Ragged:
        """These sequences, then those."""
        offsets = np.concatenate((self.offsets, self.offsets[-1] + other.offsets[1:]))
        return Ragged(np.concatenate((self.ids, other.ids)), offsets)

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> Ragged:
        """From arrays."""
        offsets = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
        return cls(np.concatenate([*sequences, np.empty(0, np.int32)]).astype(np.int32), offsets)


def tokenise(tokenizer: HFTokenizer, texts: Sequence[str], limit: int) -> Ragged:
    """The first ``limit`` tokens of each text, without special tokens."""
    sequences: list[TokenIds] = []
    for first in range(0, len(texts), _AT_ONCE):
        sequences += [ids[:limit] for ids in tokenizer.encode(texts[first : first + _AT_ONCE])]
    return Ragged.of(sequences)


@dataclass(frozen=True, slots=True)
class Texts:
    """Questions and passages as token ids of whatever tokenizer is asked for, tokenised once.

    Args:
        questions: texts.
        passages: texts.
    """

    questions: Sequence[str]
    passages: Sequence[str]
    _known: dict[tuple[str, int, int], tuple[Ragged, Ragged]] = field(default_factory=dict, repr=False)

    def tokens(self, tokenizer: HFTokenizer, max_query_tokens: int, max_passage_tokens: int) -> tuple[Ragged, Ragged]:
        """Questions and passages, cut off at so many tokens."""
        key = (tokenizer.fingerprint, max_query_tokens, max_passage_tokens)
        if key not in self._known:
            asked = tokenise(tokenizer, self.questions, max_query_tokens)
            self._known[key] = asked, tokenise(tokenizer, self.passages, max_passage_tokens)
        return self._known[key]
