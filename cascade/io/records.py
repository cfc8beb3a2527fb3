"""From the fields of one record, whatever format it came in, to a document or a query that the engine can trust."""

from __future__ import annotations

import datetime
import decimal
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from cascade.errors import InputError
from cascade.types import NO_METADATA, Document, Query

Record: TypeAlias = tuple[str, dict[str, Any]]
"""Where a record stands, as in ``corpus.jsonl:812``, and its fields by name."""

DOC_ID_FIELDS = ("_id", "id", "doc_id")
QUERY_ID_FIELDS = ("_id", "id", "query_id")
MAX_ID_LENGTH = 4096
MAX_DEPTH = 32

NOT_IN_ID = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What an id may not hold: whitespace and control characters break the columns of TREC files, surrogates any file."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def document(record: Record) -> Document:
    """The document of a record: an id, ``text``, perhaps ``title``; every other field is metadata.

    The id is ``_id``, else ``id``, else ``doc_id``. An object in the field ``metadata``, as BEIR has it, is unfolded.

    Raises:
        InputError: a field is missing, of the wrong type or not allowed.
    """
    place, fields = record
    fields = dict(fields)
    doc_id = _take_id(fields, DOC_ID_FIELDS, place)
    text = _take_text(fields, "text", place)
    title = "" if fields.get("title") is None else _take_text(fields, "title", place)
    fields.pop("title", None)
    nested = fields.get("metadata")
    if isinstance(nested, dict):
        fields = {**nested, **{name: value for name, value in fields.items() if name != "metadata"}}
    metadata: Mapping[str, Any] = clean_json(fields, place) if fields else NO_METADATA
    return Document(doc_id, text, title, metadata)


def query(record: Record) -> Query:
    """The query of a record: an id (``_id``, else ``id``, else ``query_id``) and ``text``; other fields are dropped.

    Raises:
        InputError: a field is missing, of the wrong type or not allowed.
    """
    place, fields = record
    fields = dict(fields)
    return Query(_take_id(fields, QUERY_ID_FIELDS, place), _take_text(fields, "text", place))


def check_id(value: str, field: str, place: str) -> str:
    """``value`` if it can serve as an id.

    Raises:
        InputError: it is empty, too long, or holds whitespace, control characters or surrogates.
    """
    if not value:
        raise InputError(f"{place}: {field}: expected an id, got an empty one; give every record its own")
    if len(value) > MAX_ID_LENGTH:
        raise InputError(
            f"{place}: {field}: expected an id of at most {MAX_ID_LENGTH} characters, got {len(value)}; shorten it"
        )
    if bad := NOT_IN_ID.search(value):
        raise InputError(
            f"{place}: {field}: expected an id without whitespace, control characters and surrogates, which break "
            f"TREC files, got {bad[0]!r} in {show(value)}; replace it, as with '_'"
        )
    return value


def clean_text(text: str) -> str:
    r"""``text`` with each lone surrogate, which no file can hold, replaced by U+FFFD.

    >>> clean_text("a\ud800b")
    'a�b'
    """
    return _SURROGATE.sub("\ufffd", text)


def clean_json(value: Any, place: str, depth: int = MAX_DEPTH) -> Any:
    """``value`` as something that JSON can hold: dates become ISO 8601, decimals text.

    Raises:
        InputError: it has NaN or infinity, something that JSON cannot hold, or more than ``depth`` levels.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise InputError(f"{place}: expected finite numbers, got {value}; leave the field out or use null")
    if depth == 0:
        raise InputError(f"{place}: expected at most {MAX_DEPTH} levels of nesting, got more; flatten the metadata")
    if isinstance(value, dict):
        return {_key(name, place): clean_json(inner, place, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(inner, place, depth - 1) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise InputError(
        f"{place}: expected metadata that JSON can hold, got {type(value).__name__}; drop or convert the column"
    )


def show(value: Any) -> str:
    """A short, printable form of any value for an error message."""
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _take_id(fields: dict[str, Any], names: tuple[str, ...], place: str) -> str:
    name = next((name for name in names if name in fields), None)
    if name is None:
        raise InputError(
            f"{place}: expected an id in {', '.join(map(repr, names[:-1]))} or {names[-1]!r}, "
            f"got the fields {_names(fields)}; add one"
        )
    value = fields.pop(name)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64:
        value = str(value)
    if not isinstance(value, str):
        raise InputError(f"{place}: {name}: expected a string or an integer, got {show(value)}; correct the record")
    return check_id(value, name, place)


def _take_text(fields: dict[str, Any], name: str, place: str) -> str:
    if name not in fields:
        raise InputError(f"{place}: expected the field {name!r}, got the fields {_names(fields)}; add or rename it")
    value = fields.pop(name)
    if not isinstance(value, str):
        raise InputError(f"{place}: {name}: expected a string, got {show(value)}; correct the record")
    return clean_text(value)


def _key(name: Any, place: str) -> str:
    if isinstance(name, str):
        return clean_text(name)
    raise InputError(f"{place}: expected metadata with text for keys, got {show(name)}; convert the column")


def _names(fields: dict[str, Any]) -> str:
    return reprlib.repr(sorted(fields))
