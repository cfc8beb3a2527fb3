"""Damaged and hostile indexes: a typed error that names the file, never wrong results, never a huge allocation."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.errors import BadIndex, IndexCorrupt, IndexMissing
from cascade.index import Index
from tests.index_for_tests import build_labelled, label_of

HEADER = 128


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pristine") / "index"
    build_labelled(target, "whole", 4)
    return target


@pytest.fixture
def target(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "index"))


def files_of(target: Path) -> list[Path]:
    return sorted(path for path in target.rglob("*") if path.is_file() and path.name != "LOCK")


def find(target: Path, pattern: str) -> Path:
    return next(path for path in files_of(target) if path.match(pattern))


def reseal(target: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Makes sizes and checksums right again, as someone who means harm would."""
    path = find(target, "manifest.json")
    body = json.loads(path.read_text())
    for name, info in body["files"].items():
        data = (path.parent / name).read_bytes()
        info.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    if change is not None:
        change(body)
    del body["checksum"]
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"checksum": checksum, **body}, indent=1) + "\n")


def test_every_flipped_byte_is_noticed(target: Path) -> None:
    for path in files_of(target):
        data = path.read_bytes()
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            with pytest.raises((IndexCorrupt, IndexMissing)):
                Index.open(target)
        path.write_bytes(data)
    assert label_of(target) == "whole"


def test_without_checksums_a_flipped_byte_still_raises_nothing_but_typed_errors(target: Path) -> None:
    outcomes: list[BadIndex | None] = []
    for path in files_of(target):
        data = path.read_bytes()
        for position in range(0, len(data), 5):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
            outcomes.append(error_of_reading_all(target))
        path.write_bytes(data)
    assert None in outcomes, "some damage is in bytes that only a checksum covers"
    assert all(str(target) in str(error) for error in outcomes if error is not None)


def error_of_reading_all(target: Path) -> BadIndex | None:
    try:
        index = Index.open(target, verify=False)
        list(index.iterate())
        for row in range(len(index)):
            index.metadata(row)
    except BadIndex as error:
        return error
    return None


