"""Crashes, full disks, second writers and readers during a swap: the old or the new index opens, never a mix."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import BadIndex, IndexLocked, InputError
from cascade.index import Index, PassageSettings, build_index, files
from tests.index_for_tests import (
    FILE_CALLS,
    ListCorpus,
    build_labelled,
    check_label,
    documents,
    intercept,
    label_of,
)

ROOT = Path(__file__).parents[2]
KILLS = 40

CRASHES = """
import os, random, shutil, signal, sys
from pathlib import Path
from tests.index_for_tests import build_labelled, intercept

root, kills = Path(sys.argv[1]), int(sys.argv[2])

def child(folder, before):
    shutil.copytree(root / "old", folder)
    pid = os.fork()
    if pid:
        return pid
    intercept(setattr, before)
    build_labelled(folder, "new", 4)
    os._exit(0)

def crash_at(number):
    calls = 0
    def before(name, args):
        nonlocal calls
        calls += 1
        if calls == number:
            if name == "write":
                args[0].write(args[1][: len(args[1]) // 2])
                args[0].flush()
            os._exit(9)
    return before

def kill_after(number, folder):
    receiver, sender = os.pipe()
    pid = child(folder, lambda name, args: os.write(sender, b"."))
    os.close(sender)
    for _ in range(number):
        os.read(receiver, 1)
    os.kill(pid, signal.SIGKILL)
    os.close(receiver)
    return os.waitpid(pid, 0)[1]

os.fsync = lambda descriptor: None
build_labelled(root / "old", "old")
crashes = 1
while os.waitstatus_to_exitcode(os.waitpid(child(root / f"exit-{crashes}", crash_at(crashes)), 0)[1]) == 9:
    crashes += 1
chance = random.Random(0)
for number in range(kills):
    kill_after(chance.randrange(1, crashes), root / f"kill-{number}")
"""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote, only a power cut does; where fsync is called is still seen."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of one index, each left behind by a writer that died at another moment of replacing it."""
    root = tmp_path_factory.mktemp("crashes")
    subprocess.run([sys.executable, "-c", CRASHES, str(root), str(KILLS)], check=True, cwd=ROOT, timeout=300)
    return sorted(path for path in root.iterdir() if path.name != "old")


def test_a_writer_that_dies_at_any_moment_leaves_the_old_or_the_new_index(crashed: list[Path]) -> None:
    labels = [label_of(path) for path in crashed]
    assert len([path for path in crashed if path.name.startswith("exit")]) > 60
    assert len([path for path in crashed if path.name.startswith("kill")]) == KILLS
    assert set(labels) == {"old", "new"}


def test_after_a_crash_at_any_moment_indexing_again_finishes(crashed: list[Path], tmp_path: Path) -> None:
    for path in crashed[::3]:
        again = tmp_path / path.name
        shutil.copytree(path, again)
        build_labelled(again, "new", 4)
        assert label_of(again) == "new"
        assert {entry.name.partition("-")[0] for entry in again.iterdir()} <= {
            "CURRENT",
            "LOCK",
            "generation",
            "CURRENT.new",
        }
        assert len(list(again.glob("generation-*"))) == 1


def count_calls(folder: Path) -> list[str]:
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        intercept(patch.setattr, lambda name, args: calls.append(name))
        build_labelled(folder, "new", 4)
    return calls


def test_each_file_operation_failing_in_turn_leaves_a_whole_index(tmp_path: Path) -> None:
    build_labelled(tmp_path / "old", "old")
    shutil.copytree(tmp_path / "old", tmp_path / "count")
    calls = count_calls(tmp_path / "count")
    assert set(calls) == set(FILE_CALLS)
    for failing in range(len(calls)):
        folder = tmp_path / "index"
        shutil.copytree(tmp_path / "old", folder)
        error = _build_with_failure(folder, failing, (errno.ENOSPC, errno.EIO)[failing % 2])
        label = label_of(folder)
        if error is None:
            assert (label, calls[failing]) == ("new", "remove_tree"), "only clearing up may fail unnoticed"
        else:
            assert str(folder) in error
            assert "index again" in error
        shutil.rmtree(folder)


def _build_with_failure(folder: Path, failing: int, code: int) -> str | None:
    calls = 0

    def fail(name: str, args: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(code, "injected", str(args[0]))

    with pytest.MonkeyPatch.context() as patch:
        intercept(patch.setattr, fail)
        try:
            build_labelled(folder, "new", 4)
        except BadIndex as error:
            return str(error)
    return None


def test_a_second_writer_is_refused_at_once_and_told_who_is_first(tmp_path: Path) -> None:
    target = tmp_path / "index"
    target.mkdir()
    holder = "import sys; from pathlib import Path; from cascade.index import files\n"
    holder += "with files.lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(target / "LOCK")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(IndexLocked, match=rf"process {process.pid} on \S+ is writing"):
            build_labelled(target, "new")
        process.kill()
    build_labelled(target, "new")
    assert label_of(target) == "new"


def test_two_writers_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with files.lock(tmp_path / "LOCK"), pytest.raises(IndexLocked), files.lock(tmp_path / "LOCK"):
        raise AssertionError("both hold the lock")


def test_readers_during_swaps_see_one_generation_each(tmp_path: Path) -> None:
    target = tmp_path / "index"
    build_labelled(target, "g0")
    finished = threading.Event()
    seen: list[str] = []
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not finished.is_set():
                seen.append(check_label(Index.open(target)))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 15):
            build_labelled(target, f"g{number}", 3 + number % 3)
    finally:
        finished.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert len(seen) > 0


def test_a_reader_keeps_its_generation_after_a_swap(tmp_path: Path) -> None:
    target = tmp_path / "index"
    build_labelled(target, "old")
    reader = Index.open(target)
    assert not reader.superseded
    build_labelled(target, "new", 4)
    assert reader.superseded
    assert len(list(target.glob("generation-*"))) == 1
    assert reader.texts([0, 2]) == ["old title old text 0", "old title old text 2"]
    assert reader.doc_ids(reader.rows_of("old-1")) == ["old-1"]
    assert len(Index.open(target)) == 4


def test_a_reader_that_meets_a_swap_half_way_opens_the_new_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "index"
    build_labelled(target, "old")
    from cascade.index import manifest

    real = manifest.read_manifest
    swaps = iter([lambda: build_labelled(target, "new", 4)])

    def swap_first(folder: Path) -> Any:
        read = real(folder)
        next(swaps, lambda: None)()
        return read

    monkeypatch.setattr(manifest, "read_manifest", swap_first)
    assert label_of(target) == "new"


def test_a_committed_index_is_not_replaced_without_force(tmp_path: Path) -> None:
    target = tmp_path / "index"
    build_labelled(target, "old")
    with pytest.raises(InputError, match="--force"):
        build_labelled(target, "new", force=False)
    assert label_of(target) == "old"


def test_other_folders_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "building").mkdir()
    (tmp_path / "building" / "house.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        build_index(tmp_path, ListCorpus(documents("new")), [], PassageSettings(), force=True)
    assert (tmp_path / "building" / "house.txt").read_text() == "mine"
