"""Recording: every stage of a cascade scores every candidate once, and every task is timed."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cascade.calibration import measured_encoding
from cascade.clock import Clock, Deadline, MonotonicClock
from cascade.cost import CostModel, machine
from cascade.engine import FINISH_S, QueryRun
from cascade.errors import InputError
from cascade.executor import Executor
from cascade.index import Index
from cascade.index.manifest import cascade_version
from cascade.opening import LoadedStages
from cascade.planner import PlannedStage, plan
from cascade.ranking import merge
from cascade.schema import CascadeConfig
from cascade.stage import Batch, Context, Fuser, ListwiseReranker, Reranker, Retriever, Work
from cascade.tasks import OpenedCascade, OpenedStage
from cascade.tuner.format import (
    FORMAT_VERSION,
    TASK_COLUMNS,
    Header,
    RecordedIndex,
    RecordedUnit,
    index_fingerprint,
    join_tables,
    queries_digest,
    read_table,
    write_table,
)
from cascade.tuner.handover import learn_finish_s
from cascade.tuner.sameness import changed
from cascade.types import Query, Rows, Scores

CHUNK = 16
"""Queries in one part: what an interruption costs at most."""
BATCH_SIZES = (32, 1, 64, 8, 2, 128, 16, 4)
"""Sizes of the batches, in turn, so that the cost of every size is known; each as far as ``batch_tokens`` allows."""
FUSED_SHARES = (1, 4)
"""Fusion is timed on the whole rankings and on a quarter of them."""

T = TypeVar("T")
Columns = dict[str, list[Any]]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is recorded: a cascade that is open over an index.

    Args:
        cascade: the opened stages.
        config: where they come from.
        index: what they are open over.
        threads: that one task uses.
    """

    cascade: OpenedCascade
    config: CascadeConfig
    index: RecordedIndex
    threads: int

    @classmethod
    def open(cls, config: CascadeConfig, index: Index, threads: int) -> Subject:
        """Loads the stages of a configuration and opens them over an index.

        Raises:
            ModelError: when a model cannot be loaded.
            IndexMismatch: when the index was built with other models or settings.
        """
        planned = plan(config)
        index.require_passages(planned.passages)
        cascade = LoadedStages(planned, Context(config.folder), threads).open_index(index)
        return cls(cascade, config, described(index), threads)

    def header(self, queries: Sequence[Query], depth: int) -> Header:
        """What the recording says of itself."""
        return Header(
            format_version=FORMAT_VERSION,
            cascade_version=cascade_version(),
            machine=machine(),
            threads=self.threads,
            index=self.index,
            depth=depth,
            settings=self.config.settings.model_dump(mode="json"),
            units=tuple(_unit(stage) for stage in self.units()),
            queries=queries_digest(queries),
        )

    def units(self) -> Iterator[OpenedStage]:
        """Every opened stage, fused retrievers before their fuser."""
        for stage in self.cascade.stages:
            yield from stage.retrievers
            yield stage


def described(index: Index) -> RecordedIndex:
    """What a recording says of an index."""
    corpus = index.manifest.corpus
    return RecordedIndex(
        fingerprint=index_fingerprint(index.manifest),
        documents=corpus.documents,
        passages=corpus.passages,
        one_passage_each=index.one_passage_each,
    )


