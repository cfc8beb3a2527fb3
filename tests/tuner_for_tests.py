"""Stages whose scores and costs are made up but depend on query, passage and work; recorded and replayed in tests."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.clock import VirtualClock
from cascade.load import parse_config
from cascade.opening import LoadedStages
from cascade.planner import PlannedStage, plan
from cascade.registry import Registry
from cascade.schema import CascadeConfig
from cascade.stage import (
    Batch,
    Context,
    ListwiseReranker,
    Opened,
    Passages,
    Reranker,
    Retriever,
    Stage,
    StageKind,
    StageSettings,
    Work,
)
from cascade.tasks import OpenedCascade, OpenedStage
from cascade.tuner import Recording, Subject, record
from cascade.tuner.format import RecordedIndex
from cascade.types import Qrel, Query, Rows, Scores
from tests.fakes import FakeCollection


class MadeUpSettings(StageSettings):
    seed: int = 1
    token_us: float = 20.0
    ranges: int = 1
    ties: bool = False
    reader: str = ""


def made_up_scores(seed: int, query: Query, rows: Rows, ties: bool = False) -> Scores:
    """float32 [n]: alike for stages of all seeds where a passage is good for the query, otherwise random."""
    base = zlib.crc32(query.query_id.encode())
    mixed = (rows.astype(np.int64) * 7919 + base + seed * 104_729) % 10_007
    good = (rows.astype(np.int64) * 31 + base) % 97 < 3
    scores = (mixed / 10_007 + 0.6 * good).astype(np.float32)
    return np.round(scores, 1) if ties else scores


@dataclass
class Machine:
    """A clock that made-up stages move on, and how noisy they are."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    sigma: float = 0.1

    def spend(self, seconds: float) -> None:
        self.clock.advance(seconds * float(np.exp(self.rng.normal(0.0, self.sigma))))

    def registry(self) -> Registry:
        return Registry(
            [
                StageKind("made_up_retriever", "retriever", MadeUpSettings, lambda s, c: _Stage(s, self, _Retriever)),
                StageKind("made_up_reranker", "reranker", MadeUpSettings, lambda s, c: _Stage(s, self, _Reranker)),
                StageKind("made_up_listwise", "listwise", MadeUpSettings, lambda s, c: _Stage(s, self, _Listwise)),
            ]
        )


class _Stage(Stage):
    def __init__(self, settings: MadeUpSettings, machine: Machine, kind: Any) -> None:
        self._make = lambda passages: kind(settings, machine, len(passages))

    def open(self, passages: Passages, directory: Path | None) -> Opened:
        opened: Opened = self._make(passages)
        return opened


class _MadeUp:
    def __init__(self, settings: MadeUpSettings, machine: Machine, passages: int) -> None:
        self.settings, self.machine, self.passages = settings, machine, passages
        self.batch_tokens, self.window = 2000, 10
        self.query_reader = settings.reader

    def encode_query(self, query: Query) -> Query:
        return self.encode_read(query, self.read_query(query) if self.query_reader else query)

    def read_query(self, query: Query) -> Query:
        self.machine.spend(0.002)
        return query

    def encode_read(self, query: Query, reading: Query) -> Query:
        self.machine.spend(0.0003)
        return reading

    def lengths(self, query: Query, rows: Rows) -> npt.NDArray[np.int32]:
        return (20 + (rows.astype(np.int64) * 53) % 120).astype(np.int32)

    def scores(self, query: Query, rows: Rows) -> Scores:
        tokens = float(len(rows) * self.lengths(query, rows).max())
        self.machine.spend(0.0004 + tokens * self.settings.token_us * 1e-6)
        return made_up_scores(self.settings.seed, query, rows, self.settings.ties)


