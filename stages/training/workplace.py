"""The folder OUT.training: settings, caches, checkpoints, metrics; and how OUT comes to be from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import InputError
from cascade.io import write_json_atomic
from stages.training.cache import Cache
from stages.training.loop import METRICS
from stages.training.settings import CommonSettings
from stages.training.students import Student

_SETTINGS = "settings.json"
_REPORT = "training.json"
_DEPTHS = "depths.json"
_NOT_OF_THE_RESULT = {"out", "cache", "threads"}


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where one training happens.

    Args:
        out: the model's folder to be.
        folder: beside it, everything else.
        cache: of embeddings, candidates and scores.
    """

    out: Path
    folder: Path
    cache: Cache

    @classmethod
    def open(cls, settings: CommonSettings) -> Workplace:
        """Makes the folder, or finds what an earlier run of the same training left there.

        Raises:
            InputError: the result is there already, or its parent is not.
        """
        out = settings.out
        if out.exists():
            raise InputError(f"{out}: expected a name for a new folder, got one that is there; choose another")
        if not out.absolute().parent.is_dir():
            raise InputError(f"{out}: expected an existing folder {out.parent}, found none; create it first")
        folder = out.with_name(out.name + ".training")
        folder.mkdir(exist_ok=True)
        return cls(out, folder, Cache(folder / "cache" if settings.cache is None else settings.cache))

    def require_same(self, settings: CommonSettings, data: str) -> None:
        """Notes settings and data, or sees that they are those of the run that began here.

        Raises:
            InputError: they differ; a training cannot go on as another one.
        """
        path = self.folder / _SETTINGS
        wanted = {**_plain(settings), "content of data": data}
        if not path.is_file():
            write_json_atomic(path, wanted)
            return
        try:
            began = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: cannot read it: {error}; delete {self.folder} to start anew") from error
        for key in sorted({*began, *wanted} - _NOT_OF_THE_RESULT):
            if began.get(key) != wanted.get(key):
                raise InputError(
                    f"{path}: a training with {key} = {json.dumps(began.get(key))} began here, got "
                    f"{json.dumps(wanted.get(key))}; give the same settings to go on, or delete {self.folder}, "
                    "or choose another out"
                )

    def depths(self, measure: Callable[[], Mapping[int, float]]) -> dict[int, float]:
        """Seconds by number of layers, measured once: a training that goes on has the layers that it began with."""
        path = self.folder / _DEPTHS
        if not path.is_file():
            write_json_atomic(path, {str(layers): seconds for layers, seconds in measure().items()})
        return {int(layers): float(seconds) for layers, seconds in json.loads(path.read_text()).items()}

    def save(self, student: Student, settings: CommonSettings) -> Path:
        """Writes the model folder that ``deliver`` will move, and says where."""
        made = self.folder / "model"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        student.save(made, settings.half, settings.share_weights)
        return made

    def deliver(self, made: Path, settings: CommonSettings, quality: Mapping[str, Mapping[str, float]]) -> None:
        """The saved model folder appears, whole; checkpoints are removed, caches and metrics stay."""
        write_json_atomic(made / _REPORT, {"settings": _plain(settings), "nDCG@10": quality})
        if (self.folder / METRICS).is_file():
            shutil.copyfile(self.folder / METRICS, made / METRICS)
        made.rename(self.out)
        for checkpoint in self.folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        for name in (_SETTINGS, _DEPTHS):
            (self.folder / name).unlink(missing_ok=True)


def _plain(settings: CommonSettings) -> dict[str, Any]:
    plain: dict[str, Any] = settings.model_dump(mode="json")
    return plain
