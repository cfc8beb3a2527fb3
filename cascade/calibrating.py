"""From a stage's score to the probability that a candidate is relevant, so that a threshold means something.

``cascade.evaluation.probability`` fits these mappings to judged queries; here they are stated and applied.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats: TypeAlias = npt.NDArray[np.float64]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Platt(_Block):
    """p = 1 / (1 + exp(-(a * score + b))).

    Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods"
    (Advances in Large Margin Classifiers, 1999), there with the signs of a and b turned.
    """

    a: float = Field(gt=0, allow_inf_nan=False, description="how fast it rises")
    b: float = Field(allow_inf_nan=False, description="log-odds at a score of 0")

    def __call__(self, scores: Floats) -> Floats:
        """float64 [n]: probabilities of the scores."""
        chance: Floats = np.exp(-np.logaddexp(0.0, -(self.a * scores + self.b)))
        return chance


class Isotonic(_Block):
    """Straight lines between points, level before the first and after the last; it never falls.

    Zadrozny & Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates" (KDD 2002).
    """

    scores: list[Finite] = Field(min_length=1, description="scores of the points, rising")
    values: list[Share] = Field(min_length=1, description="their probabilities, not falling")

    @model_validator(mode="after")
    def _a_function(self) -> Isotonic:
        if len(self.scores) != len(self.values):
            raise ValueError(f"expected as many scores as values, got {len(self.scores)} and {len(self.values)}")
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.values) < 0).any():
            raise ValueError("expected scores that rise and values that do not fall")
        return self

    def __call__(self, scores: Floats) -> Floats:
        """float64 [n]: probabilities of the scores."""
        chance: Floats = np.interp(scores, self.scores, self.values)
        return chance


class Probability(_Block):
    """One of the mappings.

    >>> Probability(platt=Platt(a=2.0, b=-1.0))(np.array([0.5, 100.0])).tolist()
    [0.5, 1.0]
    >>> Probability(isotonic=Isotonic(scores=[0.0, 4.0], values=[0.25, 0.75]))(np.array([-9.0, 2.0, 9.0])).tolist()
    [0.25, 0.5, 0.75]
    """

    platt: Platt | None = Field(None, description="a logistic curve")
    isotonic: Isotonic | None = Field(None, description="points of a curve that never falls")

    @model_validator(mode="after")
    def _one(self) -> Probability:
        if (self.platt is None) == (self.isotonic is None):
            raise ValueError("expected either platt or isotonic")
        return self

    def __call__(self, scores: Floats) -> Floats:
        """float64 [n]: probabilities of the scores."""
        mapping = self.isotonic if self.platt is None else self.platt
        assert mapping is not None  # by the validator
        return mapping(scores)
