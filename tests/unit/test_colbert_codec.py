from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from cascade.errors import IndexCorrupt
from stages.colbert.codec import (
    SCALES,
    centroid_count,
    centroids_of,
    digest,
    read_codec,
    record_bytes,
    sample_rows,
    train,
)
from stages.colbert.encoder import TokenEncoder
from stages.colbert.lookup import LANES, Lookup, maxsim_compressed
from stages.colbert.maxsim import maxsim
from stages.colbert.store import ragged_offsets
from tests.models_for_tests_colbert import MINILM

BITS = (1, 2, 4)
PASSAGES = Path(__file__).parent.parent / "contract" / "passages.txt"


def unit(seed, rows, dim):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def minilm():
    """Token embeddings of sixty passages, 384 wide, and of a question."""
    encoder = TokenEncoder(MINILM)
    ids = encoder.tokenizer.encode(PASSAGES.read_text(encoding="utf-8").splitlines())
    offsets = ragged_offsets(np.array([len(encoder.encode_passages([passage])) for passage in ids]))
    return encoder.encode_passages(ids), offsets, encoder.encode_query("how do bees find their way back to the hive")


@pytest.mark.parametrize(("dim", "bits", "expected"), [(128, 2, 35), (128, 4, 67), (384, 2, 99), (7, 1, 4), (1, 4, 4)])
def test_a_token_takes_the_bytes_that_were_promised(dim, bits, expected):
    codec = train(unit(0, 100, dim), 4, bits)
    assert codec.encode(unit(1, 9, dim)).shape == (9, expected)
    assert record_bytes(dim, bits) == expected


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from(BITS),
    dim=st.integers(1, 40),
    query_tokens=st.integers(0, 2 * LANES + 1),
    lengths=st.lists(st.integers(0, 9), max_size=8),
)
def test_scores_are_those_of_the_decoded_vectors(seed, bits, dim, query_tokens, lengths):
    codec = train(unit(seed, 64, dim), 8, bits)
    offsets = ragged_offsets(np.array(lengths, np.int64))
    records = codec.encode(unit(seed + 1, int(offsets[-1]), dim))
    query = unit(seed + 2, query_tokens, dim)
    scores = maxsim_compressed(Lookup(codec).tables(query), records, offsets[:-1], offsets[1:])
    assert scores.dtype == np.float32
    expected = maxsim(query, codec.decode(records), offsets)
    np.testing.assert_allclose(scores, expected, atol=2e-4 * max(query_tokens, 1))


def test_a_document_scores_the_same_to_the_last_bit_in_any_company():
    codec = train(unit(0, 200, 16), 8, 2)
    offsets = np.array([0, 5, 5, 40, 41, 90])
    records, tables = codec.encode(unit(1, 90, 16)), Lookup(codec).tables(unit(2, 40, 16))
    together = maxsim_compressed(tables, records, offsets[:-1], offsets[1:])
    alone = [maxsim_compressed(tables, records, offsets[i : i + 1], offsets[i + 1 : i + 2])[0] for i in range(5)]
    assert together.tolist() == alone


def test_documents_without_tokens_score_the_least_there_is():
    codec = train(unit(0, 50, 8), 4, 2)
    records = codec.encode(unit(1, 3, 8))
    starts, stops = np.array([0, 3, 1]), np.array([3, 3, 1])
    scores = maxsim_compressed(Lookup(codec).tables(unit(2, 35, 8)), records, starts, stops)
    assert scores[1:].tolist() == [-35, -35]
    assert scores[0] > -35


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_query_that_is_not_finite_never_gets_finite_scores(wrong):
    codec = train(unit(0, 50, 8), 4, 2)
    query = unit(1, 40, 8)
    query[33, 5] = wrong
    offsets = np.array([0, 2, 9])
    scores = maxsim_compressed(Lookup(codec).tables(query), codec.encode(unit(2, 9, 8)), offsets[:-1], offsets[1:])
    assert not np.isfinite(scores).any()


@pytest.mark.parametrize(("bits", "closest"), [(1, 0.80), (2, 0.93), (4, 0.99)])
def test_real_embeddings_come_back_close_and_of_length_one(minilm, bits, closest):
    vectors, _, _ = minilm
    codec = train(vectors, centroid_count(len(vectors)), bits)
    decoded = codec.decode(codec.encode(vectors))
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=0.004)
    assert (decoded * vectors).sum(axis=1).mean() > closest


def test_two_bits_keep_the_order_of_real_passages(minilm):
    vectors, offsets, query = minilm
    codec = train(vectors, centroid_count(len(vectors)), 2)
    exact = maxsim(query, vectors, offsets)
    scores = maxsim_compressed(Lookup(codec).tables(query), codec.encode(vectors), offsets[:-1], offsets[1:])
    pairs = [(i, j) for i in range(len(exact)) for j in range(i) if abs(exact[i] - exact[j]) > 0.02 * len(query)]
    agreeing = np.mean([(exact[i] > exact[j]) == (scores[i] > scores[j]) for i, j in pairs])
    assert agreeing > 0.97
    assert np.argmax(scores) == np.argmax(exact)


