"""A committed index, opened for searching."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade.errors import BadIndex, IndexCorrupt
from cascade.index import manifest as manifests
from cascade.index.arrays import REBUILD
from cascade.index.documents import DOCUMENT_FILES
from cascade.index.manifest import Manifest
from cascade.index.passages import StoredPassages
from cascade.index.workspace import current_generation
from cascade.schema import PassageSettings


class Index(StoredPassages):
    """One generation of an index; stays as it is for as long as it is open, whatever is committed meanwhile."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        tokenizers = {stored.fingerprint: stored.folder for stored in manifest.tokenizers}
        super().__init__(folder, manifest.corpus.documents, manifest.corpus.passages, tokenizers)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Index:
        """Opens the committed generation.

        Args:
            path: the index folder.
            verify: whether to read every file and compare its checksum; without, only sizes and structure are
                checked, which takes milliseconds.

        Raises:
            IndexMissing: there is no committed index at ``path``.
            IndexCorrupt: a file is missing or damaged.
        """
        target = Path(path)
        try:
            return cls._open_current(target, verify)
        except OSError as error:
            raise BadIndex(f"{target}: the index cannot be read: {error}; check its permissions and disk") from error

    @classmethod
    def _open_current(cls, target: Path, verify: bool) -> Index:
        name = current_generation(target)
        try:
            return cls._open_generation(target / name, verify)
        except (BadIndex, OSError):
            if current_generation(target) == name:
                raise
        return cls._open_current(target, verify)  # a writer replaced it while it was being opened

    @classmethod
    def _open_generation(cls, folder: Path, verify: bool) -> Index:
        if folder.is_symlink() or not folder.is_dir():
            raise IndexCorrupt(f"{folder}: CURRENT names this folder, which is not there; {REBUILD}")
        manifest = manifests.read_manifest(folder)
        needed = [f"documents/{name}" for name in DOCUMENT_FILES]
        needed += [f"{stored.folder}/{name}" for stored in manifest.tokenizers for name in ("ids.npy", "offsets.npy")]
        for name in needed:
            if name not in manifest.files:
                raise IndexCorrupt(f"{folder / manifests.MANIFEST}: files: expected {name!r}, which is not listed")
        for stage in manifest.stages:
            if (folder / stage.folder).is_symlink() or not (folder / stage.folder).is_dir():
                raise IndexCorrupt(f"{folder / stage.folder}: expected the folder of {stage.kind}; {REBUILD}")
        manifests.check_files(folder, manifest.files, checksums=verify)
        return cls(folder, manifest)

    @property
    def superseded(self) -> bool:
        """Whether another generation was committed since this one was opened.

        What is open stays readable. But a stage that finds its files gone while it opens them should be opened
        again over the index that has taken this one's place.
        """
        return current_generation(self.folder.parent) != self.folder.name

    def stage_directory(self, kind: str, settings: Mapping[str, Any], fingerprint: str) -> Path:
        """The folder that a stage of this kind, index settings and model fingerprint wrote.

        Raises:
            IndexMismatch: there is none; the message quotes what there is and what was asked for.
        """
        source = self.folder.parent
        return self.folder / manifests.find_stage(self.manifest.stages, kind, settings, fingerprint, source).folder

    def require_passages(self, settings: PassageSettings) -> None:
        """Makes sure that documents were split as ``settings`` ask.

        Raises:
            IndexMismatch: they were not; the message quotes both.
        """
        manifests.require_passages(self.manifest.passages, settings, self.folder.parent)
