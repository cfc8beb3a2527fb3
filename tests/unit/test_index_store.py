"""An index on disk and passages in memory give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from cascade.errors import IndexMismatch, InputError
from cascade.index import Collection, Index, MemoryPassages, PassageSettings, build_index
from cascade.index.documents import DocumentWriter
from cascade.index.tokens import TokenStore, batches, write_tokens
from cascade.types import Document
from tests.index_for_tests import ListCorpus, NoteStage, WordTokenizer, documents, entry

DOCUMENTS = [
    Document("d/1", "one two three four five six seven eight nine ten eleven twelve", "A title", {"year": 1999}),
    Document("ünï-漢🙂\0", "naïve 漢字 🙂 text\0NUL \u202eright"),
    Document("empty", ""),
    Document("..", "short", "", {"nested": {"list": [1, None, "é"]}}),
]
SETTINGS = PassageSettings(overlap_tokens=2)

Make: TypeAlias = Callable[[list[Document]], Collection]


@pytest.fixture(params=["disk", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    tokenizer = WordTokenizer(8)

    def on_disk(documents: list[Document]) -> Collection:
        stage = entry(NoteStage(reads=tokenizer), indexed=False)
        build_index(tmp_path / "index", ListCorpus(documents), [stage], SETTINGS)
        return Index.open(tmp_path / "index")

    def in_memory(documents: list[Document]) -> Collection:
        return MemoryPassages(documents, SETTINGS, [tokenizer])

    return on_disk if request.param == "disk" else in_memory


@pytest.fixture
def collection(make: Make) -> Collection:
    return make(DOCUMENTS)


def test_rows_and_documents(collection: Collection) -> None:
    assert len(collection) == 6
    assert not collection.one_passage_each
    assert collection.doc_rows(range(6)).tolist() == [0, 0, 0, 1, 2, 3]
    assert collection.doc_rows([]).dtype == np.int32
    assert collection.doc_ids([5, 0, 3]) == ["..", "d/1", "ünï-漢🙂\0"]
    for number, document in enumerate(DOCUMENTS):
        rows = collection.rows_of(document.doc_id)
        assert rows.dtype == np.int32
        assert collection.doc_rows(rows).tolist() == [number] * len(rows)


def test_texts(collection: Collection) -> None:
    assert collection.texts([0, 1, 2]) == [
        "A title one two three four five six",
        "A title five six seven eight nine ten",
        "A title nine ten eleven twelve",
    ]
    assert collection.texts(np.array([4, 5], np.int32)) == ["", "short"]
    assert collection.passage_texts([1, 3]) == ["five six seven eight nine ten", DOCUMENTS[1].text]
    assert collection.titles(np.array([2, 3], np.int32)) == ["A title", ""]
    assert list(collection.iterate()) == collection.texts(range(6))
    assert list(collection.iterate(1, 3)) == collection.texts([1, 2])
    assert list(collection.iterate(5, 99)) == ["short"]


def test_metadata(collection: Collection) -> None:
    assert collection.metadata(2) == {"year": 1999}
    assert collection.metadata(3) == {}
    assert collection.metadata(5) == {"nested": {"list": [1, None, "é"]}}


@pytest.mark.parametrize("name", ["words", "another"])
def test_tokens_are_those_of_the_texts_and_kept(collection: Collection, name: str) -> None:
    tokenizer = WordTokenizer(8, name=name)
    tokens = collection.tokens(tokenizer)
    for row, ids in enumerate(tokenizer.encode(collection.texts(range(6)))):
        assert tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() == ids.tolist()
    assert collection.tokens(WordTokenizer(99, name=name)) is tokens


@pytest.mark.parametrize("doc_id", ["", "D/1", "d/1 ", "none", "\ud800"])
def test_an_unknown_document_is_an_input_error(collection: Collection, doc_id: str) -> None:
    with pytest.raises(InputError, match="holds no document"):
        collection.rows_of(doc_id)


@pytest.mark.parametrize("rows", [[-1], [6], [0, 2**31 - 1]])
def test_rows_out_of_range_are_refused(collection: Collection, rows: list[int]) -> None:
    for call in (
        collection.texts,
        collection.titles,
        collection.passage_texts,
        collection.doc_ids,
        collection.doc_rows,
    ):
        with pytest.raises(IndexError, match="expected rows from 0 to 5"):
            call(rows)
    with pytest.raises(IndexError, match="expected a row from 0 to 5"):
        collection.metadata(rows[-1])


def test_documents_that_are_not_split(make: Make) -> None:
    assert make(documents("short")).one_passage_each


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("a\ud800", "x"), "doc_id: .*surrogate at character 1"),
        (Document("a", "x\udfff"), "text: .*surrogate at character 1"),
        (Document("a", "x", "\ud800"), "title: .*surrogate"),
        (Document("a", "x", "t" * 5000), "title: expected at most 4096 characters, got 5000"),
        (Document("a", "x", "", {"k": {1, 2}}), "metadata: .*JSON"),
        (Document("a", "x", "", {"k": "\ud800"}), "metadata: .*JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(make: Make, document: Document, message: str) -> None:
    with pytest.raises(InputError, match=rf"(corpus.jsonl:4|documents\[3\]): {message}"):
        make([*documents("fine"), document])


def test_duplicate_ids_name_both_places(make: Make) -> None:
    with pytest.raises(InputError, match=r"(corpus.jsonl:4|documents\[3\]): .*'x-1'.*(corpus.jsonl:2|documents\[1\])"):
        make([*documents("x"), Document("x-1", "again")])


def test_memory_may_be_empty() -> None:
    empty = MemoryPassages([])
    assert len(empty) == 0
    assert list(empty.iterate()) == []
    assert empty.tokens(WordTokenizer()).offsets.tolist() == [0]


def test_ids_with_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.index.documents.id_hash", lambda doc_id: len(doc_id))
    build_index(tmp_path / "index", ListCorpus(documents("same", 5)), [], PassageSettings())
    index = Index.open(tmp_path / "index")
    assert [index.rows_of(f"same-{number}").tolist() for number in range(5)] == [[0], [1], [2], [3], [4]]
    with pytest.raises(InputError):
        index.rows_of("same-9")


def test_more_passages_than_rows_have_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.index.documents.MOST_ROWS", 4)
    with DocumentWriter(tmp_path) as writer, pytest.raises(InputError, match="at most 4 passages"):
        writer.append(documents("many", 5), [[(0, 1)]] * 5)


@pytest.mark.parametrize(("vocabulary", "dtype"), [(2**16, np.uint16), (2**24, np.int32)])
def test_token_ids_take_two_bytes_where_they_can(tmp_path: Path, vocabulary: int, dtype: type) -> None:
    texts = [document.full_text for document in documents("some", 50)]
    tokenizer = WordTokenizer(vocabulary=vocabulary)
    write_tokens(tmp_path, tokenizer, lambda: texts, lambda done: None)
    stored, computed = TokenStore.open(tmp_path, 50), TokenStore.compute(tokenizer, texts)
    assert stored.ids.dtype == dtype
    assert stored.ids.tolist() == computed.ids.tolist()
    assert stored.offsets.tolist() == computed.offsets.tolist()


def test_batches_are_bounded_but_for_single_texts() -> None:
    texts = ["x" * 600_000, "y" * 600_000, "z" * 3_000_000, *["short"] * 2000]
    grouped = list(batches(texts))
    assert [text for group in grouped for text in group] == texts
    assert [len(group) for group in grouped] == [1, 1, 1, 1024, 976]


def test_a_stage_finds_only_what_agrees_with_it(tmp_path: Path) -> None:
    stages = [entry(NoteStage(weights="w1"), dims=(64, 8)), entry(NoteStage(weights="w1"), dims=(64, 8))]
    build_index(tmp_path / "index", ListCorpus(documents("x")), stages, PassageSettings(max_tokens=64))
    index = Index.open(tmp_path / "index")
    assert len(index.manifest.stages) == 1
    assert (index.stage_directory("note", {"dims": [64, 8]}, "w1") / "0.txt").read_text() == "16"
    with pytest.raises(IndexMismatch, match=r'has note \{"dims": \[64, 8\]\} with model w1; .*asks for .*model w2'):
        index.stage_directory("note", {"dims": (64, 8)}, "w2")
    with pytest.raises(IndexMismatch, match=r"\[32\]"):
        index.stage_directory("note", {"dims": [32]}, "w1")
    with pytest.raises(IndexMismatch, match="other"):
        index.stage_directory("other", {}, "")


def test_passage_settings_must_agree_but_for_what_only_a_search_needs(tmp_path: Path) -> None:
    build_index(tmp_path / "index", ListCorpus(documents("x")), [], PassageSettings(max_tokens=64))
    index = Index.open(tmp_path / "index")
    index.require_passages(PassageSettings(max_tokens=64, per_document=7))
    with pytest.raises(IndexMismatch, match="max_tokens: the index was built with 64, the configuration asks for None"):
        index.require_passages(PassageSettings())
    with pytest.raises(IndexMismatch, match="overlap_tokens"):
        index.require_passages(PassageSettings(max_tokens=64, overlap_tokens=1))
