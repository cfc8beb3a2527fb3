"""A small real corpus and its index, built once a session and shared by all that only read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cascade import api
from cascade.api import Cascade, index_corpus
from cascade.io import read_corpus
from cascade.load import load_config
from cascade.types import Document

CONFIG = """\
version: 1
name: small
stages:
  - name: hybrid
    kind: fusion
    top_k: 60
    retrievers:
      - {name: bm25, kind: bm25, top_k: 100}
      - {name: dense, kind: dense, top_k: 100}
  - {name: late, kind: colbert, model: "bundled:bi-encoder", top_k: 20}
  - {name: late-short, kind: colbert, model: "bundled:bi-encoder", max_query_tokens: 8, top_k: 5}
"""

QUERIES = {
    "q1": "configure logging to a file",
    "q2": "remove the last element of a list",
    "q3": "compute the square root of a number",
    "q4": "wait for a thread to finish",
}


LONG = "logging.basicConfig"
"""A document longer than a model's window."""


@dataclass(frozen=True)
class Small:
    """About two hundred docstrings of the standard library, one of them longer than a model's window."""

    folder: Path
    documents: list[Document]

    @property
    def config(self) -> Path:
        return self.folder / "small.yaml"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.jsonl"

    @property
    def queries(self) -> Path:
        return self.folder / "queries.jsonl"

    @property
    def index(self) -> Path:
        return self.folder / "index"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine cost more than they bring."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(api, "cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    from cascade.demo import gather

    everything = list(gather())
    documents = [document for document in everything if len(document.text) <= 200][::20]
    documents += [document for document in everything if document.doc_id == LONG]
    made = Small(tmp_path_factory.mktemp("small"), documents)
    with made.corpus.open("w", encoding="utf-8") as file:
        for document in made.documents:
            line = {"_id": document.doc_id, "title": document.title, "text": document.text}
            file.write(json.dumps({**line, **document.metadata}) + "\n")
    made.queries.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in QUERIES.items()))
    made.config.write_text(CONFIG)
    index_corpus(load_config(made.config), read_corpus(made.corpus), made.index)
    return made


@pytest.fixture(scope="session")
def engine(small: Small) -> Iterator[Cascade]:
    with Cascade.from_yaml(small.config, index=small.index) as opened:
        yield opened
