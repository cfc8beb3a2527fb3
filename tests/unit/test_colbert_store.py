from __future__ import annotations

import json

import numpy as np
import pytest

from cascade.errors import IndexCorrupt
from stages.colbert.codec import train
from stages.colbert.store import CODEC, StoredRecords, StoredVectors, Writer, ragged_offsets

LENGTHS = np.array([2, 0, 3, 1, 4])
VECTORS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
OFFSETS = ragged_offsets(LENGTHS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(Writer, "block", 2)


def write(directory, blocks=None, source="one", finish=True):
    writer = Writer(directory, LENGTHS, 4, "float16", source)
    ranges = [*writer.missing()]
    for start, stop in ranges[:blocks]:
        writer.write(start, stop, VECTORS[OFFSETS[start] : OFFSETS[stop]])
    if finish:
        writer.finish()
    return ranges


def test_gives_back_rows_in_the_order_asked_for(tmp_path):
    write(tmp_path)
    stored = StoredVectors(tmp_path, 5, 4, "float16")
    rows = np.array([4, 1, 0, 4], np.int32)
    vectors, offsets = stored.gather(rows)
    assert stored.lengths(rows).tolist() == [4, 0, 2, 4]
    assert offsets.tolist() == [0, 4, 4, 6, 10]
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, VECTORS[[6, 7, 8, 9, 0, 1, 6, 7, 8, 9]].astype(np.float16))


def test_no_rows_give_an_empty_matrix(tmp_path):
    write(tmp_path)
    vectors, offsets = StoredVectors(tmp_path, 5, 4, "float16").gather(np.empty(0, np.int32))
    assert vectors.shape == (0, 4)
    assert offsets.tolist() == [0]


@pytest.mark.parametrize("lengths", [[], [0, 0, 0]])
def test_a_store_without_any_token_can_be_written_and_read(tmp_path, lengths):
    writer = Writer(tmp_path, np.array(lengths, np.int64), 4, "float32", "none")
    for start, stop in writer.missing():
        writer.write(start, stop, np.empty((0, 4), np.float32))
    writer.finish()
    rows = np.arange(len(lengths), dtype=np.int32)
    vectors, offsets = StoredVectors(tmp_path, len(lengths), 4, "float32").gather(rows)
    assert vectors.shape == (0, 4)
    assert offsets.tolist() == [0] * (len(lengths) + 1)


def test_an_interrupted_build_goes_on_with_the_first_missing_block(tmp_path):
    assert write(tmp_path, blocks=1, finish=False) == [(0, 2), (2, 4), (4, 5)]
    assert write(tmp_path) == [(2, 4), (4, 5)]
    vectors, _ = StoredVectors(tmp_path, 5, 4, "float16").gather(np.arange(5, dtype=np.int32))
    np.testing.assert_array_equal(vectors, VECTORS.astype(np.float16))


def test_what_another_model_left_unfinished_is_written_anew(tmp_path):
    write(tmp_path, blocks=2, source="one", finish=False)
    assert write(tmp_path, source="another")[0] == (0, 2)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 4}', '{"plan": "x", "rows": 4}'])
def test_a_damaged_record_of_progress_means_starting_again(tmp_path, content):
    write(tmp_path, blocks=2, finish=False)
    (tmp_path / "progress.json").write_text(content)
    assert write(tmp_path)[0] == (0, 2)


@pytest.mark.parametrize("rows", [-1, 6, 10**12, "four", None])
def test_an_impossible_record_of_progress_means_starting_again(tmp_path, rows):
    write(tmp_path, blocks=2, finish=False)
    record = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps({**record, "rows": rows}))
    assert write(tmp_path)[0] == (0, 2)


def test_lost_vectors_mean_starting_again(tmp_path):
    write(tmp_path, blocks=2, finish=False)
    (tmp_path / "vectors.npy").unlink()
    assert write(tmp_path)[0] == (0, 2)


def test_a_block_of_the_wrong_shape_is_refused(tmp_path):
    writer = Writer(tmp_path, LENGTHS, 4, "float16", "one")
    with pytest.raises(ValueError, match=r"rows 0 to 2: expected \(2, 4\)"):
        writer.write(0, 2, VECTORS[:3])


