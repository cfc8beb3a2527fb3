"""MaxSim, the late interaction of ColBERT, over ragged documents: one matrix product, then a maximum per segment.

Nothing is padded. A padded document would have to be masked with -inf: a zero in its place beats every negative
similarity.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.types import Scores
from stages.compiled import compiled

Floats: TypeAlias = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Compute: TypeAlias = Literal["float32", "bfloat16"]

WORST_SIMILARITY = -1.0
"""The least cosine there is: what a query token gets from a document without tokens."""


def maxsim(
    query: npt.NDArray[np.float32],
    documents: Floats,
    offsets: npt.NDArray[np.int64],
    compute: Compute = "float32",
) -> Scores:
    """The sum, over the query's tokens, of the best cosine that any token of the document has with it.

    Khattab and Zaharia 2020 (arXiv 2004.12832), equation 3: ``S(q, d) = sum_i max_j q_i . d_j``.

    >>> query = np.array([[1, 0], [0, 1]], np.float32)
    >>> documents = np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32)
    >>> maxsim(query, documents, np.array([0, 2, 3, 3])).tolist()
    [1.7999999523162842, -1.0, -2.0]

    Args:
        query: float32 [query tokens, dim], rows of length 1.
        documents: [all tokens, dim], rows of length 1, document after document.
        offsets: int64 [documents + 1]: document d has the tokens ``offsets[d]`` to ``offsets[d + 1]``.
        compute: type in which the product is taken. bfloat16 takes half the time on CPUs that have instructions for
            it, is very slow on others, and moves each cosine by up to 0.004.

    Returns:
        float32 [documents], between plus and minus the number of query tokens; a document without tokens gets the
        least.
    """
    import torch

    left, right = torch.from_numpy(documents).float(), torch.from_numpy(query)
    if compute == "bfloat16":  # from float32: the direct way from float16 is ten times slower
        left, right = left.bfloat16(), right.bfloat16()
    similarities = torch.mm(left, right.T).float().numpy()
    scores = np.empty(len(offsets) - 1, np.float32)
    _sum_of_maxima(similarities, offsets, scores)
    return scores


@compiled
def _sum_of_maxima(
    similarities: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
) -> None:
    columns = similarities.shape[1]
    best = np.empty(columns, np.float32)
    for segment in range(len(scores)):
        best[:] = WORST_SIMILARITY if offsets[segment] == offsets[segment + 1] else -np.inf
        for row in range(offsets[segment], offsets[segment + 1]):
            for column in range(columns):
                best[column] = max(best[column], similarities[row, column])
        total = np.float32(0)
        for column in range(columns):
            total += best[column]
        scores[segment] = total
