"""Forms of models made for a runtime, kept in the user's cache folder.

::

    ~/.cache/cascade-ranking/models/
      <fingerprint of the weights>-openvino-<version>-int8-<recipe>/
        model.xml, model.bin    the form; model.onnx for ONNX Runtime
        report.json             size and sha256 of its files; how its rankings compare with the model's

A form appears whole or not at all. Another version of the package has forms of its own: what was measured is what runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cascade.errors import ModelError
from cascade.io.atomic import write_json_atomic
from stages.models import fingerprint
from stages.runtimes.engines import Engine
from stages.runtimes.parity import Parity

if TYPE_CHECKING:
    from stages.runtimes.compiled import CompiledRuntime

Use: TypeAlias = Literal["plain", "windows"]
"""What a form reads: single texts or pairs, whichever the model is for, or a question with several passages."""

_RECIPE = 2
"""Changes with the way forms are made, and run."""
_CHUNK = 1 << 20
_REPORT = "report.json"


def cache_folder() -> Path:
    """Where forms are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cascade-ranking" / "models"


def form_folder(folder: Path, engine: Engine, precision: str, use: Use = "plain") -> Path:
    """Where the form of a model folder is, or would be.

    Raises:
        ModelError: the model cannot be read.
    """
    return _target(fingerprint(folder), engine, precision, use)


def load_form(
    folder: Path, engines: Sequence[Engine], dtype: str = "auto", use: Use = "plain"
) -> CompiledRuntime | None:
    """The first form of a model that has been made, to be prepared before use; None if there is none.

    Args:
        folder: model folder.
        engines: that may run it, the preferred one first; each one's fastest precision is taken.
        dtype: the precision it must have; ``auto`` for any.
        use: what it must be for.

    Raises:
        ModelError: the form is damaged, or the model cannot be read.
    """
    weights = fingerprint(folder)
    for engine in engines:
        for precision in engine.precisions:
            target = _target(weights, engine, precision, use)
            if dtype in ("auto", precision) and target.is_dir():
                return engine.load(target / engine.files[0], precision, _outputs(target, engine))
    return None


def _target(weights: str, engine: Engine, precision: str, use: Use) -> Path:
    kind = "-windows" if use == "windows" else ""
    return cache_folder() / f"{weights}-{engine.name}-{engine.version}-{precision}{kind}-{_RECIPE}"


def _outputs(target: Path, engine: Engine) -> int:
    """Number of outputs for each input, of a form that is undamaged."""
    try:
        report = json.loads((target / _REPORT).read_text(encoding="utf-8"))
        damaged = [name for name in engine.files if report["files"][name] != _digest(target / name)]
        outputs = int(report["outputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{target}: damaged: {error}; delete the folder and make it again") from error
    if damaged:
        raise ModelError(f"{target}: damaged: {', '.join(damaged)} changed; delete the folder and make it again")
    return outputs


@contextmanager
def new_form(folder: Path, engine: Engine, precision: str, use: Use = "plain") -> Iterator[tuple[Path, dict[str, Any]]]:
    """Gives a place for a form's first file and a report to fill; puts both into the cache if the block succeeds.

    The report must get ``outputs``. An earlier form is replaced; who has it open keeps it.
    """
    target = form_folder(folder, engine, precision, use)
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(6)
    building, old = (target.with_name(f".{target.name}.{token}.{end}") for end in ("new", "old"))
    building.mkdir()
    report: dict[str, Any] = {}
    try:
        yield building / engine.files[0], report
        report["files"] = {name: _digest(building / name) for name in engine.files}
        write_json_atomic(building / _REPORT, report)
        if target.exists():
            target.rename(old)
        building.rename(target)
    finally:
        for left in (building, old):
            shutil.rmtree(left, ignore_errors=True)


def described(model: str, engine: Engine, precision: str, outputs: int, parity: Parity) -> dict[str, Any]:
    """What a report says of a form.

    Args:
        model: as the user named it.
        engine: what runs it.
        precision: of the form.
        outputs: number of outputs for each input.
        parity: how its rankings compare with those of the model.
    """
    versions = {name: version(name) for name in engine.makers if find_spec(name) is not None}
    return {
        "model": model,
        "precision": precision,
        "outputs": outputs,
        "versions": versions,
        "parity": asdict(parity),
    }


def _digest(path: Path) -> str:
    """Size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"{path.stat().st_size}:{digest.hexdigest()}"
