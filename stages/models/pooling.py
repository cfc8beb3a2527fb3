"""How the token states of a text become its vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.errors import ModelError

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls"]

_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Float [n, d]: the mean of each text's states, or that of its first token.

    Args:
        states: float [n, L, d].
        mask: int64 [n, L], 1 for a token and 0 for padding.
        pooling: which of the two.
    """
    if pooling == "cls":
        return states[:, 0]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def stated_pooling(folder: Path) -> Pooling:
    """The pooling that a sentence-transformers folder states; the mean if it states none.

    Raises:
        ModelError: it wants a pooling or a further layer that this stage does not have.
    """
    modules = _read(folder / "modules.json", [])
    further = [m["type"] for m in modules if str(m.get("type")).rsplit(".", 1)[-1] not in _KNOWN_MODULES]
    if further:
        raise ModelError(
            f"{folder / 'modules.json'}: expected only transformer, pooling and normalisation, got {further}"
        )
    path = folder / "1_Pooling" / "config.json"
    stated: dict[str, Any] = _read(path, {"pooling_mode_mean_tokens": True})
    modes = {key for key, value in stated.items() if key.startswith("pooling_mode") and value}
    if modes == {"pooling_mode_mean_tokens"}:
        return "mean"
    if modes == {"pooling_mode_cls_token"}:
        return "cls"
    raise ModelError(
        f"{path}: expected pooling by mean or by cls token, got {sorted(modes)}; choose pooling: mean or cls"
    )


def _read(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot read it: {error}") from error
