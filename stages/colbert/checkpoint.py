"""What a checkpoint says of how it wants to be used for late interaction: markers, lengths, expansion, projection.

Three kinds of folder are told apart by their files, none of which is ever executed:

- as colbert-ai writes them: ``artifact.metadata`` beside weights in which ``linear.weight`` is the projection;
- as PyLate writes them: ``config_sentence_transformers.json`` with a ``query_length``, ``modules.json``, and the
  projection in a folder of its own, ``1_Dense``;
- any other encoder, used as it is: no markers, no expansion, no projection. Nobody trained such a model for late
  interaction, but the contextual token embeddings of a good bi-encoder can do it rather well.
"""

from __future__ import annotations

import json
import logging
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cascade.errors import ModelError

logger = logging.getLogger(__name__)

COLBERT_METADATA = "artifact.metadata"
PYLATE_METADATA = "config_sentence_transformers.json"
PYLATE = "pylate"
"""The kind of a checkpoint of PyLate."""
UNTRAINED = "encoder"
"""The kind of a checkpoint that was not made for late interaction."""
_UNTRAINED_QUERY_TOKENS = 66
"""With two special tokens, 64 of the query: ``kind: dense`` reads as many, so that one reading serves both."""
_IDENTITY = ("torch.nn.modules.linear.Identity", "torch.nn.Identity")
_SUBFOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_Json = TypeVar("_Json", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Format:
    """How a checkpoint is used.

    Args:
        kind: who wrote it.
        query_marker: token of the vocabulary that goes behind the first special token of a query; empty for none.
        document_marker: the same for passages.
        query_tokens: length of an encoded query, special tokens and marker included.
        passage_tokens: most tokens of a passage, special tokens and marker included.
        expand_queries: whether queries are filled up with [MASK] to ``query_tokens``, which then take part in scoring.
        attend_to_expansion: whether the query's own tokens attend to those.
        skip_words: passage tokens that are read but not scored: punctuation.
        projection: files that hold matrices [out, in] as ``linear.weight``, to be applied one after the other.
    """

    kind: str
    query_marker: str
    document_marker: str
    query_tokens: int
    passage_tokens: int
    expand_queries: bool
    attend_to_expansion: bool
    skip_words: tuple[str, ...]
    projection: tuple[Path, ...]


class _ColbertMetadata(BaseModel):
    """The part of ``artifact.metadata`` that bears on inference, with colbert-ai's defaults."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    query_token_id: str = "[unused0]"
    doc_token_id: str = "[unused1]"
    query_maxlen: int = Field(32, ge=4)
    doc_maxlen: int = Field(220, ge=4)
    mask_punctuation: bool = True
    attend_to_mask_tokens: bool = False
    expand_queries: bool = True
    """Ours: colbert-ai does not know it and always expands."""
    similarity: str = "cosine"
    interaction: str = "colbert"


class _PylateMetadata(BaseModel):
    """The part of PyLate's configuration that bears on inference, with PyLate's defaults."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = Field(32, ge=4)
    document_length: int = Field(180, ge=4)
    do_query_expansion: bool = True
    attend_to_expansion_tokens: bool = False
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)


