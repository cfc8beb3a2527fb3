"""A corpus that every machine already has: the documentation of Python's standard library.

Modules, classes, methods and functions with a docstring, several thousand documents. Source files are parsed, not
imported; only what is written in C is imported, from a fixed list of harmless modules. The corpus differs a little
from one Python version to the next, and not at all between two calls.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cascade.demo import _introspection
from cascade.demo._parsing import Entry, Library, is_public
from cascade.errors import InputError
from cascade.types import Document

_TESTS = {"test", "tests", "_test"}
_NOT_LIBRARY = {"site-packages", "dist-packages", "lib-dynload", "__pycache__"}
_PROGRAMS_AND_JOKES = {"antigravity", "idlelib", "this", "turtle", "turtledemo", "tkinter", "ensurepip", "pydoc_data"}
_PLATFORM_VARIANTS = {"genericpath", "ntpath", "nturl2path", "posixpath", "sre_compile", "sre_constants", "sre_parse"}
_SITE = {"sitecustomize", "usercustomize"}
_GONE_IN_3_13 = """
    aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib
    ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""
"""Left out everywhere, so that the same question meets about the same documents under every version."""

_ALIASES = {"os.path": "posixpath", "collections.abc": "_collections_abc"}
"""Public modules that are other modules under a better name; POSIX paths are documented on every platform."""

_SKIPPED = _PROGRAMS_AND_JOKES | _PLATFORM_VARIANTS | _SITE | set(_GONE_IN_3_13.split())


def gather() -> Iterator[Document]:
    """The documents, sorted by ``doc_id``, which is the public dotted name, as in ``str.split``.

    The title is the name with its arguments, the text the docstring; ``metadata`` holds ``kind`` ("module", "class",
    "function", "method" or "property") and ``module``.

    Raises:
        InputError: if this Python comes without the source files of its library.
    """
    found: dict[str, Entry] = {}
    for entry in _parsed():
        found.setdefault(entry.name, entry)
    for entry in _introspection.entries():
        found.setdefault(entry.name, entry)
    duplicates = {_introspection.shadowed(entry) for entry in found.values()}
    for name in sorted(found):
        entry = found[name]
        if name not in duplicates:
            metadata = {"kind": entry.kind, "module": entry.module}
            yield Document(doc_id=name, text=entry.doc.strip(), title=name + entry.signature, metadata=metadata)


def _parsed() -> Iterator[Entry]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = _source_files(folder)
    if "os" not in files:
        raise InputError(f"{folder}: expected the source of the standard library, found no os.py; use a full Python")
    public = [name for name in sorted(files) if is_public(name) and not name.startswith("encodings.")]
    public = [name for name in public if name.partition(".")[0] not in _SKIPPED]
    files |= {name: files[source] for name, source in _ALIASES.items()}
    return Library(files).entries(sorted({*public, *_ALIASES}))


def _source_files(folder: Path) -> dict[str, Path]:
    """Module name to source file for all modules below the library's folder but the tests."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts and all(part.isidentifier() for part in parts) and not (_TESTS | _NOT_LIBRARY) & set(parts):
            files[".".join(parts)] = path
    return files
