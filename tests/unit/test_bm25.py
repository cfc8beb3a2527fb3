from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
from pydantic import ValidationError
from rank_bm25 import BM25Okapi

from cascade.errors import IndexCorrupt, IndexMismatch
from cascade.stage import Context, Retriever, Stage, Work
from cascade.types import Query
from stages.bm25 import KIND, segments
from stages.bm25.analysis import Analyser
from stages.bm25.formula import Formula
from stages.bm25.retriever import Bm25Retriever, best
from stages.bm25.segments import write_segments
from stages.bm25.store import build, open_postings
from stages.bm25.vocabulary import QueryTerms
from stages.compiled import compiled

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx"]
QUERIES = ["ant", "ant bee lynx", "cat cat cat dog", "koi unheard", "gnu " * 50]


class Texts:
    """Passages that only stream."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        yield from self._texts[start:stop]


class Interrupted(Exception):
    """What stops a build midway."""


def random_texts(n: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, len(WORDS) + 1)
    sizes = random.integers(0, 30, n)
    return [" ".join(random.choice(WORDS, size, p=share / share.sum())) for size in sizes]


def stage(**own: Any) -> Stage:
    settings = KIND.settings(name="lexical", kind="bm25", top_k=10, **{"stemmer": "none", "stopwords": "none", **own})
    return KIND.load(settings, Context(Path()))


def opened(texts: list[str], **own: Any) -> Retriever:
    found = stage(**own).open(Texts(texts), None)  # type: ignore[arg-type]
    assert isinstance(found, Retriever)
    return found


def silent(done: int, total: int) -> None:
    pass


def dense_scores(retriever: Retriever, query: str, n: int) -> np.ndarray:
    scores = np.zeros(n, np.float32)
    for start, stop in retriever.ranges():
        rows, values = retriever.search(retriever.encode_query(Query("q", query)), n, start, stop)
        scores[rows] = values
    return scores


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0.0, 1.0)])
def test_scores_are_those_of_bm25s(method: str, k1: float, b: float):
    texts = random_texts(200)
    reference = bm25s.BM25(method=method, k1=k1, b=b)
    reference.index([text.split() for text in texts], show_progress=False)
    retriever = opened(texts, method=method, k1=k1, b=b)

    for query in QUERIES:
        np.testing.assert_allclose(
            dense_scores(retriever, query, 200), reference.get_scores(query.split()), rtol=2e-6, atol=1e-6
        )


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
def test_both_backends_give_equal_scores(method: str):
    texts = random_texts(300, seed=1)
    ours, okapi = (opened(texts, method=method, backend=backend) for backend in ("bm25s", "rank_bm25"))

    for query in QUERIES:
        np.testing.assert_allclose(dense_scores(ours, query, 300), dense_scores(okapi, query, 300), rtol=2e-6)


def test_robertson_is_rank_bm25s_okapi_without_its_floor():
    texts = random_texts(300, seed=2)
    reference = BM25Okapi([text.split() for text in texts], k1=1.2, b=0.75, epsilon=0.0)

    ours = dense_scores(opened(texts, method="robertson"), "jay koi lynx", 300)

    np.testing.assert_allclose(ours * 2.2, reference.get_scores(["jay", "koi", "lynx"]), rtol=2e-6)


def test_a_handmade_collection_is_ranked_by_the_formula():
    retriever = opened(["ant", "ant bee", "bee bee bee", "cat"], k1=1.0, b=0.0)

    rows, scores = retriever.search(retriever.encode_query(Query("q", "bee")), 4, 0, 4)

    idf = np.log(1 + 2.5 / 2.5)
    assert rows.tolist() == [2, 1]
    np.testing.assert_allclose(scores, [idf * 3 / 4, idf * 1 / 2], rtol=1e-6)


@pytest.mark.parametrize("backend", ["bm25s", "rank_bm25"])
@pytest.mark.parametrize("texts", [[], [""], ["", "of the", "!?"]])
@pytest.mark.parametrize("query", ["", "ant", "of the", "\ud800\0", "水"])
def test_nothing_to_find_is_no_results(backend: str, texts: list[str], query: str):
    retriever = opened(texts, backend=backend, stopwords="english")

    found = [retriever.search(retriever.encode_query(Query("q", query)), 5, *span) for span in retriever.ranges()]

    assert [len(rows) for rows, _ in found] == [0] * len(found)


def test_a_query_of_a_hundred_thousand_terms_counts_each_once():
    retriever = opened(random_texts(50))

    encoded = retriever.encode_query(Query("q", "ant bee " * 50_000))

    assert encoded.terms.tolist() == [0, 1]
    assert encoded.counts.tolist() == [50_000, 50_000]


def test_work_counts_rows_and_postings():
    retriever = opened(["ant bee", "ant", "cat", "ant ant"])

    encoded = retriever.encode_query(Query("q", "ant bee"))

    assert retriever.work(encoded, 0, 4) == Work(pairs=4, tokens=4)
    assert retriever.work(encoded, 1, 3) == Work(pairs=2, tokens=1)


def test_ranges_together_find_what_one_range_finds(tmp_path: Path):
    texts = random_texts(500, seed=3)
    build(Texts(texts), tmp_path, Analyser("none", "none"), Formula("lucene", 1.2, 0.75), silent)  # type: ignore[arg-type]
    postings = open_postings(tmp_path, "impacts")
    whole = Bm25Retriever(postings, Analyser("none", "none"))
    parts = Bm25Retriever(postings, Analyser("none", "none"), range_rows=64)

    assert parts.ranges()[-1] == (448, 500)
    for query in QUERIES:
        np.testing.assert_array_equal(dense_scores(parts, query, 500), dense_scores(whole, query, 500))


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 9])
def test_best_breaks_ties_by_row(k: int):
    scores = np.array([2, 0, 5, 2, 2, 0], np.float32)

    rows, values = best(scores, k, 100)

    assert rows.tolist() == [102, 100, 103, 104][:k]
    assert values.tolist() == [5, 2, 2, 2][:k]


def test_many_segments_make_the_index_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    texts, analyse, formula = random_texts(200), Analyser("none", "none"), Formula("lucene", 1.2, 0.75)
    for name, terms in (("one", 1 << 21), ("many", 100)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(segments, "SEGMENT_TERMS", terms)
        build(Texts(texts), tmp_path / name, analyse, formula, silent)  # type: ignore[arg-type]

    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "many" / file.name).read_bytes()


def test_an_interrupted_build_goes_on_after_its_last_whole_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    texts, analyse, formula = random_texts(200), Analyser("none", "none"), Formula("lucene", 1.2, 0.75)
    monkeypatch.setattr(segments, "SEGMENT_TERMS", 500)
    reached: list[int] = []

    def stop_at_100(done: int, total: int) -> None:
        reached.append(done)
        if done >= 100:
            raise Interrupted

    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    build(Texts(texts), tmp_path / "whole", analyse, formula, silent)  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        build(Texts(texts), tmp_path / "broken", analyse, formula, stop_at_100)  # type: ignore[arg-type]
    last = sorted((tmp_path / "broken" / "segments").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-100])
    resumed: list[int] = []
    build(Texts(texts), tmp_path / "broken", analyse, formula, lambda done, total: resumed.append(done))  # type: ignore[arg-type]

    assert resumed[0] == reached[-1]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "broken" / file.name).read_bytes()


def test_segments_bound_what_is_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segments, "SEGMENT_TERMS", 100)

    files = write_segments(Texts(["ant " * 60] * 10), tmp_path, str.split, silent)  # type: ignore[arg-type]

    assert [segments.read_segment(file).lengths.tolist() for file in files] == [[60, 60]] * 5


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bm25")
    stage().build(Texts(random_texts(40)), directory, silent)  # type: ignore[arg-type]
    return directory


def damaged(index: Path, tmp_path: Path, name: str, array: np.ndarray) -> Path:
    copy = shutil.copytree(index, tmp_path / "copy")
    np.save(copy / name, array)
    return copy


@pytest.mark.parametrize("name", ["bm25.json", "terms.npy", "term_offsets.npy", "indptr.npy", "rows.npy", "values.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "hostile header"])
def test_a_damaged_file_is_a_typed_error(index: Path, tmp_path: Path, name: str, damage: str):
    copy = shutil.copytree(index, tmp_path / "copy")
    content = (copy / name).read_bytes()
    if damage == "missing":
        (copy / name).unlink()
    else:
        hostile = content.replace(b"(", b"(9999999999999,") if name.endswith("npy") else b"[" * 100_000
        (copy / name).write_bytes({"empty": b"", "cut": content[:-1], "hostile header": hostile}[damage])

    with pytest.raises(IndexCorrupt, match=name):
        stage().open(Texts([]), copy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows.npy", lambda rows: np.where(np.arange(len(rows)) == 3, 2**31 - 1, rows).astype(np.int32)),
        ("rows.npy", lambda rows: np.where(np.arange(len(rows)) == 0, -1, rows).astype(np.int32)),
        ("rows.npy", lambda rows: rows[::-1].copy()),
        ("rows.npy", lambda rows: rows.astype(np.int64)),
        ("rows.npy", lambda rows: rows[:-1]),
        ("values.npy", lambda values: values * np.float32(np.nan)),
        ("values.npy", lambda values: values[:-1]),
        ("indptr.npy", lambda indptr: np.where(np.arange(len(indptr)) == 1, 2**60, indptr)),
        ("indptr.npy", lambda indptr: np.where(np.arange(len(indptr)) == 1, -(2**60), indptr)),
        ("indptr.npy", lambda indptr: indptr[[0, -1]]),
        ("term_offsets.npy", lambda offsets: offsets * 1000),
        ("term_offsets.npy", lambda offsets: offsets[:0]),
    ],
)
def test_hostile_numbers_are_refused_before_anything_is_read_through_them(
    index: Path, tmp_path: Path, name: str, change: Any
):
    copy = damaged(index, tmp_path, name, change(np.load(index / name)))

    with pytest.raises(IndexCorrupt, match="expected"):
        stage().open(Texts([]), copy)  # type: ignore[arg-type]


def test_pickles_are_refused(index: Path, tmp_path: Path):
    copy = shutil.copytree(index, tmp_path / "copy")
    np.save(copy / "values.npy", np.array([{"any": "object"}], object), allow_pickle=True)

    with pytest.raises(IndexCorrupt, match=r"values\.npy"):
        stage().open(Texts([]), copy)  # type: ignore[arg-type]


def test_an_index_of_the_other_backend_or_format_is_refused(index: Path, tmp_path: Path):
    with pytest.raises(IndexMismatch, match="expected format 1 with counts, got format 1 with 'impacts'"):
        stage(backend="rank_bm25").open(Texts([]), index)  # type: ignore[arg-type]
    copy = shutil.copytree(index, tmp_path / "copy")
    (copy / "bm25.json").write_text(json.dumps({"format": 99, "rows": 40, "values": "impacts"}))
    with pytest.raises(IndexMismatch, match="format 99"):
        stage().open(Texts([]), copy)  # type: ignore[arg-type]


def test_everything_but_the_names_shapes_the_index():
    settings = KIND.settings(name="lexical", kind="bm25", top_k=10)

    assert set(settings.index_settings()) == {"backend", "method", "k1", "b", "stemmer", "stopwords"}


@pytest.mark.parametrize("own", [{"k1": -1}, {"b": 1.5}, {"method": "bm25+"}, {"stemmer": "klingon"}, {"k2": 1}])
def test_wrong_settings_are_refused(own: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(own))):
        stage(**own)


def test_kernels_compile_where_nothing_can_be_cached():
    names: dict[str, Any] = {}
    exec("def double(x): return 2 * x", names)  # numba has no place to cache a function without a file

    assert compiled(names["double"])(21) == 42


def test_an_empty_query_encodes_to_no_terms():
    encoded = opened(["ant"]).encode_query(Query("q", ""))

    assert isinstance(encoded, QueryTerms)
    assert len(encoded.terms) == len(encoded.counts) == 0
