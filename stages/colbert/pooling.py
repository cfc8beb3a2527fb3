"""Token pooling: passages keep fewer embeddings, each the mean of tokens that say much the same.

Clavié, Chaffin and Adams 2024 (arXiv 2409.14683): hierarchical clustering of a passage's embeddings by Ward's method;
half of the embeddings keep nearly all of the quality.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stages.compiled import compiled

_TINY = 1e-12


def pooled_lengths(lengths: npt.NDArray[np.int64], pooling: int) -> npt.NDArray[np.int64]:
    """int64 [passages]: embeddings that are left of so many; of one, one.

    >>> pooled_lengths(np.array([0, 1, 4, 5]), 2).tolist()
    [0, 1, 2, 3]
    """
    return -(-lengths // pooling)


def pool(vectors: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], pooling: int) -> npt.NDArray[np.float32]:
    """Pools the embeddings of each passage by themselves.

    Args:
        vectors: float32 [tokens, dim], rows of length 1, passage after passage.
        offsets: int64 [passages + 1], where each passage begins.
        pooling: how many embeddings become one, on average.

    Returns:
        float32 [sum of ``pooled_lengths``, dim], rows of length 1, in the order of each cluster's first token.
    """
    if pooling == 1:
        return vectors
    parts = [np.empty((0, vectors.shape[1]), np.float32)]
    for start, stop in pairwise(offsets.tolist()):
        if stop > start:
            parts.append(_pool_passage(vectors[start:stop], -(-(stop - start) // pooling)))
    return np.concatenate(parts)


def _pool_passage(vectors: npt.NDArray[np.float32], clusters: int) -> npt.NDArray[np.float32]:
    similarities = vectors @ vectors.T
    leaders = _ward(2 - 2 * similarities, clusters)
    _, labels = np.unique(leaders, return_inverse=True)
    sums = np.zeros((clusters, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _TINY)
    return sums


@compiled
def _ward(distances: npt.NDArray[np.float32], clusters: int) -> npt.NDArray[np.int64]:
    """int64 [n]: the first member of the cluster that each of ``n`` points ends up in.

    Merges the two clusters whose union adds least to the variance within, until ``clusters`` are left; Lance and
    Williams 1967 give the distances to the union. Of equal distances the first in order is taken.

    Args:
        distances: float32 [n, n], squared Euclidean distances; overwritten.
        clusters: from 1 to ``n``.
    """
    n = len(distances)
    leaders = np.arange(n)
    sizes = np.ones(n)
    for _ in range(n - clusters):
        least = np.inf
        left, right = 0, 1
        for i in range(n):
            if leaders[i] == i:
                for j in range(i + 1, n):
                    if leaders[j] == j and distances[i, j] < least:
                        least, left, right = distances[i, j], i, j
        for k in range(n):
            if leaders[k] == k and k not in (left, right):
                a, b, c = sizes[left], sizes[right], sizes[k]
                to_left, to_right = distances[left, k], distances[right, k]
                joined = ((a + c) * to_left + (b + c) * to_right - c * distances[left, right]) / (a + b + c)
                distances[left, k] = distances[k, left] = joined
        sizes[left] += sizes[right]
        for k in range(n):
            if leaders[k] == right:
                leaders[k] = left
    return leaders
