"""Questions as people type them into a search box: without the words that carry no meaning of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade.types import TokenIds
from stages.models import HFTokenizer

_LEFT_OUT = (
    "what which how is are was were be been being do does did can could should would i you we my your our the a an of"
)
"""Neither negations nor words of place, time and direction, without which another question is asked."""
_PUNCTUATION = "? . , !"
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Keywords:
    """Cuts the questions of some groups to their keywords, always of the same ones.

    A question that is learned from several times may come once whole and once cut.

    Args:
        share: of the groups.
        left_out: int32 [n], tokens that are no keywords.
        seed: of the choice.
    """

    share: float
    left_out: TokenIds
    seed: int

    @classmethod
    def of(cls, share: float, tokenizer: HFTokenizer, seed: int) -> Keywords:
        """For questions of this tokenizer."""
        words: Sequence[str] = (*_LEFT_OUT.split(), *_PUNCTUATION.split())
        alone = [ids[0] for ids in tokenizer.encode(words) if len(ids) == 1]
        return cls(share, np.array(alone, np.int32), seed)

    def cut(self, question: TokenIds, number: int) -> TokenIds:
        """The keywords of the ``number``-th group's question, where it is one to cut and at least two are left.

        >>> Keywords(1.0, np.array([7], np.int32), seed=0).cut(np.array([7, 8, 7, 9], np.int32), 0)
        array([8, 9], dtype=int32)
        """
        return question[self.kept(question, number)]

    def kept(self, question: TokenIds, number: int) -> npt.NDArray[np.bool_]:
        """Bool [tokens]: which of them ``cut`` keeps."""
        if np.random.default_rng((self.seed, number)).random() < self.share:
            kept = ~np.isin(question, self.left_out)
            if kept.sum() >= _LEAST:
                return kept
        return np.ones(len(question), np.bool_)
