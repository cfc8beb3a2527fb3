"""Weights of model folders, where a small model may leave out what it shares with the model that it was made from.

The word embeddings of a small model are half of its weights. A folder whose ``config.json`` says
``"base_model": "bundled:NAME"`` holds only the tensors that differ from that model's; the others come from there.
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
    if base is None:
        return own
    prefix = _prefix(own)
    for name, tensor in read_weights(bundled(str(base)).folder()).items():
        own.setdefault(prefix + name, tensor)
    return own


def save_weights(
    folder: Path, state: Mapping[str, torch.Tensor], *, base: str | None = None, half: bool = False
) -> None:
    """Writes ``model.safetensors`` into a model folder.

    Args:
        folder: has its ``config.json`` already; the key ``base_model`` is added to it where there is a base.
        state: tensors by name.
        base: ``bundled:NAME`` of the model whose equal tensors are left out.
        half: store matrices in float16; vectors, which are few and delicate, stay in float32.
    """
    import torch

    kept = dict(state)
    if base is not None:
        prefix = _prefix(state)
        shared = read_weights(bundled(base).folder())
        kept = {
            name: tensor for name, tensor in state.items() if not _same(shared.get(name.removeprefix(prefix)), tensor)
        }
        config = read_config(folder)
        (folder / "config.json").write_text(json.dumps({**config, BASE_KEY: base}, indent=2) + "\n", encoding="utf-8")
    stored = {
        name: (tensor.to(torch.float16) if half and tensor.ndim > 1 else tensor.float()).contiguous().clone()
        for name, tensor in kept.items()
    }
    _write(stored, folder)


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


def _prefix(names: Mapping[str, Any]) -> str:
    return next((p for p in ("bert.", "distilbert.") if any(name.startswith(p) for name in names)), "")


def _same(ours: torch.Tensor | None, theirs: torch.Tensor) -> bool:
    import torch

    return ours is not None and ours.shape == theirs.shape and torch.equal(ours, theirs.float().cpu())
