"""Reads the documentation of Python modules from their source, without running a line of it.

A name is documented where it is defined and known where it is exported: ``asyncio.sleep`` is written in
``asyncio/tasks.py``. ``Library.entries`` follows ``import`` statements from every public module to the definition, and
keeps one public name for each definition.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["module", "class", "function", "method", "property"]
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Definition: TypeAlias = Function | ast.ClassDef

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one public name is documented as.

    Args:
        name: dotted, as a user writes it.
        kind: what it is.
        module: the public module it belongs to.
        signature: arguments in parentheses without ``self``; empty where there are none to show.
        doc: the docstring, indentation removed.
    """

    name: str
    kind: Kind
    module: str
    signature: str
    doc: str


class _Import(NamedTuple):
    source: str
    name: str
    alias: str


class _Target(NamedTuple):
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Module:
    """The parts of one source file that matter here; ``exported`` is None where ``__all__`` cannot be read off."""

    name: str
    is_package: bool
    doc: str
    definitions: Mapping[str, Definition]
    imports: Sequence[_Import]
    lazy_imports: Sequence[_Import]
    exported: frozenset[str] | None


def is_public(dotted: str) -> bool:
    """Whether no part of a dotted name starts with an underscore."""
    return not any(part.startswith("_") for part in dotted.split("."))


