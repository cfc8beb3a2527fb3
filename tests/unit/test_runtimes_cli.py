from pathlib import Path

import numpy as np
import pytest

from cascade.cli.app import EXIT_FAILED, EXIT_INPUT, run_command
from stages.colbert.encoder import TokenEncoder
from stages.models.catalogue import bundled


def test_a_runtime_that_nothing_makes_forms_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "optimize", "bundled:bi-encoder", "--runtime", "tpu"]) == EXIT_FAILED
    assert "no optimizer for the runtime 'tpu'; installed: onnx, openvino" in capsys.readouterr().err


def test_models_alone_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models"]) == 0
    assert "bundled:bi-encoder" in capsys.readouterr().out


def test_an_exported_model_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "colbert"
    assert run_command(["models", "export", "bundled:colbert", str(target)]) == 0
    assert [path.name for path in tmp_path.rglob(".*")] == []
    assert "base_model" not in (target / "config.json").read_text()
    alone, ours = TokenEncoder(target), TokenEncoder(bundled("bundled:colbert").folder())
    np.testing.assert_array_equal(alone.encode_query("a cat"), ours.encode_query("a cat"))
    assert ours.encode_query("a cat").shape == (5, 128)

    assert run_command(["models", "export", "bundled:colbert", str(target)]) == EXIT_INPUT
    assert "expected a folder that does not exist yet" in capsys.readouterr().err


def test_export_names_the_models_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "export", "./mine", str(tmp_path / "x")]) == EXIT_INPUT
    assert "no such bundled model; there are bundled:bi-encoder, bundled:cross-encoder" in capsys.readouterr().err
