"""Recordings: what is in the file, going on after an interruption, and refusing what is not a recording."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.engine import FINISH_S
from cascade.errors import InputError
from cascade.tuner import Load, Recording, Replayer, record
from cascade.tuner.format import queries_digest
from cascade.tuner.recorder import CHUNK
from cascade.tuner.sameness import agree
from cascade.types import Query
from tests.fakes import FakeCollection
from tests.tuner_for_tests import CASCADE, Machine, config_of, made_up_scores, questions, recorded, subject


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


def test_what_comes_first_is_not_timed_after_long_work_of_others(tmp_path: Path) -> None:
    class ColdAfterLongWork(Machine):
        before = 0.0

        def spend(self, seconds: float) -> None:
            self.clock.advance(seconds + (0.5 if self.before > 0.002 else 0.0))
            self.before = seconds

    recording = recorded(tmp_path, ColdAfterLongWork(), queries=4)
    np.testing.assert_allclose(recording.units["slow"].encode_s["encode"], 0.0003, rtol=1e-6)
    for name in ("words", "meaning", "quick"):
        np.testing.assert_allclose(recording.units[name].encode_s["encode"], 0.0023, rtol=1e-6)
        np.testing.assert_allclose(recording.units[name].encode_s["encode_read"], 0.0003, rtol=1e-6)
    for name, pairs in (("words", 166), ("meaning", 500)):
        assert recording.units[name].tasks[3][0][3] == pytest.approx(0.0005 + 2e-6 * pairs)


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


def test_what_the_executor_learns_to_keep_back_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up the hits of an answer takes its caller 2 ms, which is learned in steps, across parts."""
    monkeypatch.setattr("cascade.tuner.handover.BUDGET_S", 3600.0)  # however busy this machine is
    none, some = tmp_path / "none", tmp_path / "some"
    none.mkdir()
    some.mkdir()
    assert recorded(none, Machine(), queries=2).finish_s == FINISH_S / 2
    machine = Machine()
    look_up = FakeCollection.doc_ids

    def slowly(collection: FakeCollection, rows: Any) -> list[str]:
        machine.clock.advance(0.002)
        return look_up(collection, rows)

    monkeypatch.setattr(FakeCollection, "doc_ids", slowly)
    assert 0.002 < recorded(some, machine, queries=CHUNK + 3).finish_s < 0.003


def test_a_budget_is_replayed_less_what_was_learned_to_be_kept_back(tmp_path: Path) -> None:
    recording = recorded(tmp_path, Machine(), queries=8)
    machine = Machine()
    config = config_of(CASCADE.replace("name: made-up", "name: made-up\nbudget_ms: 30"), machine)
    for finish_s in (FINISH_S / 2, 0.005):
        recording.finish_s = finish_s
        for load in (None, Load(5.0)):
            assert Replayer(recording).run(config, load).seconds.max() <= 0.030 - finish_s + 1e-9


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


def test_interrupted_work_of_another_version_is_refused_and_can_be_dropped(tmp_path: Path) -> None:
    out, queries = tmp_path / "T.parquet", questions(CHUNK + 1)
    interrupted(out, queries)
    part = tmp_path / "T.parquet.parts" / "part-000000.parquet"
    table = pq.read_table(part)
    header = table.schema.metadata[b"cascade_recording"]
    older = {b"cascade_recording": header.replace(b'"format_version": 2', b'"format_version": 1')}
    pq.write_table(table.replace_schema_metadata(older), part)
    with pytest.raises(InputError, match=r"differs in format; finish that one, or begin anew with --force"):
        record(subject(Machine()), queries, out, depth=50)
    record(subject(Machine()), queries, out, depth=50, force=True)
    assert len(Recording.load(out)) == len(queries)


def interrupted(out: Path, queries: list[Query]) -> None:
    with pytest.raises(Interrupted):
        record(subject(Machine()), queries, out, depth=50, progress=interrupt_after(CHUNK))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["words", "quick", "slow"])
