from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.colbert.maxsim import maxsim
from stages.colbert.store import ragged_offsets


def slow_maxsim(query, documents, offsets):
    scores = []
    for start, stop in pairwise(offsets):
        score = 0.0
        for token in query:
            score += max((float(token @ other) for other in documents[start:stop]), default=-1.0)
        scores.append(score)
    return scores


def unit(generator, rows, dim):
    vectors = generator.normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(0, 6), max_size=8),
    query_tokens=st.integers(0, 5),
    dim=st.integers(1, 9),
)
def test_equals_the_definition(seed, lengths, query_tokens, dim):
    generator = np.random.default_rng(seed)
    query, documents = unit(generator, query_tokens, dim), unit(generator, sum(lengths), dim)
    offsets = ragged_offsets(np.array(lengths, np.int64))
    scores = maxsim(query, documents, offsets)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, slow_maxsim(query, documents, offsets), atol=1e-5)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(0, 6), min_size=2, max_size=8))
def test_a_document_scores_the_same_alone_as_among_others(seed, lengths):
    generator = np.random.default_rng(seed)
    query, documents = unit(generator, 3, 8), unit(generator, sum(lengths), 8)
    offsets = ragged_offsets(np.array(lengths, np.int64))
    together = maxsim(query, documents, offsets)
    for i, (start, stop) in enumerate(pairwise(offsets)):
        alone = maxsim(query, documents[start:stop], np.array([0, stop - start]))
        np.testing.assert_allclose(alone, together[i : i + 1], atol=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 6))
def test_another_token_never_lowers_a_score(seed, tokens):
    generator = np.random.default_rng(seed)
    query, document = unit(generator, 4, 8), unit(generator, tokens, 8)
    fewer, more = maxsim(query, np.concatenate((document[:-1], document)), np.array([0, tokens - 1, 2 * tokens - 1]))
    assert more >= fewer - 1e-6


def test_negative_similarities_are_not_beaten_by_padding():
    query = np.array([[1.0, 0.0]], np.float32)
    documents = np.array([[-1, 0], [-0.6, 0.8], [-0.8, 0.6]], np.float32)
    np.testing.assert_allclose(maxsim(query, documents, np.array([0, 1, 3])), [-1.0, -0.6], atol=1e-6)


def test_a_document_without_tokens_scores_the_least_there_is():
    query = unit(np.random.default_rng(0), 7, 4)
    opposite = -query[:1]
    empty, other = maxsim(query, opposite, np.array([0, 0, 1]))
    assert empty == -7.0
    assert other > empty


def test_no_documents_give_no_scores():
    assert maxsim(np.ones((2, 4), np.float32), np.empty((0, 4), np.float16), np.array([0])).shape == (0,)


@pytest.mark.parametrize(("compute", "tolerance"), [("float32", 0.02), ("bfloat16", 0.15)])
def test_half_precision_documents_and_products_stay_close(compute, tolerance):
    generator = np.random.default_rng(1)
    query, documents = unit(generator, 32, 128), unit(generator, 200, 128)
    offsets = np.arange(0, 201, 20)
    exact = slow_maxsim(query, documents, offsets)
    np.testing.assert_allclose(maxsim(query, documents.astype(np.float16), offsets, compute), exact, atol=tolerance)
