"""A recording in memory: what every stage said of every candidate, and what its tasks took."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade.cost import CostProfile, Rates, Sample, fit, machine
from cascade.errors import InputError
from cascade.index import Index
from cascade.stage import Role, Work
from cascade.tasks import Action, encodings
from cascade.tuner.evaluated import pandas
from cascade.tuner.format import TASK_COLUMNS, Header, RecordedUnit, queries_digest, read_table
from cascade.tuner.recorder import described
from cascade.types import Query

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

ACTION: Mapping[Role, str] = {"retriever": "search", "reranker": "score", "listwise": "window", "fuser": "fuse"}
"""What the main work of a stage is called in cost keys."""


@dataclass(frozen=True, slots=True)
class Column:
    """A ragged column: one stretch of values for each query."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def __getitem__(self, query: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[query] : self.offsets[query + 1]]


@dataclass(frozen=True, slots=True)
class UnitData:
    """What was recorded of one stage.

    Args:
        unit: the stage.
        encode_s: float64 [queries], seconds of its query-side work, by action; empty for a fuser.
        tasks: float64 [tasks, 4] of each query: pairs, tokens, squares and seconds.
        scores: float32, of each query's candidates, or of a retriever's rows; empty for a fuser.
        lengths: int32, tokens of each pair of a reranker; empty for others.
        rows: int32, of a retriever, best first; empty for others.
    """

    unit: RecordedUnit
    encode_s: Mapping[Action, Floats]
    tasks: Column
    scores: Column
    lengths: Column
    rows: Column

    def samples(self) -> dict[str, list[Sample]]:
        """Measured tasks by cost key."""
        found = {
            f"{self.unit.cost_key}/{action}": [Sample(Work(1.0), s) for s in seconds.tolist() if s > 0]
            for action, seconds in self.encode_s.items()
        }
        main = [Sample(Work(*row[:3]), row[3]) for row in self.tasks.values.tolist() if row[3] > 0]
        found[f"{self.unit.cost_key}/{ACTION[self.unit.role]}"] = main
        return {key: samples for key, samples in found.items() if samples}


