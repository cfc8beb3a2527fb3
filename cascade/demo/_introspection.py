"""Reads the documentation of what is written in C by looking at the objects themselves.

Every module named here is safe to import: it opens nothing, prints nothing and talks to nobody.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from cascade.demo._parsing import Entry, is_public

_MODULES = """
    builtins array atexit binascii bisect bz2 calendar cmath codecs collections contextvars csv datetime decimal errno
    faulthandler fcntl functools gc grp hashlib heapq hmac io itertools lzma marshal math mmap multiprocessing operator
    os os.path pickle pwd queue random re resource secrets select selectors signal socket sqlite3 ssl statistics string
    struct sys syslog termios threading time tracemalloc types unicodedata uuid weakref zlib zoneinfo
"""
"""In this order: an object found in several modules belongs to the first."""

_MEMBERS = (types.MethodDescriptorType, types.ClassMethodDescriptorType, staticmethod, types.BuiltinFunctionType)


def entries() -> Iterator[Entry]:
    """What the modules document in objects, each object once; modules that this platform lacks are passed over."""
    seen: set[tuple[int, int]] = set()
    for name in _MODULES.split():
        module = _import(name)
        if module is None:
            continue
        if doc := _clean(module.__doc__ or ""):
            yield Entry(name, "module", name, "", doc)
        for attribute in _names(module):
            # sys.excepthook may be the program's own; the original is kept as sys.__excepthook__
            kept = f"__{attribute}__" if attribute.endswith("hook") else attribute
            value = getattr(module, kept, getattr(module, attribute, None))
            if attribute.startswith("_") or not _is_documented(value, module) or _identity(value) in seen:
                continue
            seen.add(_identity(value))
            public = attribute if module is builtins else f"{name}.{attribute}"
            describe: Callable[[Any, str, str], Iterator[Entry]] = (
                _class_entries if isinstance(value, type) else _function
            )
            yield from describe(value, public, name)


def shadowed(entry: Entry) -> str | None:
    """The method that a function really is: ``random.Random.shuffle`` for ``random.shuffle``; None for most."""
    if entry.kind != "function" or entry.module not in sys.modules:
        return None
    value = getattr(sys.modules[entry.module], entry.name.rpartition(".")[2], None)
    if isinstance(value, types.MethodType) and value.__name__ == entry.name.rpartition(".")[2]:
        return f"{value.__func__.__module__}.{value.__func__.__qualname__}"
    return None


def _import(name: str) -> types.ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def _names(module: types.ModuleType) -> list[str]:
    """What a module offers, in order of the alphabet but real names first: ``OSError`` before ``EnvironmentError``."""

    def key(name: str) -> tuple[bool, str]:
        return getattr(getattr(module, name, None), "__name__", name) != name, name

    return sorted(set(getattr(module, "__all__", None) or dir(module)), key=key)


def _is_documented(value: Any, module: types.ModuleType) -> bool:
    """Whether a value is a routine or class that the module may call its own, rather than a helper it imported."""
    if inspect.isfunction(value):
        return value.__module__ == module.__name__ and bool(value.__doc__)
    if isinstance(value, type) and not hasattr(module, "__all__"):
        return value.__module__.lstrip("_") == module.__name__ and bool(value.__doc__)
    if isinstance(value, (type, types.MethodType)) or inspect.isbuiltin(value):
        return bool(value.__doc__)
    return False


def _identity(value: Any) -> tuple[int, int]:
    """Equal for two references to one function, class or method of one class."""
    if isinstance(value, types.MethodType):
        return id(value.__func__), id(type(value.__self__))
    return id(value), 0


def _class_entries(cls: type, public: str, module: str) -> Iterator[Entry]:
    if doc := _clean(str(cls.__doc__)):
        yield Entry(public, "class", module, _signature(cls, public, doc), doc)
    done: set[str] = set()
    for owner in (cls, *(base for base in cls.__mro__[1:] if not is_public(f"{base.__module__}.{base.__qualname__}"))):
        for name, member in vars(owner).items():
            if name.startswith("_") or name in done or not isinstance(member, _MEMBERS):
                continue
            done.add(name)
            value = getattr(cls, name)
            if doc := _clean(value.__doc__ or ""):
                full = f"{public}.{name}"
                yield Entry(full, "method", module, _signature(member, full, doc), doc)


def _function(value: Any, public: str, module: str) -> Iterator[Entry]:
    doc = _clean(value.__doc__)
    yield Entry(public, "function", module, _signature(value, public, doc), doc)


def _signature(value: Any, public: str, doc: str) -> str:
    """Arguments in parentheses, from the object or else from a first line such as ``reader(iterable [, dialect])``."""
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError, AttributeError):  # the last from inspect itself, on select.epoll in 3.13
        first, name = doc.partition("\n")[0], public.rpartition(".")[2]
        start, end = first.find(f"{name}("), first.rfind(")")
        return first[start + len(name) : end + 1] if 0 <= start < end else ""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    if parameters and parameters[0].name in ("self", "type", "cls") and not isinstance(value, type):
        parameters = parameters[1:]
    text = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    return "" if " at 0x" in text else text


def _clean(doc: str) -> str:
    """A docstring without its indentation and surrounding blank lines."""
    return inspect.cleandoc(doc).strip()