def test_levels_rise_and_beat_an_even_grid():
    skewed = np.random.default_rng(0).gamma(1.0, size=(5000, 1)).astype(np.float32)
    codec = train(skewed, 1, 2)
    [levels] = codec.levels
    assert np.all(np.diff(levels) > 0)
    centred = skewed - codec.centroids
    grid = np.linspace(centred.min(), centred.max(), 4)
    error, even = (np.abs(centred - points).min(axis=1).var() for points in (levels, grid))
    assert error < even / 2


def test_training_again_gives_the_same_bytes():
    sample = unit(0, 300, 16)
    first, second = (train(sample, 16, 2) for _ in range(2))
    assert first.to_bytes("x") == second.to_bytes("x")
    assert digest(first) == digest(second) != digest(train(sample, 8, 2))


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_the_smallest_samples_will_do(rows):
    codec = train(unit(0, rows, 6), 4, 2)
    vectors = unit(1, 3, 6)
    records = codec.encode(vectors)
    assert len(codec.centroids) == min(max(rows, 1), 4)
    assert centroids_of(records).max() < len(codec.centroids)
    assert np.isfinite(codec.decode(records)).all()


def test_equal_vectors_are_no_trouble():
    sample = np.tile(unit(0, 1, 6), (50, 1))
    codec = train(sample, 4, 2)
    np.testing.assert_allclose(codec.decode(codec.encode(sample)), sample, atol=0.005)


def test_nothing_but_the_length_is_lost_by_the_scale_byte():
    assert SCALES[0] == 0.5
    assert SCALES[255] == 2
    assert max(after / before for before, after in pairwise(SCALES.tolist())) < 1.006


def test_samples_are_the_same_every_time_and_no_larger_than_needed():
    lengths = np.random.default_rng(0).integers(0, 120, 5000)
    rows = sample_rows(lengths)
    wanted = 32 * centroid_count(int(lengths.sum()))
    assert np.array_equal(rows, sample_rows(lengths))
    assert np.all(np.diff(rows) > 0)
    assert wanted <= lengths[rows].sum() < wanted + 120


def test_a_codec_survives_its_file(tmp_path):
    codec = train(unit(0, 300, 16), 16, 2)
    (tmp_path / "codec").write_bytes(codec.to_bytes("these passages"))
    again, source = read_codec(tmp_path / "codec", 16, 2)
    assert source == "these passages"
    assert digest(again) == digest(codec)
    assert np.array_equal(again.encode(unit(1, 9, 16)), codec.encode(unit(1, 9, 16)))


def test_a_codec_cut_short_at_any_byte_is_refused(tmp_path):
    whole = train(unit(0, 30, 4), 2, 1).to_bytes("x")
    for size in range(len(whole)):
        (tmp_path / "codec").write_bytes(whole[:size])
        with pytest.raises(IndexCorrupt, match="codec"):
            read_codec(tmp_path / "codec", 4, 1)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("centroids", np.zeros((2, 5), np.float16)),
        ("centroids", np.zeros((0, 4), np.float16)),
        ("centroids", np.zeros((4097, 4), np.float16)),
        ("centroids", np.zeros((2, 4), np.float32)),
        ("centroids", np.full((2, 4), np.nan, np.float16)),
        ("levels", np.zeros((4, 2), np.float32)),
        ("levels", np.zeros((4, 4), np.float64)),
        ("levels", np.full((4, 4), np.inf, np.float32)),
    ],
)
def test_tensors_of_another_form_are_refused(tmp_path, name, array):
    tensors = load(train(unit(0, 30, 4), 2, 2).to_bytes("x"))
    (tmp_path / "codec").write_bytes(save({**tensors, name: array}, {"codec": "1 x"}))
    with pytest.raises(IndexCorrupt, match="expected"):
        read_codec(tmp_path / "codec", 4, 2)


@pytest.mark.parametrize("metadata", [None, {"codec": "2 x"}, {"format": "1"}])
def test_another_format_is_refused_by_name(tmp_path, metadata):
    tensors = load(train(unit(0, 30, 4), 2, 2).to_bytes("x"))
    (tmp_path / "codec").write_bytes(save(tensors, metadata))
    with pytest.raises(IndexCorrupt, match="expected codec format '1'"):
        read_codec(tmp_path / "codec", 4, 2)


def test_missing_tensors_are_refused(tmp_path):
    (tmp_path / "codec").write_bytes(save({"levels": np.zeros((4, 4), np.float32)}, {"codec": "1 x"}))
    with pytest.raises(IndexCorrupt, match="centroids"):
        read_codec(tmp_path / "codec", 4, 2)
