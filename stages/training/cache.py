"""Arrays kept under the hash of all that they were computed from."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.io import atomic_write_bytes

logger = logging.getLogger(__name__)

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of arrays.

    Args:
        folder: made when the first arrays are kept.
    """

    folder: Path

    def arrays(self, what: str, origin: tuple[object, ...], compute: Callable[[], Arrays]) -> Arrays:
        """The arrays computed from ``origin``, computed now unless they are kept already.

        Args:
            what: a word for the file's name.
            origin: everything that shapes them; its ``repr`` must tell it apart.
            compute: makes them.
        """
        path = self.folder / f"{what}-{hashlib.sha256(repr(origin).encode()).hexdigest()[:16]}.npz"
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    return {name: kept[name] for name in kept.files}
            except (
                OSError,
                ValueError,
                zipfile.BadZipFile,
            ) as error:  # a file that a full disk or another program cut off
                logger.warning("%s: damaged, computed again: %s", path, error)
        made = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write_bytes(path) as file:
            np.savez(file, **made)  # type: ignore[arg-type]
        return made
