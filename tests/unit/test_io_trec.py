import gzip
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import InputError
from cascade.io import read_qrels, read_queries, read_run, write_run
from cascade.io.runs import falling
from cascade.types import Qrel, Query, ScoredDoc


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", '{"_id": "1", "text": "one", "metadata": {}}\n{"query_id": 2, "text": ""}'),
        ("q.tsv", "1\tone\n2\t\n"),
        ("q.tsv.gz", "query_id\ttext\n1\tone\n2\t\n"),
        ("q.csv", "id,text\n1,one\n2,\n"),
    ],
)
def test_queries_of_every_format(tmp_path: Path, name: str, content: str) -> None:
    assert read_queries(write(tmp_path / name, content)) == [Query("1", "one"), Query("2", "")]


def test_queries_of_a_beir_folder(tmp_path: Path) -> None:
    write(tmp_path / "queries.jsonl", '{"_id": "1", "text": "one"}')
    assert read_queries(tmp_path) == [Query("1", "one")]


def test_duplicate_query_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "q.tsv", "1\tone\n2\ttwo\n1\tagain\n")
    with pytest.raises(InputError, match=r"q\.tsv:3: .* query_id '1' again, which stands at .*q\.tsv:1; remove"):
        read_queries(path)


def test_query_file_that_is_empty_or_a_bare_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one query"):
        read_queries(write(tmp_path / "q.tsv", ""))
    with pytest.raises(InputError, match=r"a folder with queries\.jsonl, got a folder without"):
        read_queries(tmp_path)


QRELS = [Qrel("q1", "d1", 2), Qrel("q1", "d2", 0), Qrel("q2", "d1", -1)]


def test_trec_qrels(tmp_path: Path) -> None:
    path = write(tmp_path / "x.qrels", "q1 0 d1 2\nq1\tQ0\td2  0\n\nq2 0 d1 -1\nq1 0 d1 2\n")
    assert read_qrels(path) == QRELS


def test_beir_qrels_from_file_and_from_a_folder_with_one_split(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n")
    assert read_qrels(path) == read_qrels(tmp_path) == QRELS


def test_several_splits_or_none_ask_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none; name the file"):
        read_qrels(tmp_path)
    for split in ("dev", "test"):
        write(tmp_path / "qrels" / f"{split}.tsv", "")
    with pytest.raises(InputError, match=r"got .*dev\.tsv, .*test\.tsv; name the one to use"):
        read_qrels(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1 d1 1\n", r":1: expected 4 columns .* got 3; .* BEIR"),
        ("query-id\tcorpus-id\tscore\nq1\t0\td1\t1\n", ":2: expected 3 columns"),
        ("q1 0 d1 1.0\n", ":1: relevance: expected an integer from -1000 to 1000, got str '1.0'"),
        ("q1 0 d1 2000000000\n", ":1: relevance: expected an integer"),
        ("q1 0 d1 1\nq1 0 d1 0\n", ":2: expected one judgment of 'd1' for query 'q1', got 0 here and 1 at .*:1"),
        ("q1 0 d\x00 1\n", ":1: doc_id: expected an id without"),
        ("query-id\tcorpus-id\tscore\n", "expected at least one judgment"),
    ],
)
def test_bad_qrels_are_refused_by_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_qrels(write(tmp_path / "x.qrels", content))


def test_run_is_sorted_by_score_with_ties_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x.run", "q1 Q0 b 1 1.0 t\nq2 Q0 z 1 -1e3 t\nq1 Q0 c 2 2.5 t\nq1 Q0 a 3 1 t\n")
    assert read_run(path) == {
        "q1": [ScoredDoc("q1", "c", 2.5), ScoredDoc("q1", "b", 1.0), ScoredDoc("q1", "a", 1.0)],
        "q2": [ScoredDoc("q2", "z", -1000.0)],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q Q0 d 1 1.0\n", ":1: expected 6 columns .* got 5"),
        ("q Q0 d 1 nan t\n", ":1: score: expected a finite number, got str 'nan'"),
        ("q Q0 d 1 inf t\n", ":1: score: expected a finite number"),
        ("q Q0 d 1 x t\n", ":1: score: expected a finite number"),
        ("q Q0 d 1 2 t\nr Q0 d 1 2 t\nq Q0 d 2 1 t\n", ":3: .* got 'd' for query 'q' again, which stands at .*:1"),
        ("", "expected at least one result"),
    ],
)
def test_bad_run_is_refused_by_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_run(write(tmp_path / "x.run", content))


def write_all(path: Path, rankings: list[tuple[str, list[tuple[str, float]]]]) -> None:
    with write_run(path) as run:
        for query_id, results in rankings:
            run.write(query_id, results)


@pytest.mark.parametrize("name", ["x.run", "x.run.gz"])
def test_written_run_reads_back_in_the_order_given(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with write_run(path, tag="mine") as run:
        run.write("q1", [("late", 0.25), ("tail", 17.5), ("last", 17.5)])
        run.write("q2", [])
        run.write("q3", [("d", np.float32(0.1))])
    text = (gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()).decode()
    assert text.splitlines() == [
        "q1 Q0 late 1 0.25 mine",
        "q1 Q0 tail 2 0.24999999 mine",
        "q1 Q0 last 3 0.24999997 mine",
        "q3 Q0 d 1 0.1 mine",
    ]
    assert [doc.doc_id for doc in read_run(path)["q1"]] == ["late", "tail", "last"]


def test_trec_eval_sees_the_order_written(tmp_path: Path) -> None:
    import ir_measures

    path = tmp_path / "x.run"
    with write_run(path) as run:
        run.write("q", [("a", 1.0), ("z", 1.0)])
    value = ir_measures.calc_aggregate(
        [ir_measures.P @ 1], [ir_measures.Qrel("q", "a", 1)], ir_measures.read_trec_run(str(path))
    )
    assert value == {ir_measures.P @ 1: 1.0}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([("a", 1.0), ("a", 0.5)], "got 'a' twice"),
        ([("a", float("nan"))], "expected finite float32 scores, got nan"),
        ([("a", 1e39)], "expected finite float32 scores"),
        ([("a b", 1.0)], "x.run: query 'q': doc_id: expected an id without whitespace"),
    ],
)
def test_bad_result_leaves_no_file_and_the_old_one_intact(
    tmp_path: Path, results: list[tuple[str, float]], message: str
) -> None:
    path = write(tmp_path / "x.run", "old")
    with pytest.raises(InputError, match=message):
        write_all(path, [("before", [("a", 1.0)]), ("q", results)])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_query_written_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="query 'q': expected each query once"):
        write_all(tmp_path / "x.run", [("q", [("a", 1.0)]), ("q", [("b", 1.0)])])


def test_scores_fall_strictly_across_zero_and_keep_what_already_falls() -> None:
    assert falling([3.0, 2.0, -1.0]) == [3.0, 2.0, -1.0]
    lowered = falling([0.0, -0.0, 5.0])
    assert lowered[0] == 0 > lowered[1] > lowered[2]
    with pytest.raises(ValueError, match="finite"):
        falling([np.finfo(np.float32).min, 0.0])