def record(
    subject: Subject,
    queries: Sequence[Query],
    out: Path,
    *,
    depth: int,
    force: bool = False,
    clock: Clock | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Header:
    """Records every stage on every query; goes on where an interrupted call with the same arguments ended.

    The candidates of a query are the best ``depth`` documents of every retriever. Every reranker scores all of them,
    whatever the configuration's own cuts are, so that any order, subset and depth of the stages can be replayed.

    Args:
        subject: the cascade, whose stages may be more than one would run one after the other.
        queries: with distinct ids.
        out: the file to write; parts of it lie in ``<out>.parts`` until it is complete.
        depth: documents of each retriever.
        force: replace a file that is there, and interrupted work that is of another recording.
        clock: time; the machine's by default.
        progress: told how many of how many queries are safely written.

    Raises:
        InputError: no queries, or two of one id; ``out`` is there already; the interrupted work is of another
            recording, or by other models.
        Whatever a stage raises: what cannot be scored cannot be recorded.
    """
    if len({query.query_id for query in queries}) != len(queries) or not queries:
        raise InputError(f"queries: expected at least one, with distinct ids, got {len(queries)}; give each its own id")
    if depth < 1:
        raise InputError(f"depth: expected at least 1 document of each retriever, got {depth}")
    require_new(out, force)
    header = subject.header(queries, depth)
    parts = _parts_folder(out, header, force)
    recorder = _Recorder(subject.cascade, depth, MonotonicClock() if clock is None else clock)
    _require_same_models(parts, recorder, queries[0], force)
    paths = []
    for number, start in enumerate(range(0, len(queries), CHUNK)):
        chunk = queries[start : start + CHUNK]
        paths.append(parts / f"part-{number:06d}.parquet")
        if not paths[-1].exists():
            recorder.warm_up(chunk[0])
            write_table(paths[-1], recorder.columns(chunk), header)
        progress(start + len(chunk), len(queries))
    join_tables(paths, out)
    shutil.rmtree(parts)
    return header


def require_new(out: Path, force: bool) -> None:
    """Makes sure that no finished recording is lost.

    Raises:
        InputError: ``out`` is there and may not be replaced.
    """
    if out.exists() and not force:
        raise InputError(f"{out}: expected no file of that name, found one; choose another, or replace it with --force")


def _parts_folder(out: Path, header: Header, force: bool) -> Path:
    """The folder of the parts, which belong to exactly this recording."""
    folder = out.with_name(out.name + ".parts")
    folder.mkdir(exist_ok=True)
    for path in sorted(folder.glob("part-*.parquet"))[:1]:
        try:
            _, begun = read_table(path)
        except InputError:  # of another version of the format, or damaged
            other = ["format"]
        else:
            fields = type(header).model_fields
            other = [name for name in fields if getattr(begun, name) != getattr(header, name)]
        if other and force:
            shutil.rmtree(folder)
            folder.mkdir()
        elif other:
            raise InputError(
                f"{folder}: holds an interrupted recording that differs in {', '.join(other)}; "
                f"finish that one, or begin anew with --force"
            )
    return folder


def _require_same_models(parts: Path, recorder: _Recorder, query: Query, force: bool) -> None:
    """Makes sure that the stages still score the first query as the parts say; if not, with ``force``, they are gone.

    Raises:
        InputError: a stage gives other scores.
    """
    first = parts / "part-000000.parquet"
    if not first.exists():
        return
    table, header = read_table(first)
    recorder.warm_up(query)
    again: Columns = {}
    recorder.query(query, again)  # batched as it was then, right after the warm-up
    other = changed(header, table, again)
    if other and force:
        shutil.rmtree(parts)
        parts.mkdir()
    elif other:
        raise InputError(
            f"{parts}: holds an interrupted recording by other models: {', '.join(other)} now score otherwise; "
            f"bring back the models of then, or begin anew with --force"
        )


def _unit(stage: OpenedStage) -> RecordedUnit:
    planned, opened = stage.planned, stage.opened
    return RecordedUnit(
        name=planned.name,
        kind=planned.kind.kind,
        role=planned.role,
        cost_key=planned.cost_key,
        settings=_plain(planned),
        batch_tokens=opened.batch_tokens if isinstance(opened, Reranker | ListwiseReranker) else 0,
        window=opened.window if isinstance(opened, ListwiseReranker) else 0,
        ranges=tuple((int(a), int(b)) for a, b in opened.ranges()) if isinstance(opened, Retriever) else (),
        reader=stage.reader,
    )


def _plain(planned: PlannedStage) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(planned.settings.model_dump_json())
    return plain


@dataclass(frozen=True, slots=True)
class _Begun:
    """A query that is still to be reranked.

    Args:
        rows: int32 [n], its candidates.
        best_first: their positions in the order of retrieval.
        encoded: for each reranker the query, and int32 [n], the lengths of the candidates.
    """

    rows: Rows
    best_first: Positions
    encoded: Sequence[tuple[Any, npt.NDArray[np.int32]]]


class _Recorder:
    """Runs the stages and times their tasks."""

    def __init__(self, cascade: OpenedCascade, depth: int, clock: Clock) -> None:
        self._cascade = cascade
        self._clock = clock
        collection = cascade.collection
        each = 1 if collection.one_passage_each else cascade.plan.passages.per_document
        self._wanted = min(depth * each, len(collection))
        self._sizes = itertools.cycle(BATCH_SIZES)
        self._warm = False
        self._finish_s = FINISH_S / 2

    def warm_up(self, query: Query) -> None:
        """Runs everything once, if that has not been done: the first calls compile kernels and touch pages."""
        if not self._warm:
            self.query(query, {})
            self._warm = True

    def columns(self, queries: Sequence[Query]) -> Columns:
        """The columns of a part."""
        columns: Columns = {}
        self._begin(queries[0], {})  # what comes right after long work finds cold caches, and would be timed as slow
        for begun in [self._begin(query, columns) for query in queries]:
            self._rerank(begun, columns)
        columns["handling_s"] = [self._handling_s(queries[0])] * len(queries)
        self._finish_s = learn_finish_s(self._cascade, queries, columns, self._finish_s, self._clock)
        columns["finish_s"] = [self._finish_s] * len(queries)
        return columns

    def _handling_s(self, query: Query) -> float:
        """Seconds that the engine spends on each task besides the task itself, measured on one query."""
        tally = _Tally(CostModel.unknown().profile)
        with Executor(tally, clock=self._clock) as executor:
            run = QueryRun(self._cascade, query, clock=self._clock, deadline=Deadline.never(), costs=tally)
            executor.submit(run).wait()
        run.result()  # raises what a stage raised
        return max(0.0, (run.trace.seconds - tally.seconds) / max(1, tally.tasks))

    def query(self, query: Query, columns: Columns) -> None:
        """Appends what all stages say of a query, and what their tasks took."""
        self._rerank(self._begin(query, columns), columns)

    def _begin(self, query: Query, columns: Columns) -> _Begun:
        """Appends what retrieval says of a query, and encodes it for the stages after that."""
        first, *rerankers = self._cascade.stages
        found = [self._retrieve(stage, query, columns) for stage in first.retrievers or (first,)]
        if isinstance(first.opened, Fuser):
            self._fuse(first, found, columns)
        rows = np.unique(np.concatenate([part for part, _ in found]))
        values = {
            "query_id": query.query_id,
            "text": query.text,
            "rows": rows,
            "doc_ids": self._cascade.collection.doc_ids(rows),
        }
        _append(columns, "", values)
        return _Begun(rows, _by_ranks(rows, found), [self._encode(stage, query, rows, columns) for stage in rerankers])

    def _retrieve(self, stage: OpenedStage, query: Query, columns: Columns) -> tuple[Rows, Scores]:
        retriever = stage.opened
        assert isinstance(retriever, Retriever)
        tasks: list[tuple[Work, float]] = []
        encoded, works, encode_s = self._encoded(
            stage, query, lambda encoded: [retriever.work(encoded, *part) for part in retriever.ranges()]
        )
        found = []
        for (start, stop), work in zip(retriever.ranges(), works, strict=True):
            began = self._clock.now()
            part_rows, part_scores = retriever.search(encoded, self._wanted, start, stop)
            tasks.append((work, self._clock.now() - began))
            finite = np.isfinite(part_scores)
            found.append((part_rows[finite], part_scores[finite]))
        rows, scores = merge(found, self._wanted)
        _append(columns, f"{stage.planned.name}/", {"rows": rows, "scores": scores, **encode_s})
        _append_tasks(columns, stage, tasks)
        return rows, scores

    def _fuse(self, stage: OpenedStage, found: Sequence[tuple[Rows, Scores]], columns: Columns) -> None:
        fuser = stage.opened
        assert isinstance(fuser, Fuser)
        tasks = []
        for share in FUSED_SHARES:
            inputs = [(rows[: len(rows) // share], scores[: len(scores) // share]) for rows, scores in found]
            began = self._clock.now()
            fuser.fuse(inputs)
            work = Work(pairs=float(sum(len(rows) for rows, _ in inputs)))
            tasks.append((work, self._clock.now() - began))
        _append_tasks(columns, stage, tasks)

    def _encode(
        self, stage: OpenedStage, query: Query, rows: Rows, columns: Columns
    ) -> tuple[Any, npt.NDArray[np.int32]]:
        """A query as a reranker encodes it, and int32 [n], the lengths of its candidates."""
        reranker = stage.opened
        assert isinstance(reranker, Reranker | ListwiseReranker)
        encoded, lengths, encode_s = self._encoded(
            stage, query, lambda encoded: np.asarray(reranker.lengths(encoded, rows), np.int32)
        )
        _append(columns, f"{stage.planned.name}/", {"lengths": lengths, **encode_s})
        return encoded, lengths

    def _encoded(
        self, stage: OpenedStage, query: Query, size_up: Callable[[Any], T]
    ) -> tuple[Any, T, dict[str, float]]:
        """A query in a stage's own form, what its work is going to be, and seconds of both, by column."""
        encoded, taken = measured_encoding(stage, query, self._clock)
        began = self._clock.now()
        sizes = size_up(encoded)
        more_s = self._clock.now() - began
        return encoded, sizes, {f"{action}_s": seconds + more_s for action, seconds in taken}

    def _rerank(self, begun: _Begun, columns: Columns) -> None:
        """Appends what the rerankers say of a query."""
        for stage, (encoded, lengths) in zip(self._cascade.stages[1:], begun.encoded, strict=True):
            reranker = stage.opened
            assert isinstance(reranker, Reranker | ListwiseReranker)
            scores, tasks = np.empty(len(begun.rows), np.float32), []
            for positions in self._batches(reranker, lengths, begun.best_first):
                chosen, began = begun.rows[positions], self._clock.now()
                if isinstance(reranker, ListwiseReranker):
                    given = reranker.score_window(encoded, chosen)
                    total = float(lengths[positions].sum())
                    work = Work(float(len(chosen)), total, total * total)
                else:
                    given = reranker.score(Batch.single(encoded, chosen))
                    count, longest = float(len(chosen)), float(lengths[positions].max())
                    work = Work(count, count * longest, count * longest * longest)
                tasks.append((work, self._clock.now() - began))
                scores[positions] = given
            _append(columns, f"{stage.planned.name}/", {"scores": scores})
            _append_tasks(columns, stage, tasks)

    def _batches(
        self, reranker: Reranker | ListwiseReranker, lengths: Rows, best_first: Positions
    ) -> Iterator[Positions]:
        """Positions of the candidates of each call: windows in rank order, or batches of similar length."""
        order = best_first if isinstance(reranker, ListwiseReranker) else np.argsort(-lengths, kind="stable")
        at = 0
        while at < len(order):
            if isinstance(reranker, ListwiseReranker):
                tokens = np.cumsum(lengths[order[at : at + reranker.window]])
                size = max(1, int(np.searchsorted(tokens, reranker.batch_tokens, side="right")))
            else:
                size = max(1, min(next(self._sizes), reranker.batch_tokens // max(1, int(lengths[order[at]]))))
            yield order[at : at + size]
            at += size


class _Tally(CostModel):
    """A cost model that learns nothing and counts tasks and their seconds."""

    tasks: int = 0
    seconds: float = 0.0

    def observe(self, key: str, work: Work, seconds: float) -> None:
        """Counts."""
        self.tasks += 1
        self.seconds += seconds


def _by_ranks(rows: Rows, found: Sequence[tuple[Rows, Scores]]) -> Positions:
    """Positions of ``rows`` in the order of the sum of their reciprocal ranks, for stages whose windows need one."""
    total = np.zeros(len(rows))
    for part, _ in found:
        total[np.searchsorted(rows, part)] += 1.0 / (60.0 + np.arange(1, len(part) + 1))
    return np.argsort(-total, kind="stable")


def _append(columns: Columns, prefix: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        columns.setdefault(prefix + name, []).append(value)


def _append_tasks(columns: Columns, stage: OpenedStage, tasks: Sequence[tuple[Work, float]]) -> None:
    table = np.array([(w.pairs, w.tokens, w.squares, seconds) for w, seconds in tasks], np.float64).reshape(-1, 4)
    _append(columns, f"{stage.planned.name}/", dict(zip(TASK_COLUMNS, table.T.copy(), strict=True)))
