"""Indexing and searching with colbert-ai's PLAID, over docstrings of the standard library."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import IndexCorrupt, InputError, ModelError
from cascade.index.memory import MemoryPassages
from cascade.index.split import Splitter
from cascade.schema import PassageSettings
from cascade.stage import Batch, Context
from cascade.types import Document, Query
from stages.colbert import KIND
from tests.models_for_tests_colbert import listed, minilm_colbert, tiny_colbert

MODULES = ("argparse", "asyncio.tasks", "collections", "csv", "email.message", "gzip", "heapq", "json", "logging")
MODULES += (
    "mailbox",
    "pathlib",
    "random",
    "shutil",
    "socket",
    "statistics",
    "subprocess",
    "tarfile",
    "threading",
    "zipfile",
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
for package in ("colbert", "faiss", "ninja"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"plaid needs {package}: pip install 'cascade-ranking[plaid]'", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("plaid compiles parts of colbert-ai: install g++", allow_module_level=True)


def docstrings() -> list[str]:
    """First paragraphs of what the standard library says of its functions and classes."""
    found = {}
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                text = " ".join(inspect.cleandoc(ast.get_docstring(node)).split("\n\n")[0].split())
                found[f"{node.name}: {text}"] = None
    return list(found)[:300]


@pytest.fixture(scope="module")
def passages() -> MemoryPassages:
    texts = docstrings()
    assert len(texts) == 300
    return listed(texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return minilm_colbert(tmp_path_factory.mktemp("model") / "colbert", doc_maxlen=64)


def load(folder, backend, top_k=10):
    settings = KIND.settings(name="late", kind="colbert", top_k=top_k, model=str(folder), backend=backend)
    assert KIND.role_of(settings) == ("retriever" if backend == "plaid" else "reranker")
    assert KIND.check(settings, Context(folder)) == []
    return KIND.load(settings, Context(folder))


@pytest.fixture(scope="module")
def built(tmp_path_factory, folder, passages) -> Path:
    directory = tmp_path_factory.mktemp("index")
    reported = []
    load(folder, "plaid").build(passages, directory, lambda done, total: reported.append((done, total)))
    assert reported == [(300, 300)]
    return directory


@pytest.fixture(scope="module")
def retriever(built, folder, passages):
    return load(folder, "plaid").open(passages, built)


def search(retriever, text, k=10):
    return retriever.search(retriever.encode_query(Query("q", text)), k, *retriever.ranges()[0])


def test_finds_the_passage_that_a_question_is_about(retriever, passages):
    rows, _ = search(retriever, "pop the smallest item off the heap")
    assert any("heap" in text.lower() for text in passages.texts(rows[:3]))


def test_agrees_with_exact_scores_of_all_passages(retriever, folder, passages):
    exact = load(folder, "rescore").open(passages, None)
    query = Query("q", "read a file inside an archive")
    everything = np.arange(len(passages), dtype=np.int32)
    scores = exact.score(Batch.single(exact.encode_query(query), everything))
    best = set(np.argsort(-scores)[:10].tolist())
    rows, _ = search(retriever, query.text)
    assert len(best & set(rows.tolist())) >= 6


def test_rows_come_best_first_each_once(retriever):
    rows, scores = search(retriever, "random numbers", k=7)
    assert rows.dtype == np.int32
    assert scores.dtype == np.float32
    assert len(rows) == len(set(rows.tolist())) == 7
    assert np.all(np.diff(scores) <= 0)


def test_documents_longer_than_it_reads_are_split_for_it(folder):
    """colbert-ai cuts off what exceeds 64 tokens, special ones included."""
    splitter = Splitter(PassageSettings(), [load(folder, "plaid").tokenizer])
    assert splitter.limit == 61
    (slices,) = splitter.split([Document("long", "word " * 100)])
    assert len(slices) > 1


def test_part_of_the_collection_cannot_be_searched(retriever):
    with pytest.raises(ValueError, match="rows 0 to 300 at once"):
        retriever.search(retriever.encode_query(Query("q", "x")), 5, 0, 100)


def test_nothing_is_printed_or_written_elsewhere(folder, passages, tmp_path, monkeypatch, capsys):
    (tmp_path / "index").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    stage = load(folder, "plaid")
    stage.build(passages, tmp_path / "index", lambda done, total: None)
    search(stage.open(passages, tmp_path / "index"), "a question")
    assert list((tmp_path / "work").iterdir()) == []
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["plaid"]
    assert capsys.readouterr() == ("", "")


def test_an_index_of_other_passages_does_not_open(built, folder):
    with pytest.raises(IndexCorrupt, match="expected 2 passages, got 300"):
        load(folder, "plaid").open(listed(["a", "b"]), built)


@pytest.mark.parametrize("file", ["metadata.json", "centroids.pt", "0.codes.pt", "ivf.pid.pt", "doclens.0.json"])
def test_a_damaged_index_does_not_open(built, folder, passages, tmp_path, file):
    shutil.copytree(built, tmp_path / "index")
    (tmp_path / "index" / "plaid" / file).write_bytes(b"")
    with pytest.raises(IndexCorrupt):
        load(folder, "plaid").open(passages, tmp_path / "index")


def test_without_an_index_there_is_nothing_to_search(folder, passages):
    with pytest.raises(ModelError, match="rescore"):
        load(folder, "plaid").open(passages, None)


def test_too_few_passages_for_centroids_are_refused(tmp_path):
    stage = load(tiny_colbert(tmp_path / "model"), "plaid")
    (tmp_path / "index").mkdir()
    with pytest.raises(InputError, match="1 passages"):
        stage.build(listed(["word"]), tmp_path / "index", lambda done, total: None)


def test_a_checkpoint_that_brings_code_is_refused(tmp_path):
    folder = tiny_colbert(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoModel": "evil.EvilModel"}, ', 1))
    with pytest.raises(ModelError, match="auto_map"):
        load(folder, "plaid")
