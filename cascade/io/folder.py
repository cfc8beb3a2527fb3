"""A folder of text, Markdown and HTML files, one document each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from cascade.errors import InputError
from cascade.io.html_text import html_text
from cascade.io.lines import decode, open_bytes
from cascade.io.records import NOT_IN_ID, Record

_HTML = frozenset({".html", ".htm"})
_MARKDOWN = frozenset({".md", ".markdown"})
_ENDINGS = _HTML | _MARKDOWN | {".txt"}
_QUOTED = re.compile(f"%|{NOT_IN_ID.pattern}")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+([^\n]*)")


def folder_files(folder: Path) -> Sequence[Path]:
    """The text files in and below ``folder``, sorted by their path within it.

    Names that begin with a dot are left out. A link to a file inside the folder is read like a file, a link to a folder
    inside it is not entered, because what it holds is found at its own place.

    Raises:
        InputError: a link leads out of the folder, or the folder cannot be listed.
    """
    root = Path(os.path.realpath(folder))
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_refuse_unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [name for name in folders if Path(parent, name).is_symlink()]
        texts = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in _ENDINGS]
        for name in (*linked, *texts):
            path = Path(parent, name)
            target = Path(os.path.realpath(path))
            if not target.is_relative_to(root):
                raise InputError(
                    f"{path}: expected every file inside {folder}, got a link to {target}; copy what it points to"
                )
        found.extend(Path(parent, name) for name in texts)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_folder(folder: Path, max_bytes: int) -> Iterator[Record]:
    """One record for every file of ``folder_files``.

    The id is the path within the folder, with "/" between its parts and whitespace, control characters and "%"
    percent-encoded. The title is the first heading (Markdown) or ``<title>`` (HTML).

    Raises:
        InputError: a file is not UTF-8, exceeds ``max_bytes``, or cannot be read.
    """
    for path in folder_files(folder):
        with open_bytes(path) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise InputError(f"{path}: expected a file of at most {max_bytes} bytes, got a larger one; split it")
        title, text = _title_and_text(path, decode(data, str(path)))
        doc_id = _QUOTED.sub(
            lambda match: quote(match[0], safe="", errors="surrogateescape"), path.relative_to(folder).as_posix()
        )
        yield str(path), {"_id": doc_id, "title": title, "text": text}


def _title_and_text(path: Path, content: str) -> tuple[str, str]:
    ending = path.suffix.lower()
    if ending in _HTML:
        try:
            return html_text(content)
        except ValueError as error:
            raise InputError(f"{path}: expected HTML, got a malformed entity: {error}; correct the page") from None
    if ending in _MARKDOWN:
        return _markdown_title(content), content
    return "", content


def _markdown_title(content: str) -> str:
    """The first ``# heading`` outside fenced code, or empty."""
    fence = ""
    for line in content.split("\n"):
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif fence == mark[1]:
                fence = ""
        elif not fence and (heading := _HEADING.match(line)):
            return heading[1].strip().rstrip("#").rstrip()
    return ""


def _refuse_unlisted(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error
