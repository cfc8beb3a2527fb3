"""Writing ``.npy`` files piece by piece."""

from __future__ import annotations

import io
import os
from typing import IO, Any

import numpy as np


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What the file of an array of this type and shape begins with."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def sync(file: IO[Any]) -> None:
    """Has what was written so far on the disk."""
    file.flush()
    os.fsync(file.fileno())
