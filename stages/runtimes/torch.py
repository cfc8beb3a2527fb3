"""Torch runs the module as it is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from cascade.errors import ModelError
from stages.runtimes.choice import Floats, Ints
from stages.runtimes.first_token import first_token_only

_PROBE = 8


class TorchRuntime:
    """A module in torch: on the CPU, in float16 on the first GPU.

    Args:
        module: gives float [n, outputs] of ids, mask and segments; is changed to ``dtype``, but for parts of it that
            say ``full_precision``.
        dtype: of weights and activations.

    Raises:
        ModelError: float16 is wanted and there is no GPU.
    """

    def __init__(self, module: nn.Module, dtype: Literal["float32", "bfloat16", "float16"]) -> None:
        if dtype == "float16" and not torch.cuda.is_available():
            raise ModelError("expected a CUDA GPU for dtype: float16, found none; take float32, bfloat16 or int8")
        self._device = "cuda" if dtype == "float16" else "cpu"
        self._module = first_token_only(module).to(self._device, getattr(torch, dtype)).eval()
        for part in self._module.modules():
            if getattr(part, "full_precision", False):
                part.float()
        probe = torch.zeros(1, _PROBE, dtype=torch.int64)
        self._outputs = int(self._forward(probe, torch.ones_like(probe), probe).shape[1])

    @property
    def outputs(self) -> int:
        """Number of outputs for each input."""
        return self._outputs

    def prepare(self, threads: int, longest: int = 0, most: int = 1) -> None:
        """Does nothing: torch has one number of threads for the whole process, which the engine sets."""

    def run(self, ids: Ints, mask: Ints, segments: Ints | None) -> Floats:
        """float32 [n, outputs]; see ``Runtime``."""
        rows = torch.from_numpy(ids)
        kinds = torch.zeros_like(rows) if segments is None else torch.from_numpy(segments)
        out: Floats = self._forward(rows, torch.from_numpy(mask), kinds).float().cpu().numpy()
        return out

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = self._module(*(part.to(self._device) for part in (ids, mask, segments)))
        return out
