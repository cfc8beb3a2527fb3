import gzip
import json
import os
from pathlib import Path

import pytest

from cascade.errors import InputError
from cascade.io import atomic_write, atomic_write_bytes, write_json_atomic


def test_target_changes_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new ü\n")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "new ü\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_failure_leaves_the_old_content_and_no_debris(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match="must be str"), atomic_write(path) as file:
        file.writelines(["half", 7])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.txt"
    path.write_text("old")
    monkeypatch.setattr(Path if call == "replace" else os, call, fail)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_compressed_files_are_equal_for_equal_content(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with atomic_write(tmp_path / name) as file:
            file.write("same")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"same"


def test_json_is_whole_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json_atomic(path, {"ä": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": [1, None]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json_atomic(path, {"x": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": [1, None]}


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_permissions_follow_the_umask_and_links_are_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real / "x")
    before = os.umask(0o027)
    try:
        with atomic_write_bytes(tmp_path / "link") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (real / "x").read_bytes() == b"x"
    assert (real / "x").stat().st_mode & 0o777 == 0o640


def test_missing_folder_and_things_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an existing folder"), atomic_write(tmp_path / "no" / "x"):
        pass
    with pytest.raises(InputError, match="expected a file to write"), atomic_write(tmp_path):
        pass
