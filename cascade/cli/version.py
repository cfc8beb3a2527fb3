"""``cascade version``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

PACKAGES = ("cascade-ranking", "torch", "transformers", "numpy", "bm25s", "numba")


def version() -> None:
    """Prints the versions of cascade, Python and what decides results.

    Example: cascade version
    """
    print(f"python {platform.python_version()}")
    for package in PACKAGES:
        try:
            print(f"{package} {installed(package)}")
        except PackageNotFoundError:
            print(f"{package} is not installed")