@pytest.mark.parametrize("verify", [True, False])
def test_every_truncated_longer_or_missing_file_is_named(target: Path, verify: bool) -> None:
    for path in files_of(target):
        data = path.read_bytes()
        for other in (b"", data[: len(data) // 2], data[:-1], data + b"\0", None):
            if other == data:
                continue
            path.unlink() if other is None else path.write_bytes(other)
            with pytest.raises((IndexCorrupt, IndexMissing)) as caught:
                Index.open(target, verify=verify)
            assert str(path) in str(caught.value) or path.name == "CURRENT"
            path.write_bytes(data)


def array_bytes(shape: str, descr: str = "<i8", payload: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(HEADER - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.encode() + payload


@pytest.mark.parametrize(
    "data",
    [
        array_bytes("(9223372036854775807,)"),
        array_bytes("(1099511627776,)", payload=bytes(40)),
        array_bytes("(5, 1)", payload=bytes(40)),
        array_bytes("(-5,)", payload=bytes(40)),
        array_bytes("()", payload=bytes(8)),
        array_bytes("(5,)", descr="|O", payload=bytes(40)),
        array_bytes("(5,)", descr="<f8", payload=bytes(40)),
        array_bytes("(5,)", descr=">i8", payload=bytes(40)),
        b"\x93NUMPY\x03\x00" + (2**31 - 1).to_bytes(4, "little"),
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"",
    ],
)
@pytest.mark.parametrize("name", ["texts.npy", "passage_starts.npy", "id_hashes.npy", "tokens/*/offsets.npy"])
def test_hostile_headers_are_refused(target: Path, name: str, data: bytes) -> None:
    path = find(target, name)
    path.write_bytes(data)
    reseal(target)
    with pytest.raises(IndexCorrupt, match=path.name):
        Index.open(target)


@pytest.mark.parametrize(
    ("name", "position", "value"),
    [
        ("texts.npy", 0, 1),
        ("texts.npy", 1, -1),
        ("texts.npy", 1, 10**6),
        ("texts.npy", -1, 10**12),
        ("ids.npy", 2, 0),
        ("passage_documents.npy", 0, 1),
        ("passage_documents.npy", 1, -1),
        ("passage_documents.npy", 1, 3),
        ("passage_documents.npy", -1, 2**31 - 1),
        ("passage_starts.npy", 1, -1),
        ("passage_starts.npy", 1, 10**6),
        ("passage_stops.npy", 1, 10**6),
        ("id_order.npy", 0, -1),
        ("id_order.npy", 0, 4),
        ("id_hashes.npy", 0, 2**64 - 1),
        ("tokens/*/offsets.npy", 1, -1),
        ("tokens/*/offsets.npy", -1, 10**9),
    ],
)
def test_numbers_out_of_bounds_are_refused(target: Path, name: str, position: int, value: int) -> None:
    path = find(target, name if "/" in name else f"documents/{name}")
    array = np.lib.format.open_memmap(path, mode="r+")
    array[position] = value
    array.flush()
    reseal(target)
    with pytest.raises(IndexCorrupt, match=path.name):
        Index.open(target)


@pytest.mark.parametrize(
    "name", ["../../../secret", "/etc/passwd", "documents/../../x", "a\\b", "a\0b", ".", "", "a//b"]
)
def test_paths_out_of_the_index_are_refused(target: Path, name: str) -> None:
    reseal(target, lambda body: body["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(IndexCorrupt, match=r"manifest\.json"):
        Index.open(target)


@pytest.mark.parametrize("part", ["tokenizers", "stages"])
def test_folders_out_of_the_index_are_refused(target: Path, part: str) -> None:
    reseal(target, lambda body: body[part][0].update(folder="../../elsewhere"))
    with pytest.raises(IndexCorrupt, match=r"manifest\.json.*folder"):
        Index.open(target)


@pytest.mark.parametrize("name", ["documents/texts.bin", "documents", "manifest.json", "."])
def test_links_are_refused(target: Path, name: str) -> None:
    path = target / "generation-000001" / name
    elsewhere = target.parent / "elsewhere"
    path.rename(elsewhere)
    (target / "generation-000001" / name).symlink_to(elsewhere)
    with pytest.raises(IndexCorrupt):
        Index.open(target)


def test_a_pipe_in_place_of_a_file_does_not_hang(target: Path) -> None:
    path = find(target, "manifest.json")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IndexCorrupt, match="regular file"):
        Index.open(target)


def test_a_newer_format_says_which_version_wrote_it(target: Path) -> None:
    reseal(target, lambda body: body.update(format_version=2, cascade_version="9.9"))
    with pytest.raises(IndexCorrupt, match=r"format_version: expected 1, got 2.*9\.9"):
        Index.open(target)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(surprise=1),
        lambda body: body.pop("corpus"),
        lambda body: body["corpus"].update(documents="4"),
        lambda body: body["corpus"].update(documents=0),
        lambda body: body["corpus"].update(documents=2**31 - 1, passages=2**31 - 1),
        lambda body: body["files"].pop("documents/texts.bin"),
        lambda body: body["files"]["documents/texts.bin"].update(sha256="zz"),
        lambda body: body["stages"][0].update(folder="stages/gone"),
        lambda body: body["tokenizers"][0].update(folder="documents"),
    ],
)
def test_a_malformed_manifest_with_a_right_checksum_is_refused(
    target: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    reseal(target, change)
    with pytest.raises(IndexCorrupt):
        Index.open(target)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"checksum": ' + b"9" * 5000 + b"}", b"\xff"]
)
def test_a_manifest_that_is_none_is_refused(target: Path, data: bytes) -> None:
    find(target, "manifest.json").write_bytes(data)
    with pytest.raises(IndexCorrupt, match=r"manifest\.json"):
        Index.open(target)


@pytest.mark.parametrize("data", [b"", b"../../etc\n", b"generation-000001", b"generation-000001\n\n", b"\xff" * 1000])
def test_current_must_name_a_generation(target: Path, data: bytes) -> None:
    (target / "CURRENT").write_bytes(data)
    with pytest.raises(IndexCorrupt, match="CURRENT"):
        Index.open(target)


def test_metadata_and_text_that_are_damaged_behind_right_checksums_raise_when_read(target: Path) -> None:
    for name in ("metadata.bin", "texts.bin"):
        path = find(target, name)
        path.write_bytes(b"\xff" * path.stat().st_size)
    reseal(target)
    index = Index.open(target)
    with pytest.raises(IndexCorrupt, match=r"texts\.bin"):
        index.texts([0])
    with pytest.raises(IndexCorrupt, match=r"metadata\.bin"):
        index.metadata(0)


def test_a_folder_without_an_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="cascade index"):
        Index.open(tmp_path / "none")
    (tmp_path / "building").mkdir()
    with pytest.raises(IndexMissing, match="interrupted"):
        Index.open(tmp_path)
