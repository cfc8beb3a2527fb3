import pytest

from cascade.cli.app import EXIT_FAILED, run_command


def test_a_runtime_that_nothing_makes_forms_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "optimize", "bundled:bi-encoder", "--runtime", "tpu"]) == EXIT_FAILED
    assert "no optimizer for the runtime 'tpu'; installed: openvino" in capsys.readouterr().err


def test_models_alone_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models"]) == 0
    assert "bundled:bi-encoder" in capsys.readouterr().out
