"""Recordings: what is in the file, going on after an interruption, and refusing what is not a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.errors import InputError
from cascade.tuner import Recording, record
from cascade.tuner.format import queries_digest
from cascade.tuner.recorder import CHUNK
from cascade.types import Query
from tests.tuner_for_tests import CASCADE, Machine, made_up_scores, questions, recorded, subject


class Interrupted(Exception):
    """Stands for the user's Ctrl-C."""


def interrupt_after(queries: int) -> object:
    def progress(done: int, total: int) -> None:
        if done >= queries:
            raise Interrupted

    return progress


def test_every_reranker_scores_every_candidate_whatever_its_own_cut(tmp_path: Path) -> None:
    recording = recorded(tmp_path, Machine(), queries=3)
    for number, query in enumerate(recording.queries):
        rows = recording.rows[number]
        found = [recording.units[name].rows[number] for name in ("words", "meaning")]
        assert rows.tolist() == sorted({*found[0].tolist(), *found[1].tolist()})
        assert [len(part) for part in found] == [100, 100]
        expected = made_up_scores(4, query, rows)
        np.testing.assert_array_equal(recording.units["slow"].scores[number], expected)
        assert [recording.doc_ids[code] for code in recording.documents[number]] == [f"d{row}" for row in rows]


def test_a_retrievers_ranges_are_merged_best_first(tmp_path: Path) -> None:
    data = recorded(tmp_path, Machine(), queries=2).units["words"]
    assert data.unit.ranges == ((0, 166), (166, 333), (333, 500))
    assert (np.diff(data.scores[0]) <= 0).all()
    assert len(data.tasks[0]) == 3


def test_batches_of_several_sizes_are_timed_and_fitted(tmp_path: Path) -> None:
    recording = recorded(tmp_path, Machine(sigma=0.0), queries=6)
    data = recording.units["quick"]
    assert {1.0, 2.0, 4.0, 8.0} <= set(data.tasks.values[:, 0].tolist())
    (cost,) = [cost for key, cost in recording.profile(0.9).costs.items() if key == f"{data.unit.cost_key}/score"]
    assert cost.rates.fixed_s == pytest.approx(0.0004, rel=0.01)
    assert cost.rates.token_s == pytest.approx(4e-6, rel=0.01)
    ratios = [ratio for own in recording.ratios[f"{data.unit.cost_key}/score"] for ratio in own]
    assert ratios == pytest.approx([1.0] * len(ratios), rel=0.01)


def test_under_a_virtual_clock_the_engine_itself_takes_no_time(tmp_path: Path) -> None:
    assert recorded(tmp_path, Machine(), queries=2).handling_s == pytest.approx(0.0, abs=1e-9)


def test_an_interrupted_recording_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    out, queries = tmp_path / "T.parquet", questions(CHUNK * 2 + 3)
    with pytest.raises(Interrupted):
        record(subject(Machine()), queries, out, depth=50, progress=interrupt_after(CHUNK))  # type: ignore[arg-type]
    assert not out.exists()
    (part,) = (tmp_path / "T.parquet.parts").iterdir()
    written = part.stat().st_mtime_ns
    told: list[tuple[int, bool]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, part.stat().st_mtime_ns == written))

    record(subject(Machine()), queries, out, depth=50, progress=tell)
    assert told == [(CHUNK, True), (2 * CHUNK, True), (2 * CHUNK + 3, True)]
    assert not part.parent.exists()
    recording = Recording.load(out)
    assert [query.query_id for query in recording.queries] == [query.query_id for query in queries]


def test_interrupted_work_of_another_recording_is_refused_and_can_be_dropped(tmp_path: Path) -> None:
    out, queries = tmp_path / "T.parquet", questions(CHUNK + 1)
    with pytest.raises(Interrupted):
        record(subject(Machine()), queries, out, depth=50, progress=interrupt_after(CHUNK))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"differs in depth; finish that one, or begin anew with --force"):
        record(subject(Machine()), queries, out, depth=60)
    record(subject(Machine()), queries, out, depth=60, force=True)
    assert Recording.load(out).header.depth == 60


def test_a_finished_recording_is_not_overwritten_unasked(tmp_path: Path) -> None:
    recorded(tmp_path, Machine(), queries=2)
    with pytest.raises(InputError, match="replace it with --force"):
        record(subject(Machine()), questions(2), tmp_path / "made-up.recording", depth=10)


@pytest.mark.parametrize(
    ("queries", "depth", "message"),
    [
        ([], 10, "at least one, with distinct ids, got 0"),
        ([Query("a", "x"), Query("a", "y")], 10, "distinct ids"),
        (questions(1), 0, "depth: expected at least 1"),
    ],
)
def test_what_cannot_be_recorded_is_said(tmp_path: Path, queries: list[Query], depth: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        record(subject(Machine()), queries, tmp_path / "T", depth=depth)


def test_other_files_are_no_recordings(tmp_path: Path) -> None:
    text, table = tmp_path / "notes.txt", tmp_path / "table.parquet"
    text.write_text("no parquet")
    pq.write_table(pa.table({"a": [1]}), table)
    gone = tmp_path / "gone"
    for path, message in ((text, "which is a Parquet file"), (table, "another Parquet file"), (gone, "gone")):
        with pytest.raises(InputError, match=message):
            Recording.load(path)


def test_a_recording_of_another_version_or_with_a_column_missing_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path, Machine(), queries=2)
    path = tmp_path / "made-up.recording"
    table = pq.read_table(path)
    header = table.schema.metadata[b"cascade_recording"]
    newer = {b"cascade_recording": header.replace(b'"format_version": 1', b'"format_version": 2')}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(InputError, match="format_version: expected 1, got 2"):
        Recording.load(path)
    pq.write_table(table.drop_columns(["slow/scores"]), path)
    with pytest.raises(InputError, match="slow/scores"):
        Recording.load(path)


def test_scores_that_do_not_belong_to_the_candidates_are_noticed(tmp_path: Path) -> None:
    recorded(tmp_path, Machine(), queries=2)
    path = tmp_path / "made-up.recording"
    table = pq.read_table(path)
    position = table.schema.get_field_index("slow/scores")
    shorter = pa.array([values[:-1] for values in table["slow/scores"].to_pylist()], pa.list_(pa.float32()))
    pq.write_table(table.set_column(position, table.schema.field(position), shorter), path)
    with pytest.raises(InputError, match="damaged in slow"):
        Recording.load(path)


def test_the_digest_of_queries_sees_ids_texts_and_order() -> None:
    first, second = questions(2)
    digests = {
        queries_digest(queries)
        for queries in ([first, second], [second, first], [first], [first, Query(second.query_id, "else")])
    }
    assert len(digests) == 4


def test_stages_of_a_listwise_slot_are_recorded_too(tmp_path: Path) -> None:
    text = CASCADE + "  - {name: list, kind: made_up_listwise, seed: 9, top_k: 5}\n"
    recording = recorded(tmp_path, Machine(), text=text, queries=2)
    data = recording.units["list"]
    assert data.unit.role == "listwise"
    assert data.tasks.values[:, 0].max() <= 10
