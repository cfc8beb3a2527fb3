"""JSON Lines: one object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cascade.errors import InputError
from cascade.io.lines import read_lines
from cascade.io.records import Record, show


def read_jsonl(path: Path, max_bytes: int) -> Iterator[Record]:
    """The object of every line that is not blank.

    Raises:
        InputError: a line is not a JSON object, or nested too deeply to parse.
    """
    for place, line in read_lines(path, max_bytes):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except RecursionError:
            raise InputError(f"{place}: nested too deeply to read; flatten the object") from None
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at character {error.colno}"
            raise InputError(f"{place}: expected a JSON object, got invalid JSON: {reason}; correct the line") from None
        except ValueError as error:  # such as a number with too many digits
            raise InputError(f"{place}: expected a JSON object, got: {error}; correct the line") from None
        if not isinstance(value, dict):
            raise InputError(f"{place}: expected a JSON object, got {show(value)}; write one object on each line")
        yield place, value
