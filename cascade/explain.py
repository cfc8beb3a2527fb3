"""What pydantic says of a wrong value, in the words of the error style: what was expected, what came."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cascade.stage import STAGE_NAME
from cascade.yamltree import Location, show

_KINDS_OF_VALUE = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}


def explain(detail: ErrorDetails, model: type[BaseModel], also: tuple[str, ...]) -> tuple[Location, str]:
    """Where in the model, and what was expected and what came."""
    where: Location = detail["loc"]
    kind, got = detail["type"], detail["input"]
    holder, schema = _holder(model, where)
    if kind == "extra_forbidden":
        known = [*holder.get("properties", {}), *also]
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return where, f"unknown key; {hint}"
    if kind == "missing":
        return where[:-1], f"expected a key {where[-1]!r} ({_phrase(schema)}), got none"
    if kind == "value_error":
        return where, f"{detail['msg'].removeprefix('Value error, ')}, got {show(got)}"
    if kind == "finite_number":
        return where, f"expected a finite number, got {show(got)}"
    while where and not schema:
        where = where[:-1]
        _, schema = _holder(model, where)
    return where, f"expected {_phrase(schema) or detail['msg']}, got {show(got)}"


def _holder(model: type[BaseModel], where: Location) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON schemas of the object around a location, and of the value there; empty where there is none."""
    root = _schema_of(model)
    holder: dict[str, Any] = root
    schema: dict[str, Any] = root
    for part in where:
        holder = _given(_resolve(schema, root), root)
        if isinstance(part, str):
            found = holder.get("properties", {}).get(part, holder.get("additionalProperties"))
        else:
            found = holder.get("items")
        schema = found if isinstance(found, dict) else {}
    return _resolve(holder, root), _resolve(schema, root)


@lru_cache(maxsize=128)
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _given(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Of an optional value, the schema for when it is given."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    return _resolve(parts[0], root) if len(parts) == 1 else schema


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return dict(root["$defs"][schema["$ref"].rpartition("/")[2]])
    return schema


def _phrase(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words: 'an integer >= 1'."""
    if "anyOf" in schema:
        return " or ".join(phrase for part in schema["anyOf"] if (phrase := _phrase(part)))
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    words = _KINDS_OF_VALUE.get(schema.get("type", ""), "")
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {_number(schema[key])}" for key, sign in bounds.items() if key in schema]
    words = " ".join([words, " and ".join(limits)]).strip() if limits else words
    if "maxLength" in schema:
        words += f" of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    if schema.get("pattern") == STAGE_NAME:
        return f"{words} of at most 64 letters, digits, '.', '_' and '-'"
    return f"{words} matching {schema['pattern']}" if "pattern" in schema else words


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
