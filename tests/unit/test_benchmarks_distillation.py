from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import distillation, readme


def replayed(quality, *seconds):
    stage_seconds = {"hybrid": np.array([9.0, 9.0]), "reader": np.array(seconds)}
    return SimpleNamespace(mean=lambda measure: quality, stage_seconds=stage_seconds)


@pytest.mark.parametrize(
    ("quality", "seconds", "met"),
    [(0.475, (0.03, 0.05), True), (0.47, (0.03, 0.05), False), (0.5, (0.04, 0.05), False)],
)
def test_both_quality_and_time_of_the_last_stage_decide(quality, seconds, met):
    row = distillation.beside(replayed(0.5, 0.05, 0.15), replayed(quality, *seconds))
    assert row["kept"] == pytest.approx(quality / 0.5)
    assert row["time"] == pytest.approx(sum(seconds) / 0.2)
    assert row["met"] is met


def test_without_a_recording_it_says_so_and_ends(tmp_path, monkeypatch, capsys):
    missing = str(tmp_path / "none")
    monkeypatch.setattr("sys.argv", ["distillation", "--judged", missing, missing])
    assert distillation.main() == 0
    assert "skipped" in capsys.readouterr().out


def test_the_readme_shows_kept_quality_and_time():
    row = {"recording": "set", "queries": 9} | distillation.beside(replayed(0.5, 0.1), replayed(0.49, 0.025))
    assert "| set | 9 | 0.5 | 0.49 | 0.98 | 100 | 25 | 0.25 | yes |" in readme.distillation({"rows": [row]})
