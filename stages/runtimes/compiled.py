"""What forms of models have in common, whichever package runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from stages.runtimes.choice import Floats, Ints

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_CHUNK = 8
"""Inputs of one call. More at once are no faster, and OpenVINO compiles kernels for every shape that it meets: so there
are few shapes. Each chunk is padded for itself."""
_MULTIPLE = 8


class CompiledRuntime(ABC):
    """Runs a form in small chunks of like lengths; both a ``Runtime`` and ``States``.

    Args:
        outputs: number of outputs for each input.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    @abstractmethod
    def prepare(self, threads: int) -> None:
        """Gets ready for callers of which each may use so many cores."""

    @abstractmethod
    def infer(self, parts: tuple[Ints, Ints, Ints]) -> Any:
        """What the form gives of contiguous ``INPUTS``; may be overwritten by the calling thread's next call."""

    def run(self, ids: Ints, mask: Ints, segments: Ints | None) -> Floats:
        """float32 [n, outputs]; see ``Runtime``."""
        parts = (ids, mask, np.zeros_like(ids) if segments is None else segments)
        out = np.empty((len(ids), self.outputs), np.float32)
        lengths = mask.sum(1)
        order = np.argsort(-lengths, kind="stable")
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            width = -(-int(lengths[rows[0]]) // _MULTIPLE) * _MULTIPLE
            first, second, third = (np.ascontiguousarray(part[rows, :width]) for part in parts)
            out[rows] = self.infer((first, second, third))
        return out

    def states(self, ids: Ints, mask: Ints) -> Floats:
        """float32 [n, L, outputs] of an encoder; see ``States``."""
        length = ids.shape[1]
        room = ((0, 0), (0, -length % _MULTIPLE))
        padded = np.pad(ids, room)
        found = self.infer((padded, np.pad(mask, room), np.zeros_like(padded)))
        states: Floats = found[:, :length].astype(np.float32)
        return states
