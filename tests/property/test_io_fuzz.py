"""Whatever bytes come in, reading ends in records or in an InputError."""

import contextlib
import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.errors import InputError
from cascade.io import read_corpus, read_qrels, read_queries, read_run, write_run
from cascade.io.html_text import html_text
from cascade.io.records import check_id

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TOKENS = ["id", "_id", "text", "title", "query-id\tcorpus-id\tscore\n", "1", "-1", "NaN", "1e999"]
TOKENS += ['"', "'", "{", "}", "[", ":", ",", "\t", "\n", "\r", " ", "\x00", "\ufeff", "\x85", "\u2028", "é"]
TOKENS += ["\\u", "d800", "<p>", "</", "<!--", "&#x"]
messy = st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS), max_size=40).map(lambda t: "".join(t).encode())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@FUZZ
@given(messy, st.sampled_from(["c.jsonl", "c.tsv", "c.csv", "c.jsonl.gz", "c.parquet", "f/x.html", "f/x.md"]))
def test_any_bytes_as_a_corpus(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            for item in read_corpus(path.parent if name.startswith("f/") else path):
                assert check_id(item.document.doc_id, "doc_id", "") == item.document.doc_id
                item.document.full_text.encode("utf-8")


@FUZZ
@given(messy)
def test_any_bytes_as_queries_judgments_and_runs(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, read in (("q.jsonl", read_queries), ("q.tsv", read_queries), ("q", read_qrels), ("r", read_run)):
            path = Path(folder, name)
            path.write_bytes(data)
            with contextlib.suppress(InputError):
                assert read(path)


@FUZZ
@given(st.dictionaries(st.sampled_from(["_id", "id", "text", "title", "metadata", "x"]), values))
def test_any_json_object_as_a_document_gives_metadata_that_can_be_written(fields: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.jsonl")
        path.write_text(json.dumps(fields), encoding="utf-8")
        with contextlib.suppress(InputError):
            for item in read_corpus(path):
                json.dumps(dict(item.document.metadata), allow_nan=False, ensure_ascii=False).encode("utf-8")


@FUZZ
@given(st.text(alphabet=st.sampled_from("<>/!-?='\"& abpscript#;title\n"), max_size=120))
def test_html_to_text_always_ends_in_text(page: str) -> None:
    title, text = html_text(page)
    assert "\n" not in title
    assert text == text.strip()


@FUZZ
@given(
    st.lists(st.floats(allow_nan=False, width=32, min_value=-(2.0**100), max_value=2.0**100), min_size=1, max_size=50)
)
def test_a_written_run_reads_back_in_the_same_order(scores: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.run")
        with write_run(path) as run:
            run.write("q", [(f"d{i}", score) for i, score in enumerate(scores)])
        results = read_run(path)["q"]
        assert [doc.doc_id for doc in results] == [f"d{i}" for i in range(len(scores))]
        assert all(a.score > b.score for a, b in itertools.pairwise(results))


@pytest.mark.parametrize("flips", [1, 5])
def test_damaged_parquet_never_crashes(tmp_path: Path, flips: int) -> None:
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(50)], "text": ["some text"] * 50}), path)
    good, chance = path.read_bytes(), random.Random(flips)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(flips):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            list(read_corpus(path))
