from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from stages.colbert.pooling import _ward, pool, pooled_lengths
from stages.colbert.store import ragged_offsets


def unit(seed, rows, dim=8):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def partition(labels):
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(2, 40), data=st.data())
def test_clusters_are_those_of_scipy(seed, tokens, data):
    clusters = data.draw(st.integers(1, tokens))
    vectors = unit(seed, tokens).astype(np.float64)
    leaders = _ward(2 - 2 * vectors @ vectors.T, clusters)
    expected = fcluster(linkage(vectors, "ward"), clusters, "maxclust")
    assert partition(leaders) == partition(expected)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(0, 12), max_size=6))
def test_every_passage_is_pooled_by_itself_to_the_length_foretold(seed, lengths):
    lengths = np.array(lengths, np.int64)
    offsets, vectors = ragged_offsets(lengths), unit(seed, int(lengths.sum()))
    pooled, after = pool(vectors, offsets, 2), ragged_offsets(pooled_lengths(lengths, 2))
    assert pooled.shape == (after[-1], 8)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)
    for row, length in enumerate(lengths):
        alone = pool(vectors[offsets[row] : offsets[row + 1]], np.array([0, length]), 2)
        np.testing.assert_array_equal(alone, pooled[after[row] : after[row + 1]])


def test_pairs_that_are_alike_become_one_in_the_order_of_their_first():
    a, b = np.eye(2, dtype=np.float32)
    near_a = np.array([0.8, 0.6], np.float32)
    pooled = pool(np.stack((b, a, b, near_a)), np.array([0, 4]), 2)
    middle = (a + near_a) / np.linalg.norm(a + near_a)
    np.testing.assert_allclose(pooled, [b, middle], atol=1e-6)


def test_vectors_that_cancel_out_give_no_nan():
    pooled = pool(np.array([[1, 0], [-1, 0]], np.float32), np.array([0, 2]), 2)
    assert pooled.tolist() == [[0, 0]]


@pytest.mark.parametrize("rows", [0, 5])
def test_without_pooling_nothing_changes(rows):
    vectors = unit(0, rows)
    assert pool(vectors, np.array([0, rows]), 1) is vectors
