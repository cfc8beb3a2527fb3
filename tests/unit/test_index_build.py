from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import InputError, StageError
from cascade.index import Index, PassageSettings, build_index
from cascade.index.build import Record
from cascade.stage import Passages, Progress
from cascade.types import Document
from tests.index_for_tests import (
    Entry,
    ListCorpus,
    NoteStage,
    WordTokenizer,
    build_labelled,
    documents,
    entry,
    label_of,
)


def build(target: Path, stage: NoteStage, corpus: ListCorpus | None = None, **options: object) -> None:
    corpus = ListCorpus(documents("doc", 6)) if corpus is None else corpus
    build_index(target, corpus, [entry(stage)], PassageSettings(), **options)  # type: ignore[arg-type]


def test_the_manifest_tells_what_the_index_was_built_from(tmp_path: Path) -> None:
    manifest = build_labelled(tmp_path / "index", "doc", 5)
    assert manifest == Index.open(tmp_path / "index").manifest
    assert (manifest.corpus.source, manifest.corpus.fingerprint) == ("corpus.jsonl:1", "doc")
    assert (manifest.corpus.documents, manifest.corpus.passages) == (5, 5)
    assert (manifest.passages.limit, manifest.passages.counted_by) == (16, "words-30000")
    assert [stored.fingerprint for stored in manifest.tokenizers] == ["words-30000"]
    assert [(stored.kind, stored.fingerprint) for stored in manifest.stages] == [("note", "doc")]
    generation = tmp_path / "index" / "generation-000001"
    on_disk = {path.relative_to(generation).as_posix() for path in generation.rglob("*") if path.is_file()}
    assert set(manifest.files) == on_disk - {"manifest.json"}


def test_arrays_are_ordinary_npy_files(tmp_path: Path) -> None:
    build_labelled(tmp_path / "index", "doc", 5)
    folder = tmp_path / "index" / "generation-000001" / "documents"
    assert np.load(folder / "passage_documents.npy", allow_pickle=False).tolist() == [0, 1, 2, 3, 4]


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    corpus = ListCorpus(documents("doc", 6))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", NoteStage(interrupt_at=4), corpus)
    assert (tmp_path / "index" / "building").is_dir()
    stage, again = NoteStage(), ListCorpus(corpus.documents)
    build(tmp_path / "index", stage, again)
    assert stage.built == (4, 5), "the stage found what it had written"
    assert again.readings == 1, "documents were not written again; only the first one's place was looked up"
    assert not (tmp_path / "index" / "building").exists()
    assert len(Index.open(tmp_path / "index")) == 6


def test_an_interrupted_replacement_leaves_the_old_index(tmp_path: Path) -> None:
    target = tmp_path / "index"
    build_labelled(target, "old")
    with pytest.raises(KeyboardInterrupt):
        build(target, NoteStage(interrupt_at=2), force=True)
    assert label_of(target) == "old"


@pytest.mark.parametrize("change", ["corpus", "passages", "weights", "settings", "tokenizer"])
def test_an_interrupted_build_of_something_else_is_not_taken_up(tmp_path: Path, change: str) -> None:
    target = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build(target, NoteStage(interrupt_at=4))
    stage = NoteStage(
        weights="w2" if change == "weights" else "w1", reads=WordTokenizer() if change == "tokenizer" else None
    )
    corpus = ListCorpus(documents("doc", 6), "changed" if change == "corpus" else "list")
    settings = {"size": 1} if change == "settings" else {}
    build_index(
        target, corpus, [entry(stage, **settings)], PassageSettings(max_tokens=99 if change == "passages" else None)
    )
    assert stage.built == (0, 1, 2, 3, 4, 5)


def test_damaged_notes_on_progress_mean_a_start_from_the_beginning(tmp_path: Path) -> None:
    target = tmp_path / "index"
    for damage in (b"", b"[]", b'{"recipe": 1}', b"\xff", b"[" * 50_000):
        with pytest.raises(KeyboardInterrupt):
            build(target, NoteStage(interrupt_at=4))
        (target / "building" / "state.json").write_bytes(damage)
    stage = NoteStage()
    build(target, stage)
    assert stage.built == (0, 1, 2, 3, 4, 5)


def test_a_damaged_current_needs_force_and_is_then_replaced(tmp_path: Path) -> None:
    target = tmp_path / "index"
    build_labelled(target, "old")
    (target / "CURRENT").write_text("nonsense")
    build_labelled(target, "new")
    assert label_of(target) == "new"
    assert sorted(path.name for path in target.iterdir()) == ["CURRENT", "LOCK", "generation-000002"]


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no documents"):
        build(tmp_path / "index", NoteStage(), ListCorpus([]))


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    class Changing(ListCorpus):
        def __iter__(self) -> Iterator[Record]:
            yield from super().__iter__()
            self.fingerprint = "later"

    with pytest.raises(InputError, match="changed while it was read, from 'list' to 'later'"):
        build(tmp_path / "index", NoteStage(), Changing(documents("doc")))


def test_a_corpus_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    class Unreadable(ListCorpus):
        def __iter__(self) -> Iterator[Record]:
            raise OSError("no such device")

    with pytest.raises(InputError, match="no such device"):
        build(tmp_path / "index", NoteStage(), Unreadable([]))


def test_a_file_in_place_of_the_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(InputError, match="got a file"):
        build(tmp_path / "index", NoteStage())


def test_a_stage_that_writes_a_link_is_refused(tmp_path: Path) -> None:
    class Linking(NoteStage):
        def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
            (directory / "link").symlink_to("/etc/passwd")

    with pytest.raises(StageError, match=r"link: a stage wrote a link"):
        build(tmp_path / "index", Linking())


def test_odd_kinds_and_fingerprints_make_harmless_folders(tmp_path: Path) -> None:
    stage = NoteStage(reads=WordTokenizer(name="../../etc"))
    build_index(tmp_path / "index", ListCorpus(documents("doc")), [entry(stage)], PassageSettings())
    index = Index.open(tmp_path / "index")
    assert index.stage_directory("note", {}, "w1").parent == index.folder / "stages"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_progress_is_told_of_every_step(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    stage = NoteStage(reads=WordTokenizer())
    build(tmp_path / "index", stage, progress=lambda step, done, total: told.append((step, done, total)))
    steps = list(dict.fromkeys(step.partition("/")[0] for step, _, _ in told))
    assert steps == ["documents", "tokens", "stages"]
    assert ("documents", 6, 0) in told
    assert told[-1][1:] == (6, 6)


@dataclass
class Generated:
    count: int
    fingerprint: str = "generated"

    def __iter__(self) -> Iterator[Entry]:
        for number in range(self.count):
            yield Entry(Document(f"d{number}", f"text {number} " * 1000), f"generated:{number}")


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        build_index(tmp_path / "index", Generated(6_000), [], PassageSettings())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    texts = (tmp_path / "index" / "generation-000001" / "documents" / "texts.bin").stat().st_size
    assert texts > 50_000_000
    assert peak < texts / 2
