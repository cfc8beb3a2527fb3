"""The kind ``cross_encoder`` and its settings. Importing this loads neither torch nor weights."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from cascade.stage import Context, Stage, StageKind, StageSettings
from stages.models import ModelRef, check
from stages.runtimes import Dtype, RuntimeName, runtime_problems


class CrossEncoderSettings(StageSettings):
    """Settings of a cross-encoder, any sequence-classification checkpoint with one or two labels."""

    model: ModelRef
    max_passage_tokens: int = Field(256, ge=1, le=8192, description="tokens of a passage that are read")
    max_query_tokens: int = Field(64, ge=1, le=8192, description="tokens of a query that are read")
    query_prefix: str = Field("", description="put before every query, for checkpoints trained with a template")
    passage_prefix: str = Field("", description="put before every passage, likewise")
    batch_tokens: int = Field(4096, ge=1, description="most tokens in one batch, padding included")
    runtime: RuntimeName = Field(
        "auto", description="auto: what 'cascade models optimize' made of the model, else torch"
    )
    dtype: Dtype = Field(
        "auto",
        description="auto: float32 on torch, else the fastest that was made; bfloat16: 3 digits; float16: on a GPU",
    )


def _check(settings: CrossEncoderSettings, context: Context) -> Sequence[tuple[str, str]]:
    wrong = check(settings.model, context)
    problems = [] if wrong is None else [("model", wrong)]
    return [*problems, *runtime_problems(settings.runtime, settings.dtype)]


def _load(settings: CrossEncoderSettings, context: Context) -> Stage:
    from stages.cross_encoder.stage import CrossEncoderStage

    return CrossEncoderStage(settings, context)


KIND = StageKind(
    kind="cross_encoder",
    role="reranker",
    settings=CrossEncoderSettings,
    load=_load,
    check=_check,
    summary="a transformer that reads query and passage together",
)
