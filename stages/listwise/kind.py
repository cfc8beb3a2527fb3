"""The kind ``listwise`` and its settings. Importing this loads neither torch nor weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from cascade.stage import Context, Stage, StageKind, StageSettings
from stages.models import ModelRef, check


class ListwiseSettings(StageSettings):
    """Settings of a listwise ranker, a joint encoder trained on several passages at once."""

    model: ModelRef
    window: int = Field(4, ge=1, le=64, description="most passages in one forward pass")
    batch_tokens: int = Field(512, ge=16, le=8192, description="most tokens in one forward pass")
    max_passage_tokens: int = Field(110, ge=1, le=510, description="tokens of a passage that are read")
    max_query_tokens: int = Field(32, ge=1, le=510, description="tokens of a query that are read")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: faster where the processor has it, scores rounded to about 3 digits"
    )


def _check(settings: ListwiseSettings, context: Context) -> Sequence[tuple[str, str]]:
    wrong = check(settings.model, context)
    return [] if wrong is None else [("model", wrong)]


def _load(settings: ListwiseSettings, context: Context) -> Stage:
    from stages.listwise.stage import ListwiseStage

    return ListwiseStage(settings, context)


KIND = StageKind(
    kind="listwise",
    role="listwise",
    settings=ListwiseSettings,
    load=_load,
    check=_check,
    summary="a transformer that reads several passages at once and compares them",
)
