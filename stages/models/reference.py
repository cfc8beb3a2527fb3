"""What a configuration's ``model:`` may say, and the folder that it stands for.

``bundled:NAME`` is a model of the catalogue. ``hf:ORG/NAME@REVISION`` is a model of the Hugging Face hub, always with
a revision, so that an index and the weights that built it cannot drift apart. Anything else is a folder, relative to
that of the YAML file.

Weights are only ever read from safetensors files: the older ``pytorch_model.bin`` is a pickle, and loading a pickle
runs whatever code its author put there.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field

from cascade.errors import ModelError
from cascade.stage import Context
from stages.models.catalogue import BUNDLED, bundled, bundled_names
from stages.models.layout import read_config
from stages.models.weights import BASE_KEY

ModelRef: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=4096, description="bundled:NAME, a folder, or hf:ORG/NAME@REVISION"),
]

HUB = "hf:"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})@(?P<revision>{_PART})")
_HUB_FILES = ("*.json", "*.safetensors", "artifact.metadata")
_CHUNK = 1 << 20


def check(ref: str, context: Context) -> str | None:
    """Why the model cannot be used, seen without loading anything or touching the network; None if nothing is wrong."""
    try:
        if ref.startswith(HUB):
            _parse_hub(ref)
        else:
            require_files(_folder(ref, context), ref)
    except (ModelError, OSError, RuntimeError) as error:  # a path may be unreadable, or have no home to expand to
        return str(error)
    return None


def locate(ref: str, context: Context) -> Path:
    """The folder with the model's ``config.json``, ``tokenizer.json`` and ``*.safetensors``.

    A hub model is downloaded once and then comes from the local cache.

    Raises:
        ModelError: there is no such model, it cannot be fetched, or a file is missing.
    """
    folder = _download(*_parse_hub(ref)) if ref.startswith(HUB) else _folder(ref, context)
    require_files(folder, ref)
    return folder


def fingerprint(folder: Path) -> str:
    """16 hex digits over the contents of ``config.json``, ``tokenizer.json`` and every ``*.safetensors`` (SHA-256).

    Those of the base, too, where the folder leaves weights to one.

    Raises:
        ModelError: a file cannot be read.
    """
    digest = hashlib.sha256()
    files = [folder / "config.json", folder / "tokenizer.json", *sorted(folder.glob("*.safetensors"))]
    try:
        for path in files:
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot read the model: {error.strerror}") from error
    base = read_config(folder).get(BASE_KEY)
    if base is not None:
        digest.update(fingerprint(bundled(str(base)).folder()).encode())
    return digest.hexdigest()[:16]


def require_files(folder: Path, ref: str) -> None:
    """Raises ``ModelError`` unless the folder holds configuration, tokenizer and safetensors weights."""
    if not folder.is_dir():
        raise ModelError(
            f"{ref}: no model folder at {folder}; give a folder, one of {bundled_names()}, or hf:ORG/NAME@REVISION"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{ref}: expected a config.json in {folder}; is this the folder of a transformers model?")
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{ref}: expected a tokenizer.json in {folder}; older tokenizer files are converted by "
            "`AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)`"
        )
    if not any(folder.glob("*.safetensors")):
        old = sorted(path.name for path in folder.glob("*.bin"))
        got = f"got only {', '.join(old)}, a pickle, which can run code when loaded" if old else "got none"
        raise ModelError(
            f"{ref}: expected weights as *.safetensors in {folder}, {got}; where you trust the source, convert it with "
            "`AutoModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)`"
        )


def _folder(ref: str, context: Context) -> Path:
    if ref.startswith(BUNDLED):
        return bundled(ref).folder()
    if "\0" in ref:
        raise ModelError(f"{ref!r}: a path cannot hold a NUL character")
    return context.folder / Path(ref).expanduser()


def _parse_hub(ref: str) -> tuple[str, str]:
    match = _HUB.fullmatch(ref.removeprefix(HUB))
    if match is None or ".." in ref:
        raise ModelError(
            f"{ref}: expected hf:ORG/NAME@REVISION, where the revision is best a commit hash, which cannot change"
        )
    return match["repo"], match["revision"]


def _download(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    if not are_progress_bars_disabled():
        disable_progress_bars()
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub client raises a dozen unrelated types, and all mean the same here
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"hf:{repo}@{revision}: cannot be fetched: {type(error).__name__}: {reason[0] if reason else 'no reason'}; "
            "check name, revision and network, or copy the model's files into a folder and name that folder instead"
        ) from error
