"""The BM25 formula, as bm25s computes it.

score(q, d) = sum over terms t of q: idf(t) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * |d| / avgdl))

Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009). The methods differ in the idf,
and ``lucene`` and ``robertson`` leave out the constant factor (k1 + 1): Kamphuis et al., "Which BM25 Do You Mean? A
Large-Scale Reproducibility Study of Scoring Variants" (ECIR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bm25s import scoring

from stages.bm25.kind import Method


@dataclass(frozen=True, slots=True)
class Formula:
    """One variant of BM25 with its parameters."""

    method: Method
    k1: float
    b: float

    def idf(self, document_frequencies: npt.NDArray[np.int64], n_rows: int) -> npt.NDArray[np.float32]:
        """float32 [terms] from int64 [terms], each at least 1."""
        compute = scoring._select_idf_scorer(self.method)
        distinct, inverse = np.unique(document_frequencies, return_inverse=True)
        return np.array([compute(int(df), N=n_rows) for df in distinct], np.float32)[inverse]

    def saturation(
        self, counts: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32], mean_length: float
    ) -> npt.NDArray[np.float64]:
        """float64 [n]: what ``counts`` repetitions are worth in passages of ``lengths`` terms (int32 [n] each)."""
        compute = scoring._select_tfc_scorer(self.method)
        tf = counts.astype(np.float64)
        worth: npt.NDArray[np.float64] = compute(tf, l_d=lengths, l_avg=mean_length, k1=self.k1, b=self.b, delta=None)
        return worth
