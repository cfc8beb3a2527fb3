"""The manifest of a generation: what it was built from and with, and the size and checksum of each of its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import IndexCorrupt, IndexMismatch, StageError
from cascade.index import arrays, files
from cascade.index.arrays import REBUILD
from cascade.index.documents import MOST_ROWS
from cascade.index.split import Splitter
from cascade.schema import PassageSettings

FORMAT_VERSION: Final = 1
MANIFEST = "manifest.json"

_MOST_BYTES = 1 << 24
_THREADS = 4


def _plain_path(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or "\0" in path or ".." in parts or "/".join(parts) != path:
        raise ValueError(f"expected a path inside the index without '..', got {path!r}")
    return path


RelativePath = Annotated[str, AfterValidator(_plain_path)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CorpusInfo(_Record):
    """Where the documents came from, and how many there are."""

    source: str
    fingerprint: str
    documents: int = Field(ge=1, le=MOST_ROWS)
    passages: int = Field(ge=1, le=MOST_ROWS)


class PassageInfo(_Record):
    """How documents were split: the settings, and the limit and counting tokenizer that followed from them."""

    max_tokens: int | None
    overlap_tokens: int
    limit: int | None
    counted_by: str

    @classmethod
    def of(cls, settings: PassageSettings, splitter: Splitter) -> PassageInfo:
        """What is written down of a splitter."""
        return cls(
            max_tokens=settings.max_tokens,
            overlap_tokens=settings.overlap_tokens,
            limit=splitter.limit,
            counted_by=splitter.counted_by,
        )


class StoredTokenizer(_Record):
    """A tokenizer whose ids are stored, and where."""

    fingerprint: str
    folder: RelativePath


class StoredStage(_Record):
    """A stage that has a part of the index, what shaped that part, and where it is."""

    kind: str
    settings: dict[str, Any]
    fingerprint: str
    folder: RelativePath

    def matches(self, kind: str, settings: Mapping[str, Any], fingerprint: str) -> bool:
        """Whether a stage so configured can use this part."""
        return (self.kind, self.settings, self.fingerprint) == (kind, plain_json(settings), fingerprint)

    def describe(self) -> str:
        """One line for error messages."""
        return f"{self.kind} {json.dumps(self.settings, sort_keys=True)} with model {self.fingerprint or 'none'}"


class FileInfo(_Record):
    """Size in bytes and SHA-256 of a file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Record):
    """All that a generation says of itself."""

    format_version: Literal[1]
    cascade_version: str
    corpus: CorpusInfo
    passages: PassageInfo
    tokenizers: tuple[StoredTokenizer, ...] = Field(strict=False)
    stages: tuple[StoredStage, ...] = Field(strict=False)
    files: dict[RelativePath, FileInfo]

    def to_bytes(self) -> bytes:
        """The file's contents: readable JSON, its own checksum in it."""
        return _with_checksum(self.model_dump(mode="json"))


def cascade_version() -> str:
    """The version that writes the index; 'unknown' where the package is not installed."""
    try:
        return metadata.version("cascade-ranking")
    except metadata.PackageNotFoundError:
        return "unknown"


def plain_json(value: Any) -> Any:
    """``value`` as it comes back from JSON, so that tuples and lists compare equal."""
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:length]


def folder_name(text: str) -> str:
    """``text`` where it is a harmless file name, else digits that stand for it."""
    return text if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text) else digest(text, 16)


def _with_checksum(body: Mapping[str, Any]) -> bytes:
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({"checksum": checksum, **body}, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a generation.

    Raises:
        IndexCorrupt: it is missing, damaged in any byte, malformed, or of a newer format.
    """
    path = folder / MANIFEST
    data = arrays.read_small(path, _MOST_BYTES)
    try:
        body = json.loads(data)
        intact = isinstance(body, dict) and body.pop("checksum", None) is not None and _with_checksum(body) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise IndexCorrupt(f"{path}: its checksum does not match its contents; {REBUILD}")
    version = body.get("format_version")
    if version != FORMAT_VERSION:
        raise IndexCorrupt(
            f"{path}: format_version: expected {FORMAT_VERSION}, got {version!r}; "
            f"open it with the version of cascade that wrote it ({body.get('cascade_version')!r}), or build it again"
        )
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise IndexCorrupt(f"{path}: {place}: {first['msg']}; {REBUILD}") from error


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """Size and checksum of everything in a generation's folders; the manifest lies beside them.

    Raises:
        StageError: a stage left something that is neither file nor folder.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise StageError(f"{path}: a stage wrote a link or special file; an index holds plain files only")
    named = {path.relative_to(folder).as_posix(): path for path in paths if path.parent != folder}
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(named, pool.map(_describe, named.values()), strict=True))


def check_files(folder: Path, listed: Mapping[str, FileInfo], *, checksums: bool) -> None:
    """Makes sure that every file is there, of the right size and, if asked for, contents.

    Raises:
        IndexCorrupt: one is not, or is reached through a link.
    """
    for relative in sorted({parent for name in listed for parent in PurePosixPath(name).parents}):
        if (folder / relative).is_symlink():
            raise IndexCorrupt(f"{folder / relative}: expected a folder, got a link; {REBUILD}")
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda item: _check(folder / item[0], item[1], checksums), listed.items()):
            pass


def _check(path: Path, expected: FileInfo, checksums: bool) -> None:
    if path.is_symlink() or not path.is_file():
        raise IndexCorrupt(f"{path}: expected a plain file of {expected.size} bytes, got none; {REBUILD}")
    size = path.stat().st_size
    if size != expected.size:
        raise IndexCorrupt(f"{path}: expected {expected.size} bytes, got {size}; {REBUILD}")
    if checksums and _describe(path) != expected:
        raise IndexCorrupt(f"{path}: its checksum does not match its contents; {REBUILD}")


def _describe(path: Path) -> FileInfo:
    sha256, size = hashlib.sha256(), 0
    for chunk in arrays.chunks(path):
        sha256.update(chunk)
        size += len(chunk)
    return FileInfo(size=size, sha256=sha256.hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest durably, as the last file of a generation."""
    files.write_atomically(folder / MANIFEST, manifest.to_bytes())


def require_passages(stored: PassageInfo, asked: PassageSettings, source: Path) -> None:
    """Makes sure that documents were split as a configuration asks.

    Raises:
        IndexMismatch: they were not; the message quotes both.
    """
    for name in ("max_tokens", "overlap_tokens"):
        has, wants = getattr(stored, name), getattr(asked, name)
        if has != wants:
            raise IndexMismatch(
                f"{source}: passages.{name}: the index was built with {has}, the configuration asks for {wants}; "
                f"change the configuration, or build the index again with --force"
            )


def find_stage(
    stored: Iterable[StoredStage], kind: str, settings: Mapping[str, Any], fingerprint: str, source: Path
) -> StoredStage:
    """The part of the index that a stage so configured wrote.

    Raises:
        IndexMismatch: there is none; the message quotes what there is of that kind, and what was asked for.
    """
    parts = list(stored)
    for part in parts:
        if part.matches(kind, settings, fingerprint):
            return part
    asked = StoredStage(kind=kind, settings=plain_json(settings), fingerprint=fingerprint, folder="none")
    related = [part for part in parts if part.kind == kind] or parts
    has = "; ".join(part.describe() for part in related) or "no stage's part"
    raise IndexMismatch(
        f"{source}: the index has {has}; the configuration asks for {asked.describe()}; "
        f"change the configuration, or build the index again with --force"
    )
