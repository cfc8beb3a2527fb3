"""The kind ``listwise`` and its settings. Importing this loads neither torch nor weights."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from cascade.stage import Context, Stage, StageKind, StageSettings
from stages.models import ModelRef, check
from stages.runtimes import Dtype, RuntimeName, runtime_problems


class ListwiseSettings(StageSettings):
    """Settings of a listwise ranker, a joint encoder trained on several passages at once."""

    model: ModelRef
    window: int = Field(4, ge=1, le=64, description="most passages in one forward pass")
    batch_tokens: int = Field(512, ge=16, le=8192, description="most tokens in one forward pass")
    max_passage_tokens: int = Field(110, ge=1, le=510, description="tokens of a passage that are read")
    max_query_tokens: int = Field(32, ge=1, le=510, description="tokens of a query that are read")
    runtime: RuntimeName = Field(
        "auto", description="auto: what 'cascade models optimize' made for windows of this size, else torch"
    )
    dtype: Dtype = Field(
        "auto",
        description="auto: float32 on torch, else the fastest that was made; bfloat16: 3 digits; float16: on a GPU",
    )


def _check(settings: ListwiseSettings, context: Context) -> Sequence[tuple[str, str]]:
    wrong = check(settings.model, context)
    problems = [] if wrong is None else [("model", wrong)]
    return [*problems, *runtime_problems(settings.runtime, settings.dtype)]


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
