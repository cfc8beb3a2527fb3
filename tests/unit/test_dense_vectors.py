import doctest
from pathlib import Path

import numpy as np
import pytest

import stages.dense.retriever
import stages.dense.vectors as module
from cascade.errors import IndexCorrupt, ModelError
from stages.dense.retriever import best
from stages.dense.vectors import PROGRESS, VECTORS, Shape, Vectors, finish, write

ALL = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)
SHAPE = Shape(rows=23, dimension=5, dtype="float32", source="a")


class Interrupted(Exception):
    pass


class Source:
    """Gives blocks of ``ALL`` and remembers which; stops before row ``until``."""

    def __init__(self, until: int = 1000) -> None:
        self.asked: list[int] = []
        self._until = until

    def __call__(self, start: int, stop: int) -> np.ndarray:
        if start >= self._until:
            raise Interrupted
        self.asked.append(start)
        return ALL[start:stop]


def silent(done: int, total: int) -> None:
    """Takes progress and does nothing with it."""


@pytest.fixture(autouse=True)
def blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)


def interrupted(folder: Path, shape: Shape = SHAPE) -> None:
    with pytest.raises(Interrupted):
        write(folder, shape, Source(until=12), silent)


def test_the_file_holds_all_rows_and_progress_counts_them(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write(tmp_path, SHAPE, Source(), lambda done, total: told.append((done, total)))
    finish(tmp_path)
    assert told == [(done, 23) for done in (4, 8, 12, 16, 20, 23)]
    np.testing.assert_array_equal(np.load(tmp_path / VECTORS, allow_pickle=False), ALL)
    assert [path.name for path in tmp_path.iterdir()] == [VECTORS]


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, SHAPE, Source(), silent)
    interrupted(tmp_path)
    with (tmp_path / VECTORS).open("ab") as file:
        file.write(b"half a block")
    rest = Source()
    write(tmp_path, SHAPE, rest, silent)
    assert rest.asked == [12, 16, 20]
    assert (tmp_path / VECTORS).read_bytes() == (whole / VECTORS).read_bytes()


@pytest.mark.parametrize(
    "changed", [Shape(22, 5, "float32", "a"), Shape(23, 5, "float16", "a"), Shape(23, 5, "float32", "b")]
)
def test_a_build_of_something_else_starts_afresh(tmp_path: Path, changed: Shape) -> None:
    interrupted(tmp_path)
    source = Source()
    write(tmp_path, changed, source, silent)
    assert source.asked[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / VECTORS), ALL[: changed.rows], atol=1e-2)


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"done": 12}', "\xff"])
def test_an_unreadable_note_of_progress_starts_afresh(tmp_path: Path, note: str) -> None:
    interrupted(tmp_path)
    (tmp_path / PROGRESS).write_text(note, encoding="latin-1")
    source = Source()
    write(tmp_path, SHAPE, source, silent)
    assert source.asked[0] == 0


def test_a_file_shorter_than_its_note_starts_afresh(tmp_path: Path) -> None:
    interrupted(tmp_path)
    content = (tmp_path / VECTORS).read_bytes()
    (tmp_path / VECTORS).write_bytes(content[:-1])
    source = Source()
    write(tmp_path, SHAPE, source, silent)
    assert source.asked[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / VECTORS), ALL)


def test_vectors_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected vectors within 65504 for dtype float16"):
        write(tmp_path, Shape(1, 2, "float16", ""), lambda start, stop: np.full((1, 2), 1e5, np.float32), silent)


def test_damaged_files_are_typed_errors(tmp_path: Path) -> None:
    write(tmp_path, SHAPE, Source(), silent)
    path = tmp_path / VECTORS
    whole = path.read_bytes()
    assert len(Vectors.read(path, 23, 5)) == 23
    for rows, dimension in ((22, 5), (23, 6)):
        with pytest.raises(IndexCorrupt, match="rebuild the index"):
            Vectors.read(path, rows, dimension)
    huge = whole.replace(b"(23, 5)", b"(99999999, 5)")
    for content in (
        b"",
        b"PK\x03\x04",
        b"PK\x05\x06",
        whole[:50],
        whole[:-1],
        huge,
        whole.replace(b"<f4", b"|O8"),
        b"\x80\x04." * 40,
    ):
        path.write_bytes(content)
        with pytest.raises(IndexCorrupt, match="rebuild the index"):
            Vectors.read(path, 23, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_are_inner_products_of_the_stored_vectors(dtype) -> None:
    stored = np.random.default_rng(1).standard_normal((3000, 5)).astype(dtype)
    vectors, query = Vectors(stored), ALL[0]
    expected = stored[100:2900].astype(np.float64) @ query
    np.testing.assert_allclose(vectors.products(query, 100, 2900), expected, atol=1e-5)
    np.testing.assert_array_equal(vectors.take(np.array([7, 7, 0])), stored[[7, 7, 0]].astype(np.float32))


@pytest.mark.parametrize("seed", range(20))
def test_best_agrees_with_sorting_everything(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, random.integers(1, 40)).astype(np.float32)
    k = int(random.integers(1, 45))
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
    rows, found = best(scores, k, 1000)
    assert rows.tolist() == [row + 1000 for row in expected]
    assert found.tolist() == [scores[row] for row in expected]


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(stages.dense.retriever).failed == 0
