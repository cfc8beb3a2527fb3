"""What becomes of the contestants' figures; nothing is measured here."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.cross_encoder import CONTESTANTS, OURS, PADDED, REFERENCE, THEIRS, compared, ratios_of, result_of


def test_our_best_is_compared_with_their_best_and_with_one_padded_batch() -> None:
    figures = {
        REFERENCE: {"pairs_per_s": 50.0},
        "sentence-transformers, ONNX int8": {"pairs_per_s": 80.0},
        "sentence-transformers, OpenVINO int8": {"missing": "no such package"},
        PADDED: {"pairs_per_s": 60.0},
        "cascade, torch float32": {"pairs_per_s": 70.0},
        "cascade, OpenVINO int8": {"pairs_per_s": 180.0},
    }
    best = f"best of cascade / {PADDED}"
    assert ratios_of(figures) == {"best of cascade / best of sentence-transformers": 2.25, best: 3.0}
    del figures[PADDED]
    assert list(ratios_of(figures)) == ["best of cascade / best of sentence-transformers"]
    assert ratios_of({PADDED: {"pairs_per_s": 60.0}}) == {}


def test_a_contestant_that_fails_is_missing_with_its_error() -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback:\n  line\nOSError: no network\n")
    assert result_of(failed) == {"missing": "OSError: no network"}
    assert result_of(subprocess.CompletedProcess([], -9, "", "")) == {"missing": "it ended with -9"}
    well = subprocess.CompletedProcess([], 0, 'a bar of progress\n{"pairs_per_s": 7.0, "scores": [[1.0, 2.0]]}\n', "")
    figures = compared({REFERENCE: result_of(well), PADDED: result_of(failed)})
    assert figures[REFERENCE] == {"pairs_per_s": 7.0, "times": 1.0, "tau": pytest.approx(1.0)}
    assert figures[PADDED] == {"missing": "OSError: no network"}


def test_every_runtime_of_ours_in_int8_and_three_ways_of_theirs_take_part() -> None:
    assert {"cascade, OpenVINO int8", "cascade, ONNX int8"} <= {name for name in CONTESTANTS if name.startswith(OURS)}
    assert len([name for name in CONTESTANTS if name.startswith(THEIRS)]) == 3
