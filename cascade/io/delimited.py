"""TSV, which has no quoting, and CSV, which has."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from cascade.errors import InputError
from cascade.io.lines import read_lines
from cascade.io.records import DOC_ID_FIELDS, QUERY_ID_FIELDS, Record

_ID_FIELDS = {*DOC_ID_FIELDS, *QUERY_ID_FIELDS}
_COLUMNS = {2: ("_id", "text"), 3: ("_id", "title", "text")}


def read_tsv(path: Path, max_bytes: int) -> Iterator[Record]:
    """Every line that is not blank, by column name.

    A first line that names an id and a text column is a header. Without one the columns are id and text, or id,
    title and text.

    Raises:
        InputError: the number of columns is wrong or changes, or a header names a column twice.
    """
    columns: Sequence[str] | None = None
    for place, line in read_lines(path, max_bytes):
        if not line.strip():
            continue
        cells = line.rstrip("\r\n").split("\t")
        if columns is None:
            if _is_header(cells):
                columns = _check_header(cells, place)
                continue
            if len(cells) not in _COLUMNS:
                raise InputError(
                    f"{place}: expected id and text, or id, title and text, separated by tabs, got {len(cells)} "
                    "columns; add a header line to name more"
                )
            columns = _COLUMNS[len(cells)]
        yield place, _row(columns, cells, place)


def read_csv(path: Path, max_bytes: int) -> Iterator[Record]:
    """Every record by column name; the first line is the header. A record's place is the line that it begins on.

    Raises:
        InputError: there is no proper header, the quoting is wrong, or a record has too few or too many fields.
    """
    if csv.field_size_limit() < max_bytes:
        # The csv module has one limit for the whole process, of 128 KiB, which real documents exceed.
        csv.field_size_limit(max_bytes)
    reader = csv.reader((line for _, line in read_lines(path, max_bytes)), strict=True)
    columns: Sequence[str] | None = None
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{place}: expected CSV, got: {error}; check the quotes of this record") from None
        if cells is None:
            return
        if not cells:
            continue
        if columns is None:
            if not _is_header(cells):
                raise InputError(
                    f"{place}: expected a header with an id column and 'text', got {len(cells)} other columns; "
                    "name the columns on the first line"
                )
            columns = _check_header(cells, place)
            continue
        yield place, _row(columns, cells, place)


def _is_header(cells: Sequence[str]) -> bool:
    return "text" in cells and not _ID_FIELDS.isdisjoint(cells)


def _check_header(cells: Sequence[str], place: str) -> Sequence[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise InputError(f"{place}: expected each column once, got {', '.join(map(repr, twice))} twice; rename one")
    return cells


def _row(columns: Sequence[str], cells: Sequence[str], place: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise InputError(
            f"{place}: expected {len(columns)} columns ({', '.join(columns)}), got {len(cells)}; "
            "check this record for missing or stray separators"
        )
    return dict(zip(columns, cells, strict=True))
