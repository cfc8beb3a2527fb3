"""Parquet, one batch of rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cascade.errors import InputError
from cascade.io.records import Record

_ROWS = 1024


def read_parquet(path: Path, max_bytes: int) -> Iterator[Record]:
    """Every row by column name; the place counts rows from 1, as in ``corpus.parquet:row 812``.

    Raises:
        InputError: the file is not readable as Parquet, or a text exceeds ``max_bytes`` characters.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    place = f"{path}:row {number}"
                    if any(isinstance(value, str) and len(value) > max_bytes for value in fields.values()):
                        raise InputError(f"{place}: expected texts of up to {max_bytes} characters; split the document")
                    yield place, fields
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        place = f"{path}:row {number + 1}" if number else str(path)
        raise InputError(
            f"{place}: expected Parquet, got: {error}; write the file again, as with pandas.to_parquet"
        ) from None