class Recording:
    """A recording, checked and loaded.

    Args:
        header: what it says of itself.
        queries: the recorded questions.
        rows: int32, of each query, the candidates, rising.
        documents: int32, of each candidate, position of its document in ``doc_ids``.
        doc_ids: every document that is a candidate of any query.
        units: by name.
        handling_s: seconds that the engine takes for each task besides the task itself.
        finish_s: seconds that it keeps back of a budget for handing over the answer.
        source: where it came from, for messages.
    """

    def __init__(
        self,
        header: Header,
        queries: Sequence[Query],
        rows: Column,
        documents: Column,
        doc_ids: Sequence[str],
        units: Mapping[str, UnitData],
        handling_s: float,
        finish_s: float,
        source: str,
    ) -> None:
        self.header = header
        self.queries = tuple(queries)
        self.rows = rows
        self.documents = documents
        self.doc_ids = doc_ids
        self.units = units
        self.handling_s = handling_s
        self.finish_s = finish_s
        self.source = source
        self.numbers = {query.query_id: number for number, query in enumerate(queries)}

    def __repr__(self) -> str:
        return f"Recording({self.source!r}, {len(self)} queries, stages {', '.join(self.units)})"

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Reads a file of ``cascade record``.

        Raises:
            InputError: it cannot be read, is no recording, or is damaged.
        """
        table, header = read_table(Path(path))
        ids = table["query_id"].to_pylist()
        queries = [Query(query_id, text) for query_id, text in zip(ids, table["text"].to_pylist(), strict=True)]
        rows = _column(table, "rows")
        encoded = table["doc_ids"].combine_chunks().flatten().dictionary_encode()
        documents = Column(encoded.indices.to_numpy(zero_copy_only=False), rows.offsets)
        units = {unit.name: _unit_data(table, unit) for unit in header.units}
        handling_s = float(np.median(table["handling_s"].to_numpy()))
        finish_s = float(table["finish_s"].to_numpy().max())  # learned anew after an interruption
        doc_ids = encoded.dictionary.to_pylist()
        recording = cls(header, queries, rows, documents, doc_ids, units, handling_s, finish_s, str(path))
        recording._check()
        if header.machine != machine():
            logger.warning(
                "%s: recorded on %r, this is %r: latencies are those of the former", path, header.machine, machine()
            )
        return recording

    def _check(self) -> None:
        """Makes sure that the queries are those of the header, columns of one length, and candidates found in them.

        Raises:
            InputError: they are not.
        """
        candidates = len(self.rows.values)
        wrong = [] if len(self.documents.values) == candidates else ["doc_ids"]
        wrong += [] if queries_digest(self.queries) == self.header.queries else ["query_id or text"]
        for name, data in self.units.items():
            if data.unit.role == "retriever":
                pools = (np.isin(data.rows[q], self.rows[q]).all() for q in range(len(self)))
                ranges = len(data.unit.ranges)
                fine = len(data.rows.values) == len(data.scores.values) and all(pools)
                fine = fine and bool((np.diff(data.tasks.offsets) == ranges).all())
            else:
                fine = data.unit.role == "fuser" or (
                    len(data.scores.values) == len(data.lengths.values) == candidates
                    and np.array_equal(data.scores.offsets, self.rows.offsets)
                )
            wrong += [] if fine else [name]
        sorted_rows = all((np.diff(self.rows[query]) > 0).all() for query in range(len(self)))
        wrong += [] if sorted_rows else ["rows"]
        if wrong or len(self.numbers) != len(self):
            damaged = ", ".join(wrong) if wrong else "query_id"
            raise InputError(f"{self.source}: the recording is damaged in {damaged}; record again")

    def require_index(self, index: Index, source: str = "the index") -> None:
        """Makes sure that the recording is of this index.

        Raises:
            InputError: it is of another, or this one was built anew with other contents or models.
        """
        other, mine = described(index), self.header.index
        if other.fingerprint != mine.fingerprint:
            raise InputError(
                f"{self.source}: recorded of an index {mine.fingerprint[:12]} of {mine.documents} documents, "
                f"{source} is {other.fingerprint[:12]} of {other.documents}; "
                f"give the index that was recorded, or record this one with 'cascade record'"
            )

    def samples(self) -> dict[str, list[Sample]]:
        """Measured tasks by cost key."""
        return {key: samples for data in self.units.values() for key, samples in data.samples().items()}

    def profile(self, quantile: float) -> CostProfile:
        """The measured costs as the scheduler wants them, fitted once for each quantile."""
        if quantile not in self._profiles:
            costs = {key: fit(samples, quantile) for key, samples in self.samples().items()}
            self._profiles[quantile] = CostProfile(quantile, self.header.machine, costs, source="recorded")
        return self._profiles[quantile]

    @cached_property
    def _profiles(self) -> dict[float, CostProfile]:
        return {}

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row a candidate: query_id, doc_id, row, and by stage the score.

        Scores are nan where a retriever did not find the candidate; a fuser has none.

        Raises:
            InputError: pandas is not installed.
        """
        query_ids = [query.query_id for query in self.queries]
        columns: dict[str, Any] = {
            "query_id": np.repeat(np.array(query_ids, np.object_), np.diff(self.rows.offsets)),
            "doc_id": np.array(self.doc_ids, np.object_)[self.documents.values],
            "row": self.rows.values,
        }
        for name, data in self.units.items():
            if data.unit.role == "retriever":
                columns[name] = np.full(len(self.rows.values), np.nan, np.float32)
                for query, start in enumerate(self.rows.offsets[:-1].tolist()):
                    found = start + np.searchsorted(self.rows[query], data.rows[query])
                    columns[name][found] = data.scores[query]
            elif data.unit.role != "fuser":
                columns[name] = data.scores.values
        return pandas().DataFrame(columns)

    @cached_property
    def rates(self) -> dict[str, Rates]:
        """What a typical task takes, by cost key, without any margin."""
        return {key: cost.rates for key, cost in self.profile(0.5).costs.items()}

    @cached_property
    def ratios(self) -> dict[str, list[list[float]]]:
        """Real over typical seconds of the recorded tasks of each reranker and fuser, by cost key, then query."""
        found = {}
        for data in self.units.values():
            key = f"{data.unit.cost_key}/{ACTION[data.unit.role]}"
            if data.unit.role != "retriever" and key in self.rates:
                typical = np.array([self.rates[key].seconds(Work(*row[:3])) for row in data.tasks.values.tolist()])
                ratios = Column(data.tasks.values[:, 3] / np.maximum(typical, 1e-12), data.tasks.offsets)
                found[key] = [ratios[query].tolist() for query in range(len(self))]
        return found


def _unit_data(table: Any, unit: RecordedUnit) -> UnitData:
    name, nothing = unit.name, Column(np.empty(0), np.zeros(table.num_rows + 1, np.int64))
    parts = [_column(table, f"{name}/{column}") for column in TASK_COLUMNS]
    tasks = Column(np.stack([part.values for part in parts], axis=1), parts[0].offsets)
    if unit.role == "fuser":
        return UnitData(unit, {}, tasks, nothing, nothing, nothing)
    encode_s = {action: table[f"{name}/{action}_s"].to_numpy() for action in encodings(unit.reader)}
    scores = _column(table, f"{name}/scores")
    if unit.role == "retriever":
        return UnitData(unit, encode_s, tasks, scores, nothing, _column(table, f"{name}/rows"))
    return UnitData(unit, encode_s, tasks, scores, _column(table, f"{name}/lengths"), nothing)


def _column(table: Any, name: str) -> Column:
    array = table[name].combine_chunks()
    values = array.flatten().to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return Column(values, offsets - offsets[0])
