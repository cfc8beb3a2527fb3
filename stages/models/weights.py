"""Weights of model folders, where a small model may leave out what it shares with the model that it was made from.

The word embeddings of a small model are half of its weights. A folder whose ``config.json`` says
``"base_model": "bundled:NAME"`` holds only the tensors that differ from that model's; the others come from there.
Training moves weights little, so of a matrix that the base has, too, only the difference is kept, in 8 bits a
component: ``NAME.units`` as int8 and ``NAME.step``, what one unit of each row stands for, make
``base + step * units``. Nothing is stored under ``NAME`` itself then, so that nobody takes a difference for a weight.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import InputError, ModelError
from stages.models.catalogue import bundled
from stages.models.layout import read_config

if TYPE_CHECKING:
    import torch

BASE_KEY = "base_model"
_UNITS = ".units"
_STEP = ".step"
_LEVELS = 127
_WEIGHTS = "model.safetensors"


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder by name, in float32, those of its base included.

    A base names its tensors as an encoder does (``embeddings.word_embeddings.weight``); here they have the prefix that
    this folder's own have (``bert.``, ``distilbert.`` or none).

    Raises:
        ModelError: a file is damaged, or the base is not one that comes with the package.
    """
    own = _tensors(folder)
    base = read_config(folder).get(BASE_KEY)
    shared = {} if base is None else read_weights(bundled(str(base)).folder())
    prefix = _prefix(own)
    for name, tensor in shared.items():
        if prefix + name not in own:
            units, step = own.pop(prefix + name + _UNITS, None), own.pop(prefix + name + _STEP, None)
            own[prefix + name] = _sum(tensor, units, step, f"{folder}: {prefix}{name}")
        elif own[prefix + name].dtype != tensor.dtype:
            raise ModelError(f"{folder}: {prefix}{name}: expected {tensor.dtype}, got {own[prefix + name].dtype}")
    if lost := sorted(name for name in own if name.endswith((_UNITS, _STEP))):
        raise ModelError(f"{folder}: {lost[0]}: expected a matrix of the base {base} that it belongs to, there is none")
    return own


def save_weights(
    folder: Path, state: Mapping[str, torch.Tensor], *, base: str | None = None, half: bool = False
) -> None:
    """Writes ``model.safetensors`` into a model folder.

    Args:
        folder: has its ``config.json`` already; the key ``base_model`` is added to it where there is a base.
        state: tensors by name.
        base: ``bundled:NAME`` of the model whose equal tensors are left out, and which others are the difference to.
        half: store other matrices in float16; vectors, which are few and delicate, stay in float32.
    """
    import torch

    kept, differences = dict(state), dict[str, torch.Tensor]()
    if base is not None:
        prefix = _prefix(state)
        shared = read_weights(bundled(base).folder())
        kept = {
            name: tensor for name, tensor in state.items() if not _same(shared.get(name.removeprefix(prefix)), tensor)
        }
        for name, tensor in list(kept.items()):
            theirs = shared.get(name.removeprefix(prefix))
            if theirs is not None and _near(tensor, theirs):
                units, step = _difference(kept.pop(name).float().cpu(), theirs)
                differences |= {name + _UNITS: units, name + _STEP: step}
        config = read_config(folder)
        (folder / "config.json").write_text(json.dumps({**config, BASE_KEY: base}, indent=2) + "\n", encoding="utf-8")
    stored = {
        name: (tensor.to(torch.float16) if half and tensor.ndim > 1 else tensor.float()).contiguous().clone()
        for name, tensor in kept.items()
    }
    _write(stored | differences, folder)


def export_folder(folder: Path, target: Path) -> None:
    """Writes a copy of a model folder that needs no other: with all weights, in float32.

    The copy appears whole or not at all.

    Raises:
        InputError: ``target`` is there already.
        ModelError: the folder cannot be read.
        OSError: it cannot be written.
    """
    if target.exists():
        raise InputError(f"{target}: expected a folder that does not exist yet, got one that does; choose another")
    weights = {name: tensor.contiguous() for name, tensor in read_weights(folder).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as building:
        copy = Path(building) / "model"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors", ".*"))
        config = {key: value for key, value in read_config(folder).items() if key != BASE_KEY}
        (copy / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _write(weights, copy)
        copy.rename(target)


def _write(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    from safetensors.torch import save

    # not save_file(), whose files nobody but their owner may read
    (folder / _WEIGHTS).write_bytes(save(dict(weights), metadata={"format": "pt"}))


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found.update(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot read it as safetensors: {error}") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def _near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether a matrix is the base's, moved a little."""
    if ours.ndim != 2 or ours.shape != theirs.shape:
        return False
    return bool((ours.float().cpu() - theirs).norm() < theirs.norm() / 2)


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [r, c] and float32 [r]: each row of the difference in units of its largest component's 127th part."""
    import torch

    difference = ours - theirs
    step = difference.abs().amax(1) / _LEVELS
    units = (difference / step.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
    return units.to(torch.int8).contiguous(), step


def _sum(theirs: torch.Tensor, units: torch.Tensor | None, step: torch.Tensor | None, where: str) -> torch.Tensor:
    """A tensor of a folder whose base has ``theirs`` in its place."""
    if units is None and step is None:
        return theirs
    if units is None or step is None:
        raise ModelError(f"{where}: expected {_UNITS} with {_STEP}, got one without the other")
    if units.shape != theirs.shape or units.ndim != 2 or step.shape != units.shape[:1]:
        raise ModelError(f"{where}: a difference of shape {tuple(units.shape)} does not fit {tuple(theirs.shape)}")
    return theirs + units * step[:, None]


def _prefix(names: Mapping[str, Any]) -> str:
    return next((p for p in ("bert.", "distilbert.") if any(name.startswith(p) for name in names)), "")


def _same(ours: torch.Tensor | None, theirs: torch.Tensor) -> bool:
    import torch

    return ours is not None and ours.shape == theirs.shape and torch.equal(ours, theirs.float().cpu())
