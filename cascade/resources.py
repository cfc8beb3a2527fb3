"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path

from cascade.errors import InputError

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of an installed wheel, of a checkout


def config_path(name: str) -> Path:
    """Where a cascade file that comes with the package lies, such as ``default.yaml``.

    Raises:
        InputError: when there is none of that name.
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    known = sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.yaml")})
    raise InputError(f"no cascade {Path(name).stem!r} comes with the package; there are {', '.join(known)}")
