"""The deepest student that scores its candidates in time on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from cascade.errors import InputError
from cascade.types import TokenIds
from stages.training.device import Device
from stages.training.scoring import on_device
from stages.training.students import Student

_REPEATS = 7


def measure_depths(
    make: Callable[[int], Student],
    depths: Sequence[int],
    question: TokenIds,
    passages: Sequence[TokenIds],
    device: Device,
) -> dict[int, float]:
    """Seconds that a student of each depth takes to score the passages for one question; the median of a few runs."""
    return {depth: _seconds(make(depth), question, passages, device) for depth in depths}


def deepest_within(target_s: float, seconds: Mapping[int, float]) -> int:
    """The largest depth that takes no longer than the target.

    Raises:
        InputError: not even the smallest does.

    >>> deepest_within(0.030, {1: 0.011, 2: 0.019, 3: 0.031})
    2
    """
    fitting = [depth for depth, took in seconds.items() if took <= target_s]
    if not fitting:
        least = min(seconds)
        raise InputError(
            f"target_ms: expected at least {seconds[least] * 1000:.1f}, what {least} layer(s) take here, got "
            f"{target_s * 1000:g}; raise it, or lower candidates or max_passage_tokens"
        )
    return max(fitting)


def _seconds(student: Student, question: TokenIds, passages: Sequence[TokenIds], device: Device) -> float:
    student.to(device.name).eval()
    inputs = on_device(student.collate([question], passages, len(passages)), device.name)
    taken = []
    with torch.inference_mode():
        student(**inputs)
        for _ in range(_REPEATS):
            began = time.perf_counter()
            student(**inputs).sum().item()  # item() waits for a GPU
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)
