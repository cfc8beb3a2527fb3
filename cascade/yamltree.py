"""YAML text to plain data with the line of every value, refusing what plain data does not need.

Aliases, anchors, tags, duplicate keys, deep nesting and large files are refused before anything is built from them, so
that no file, however hostile, costs more than a moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from cascade.errors import ConfigError, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16

Location: TypeAlias = tuple[str | int, ...]

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def too_large(size: int) -> Problem:
    """What to say of a file over the limit."""
    return Problem("", f"expected at most {MAX_BYTES} bytes, got {size}; a cascade file is a page or two")


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
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def parse_yaml(text: str, source: str) -> Tree:
    """The document as plain data.

    Raises:
        ConfigError: for text that is not YAML, or has what is refused at sight. Problems with single keys are kept
            in the tree instead, so that they can be reported together with others.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(source, [too_large(len(text))])
    try:
        _refuse_unwanted(text, source)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = 0 if mark is None else mark.line + 1
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(source, [Problem("", f"not valid YAML: {reason}", line)]) from error
    tree = Tree()
    if root is None:
        raise ConfigError(source, [Problem("", "expected a mapping with version, name and stages, got an empty file")])
    tree.data = _plain(root, (), tree)
    return tree


def _refuse_unwanted(text: str, source: str) -> None:
    """Walks the events, which costs no memory, and refuses what plain data does not need."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        unwanted = ""
        if isinstance(event, yaml.AliasEvent):
            unwanted = f"aliases are not allowed, got *{event.anchor}; write the value out"
        elif getattr(event, "anchor", None) is not None:
            unwanted = (
                f"anchors are not allowed, got &{getattr(event, 'anchor', '')}; write the value out where it is used"
            )
        elif getattr(event, "tag", None) is not None:
            unwanted = f"tags are not allowed, got {getattr(event, 'tag', '')}; write plain values"
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                unwanted = "expected one document, got a second one; put it in a file of its own"
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                unwanted = f"expected at most {MAX_DEPTH} levels of nesting, got more"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if unwanted:
            raise ConfigError(
                source, [Problem("", unwanted, (0 if event.start_mark is None else event.start_mark.line + 1))]
            )


def _plain(node: yaml.Node, where: Location, tree: Tree) -> Any:
    tree.lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*where, i), tree) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node, where, tree)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key := _scalar(key_node, where, tree), str):
            problem = f"expected a string as key, got {getattr(key_node, 'value', key_node.tag)!r}; put it in quotes"
            tree.problems.append(Problem(render(where), problem, line))
            continue
        place = (*where, key)
        if key in result:
            first = tree.lines[place]
            problem = f"duplicate key {key!r}, first given in line {first}; keep one"
            tree.problems.append(Problem(render(where), problem, line))
            continue
        tree.lines[place] = line
        result[key] = _plain(value_node, place, tree)
    return result


def _scalar(node: yaml.Node, where: Location, tree: Tree) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line = node.start_mark.line + 1
        tree.problems.append(Problem(render(where), f"cannot read {node.value!r}: {error}", line))
        return None