class _Retriever(_MadeUp, Retriever):
    def ranges(self) -> Sequence[tuple[int, int]]:
        edges = np.linspace(0, self.passages, self.settings.ranges + 1).astype(int).tolist()
        return list(itertools.pairwise(edges))

    def search(self, query: Query, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        rows = np.arange(start, stop, dtype=np.int32)
        scores = made_up_scores(self.settings.seed, query, rows, self.settings.ties)
        order = np.lexsort((rows, -scores))[:k]
        self.machine.spend(0.0005 + 2e-6 * len(rows))
        return rows[order], scores[order]

    def work(self, query: Query, start: int, stop: int) -> Work:
        return Work(pairs=float(stop - start), tokens=float(zlib.crc32(query.query_id.encode()) % 50))


class _Reranker(_MadeUp, Reranker):
    def score(self, batch: Batch) -> Scores:
        (query,) = batch.queries
        return self.scores(query, batch.rows)


class _Listwise(_MadeUp, ListwiseReranker):
    def score_window(self, query: Query, rows: Rows) -> Scores:
        return self.scores(query, rows)


CASCADE = """
version: 1
name: made-up
stages:
  - name: hybrid
    kind: fusion
    top_k: 60
    retrievers:
      - {name: words, kind: made_up_retriever, seed: 1, ranges: 3, reader: shared, top_k: 80}
      - {name: meaning, kind: made_up_retriever, seed: 2, reader: shared, top_k: 80}
  - {name: quick, kind: made_up_reranker, seed: 3, token_us: 4.0, ties: true, reader: shared, top_k: 40}
  - {name: slow, kind: made_up_reranker, seed: 4, token_us: 40.0, top_k: 10}
"""


def config_of(text: str, machine: Machine) -> CascadeConfig:
    return parse_config(text, registry=machine.registry())


def opened(config: CascadeConfig, passages: int, per_document: int) -> OpenedCascade:
    """The configured stages, really opened, over a collection without texts."""
    planned, collection = plan(config), FakeCollection(passages, per_document)
    loaded = LoadedStages(planned, Context(config.folder), 1)

    def open_stage(unit: PlannedStage) -> OpenedStage:
        inner = tuple(open_stage(retriever) for retriever in unit.retrievers)
        return OpenedStage(unit, loaded.stage(unit).open(collection, None), unit.cost_key, inner)

    return OpenedCascade(planned, collection, tuple(open_stage(stage) for stage in planned.stages))


def subject(machine: Machine, text: str = CASCADE, passages: int = 500, per_document: int = 1) -> Subject:
    config = config_of(text, machine)
    index = RecordedIndex(
        fingerprint="f" * 64,
        documents=-(-passages // per_document),
        passages=passages,
        one_passage_each=per_document == 1,
    )
    return Subject(opened(config, passages, per_document), config, index, threads=1)


def questions(count: int) -> list[Query]:
    return [Query(f"q{number}", f"question {number}") for number in range(count)]


def recorded(
    folder: Path,
    machine: Machine,
    *,
    text: str = CASCADE,
    queries: int = 12,
    depth: int = 100,
    passages: int = 500,
    per_document: int = 1,
) -> Recording:
    out = folder / "made-up.recording"
    record(subject(machine, text, passages, per_document), questions(queries), out, depth=depth, clock=machine.clock)
    return Recording.load(out)


def judgments(recording: Recording) -> list[Qrel]:
    """Passages that are good for their query are relevant, every seventh of them very."""
    qrels = []
    for number, query in enumerate(recording.queries):
        rows = recording.rows[number]
        for row in rows[(rows.astype(np.int64) * 31 + zlib.crc32(query.query_id.encode())) % 97 < 3].tolist():
            doc_id = recording.doc_ids[recording.documents[number][np.searchsorted(rows, row)]]
            qrels.append(Qrel(query.query_id, doc_id, 2 if row % 7 == 0 else 1))
        qrels.append(Qrel(query.query_id, "d-nowhere", 1))
    return list({(qrel.query_id, qrel.doc_id): qrel for qrel in qrels}.values())
