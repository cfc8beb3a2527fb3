"""What is shipped: weights that fit into git, and a wheel that has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
WEIGHTS = "stages/models/weights"
MOST_BYTES = 64 << 20


def tracked(folder: str) -> list[Path]:
    """Files of a folder that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git")
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_tracked_weights_are_at_most_64_mib() -> None:
    files = [path for path in tracked(WEIGHTS) if path.is_file()]
    assert len([path for path in files if path.suffix == ".safetensors"]) >= 4
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


@pytest.mark.parametrize("folder", [WEIGHTS, "stages/training/contrasts"])
def test_the_wheel_contains_what_is_no_python(folder: str) -> None:
    """hatchling takes every file of a named package, but for those that git ignores or that are excluded."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert folder.split("/")[0] in wheel["packages"]
    assert not {"exclude", "include", "only-include"} & {*build, *wheel}
    files = [str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert len(files) >= 4
    if (ROOT / ".git").exists():
        asked = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (asked.returncode, asked.stdout) == (1, "")  # 1 says that none is ignored
