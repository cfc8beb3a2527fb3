"""Where training computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from cascade.errors import InputError
from stages.models import cpu_has_bfloat16
from stages.training.settings import CommonSettings


@dataclass(frozen=True, slots=True)
class Device:
    """One CPU or GPU.

    Args:
        name: as torch calls it.
        half: whether products are taken in bfloat16.
    """

    name: str
    half: bool

    @property
    def pairs_at_once(self) -> int:
        """Passages in a batch where no gradient is needed: what keeps the hardware busy."""
        return 1024 if self.name == "cuda" else 48

    def autocast(self) -> AbstractContextManager[Any]:
        """Within it products are taken in the chosen precision."""
        return torch.autocast(self.name, torch.bfloat16) if self.half else nullcontext()


def choose_device(settings: CommonSettings) -> Device:
    """The device that the settings ask for.

    Raises:
        InputError: it is not there.
    """
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise InputError("device: expected a GPU for device=cuda, torch finds none; use device=cpu")
    name = "cuda" if there and settings.device != "cpu" else "cpu"
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.precision == "auto":
        return Device(name, torch.cuda.is_bf16_supported() if name == "cuda" else cpu_has_bfloat16())
    return Device(name, settings.precision == "bfloat16")