class _Dense(BaseModel):
    """The ``config.json`` of a projection."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    use_residual: bool = False


def read_format(folder: Path) -> Format:
    """How the checkpoint in a folder is used.

    Raises:
        ModelError: its metadata are unreadable or ask for something that is not supported.
    """
    architectures = _read_json(folder / "config.json").get("architectures")
    if (folder / COLBERT_METADATA).is_file() or architectures == ["HF_ColBERT"]:
        return _colbert(folder)
    pylate = folder / PYLATE_METADATA
    if pylate.is_file() and "query_length" in _read_json(pylate):
        return _pylate(folder)
    logger.info("%s: not trained for late interaction; its token embeddings are used as they are", folder)
    return Format(UNTRAINED, "", "", _UNTRAINED_QUERY_TOKENS, 256, False, False, (), ())


def read_projection(form: Format) -> npt.NDArray[np.float32] | None:
    """float32 [dim, hidden]: the product of a checkpoint's projections; None where it has none.

    Raises:
        ModelError: a file cannot be read, or the matrices do not fit each other.
    """
    product: npt.NDArray[np.float32] | None = None
    for path in form.projection:
        matrix = _linear_weight(path)
        if product is not None and matrix.shape[1] != product.shape[0]:
            raise ModelError(f"{path}: expected {product.shape[0]} columns, got {matrix.shape[1]}")
        product = matrix if product is None else matrix @ product
    return product


def _colbert(folder: Path) -> Format:
    path = folder / COLBERT_METADATA
    raw = _read_json(path) if path.is_file() else {}
    found = _validated(_ColbertMetadata, raw.get("config", raw), path)
    for field, supported in (("similarity", "cosine"), ("interaction", "colbert")):
        if getattr(found, field) != supported:
            raise ModelError(f"{path}: {field}: expected {supported!r}, got {getattr(found, field)!r}: not supported")
    weights = [file for file in sorted(folder.glob("*.safetensors")) if "linear.weight" in _tensor_names(file)]
    if len(weights) != 1:
        raise ModelError(
            f"{folder}: expected the projection as linear.weight in one *.safetensors, found it in {len(weights)}; "
            "was the checkpoint saved by colbert-ai?"
        )
    return Format(
        kind="colbert-ai",
        query_marker=found.query_token_id,
        document_marker=found.doc_token_id,
        query_tokens=found.query_maxlen,
        passage_tokens=found.doc_maxlen,
        expand_queries=found.expand_queries,
        attend_to_expansion=found.attend_to_mask_tokens,
        skip_words=tuple(string.punctuation) if found.mask_punctuation else (),
        projection=tuple(weights),
    )


def _pylate(folder: Path) -> Format:
    path = folder / PYLATE_METADATA
    given = {name: value for name, value in _read_json(path).items() if value is not None}
    found = _validated(_PylateMetadata, given, path)
    return Format(
        kind=PYLATE,
        query_marker=found.query_prefix,
        document_marker=found.document_prefix,
        query_tokens=found.query_length,
        passage_tokens=found.document_length,
        expand_queries=found.do_query_expansion,
        attend_to_expansion=found.do_query_expansion and found.attend_to_expansion_tokens,
        skip_words=found.skiplist_words,
        projection=tuple(_dense_files(folder)),
    )


def _dense_files(folder: Path) -> Iterator[Path]:
    """Weights of the projections that ``modules.json`` names, each checked to be linear and nothing more."""
    modules = _read_json(folder / "modules.json", list)
    for module in modules:
        kind, name = str(module.get("type", "")).rsplit(".", 1)[-1], str(module.get("path", ""))
        if kind == "Transformer" and not name:
            continue
        if kind != "Dense" or _SUBFOLDER.fullmatch(name) is None:
            raise ModelError(
                f"{folder / 'modules.json'}: expected a Transformer in the folder itself and Dense modules in "
                f"subfolders, got {kind!r} in {name!r}: not supported"
            )
        config = folder / name / "config.json"
        dense = _validated(_Dense, _read_json(config), config)
        if dense.bias or dense.use_residual or dense.activation_function not in _IDENTITY:
            raise ModelError(f"{config}: expected a projection without bias, residual and activation, got {dense!r}")
        weights = folder / name / "model.safetensors"
        if not weights.is_file():
            raise ModelError(f"{weights}: no such file; save the model again with safe_serialization=True")
        yield weights


def _tensor_names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot read it as safetensors: {error}") from error


def _linear_weight(path: Path) -> npt.NDArray[np.float32]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            weight: npt.NDArray[np.float32] = file.get_tensor("linear.weight").float().numpy()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot read linear.weight from it: {error}") from error
    if weight.ndim != 2:
        raise ModelError(f"{path}: linear.weight: expected a matrix, got shape {weight.shape}")
    return weight


def _validated(model: type[_Json], values: Any, path: Path) -> _Json:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path}: {where}: {first['msg']}, got {first['input']!r}") from error


def _read_json(path: Path, expected: type = dict) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot read it: {error}") from error
    if not isinstance(content, expected):
        raise ModelError(f"{path}: expected a JSON {expected.__name__}, got {type(content).__name__}")
    return content
