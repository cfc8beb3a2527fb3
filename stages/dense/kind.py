"""The kind ``dense`` and its settings. Importing this loads neither torch nor weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from cascade.stage import Context, Stage, StageKind, StageSettings, index_field
from stages.models import ModelRef, check, locate, scores_pairs
from stages.runtimes import RuntimeName, runtime_problems


class DenseSettings(StageSettings):
    """Settings of a dense retriever; those of the index cannot change without building it anew."""

    model: ModelRef = index_field("bundled:bi-encoder")
    max_passage_tokens: int = index_field(256, ge=1, le=8192, description="tokens of a passage that are read")
    max_query_tokens: int = Field(64, ge=1, le=8192, description="tokens of a query that are read")
    passage_prefix: str = index_field("", max_length=1000, description="put before passages; E5 wants 'passage: '")
    query_prefix: str = Field("", max_length=1000, description="put before queries; E5 wants 'query: '")
    pooling: Literal["auto", "mean", "cls"] = index_field("auto", description="auto: what the checkpoint states")
    normalise: bool = index_field(True, description="scale vectors to length 1: scores are cosines")
    dtype: Literal["float32", "float16"] = index_field("float32", description="float16 halves the index, not the time")
    runtime: RuntimeName = Field(
        "auto", description="encodes queries; auto: what 'cascade models optimize' made of the model, else torch"
    )
    search: Literal["exact", "hnsw"] = index_field("exact", description="hnsw: approximate; for millions of passages")
    hnsw_links: int = index_field(32, ge=4, le=256, description="links of a node in the HNSW graph (M)")
    hnsw_ef_construction: int = index_field(200, ge=8, le=4096, description="candidates kept while building the graph")
    hnsw_ef_search: int = Field(128, ge=1, le=65536, description="candidates kept while searching the graph")


def _check(settings: DenseSettings, context: Context) -> Sequence[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    wrong = check(settings.model, context)
    if wrong is None and not settings.model.startswith("hf:") and scores_pairs(locate(settings.model, context)):
        wrong = "expected an encoder of texts, got a model that scores pairs; take kind: cross_encoder"
    if wrong is not None:
        problems.append(("model", wrong))
    if settings.search == "hnsw" and importlib.util.find_spec("faiss") is None:
        message = "hnsw needs the package faiss-cpu; run `pip install 'cascade-ranking[hnsw]'` or take search: exact"
        problems.append(("search", message))
    return [*problems, *runtime_problems(settings.runtime, "auto")]


def _load(settings: DenseSettings, context: Context) -> Stage:
    from stages.dense.stage import DenseStage

    return DenseStage(settings, context)


KIND = StageKind(
    kind="dense",
    role="retriever",
    settings=DenseSettings,
    load=_load,
    indexed=True,
    check=_check,
    summary="nearest passages by one embedding each, searched exactly or through an HNSW graph",
)
