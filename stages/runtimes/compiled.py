"""What forms of models have in common, whichever package runs them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from stages.runtimes.choice import Floats, Ints

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MOST = 8
"""Inputs of one call; more at once are no faster."""
_FINE, _COARSE, _SHORT = 8, 16, 64
"""Inputs are padded to a multiple of the first up to so many tokens, and of the second beyond."""


def padded(tokens: int) -> int:
    """Tokens of an input after padding.

    >>> [padded(tokens) for tokens in (1, 64, 65, 100)]
    [8, 64, 80, 112]
    """
    multiple = _FINE if tokens <= _SHORT else _COARSE
    return -(-tokens // multiple) * multiple


def chunks(count: int) -> Iterator[slice]:
    """Parts of ``count`` inputs, each a power of two of them: with few lengths, so that few shapes are met.

    >>> [part.stop - part.start for part in chunks(21)]
    [8, 8, 4, 1]
    """
    start = 0
    while start < count:
        stop = start + (1 << min(count - start, _MOST).bit_length() - 1)
        yield slice(start, stop)
        start = stop


def shapes(longest: int, most: int) -> Iterator[tuple[int, int]]:
    """Inputs and tokens of every call with at most so many of each, the smallest first."""
    lengths = dict.fromkeys(map(padded, range(1, longest + 1)))
    return itertools.product((1 << power for power in range(most.bit_length())), lengths)


class CompiledRuntime(ABC):
    """Runs a form in small chunks of like lengths; both a ``Runtime`` and ``States``.

    Args:
        outputs: number of outputs for each input.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    @abstractmethod
    def prepare(self, threads: int, longest: int = 0, most: int = 1) -> None:
        """Gets ready for callers of which each may use so many cores; see ``Runtime``."""

    @abstractmethod
    def infer(self, parts: tuple[Ints, Ints, Ints]) -> Any:
        """What the form gives of contiguous ``INPUTS``; may be overwritten by the calling thread's next call."""

    def run(self, ids: Ints, mask: Ints, segments: Ints | None) -> Floats:
        """float32 [n, outputs]; see ``Runtime``."""
        given = (ids, mask, np.zeros_like(ids) if segments is None else segments)
        out = np.empty((len(ids), self.outputs), np.float32)
        lengths = mask.sum(1)
        order = np.argsort(-lengths, kind="stable")
        for part in chunks(len(order)):
            rows = order[part]
            longest = int(lengths[rows[0]])
            parts = np.zeros((len(INPUTS), len(rows), padded(longest)), np.int64)
            for target, source in zip(parts, given, strict=True):
                target[:, :longest] = source[rows, :longest]
            out[rows] = self.infer((parts[0], parts[1], parts[2]))
        return out

    def states(self, ids: Ints, mask: Ints) -> Floats:
        """float32 [n, L, outputs] of an encoder; see ``States``."""
        length = ids.shape[1]
        room = ((0, 0), (0, padded(length) - length))
        wide = np.pad(ids, room)
        found = self.infer((wide, np.pad(mask, room), np.zeros_like(wide)))
        states: Floats = found[:, :length].astype(np.float32)
        return states