def test_an_unfinished_store_does_not_open(tmp_path):
    write(tmp_path, blocks=2, finish=False)
    with pytest.raises(IndexCorrupt, match="not all written"):
        StoredVectors(tmp_path, 5, 4, "float16")


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("offsets.npy", np.array([0, 2, 2, 5, 6])),
        ("offsets.npy", np.array([0, 2, 2, 5, 6, 10], np.int32)),
        ("offsets.npy", np.array([1, 2, 2, 5, 6, 10])),
        ("offsets.npy", np.array([0, 2, 1, 5, 6, 10])),
        ("offsets.npy", np.array([0, 2, 2, 5, 6, -10])),
        ("offsets.npy", np.array([[0, 2, 2, 5, 6, 10]])),
        ("vectors.npy", np.zeros((9, 4), np.float16)),
        ("vectors.npy", np.zeros((11, 4), np.float16)),
        ("vectors.npy", np.zeros((10, 5), np.float16)),
        ("vectors.npy", np.zeros((10, 4), np.float32)),
        ("vectors.npy", np.zeros((10, 4), np.float16, order="F")),
        ("vectors.npy", np.zeros((10, 4), ">f2")),
        ("vectors.npy", np.zeros(40, np.float16)),
    ],
)
def test_arrays_of_another_form_do_not_open(tmp_path, file, array):
    write(tmp_path)
    np.save(tmp_path / file, array)
    with pytest.raises(IndexCorrupt, match=file):
        StoredVectors(tmp_path, 5, 4, "float16")


def test_offsets_that_end_past_the_vectors_do_not_open(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "offsets.npy", np.array([0, 2, 2, 5, 6, 2**62]))
    with pytest.raises(IndexCorrupt, match="expected float16"):
        StoredVectors(tmp_path, 5, 4, "float16")


@pytest.mark.parametrize("file", ["offsets.npy", "vectors.npy"])
def test_a_file_cut_short_at_any_byte_does_not_open(tmp_path, file):
    write(tmp_path)
    whole = (tmp_path / file).read_bytes()
    for size in range(len(whole)):
        (tmp_path / file).write_bytes(whole[:size])
        with pytest.raises(IndexCorrupt, match=file):
            StoredVectors(tmp_path, 5, 4, "float16")


def test_a_pickle_is_never_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    write(tmp_path)
    np.save(tmp_path / "vectors.npy", np.array([Payload()], object), allow_pickle=True)
    with pytest.raises(IndexCorrupt):
        StoredVectors(tmp_path, 5, 4, "float16")
    assert not (tmp_path / "executed").exists()


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path):
    write(tmp_path)
    with (tmp_path / "vectors.npy").open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (2**40, 4)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(IndexCorrupt, match="vectors"):
        StoredVectors(tmp_path, 5, 4, "float16")


CODER = train(VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True), 4, 2)
RECORDS = CODER.encode(VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True))


def write_compressed(directory, records=RECORDS):
    (directory / CODEC).write_bytes(CODER.to_bytes("one"))
    writer = Writer(directory, LENGTHS, CODER.record_bytes, "uint8", "one")
    for start, stop in writer.missing():
        writer.write(start, stop, records[OFFSETS[start] : OFFSETS[stop]])
    writer.finish()


def test_records_come_back_with_their_codec(tmp_path):
    write_compressed(tmp_path)
    stored = StoredRecords(tmp_path, 5, 4, 2)
    rows = np.array([4, 1, 0], np.int32)
    np.testing.assert_array_equal(stored.records, RECORDS)
    np.testing.assert_array_equal(stored.codec.centroids, CODER.centroids)
    assert stored.lengths(rows).tolist() == [4, 0, 2]
    assert [part.tolist() for part in stored.spans(rows)] == [[6, 2, 0], [10, 2, 2]]


def test_a_record_of_a_centroid_that_is_not_there_does_not_open(tmp_path):
    damaged = RECORDS.copy()
    damaged[7, 1] = 1
    write_compressed(tmp_path, damaged)
    with pytest.raises(IndexCorrupt, match=r"vectors\.npy: a record names centroid \d+ of 4"):
        StoredRecords(tmp_path, 5, 4, 2)


def test_records_without_a_codec_do_not_open(tmp_path):
    write_compressed(tmp_path)
    (tmp_path / CODEC).unlink()
    with pytest.raises(IndexCorrupt, match="codec"):
        StoredRecords(tmp_path, 5, 4, 2)


@pytest.mark.parametrize(("dim", "bits"), [(5, 2), (3, 2), (4, 4), (4, 1)])
def test_records_of_another_width_or_codec_do_not_open(tmp_path, dim, bits):
    write_compressed(tmp_path)
    with pytest.raises(IndexCorrupt, match="expected"):
        StoredRecords(tmp_path, 5, dim, bits)


def test_uncompressed_and_compressed_vectors_are_not_taken_for_each_other(tmp_path):
    (tmp_path / "compressed").mkdir()
    write_compressed(tmp_path / "compressed")
    write(tmp_path)
    with pytest.raises(IndexCorrupt, match="expected float16"):
        StoredVectors(tmp_path / "compressed", 5, 4, "float16")
    with pytest.raises(IndexCorrupt, match="expected uint8"):
        StoredRecords(tmp_path, 5, 4, 2)
