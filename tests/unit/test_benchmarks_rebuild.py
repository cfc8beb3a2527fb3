"""The script that makes the bundled models anew: its order, and its averages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import rebuild
from stages.models.catalogue import bundled
from stages.models.weights import export_folder, read_weights


def test_everything_is_made_from_what_was_made_before() -> None:
    before: set[str] = set()
    for made in rebuild.FAMILY:
        if isinstance(made, rebuild.Averaged):
            needed, shares = set(made.of), sum(made.of.values())
            assert shares == pytest.approx(1)
        else:
            needed = {made.base} - {""}
            assert (rebuild.RECIPES / made.recipe).is_file()
        assert needed <= before, made.name
        before.add(made.name)
    assert {"cross-encoder", "listwise", "colbert", "distilbert"} <= before


def test_a_mean_of_models_is_between_them_and_has_its_own_mix(tmp_path: Path) -> None:
    for name in ("cross-encoder", "listwise"):
        export_folder(bundled(f"bundled:{name}").folder(), tmp_path / name)
    made = rebuild.Averaged("both", {"cross-encoder": 0.65, "listwise": 0.35}, (3.0, 1.0))
    rebuild.average(tmp_path, made)
    one, other, mean = (read_weights(tmp_path / name) for name in ("cross-encoder", "listwise", "both"))
    assert mean["head.mix"].tolist() == [3.0, 1.0]
    key = "encoder.layer.5.output.dense.weight"
    expected = 0.65 * one[key] + 0.35 * other[key]
    torch.testing.assert_close(mean[key], expected, atol=2e-3, rtol=0)  # kept as a difference in 8 bits
    assert not torch.equal(one[key], other[key])


def test_what_is_there_is_not_made_again_and_a_failure_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (out / "reader").mkdir(parents=True)
    (out / "reader" / "config.json").write_text("{}")
    asked: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 130)

    monkeypatch.setattr(subprocess, "run", run)
    assert rebuild.main([str(data), str(out), "--steps", "7"]) == 130
    (command,) = asked
    assert command[3] == "train"
    assert command[command.index("--base") + 1] == str(out / "reader")
    assert command[command.index("--steps") + 1] == "7"
    assert rebuild.main([str(tmp_path / "nowhere"), str(out)]) == 0
    assert "skipped" in capsys.readouterr().err