class Library:
    """A set of modules given by their source files, parsed when first needed."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._modules: dict[str, _Module] = {}

    def entries(self, modules: Sequence[str]) -> Iterator[Entry]:
        """Everything documented that the given public modules export, each definition under one name."""
        public_names: dict[_Target, list[_Target]] = {}
        for module in modules:
            for name, target in self._exports(module, frozenset()).items():
                public_names.setdefault(target, []).append(_Target(module, name))
        for module in modules:
            if doc := self._module(module).doc:
                yield Entry(module, "module", module, "", doc)
        for target, aliases in public_names.items():
            public = min(aliases, key=lambda alias: _preference(alias, target))
            yield from self._describe(target, public)

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = _parse(name, self._files[name])
        return self._modules[name]

    def _exports(self, module: str, above: frozenset[str]) -> dict[str, _Target]:
        """Public names of a module and where each is defined; ``above`` are the askers, to end cycles."""
        parsed = self._module(module)
        wanted = parsed.exported
        exports = {
            name: _Target(module, name)
            for name in parsed.definitions
            if not name.startswith("_") and (wanted is None or name in wanted)
        }
        for source, name, alias in parsed.imports:
            if source not in self._files or source in above:
                continue
            if wanted is None and not _belongs_to(source, parsed):
                continue
            if name == "*":
                offered = self._exports(source, above | {module})
            else:
                offered = self._resolve(source, name, alias, above)
            for found, target in offered.items():
                if not found.startswith("_") and (wanted is None or found in wanted):
                    exports.setdefault(found, target)
        for source, name, _ in parsed.lazy_imports:
            missing = wanted is not None and name in wanted - exports.keys() and not name.startswith("_")
            if missing and source in self._files:
                exports.update(self._resolve(source, name, name, above))
        return exports

    def _resolve(self, module: str, name: str, alias: str, above: frozenset[str]) -> dict[str, _Target]:
        """``{alias: definition}`` of one imported name, or nothing where it is not a documented definition."""
        if name in self._module(module).definitions:
            return {alias: _Target(module, name)}
        for source, original, imported in self._module(module).imports:
            if imported == name and source in self._files and source not in above:
                return self._resolve(source, original, alias, above | {module})
        return {}

    def _describe(self, target: _Target, public: _Target) -> Iterator[Entry]:
        node = self._module(target.module).definitions[target.name]
        name = f"{public.module}.{public.name}"
        if isinstance(node, FUNCTIONS):
            if doc := ast.get_docstring(node):
                yield Entry(name, "function", public.module, signature_of(node), doc)
            return
        members = self._members(target.module, node, frozenset())
        start = members.get("__init__") or members.get("__new__")
        doc = ast.get_docstring(node) or (ast.get_docstring(start) if start else None)
        if doc:
            yield Entry(name, "class", public.module, signature_of(start, bound=True) if start else "", doc)
        for member, function in members.items():
            doc = ast.get_docstring(function)
            if not doc or member.startswith("_"):
                continue
            decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
            if any(decorator.endswith("property") for decorator in decorators):
                yield Entry(f"{name}.{member}", "property", public.module, "", doc)
            else:
                signature = signature_of(function, bound="staticmethod" not in decorators)
                yield Entry(f"{name}.{member}", "method", public.module, signature, doc)

    def _members(self, module: str, node: ast.ClassDef, above: frozenset[_Target]) -> dict[str, Function]:
        """Functions of a class, with those it inherits from bases that have no public name of their own."""
        members: dict[str, Function] = {}
        for statement in _statements(node.body):
            if isinstance(statement, FUNCTIONS):
                known = members.get(statement.name)
                if known is None or not ast.get_docstring(known):
                    members[statement.name] = statement
        for base in node.bases:
            if not isinstance(base, ast.Name):
                continue
            for target in self._resolve(module, base.id, base.id, frozenset()).values():
                definition = self._module(target.module).definitions[target.name]
                if isinstance(definition, ast.ClassDef) and target not in above and self._is_private(target):
                    for name, function in self._members(target.module, definition, above | {target}).items():
                        members.setdefault(name, function)
        return members

    def _is_private(self, target: _Target) -> bool:
        if target.name.startswith("_"):
            return True
        return not is_public(target.module) and target.name not in (self._module(target.module).exported or ())


def signature_of(function: Function, bound: bool = False) -> str:
    """Arguments of a function in parentheses, annotations left out; without the first if ``bound``."""
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    text = ast.unparse(arguments)
    if bound:
        first = next(iter((*arguments.posonlyargs, *arguments.args)), None)
        if first is not None:
            text = text.removeprefix(first.arg).removeprefix(", /").removeprefix(", ")
    return f"({text})"


def _preference(alias: _Target, target: _Target) -> tuple[bool, int, str, str]:
    """Sorts the public names of one definition: in its own package first, then short, then alphabetical."""
    foreign = alias.module.split(".")[0] != target.module.split(".")[0]
    return foreign, alias.module.count("."), alias.module, alias.name


def _belongs_to(source: str, module: _Module) -> bool:
    """Whether what a module without ``__all__`` imports from ``source`` is part of what it offers."""
    if module.is_package and source.startswith(f"{module.name}."):
        return True
    package, _, name = module.name.rpartition(".")
    return not is_public(source) and (source.endswith(name) or (bool(package) and source.startswith(f"{package}.")))


def _parse(name: str, path: Path) -> _Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_bytes(), filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    definitions: dict[str, Definition] = {}
    imports: list[_Import] = []
    exported: set[str] | None = None
    readable = True
    for statement in _statements(tree.body):
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            known = definitions.get(statement.name)
            if known is None or not ast.get_docstring(known):
                definitions[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            imports.extend(_imported(statement, package))
            readable &= all(alias.name != "__all__" for alias in statement.names)
        elif (names := _added_to_all(statement)) is not None:
            readable &= names.isdisjoint(UNREADABLE)
            exported = (exported or set()) | names
    is_package = path.name == "__init__.py"
    lazy = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)] if is_package else []
    return _Module(
        name=name,
        is_package=is_package,
        doc=ast.get_docstring(tree) or "",
        definitions=definitions,
        imports=imports,
        lazy_imports=[found for node in lazy for found in _imported(node, package)],
        exported=frozenset(exported) if exported is not None and readable else None,
    )


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of the branches in it, in source order; not those of functions and classes."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            yield from _statements(statement.body)
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _statements(handler.body)
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _statements(statement.orelse)


def _imported(node: ast.ImportFrom, package: str) -> list[_Import]:
    source = node.module or ""
    if node.level:
        parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
        source = f"{parent}.{source}" if source else parent
    return [_Import(source, alias.name, alias.asname or alias.name) for alias in node.names]


UNREADABLE = frozenset({"*"})
"""Stands for names that a computed ``__all__`` adds."""


def _added_to_all(statement: ast.stmt) -> frozenset[str] | None:
    """Names that a statement puts into ``__all__``; None if it is about something else."""
    value: ast.expr
    match statement:
        case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AugAssign(target=ast.Name(id="__all__")):
            value = statement.value
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="__all__")), args=[argument])):
            value = argument
        case _:
            return None
    try:
        names = ast.literal_eval(value)
    except ValueError:
        return UNREADABLE
    return frozenset([names] if isinstance(names, str) else names)
