"""Whether a faster form of a model still ranks as the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascade.errors import ModelError
from cascade.types import Scores
from stages import measures

MOST_LOSS = 0.002
"""Of nDCG@10 on judged questions; a form that was only unlucky is refused with the others."""
LEAST_TAU = 0.9
"""Of Kendall's tau, which needs no judgments and varies little: a faithful int8 form has about 0.97."""


class Refused(ModelError):
    """A form of a model ranks too differently from it."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How a form's rankings compare with those of the model in float32.

    Args:
        questions: number of judged questions.
        pairs: number of candidates, of all questions together.
        tau: Kendall's tau-b between the two orders, mean over questions.
        ndcg_float32: nDCG@10 of the model.
        ndcg: nDCG@10 of the form.
        ndcg_error: standard error of the difference of the two, which the questions they agree on make small.
    """

    questions: int
    pairs: int
    tau: float
    ndcg_float32: float
    ndcg: float
    ndcg_error: float

    @property
    def holds(self) -> bool:
        """Whether the form may take the model's place; a gain is no reason against it, NaN is."""
        return self.ndcg >= self.ndcg_float32 - MOST_LOSS and self.tau >= LEAST_TAU

    def require(self, what: str, instead: str) -> None:
        """Raises ``Refused`` with the figures unless the form may take the model's place."""
        if not self.holds:
            raise Refused(
                f"{what}: refused, since it ranks differently: nDCG@10 {self.ndcg:.4f} ± {self.ndcg_error:.4f} against "
                f"{self.ndcg_float32:.4f} in float32 (it may lose {MOST_LOSS}), Kendall's tau {self.tau:.3f} (at least "
                f"{LEAST_TAU}), over "
                f"{self.questions} questions with {self.pairs} candidates; {instead}"
            )


def compare(reference: Sequence[Scores], scores: Sequence[Scores], relevance: Sequence[Sequence[int]]) -> Parity:
    """Compares the scores of two forms of a model.

    Args:
        reference: for each question, float32 [candidates] of the model in float32.
        scores: the same of the form.
        relevance: judgments of the same candidates, at least one of each question above 0.
    """
    taus = [kendall_tau(one, other) for one, other in zip(reference, scores, strict=True)]
    before, after = (
        np.array([ndcg(one, judged) for one, judged in zip(found, relevance, strict=True)])
        for found in (reference, scores)
    )
    return Parity(
        questions=len(scores),
        pairs=sum(map(len, scores)),
        tau=float(np.mean(taus)),
        ndcg_float32=float(before.mean()),
        ndcg=float(after.mean()),
        ndcg_error=float((after - before).std() / np.sqrt(len(scores))),
    )


def kendall_tau(one: Scores, other: Scores) -> float:
    """Kendall's tau-b (Kendall 1945): how far two orders agree, from -1 to 1.

    0 where one of them is all ties, NaN where a score is not finite.

    >>> kendall_tau(np.array([3.0, 2.0, 1.0]), np.array([9.0, 4.0, 5.0])).__round__(3)
    0.333
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    signs, others = (np.sign(scores[:, None] - scores[None, :]) for scores in (one, other))
    untied = float(np.sqrt((signs**2).sum() * (others**2).sum()))
    return float((signs * others).sum()) / untied if untied else 0.0


def ndcg(scores: Scores, relevance: Sequence[int]) -> float:
    """nDCG@10, NaN for scores that are not finite.

    >>> ndcg(np.array([0.1, 0.9]), [1, 0]).__round__(3)
    0.631
    """
    return measures.ndcg(scores, np.asarray(relevance, np.float64)) if np.isfinite(scores).all() else float("nan")
