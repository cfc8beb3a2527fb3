"""Settings of ``kind: colbert``, and what can be said against them before anything is loaded."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from cascade.errors import ModelError
from cascade.stage import Context, Role, StageSettings, index_field
from stages.colbert.checkpoint import UNTRAINED, read_format
from stages.models import ModelRef, check, locate, scores_pairs
from stages.runtimes import RuntimeName, runtime_problems

_PLAID_PACKAGES = {"colbert": "colbert-ai", "faiss": "faiss-cpu", "ninja": "ninja"}
_RESCORE_ONLY = ("query_weights", "bits", "pooling", "compute")


class ColbertSettings(StageSettings):
    """Settings of ``kind: colbert``."""

    model: ModelRef = Field(
        description="checkpoint of colbert-ai or PyLate; any other encoder is used untrained, over its last layer"
    )
    backend: Literal["rescore", "plaid"] = index_field(
        "rescore", description="rescore: score what an earlier stage found; plaid: find with colbert-ai's own engine"
    )
    max_passage_tokens: int | None = index_field(
        None, ge=4, description="tokens of a passage, special ones included; default: the checkpoint's"
    )
    max_query_tokens: int | None = Field(
        None, ge=4, description="tokens of a query, special ones included; default: the checkpoint's"
    )
    expand_queries: bool | None = Field(
        None, description="whether [MASK]s fill up a query and score like its own tokens; default: the checkpoint's"
    )
    query_weights: Literal["equal", "idf"] = Field(
        "equal",
        description="idf: query tokens that are rare in the index count more; for encoders used untrained",
    )
    bits: Literal[1, 2, 4, 16, 32] = index_field(
        2, description="stored for each dimension of a token embedding; up to 4: compressed, 16 and 32: floating point"
    )
    pooling: Literal[1, 2] = index_field(
        1, description="2: store half as many embeddings of a passage, each the mean of tokens that are alike"
    )
    runtime: RuntimeName = Field(
        "auto", description="encodes queries; auto: what 'cascade models optimize' made of the model, else torch"
    )
    compute: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="type of the product where embeddings are not compressed; bfloat16 is faster on CPUs that have it",
    )


def role(settings: ColbertSettings) -> Role:
    """PLAID finds, rescoring reranks."""
    return "retriever" if settings.backend == "plaid" else "reranker"


def problems(settings: ColbertSettings, context: Context) -> Sequence[tuple[str, str]]:
    """What is wrong with the settings, as (field, message) pairs."""
    found = [*_model_problems(settings, context), *runtime_problems(settings.runtime, "auto")]
    if settings.backend == "plaid":
        found += [
            (name, "has no effect under backend: plaid") for name in _RESCORE_ONLY if name in settings.model_fields_set
        ]
        missing = missing_packages()
        if missing:
            found.append(
                ("backend", f"plaid needs {', '.join(missing)}: pip install 'cascade-ranking[plaid]', or use rescore")
            )
        if shutil.which("g++") is None:
            found.append(("backend", "plaid compiles parts of colbert-ai at first use: install g++, or use rescore"))
    return found


def missing_packages() -> list[str]:
    """What ``backend: plaid`` needs and this environment does not have."""
    return [package for module, package in _PLAID_PACKAGES.items() if importlib.util.find_spec(module) is None]


def _model_problems(settings: ColbertSettings, context: Context) -> Sequence[tuple[str, str]]:
    message = check(settings.model, context)
    if message is not None:
        return [("model", message)]
    if settings.model.startswith("hf:"):
        return []
    try:
        folder = locate(settings.model, context)
        form = read_format(folder)
        if form.kind == UNTRAINED and scores_pairs(folder):
            return [("model", "expected an encoder of texts, got a model that scores pairs; take kind: cross_encoder")]
    except ModelError as error:
        return [("model", str(error))]
    if settings.backend == "plaid" and form.kind != "colbert-ai":
        return [("model", f"plaid reads checkpoints of colbert-ai, got one of kind {form.kind}; use backend: rescore")]
    return []
