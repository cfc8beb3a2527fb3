"""The file of a recording: Parquet, one row a query, and a header that says what was recorded of what.

Lists hold what belongs to a query: ``rows`` and ``doc_ids`` of its candidates, rising by row, and for each stage, as
``<stage>/<column>``, scores and token counts of the same candidates and the work and seconds of each task. So a
thousand candidates of three hundred queries are a few megabytes, and a stage's column is one array after reading.
``handling_s`` is what the engine itself takes for each task: queue, threads and decisions; ``finish_s`` is what it has
learned so far to keep back of a budget for handing over an answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import InputError
from cascade.index import Manifest
from cascade.io import atomic_write_bytes
from cascade.stage import Role
from cascade.types import Query

FORMAT_VERSION: Final = 2
HEADER_KEY = b"cascade_recording"
TASK_COLUMNS = ("pairs", "tokens", "squares", "seconds")
AGAIN = "record again with 'cascade record'"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RecordedIndex(_Record):
    """The index that was searched: what identifies it, and its size."""

    fingerprint: str
    documents: int = Field(ge=0)
    passages: int = Field(ge=0)
    one_passage_each: bool


class RecordedUnit(_Record):
    """One recorded stage.

    Args:
        name: in the configuration.
        kind: its kind.
        role: what it opens to.
        cost_key: identifies the settings that are its own; a configuration finds the stage by it.
        settings: all of its settings, as JSON holds them.
        batch_tokens: most tokens in one of its batches; 0 for retrievers and fusers.
        window: most candidates of a listwise call; 0 for others.
        ranges: of a retriever, the row ranges that it searches one after the other.
        reader: identifies what reads queries for it and for others; empty where it reads for itself.
    """

    name: str
    kind: str
    role: Role
    cost_key: str
    settings: dict[str, Any]
    batch_tokens: int = 0
    window: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    reader: str = ""


class Header(_Record):
    """All that a recording says of itself, apart from what it measured.

    Args:
        format_version: of the file.
        cascade_version: that wrote it.
        machine: where the seconds were measured.
        threads: that one task used.
        index: what was searched.
        depth: documents of each retriever that were recorded.
        settings: the top level of the recorded configuration, as JSON holds it.
        units: the recorded stages, fused retrievers before their fuser.
        queries: digest of the ids and texts of all queries, in order.
    """

    format_version: Literal[2]
    cascade_version: str
    machine: str
    threads: int = Field(ge=1)
    index: RecordedIndex
    depth: int = Field(ge=1)
    settings: dict[str, Any]
    units: tuple[RecordedUnit, ...]
    queries: str

    def unit(self, name: str) -> RecordedUnit:
        """The recorded stage of that name."""
        return next(unit for unit in self.units if unit.name == name)

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()


def index_fingerprint(manifest: Manifest) -> str:
    """Identifies what an index holds: its documents, how they were split, and with which models they were encoded."""
    parts = {
        "corpus": manifest.corpus.fingerprint,
        "documents": manifest.corpus.documents,
        "passages": manifest.corpus.passages,
        "split": manifest.passages.model_dump(mode="json"),
        "stages": sorted(
            [stage.kind, json.dumps(stage.settings, sort_keys=True), stage.fingerprint] for stage in manifest.stages
        ),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def queries_digest(queries: Iterable[Query]) -> str:
    """Identifies queries by their ids and texts, in order."""
    texts = [[query.query_id, query.text] for query in queries]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def write_table(path: Path, columns: Mapping[str, list[Any]], header: Header) -> None:
    """Writes one row a query, whole or not at all.

    Args:
        path: of the file.
        columns: by name, a value or numpy array for each query.
        header: of the recording.
    """
    import pyarrow as pa

    schema = _schema(header)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    _write(path, pa.Table.from_arrays(arrays, schema=schema))


def join_tables(paths: Iterable[Path], target: Path) -> None:
    """Puts the parts of a recording, in order, into one file."""
    import pyarrow as pa

    _write(target, pa.concat_tables([_read(path) for path in paths]))


def read_table(path: Path) -> tuple[Any, Header]:
    """The pyarrow table of a recording, and its header.

    Raises:
        InputError: the file cannot be read, is no recording, or is one of another version.
    """
    table = _read(path)
    raw = (table.schema.metadata or {}).get(HEADER_KEY)
    if raw is None:
        raise InputError(f"{path}: expected a recording of 'cascade record', got another Parquet file; check the path")
    try:
        version = json.loads(raw)["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: format_version: expected {FORMAT_VERSION}, got {version!r}; {AGAIN}")
        header = Header.model_validate_json(raw)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: the header is damaged: {error}; {AGAIN}") from error
    expected = _schema(header)
    if not table.schema.equals(expected, check_metadata=False):
        missing = sorted({*expected.names} ^ {*table.schema.names}) or ["columns of other types"]
        raise InputError(f"{path}: expected the columns that its header names; wrong: {', '.join(missing)}; {AGAIN}")
    return table, header


def _schema(header: Header) -> Any:
    import pyarrow as pa

    ints, floats, seconds = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.float64())
    fields = [("query_id", pa.string()), ("text", pa.string()), ("rows", ints), ("doc_ids", pa.list_(pa.string()))]
    fields += [("handling_s", pa.float64()), ("finish_s", pa.float64())]
    for unit in header.units:
        if unit.role == "retriever":
            fields += [(f"{unit.name}/rows", ints), (f"{unit.name}/scores", floats)]
        elif unit.role != "fuser":
            fields += [(f"{unit.name}/lengths", ints), (f"{unit.name}/scores", floats)]
        if unit.role != "fuser":
            fields.append((f"{unit.name}/encode_s", pa.float64()))
        if unit.reader:
            fields.append((f"{unit.name}/encode_read_s", pa.float64()))
        fields += [(f"{unit.name}/{column}", seconds) for column in TASK_COLUMNS]
    return pa.schema([pa.field(name, kind) for name, kind in fields], metadata={HEADER_KEY: header.to_bytes()})


def _write(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    with atomic_write_bytes(path) as file:
        pq.write_table(table, file, compression="zstd")


def _read(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: expected a recording, which is a Parquet file, got: {error}; {AGAIN}") from None