def test_a_recording_does_not_go_on_with_a_model_that_was_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, queries = tmp_path / "T.parquet", questions(CHUNK + 1)
    interrupted(out, queries)
    changed = subject(Machine())
    (unit,) = [unit for unit in changed.units() if unit.planned.name == name]
    trained = cast(Any, unit.opened)
    monkeypatch.setattr(trained, "settings", trained.settings.model_copy(update={"seed": 77}))
    with pytest.raises(InputError, match=rf"other models: {name} now score otherwise; .* with --force"):
        record(changed, queries, out, depth=50)
    record(changed, queries, out, depth=50, force=True)
    assert len(Recording.load(out)) == CHUNK + 1


def test_a_recording_does_not_go_on_with_other_threads(tmp_path: Path) -> None:
    out, queries = tmp_path / "T.parquet", questions(CHUNK + 1)
    interrupted(out, queries)
    with pytest.raises(InputError, match="differs in threads"):
        record(dataclasses.replace(subject(Machine()), threads=2), queries, out, depth=50)


def test_the_same_model_may_round_otherwise_but_not_shift_its_scores() -> None:
    rng = np.random.default_rng(0)
    rows, scores = np.arange(200, dtype=np.int32), rng.normal(3.0, 2.0, 200).astype(np.float32)
    order = rng.permutation(200)
    assert agree(rows, scores, rows[order], scores[order] * np.float32(1 + 1e-5))
    assert agree(rows, scores, rows[3:], scores[3:])
    assert not agree(rows, scores, rows, scores + rng.normal(0.0, 0.1, 200).astype(np.float32))
    assert not agree(rows, scores, rows[:90], scores[:90])
    one, none = slice(0, 1), slice(0, 0)
    assert agree(rows[one], scores[one], rows[one], scores[one] * np.float32(1 + 1e-5))
    assert agree(rows[none], scores[none], rows[none], scores[none])
    assert not agree(rows[none], scores[none], rows, scores)


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
    newer = {b"cascade_recording": header.replace(b'"format_version": 2', b'"format_version": 3')}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(InputError, match="format_version: expected 2, got 3"):
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


def test_queries_that_are_not_those_of_the_header_are_noticed(tmp_path: Path) -> None:
    recorded(tmp_path, Machine(), queries=2)
    path = tmp_path / "made-up.recording"
    table = pq.read_table(path)
    position = table.schema.get_field_index("text")
    texts = pa.array(["question 0", "something else"], pa.string())
    pq.write_table(table.set_column(position, table.schema.field(position), texts), path)
    with pytest.raises(InputError, match="damaged in query_id or text; record again"):
        Recording.load(path)


def test_a_recording_of_another_machine_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded(tmp_path, Machine(), queries=2)
    assert not caplog.messages
    path = tmp_path / "made-up.recording"
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"cascade_recording"])
    elsewhere = json.dumps(header | {"machine": "Abacus"}).encode()
    pq.write_table(table.replace_schema_metadata({b"cascade_recording": elsewhere}), path)
    with caplog.at_level(logging.WARNING):
        assert len(Recording.load(path)) == 2
    (message,) = caplog.messages
    assert "recorded on 'Abacus', this is" in message


def test_a_recording_is_a_table_of_candidates(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    recording = recorded(tmp_path, Machine(), queries=3, per_document=2)
    frame = recording.to_frame()
    assert list(frame.columns) == ["query_id", "doc_id", "row", "words", "meaning", "quick", "slow"]
    query = recording.queries[1]
    own = frame[frame["query_id"] == query.query_id]
    rows = own["row"].to_numpy()
    np.testing.assert_array_equal(rows, recording.rows[1])
    assert own["doc_id"].tolist() == [recording.doc_ids[code] for code in recording.documents[1]]
    np.testing.assert_array_equal(own["slow"], made_up_scores(4, query, rows))
    found = np.isin(rows, recording.units["words"].rows[1])
    assert 0 < found.sum() < len(rows)
    expected = np.where(found, made_up_scores(1, query, rows), np.float32(np.nan))
    np.testing.assert_array_equal(own["words"], expected)


def test_stages_of_a_listwise_slot_are_recorded_too(tmp_path: Path) -> None:
    text = CASCADE + "  - {name: list, kind: made_up_listwise, seed: 9, top_k: 5}\n"
    recording = recorded(tmp_path, Machine(), text=text, queries=2)
    data = recording.units["list"]
    assert data.unit.role == "listwise"
    assert data.tasks.values[:, 0].max() <= 10
