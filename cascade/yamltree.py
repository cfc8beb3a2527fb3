"""YAML text to plain data with the line of every value, refusing what plain data does not need.

Aliases, anchors, tags, duplicate keys, deep nesting, large files and files of many values are refused before anything
is built from them, so that no file, however hostile, costs more than a moment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from cascade.errors import ConfigError, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_VALUES = 5000
MAX_SHOWN = 80

Location: TypeAlias = tuple[str | int, ...]

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}


def too_large(size: int | None = None) -> Problem:
    """What to say of a file over the limit."""
    got = "more" if size is None else str(size)
    return Problem("", f"expected at most {MAX_BYTES} bytes, got {got}; a cascade file is a page or two")


@dataclass(slots=True)
class Tree:
    """Plain data of a YAML document, the line of each value, and what was wrong with its keys."""

    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, where: Location) -> int:
        """Line of a value, or of the nearest thing around it that has one."""
        while where not in self.lines and where:
            where = where[:-1]
        return self.lines.get(where, 0)


def render(where: Location) -> str:
    """``("stages", 2, "top_k")`` as ``stages[2].top_k``."""
    path = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part if part.isprintable() and 0 < len(part) <= MAX_SHOWN else show(part)
            path += f".{name}" if path else name
    return path


def show(value: Any) -> str:
    """A value as an error quotes it, in YAML's words, cut where it is long."""
    if value is None:
        return "null"
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + "..."


def parse_yaml(text: str, source: str) -> Tree:
    """The document as plain data.

    Raises:
        ConfigError: for text that is not YAML, or has what is refused at sight. Problems with single keys are kept
            in the tree instead, so that they can be reported together with others.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        got = f"half a surrogate pair, U+{ord(text[error.start]):04X}"
        raise ConfigError(source, [Problem("", f"expected Unicode text, got {got}; remove it", line)]) from error
    if size > MAX_BYTES:
        raise ConfigError(source, [too_large(size)])
    try:
        _refuse_unwanted(text, source)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(source, [_not_yaml(error, text)]) from error
    tree = Tree()
    if root is None:
        raise ConfigError(source, [Problem("", "expected a mapping with version, name and stages, got an empty file")])
    tree.data = _plain(root, (), tree)
    return tree


def _not_yaml(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.encode().count(b"\n", 0, error.position) + 1
        return Problem("", f"not valid YAML: {error.reason}, got character U+{error.character:04X}", line)
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error)
    if "cannot start any token" in reason:
        reason += "; indent with spaces, not tabs, and quote values that begin with a special character"
    return Problem("", f"not valid YAML: {reason}", 0 if mark is None else mark.line + 1)


def _refuse_unwanted(text: str, source: str) -> None:
    """Walks the events, which costs no memory, and refuses what plain data does not need."""
    depth = documents = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        unwanted = _unwanted(event)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                unwanted = "expected one document, got a second one; put it in a file of its own"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            if depth > MAX_DEPTH:
                unwanted = f"expected at most {MAX_DEPTH} levels of nesting, got more"
            elif values > MAX_VALUES:
                unwanted = f"expected at most {MAX_VALUES} keys and values, got more; a cascade file is a page or two"
        if unwanted:
            line = 0 if event.start_mark is None else event.start_mark.line + 1
            raise ConfigError(source, [Problem("", unwanted, line)])


def _unwanted(event: yaml.Event) -> str:
    """What is wrong with an event by itself; empty if nothing is."""
    if isinstance(event, yaml.AliasEvent):
        return f"aliases are not allowed, got *{event.anchor}; write the value out"
    if (anchor := getattr(event, "anchor", None)) is not None:
        return f"anchors are not allowed, got &{anchor}; write the value out where it is used"
    if (tag := getattr(event, "tag", None)) is not None:
        return f"tags are not allowed, got {show(tag)}; write plain values"
    return ""


def _plain(node: yaml.Node, where: Location, tree: Tree) -> Any:
    tree.lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*where, i), tree) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            got = show(key) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            tree.problems.append(Problem(render(where), f"expected a string as key, got {got}; put it in quotes", line))
            continue
        place = (*where, key)
        if key in result:
            problem = f"duplicate key {show(key)}, first given in line {tree.lines[place]}; keep one"
            tree.problems.append(Problem(render(where), problem, line))
            continue
        tree.lines[place] = line
        result[key] = _plain(value_node, place, tree)
    return result


def _scalar(node: yaml.Node) -> Any:
    """Null, a truth value, a number, or else the text as it stands: dates, too, and numbers too long to be one."""
    if node.tag not in _PLAIN_TAGS:
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, OverflowError):
        return node.value


def scalar(value: object) -> str:
    """A value of JSON as YAML 1.1 reads it back: floats have a point, and characters are not escaped in halves.

    >>> scalar(5e-05), scalar("naïve"), scalar({"a": [1, None]})
    ('5.0e-05', '"naïve"', '{"a": [1, null]}')
    """
    if isinstance(value, float):
        digits, e, exponent = repr(value).partition("e")
        return f"{digits}.0e{exponent}" if e and "." not in digits else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(str(key))}: {scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
