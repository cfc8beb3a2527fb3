"""What YAML may say of a fusion stage, and what can be wrong with it."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Field

from cascade.stage import Context, Stage, StageKind, StageSettings

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FusionSettings(StageSettings):
    """Settings of ``kind: fusion``."""

    method: Literal["rrf", "weighted"] = Field("rrf", description="rrf: by ranks; weighted: by normalised scores")
    rrf_k: float = Field(60.0, ge=0, allow_inf_nan=False, description="rrf: how little the first ranks stand out")
    weights: dict[str, Weight] | None = Field(None, description="weight of each retriever by name; default: equal")
    normalise: Literal["min_max", "z_score"] = Field("min_max", description="weighted: how scores are made comparable")
    retrievers: tuple[str, ...] = Field((), description="names of the retrievers in order; filled in by the loader")

    def weight_of(self, retriever: str) -> float:
        """The retriever's weight."""
        return 1.0 if self.weights is None else self.weights[retriever]


def _check(settings: FusionSettings, context: Context) -> list[tuple[str, str]]:
    if settings.weights is None:
        return []
    problems: list[tuple[str, str]] = []
    names = ", ".join(settings.retrievers)
    for name in settings.weights:
        if name not in settings.retrievers:
            near = difflib.get_close_matches(name, settings.retrievers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of: {names}"
            problems.append(("weights", f"no retriever is called {name!r}; {hint}"))
    missing = [name for name in settings.retrievers if name not in settings.weights]
    if missing:
        problems.append(("weights", f"expected a weight for each of {names}, got none for {', '.join(missing)}"))
    if not any(settings.weights.values()):
        problems.append(("weights", "expected at least one above 0, got none"))
    return problems


def _load(settings: FusionSettings, context: Context) -> Stage:
    from stages.fusion.stage import FusionStage

    return FusionStage(settings)


KIND = StageKind(
    kind="fusion",
    role="fuser",
    settings=FusionSettings,
    load=_load,
    check=_check,
    summary="merges several retrievers' rankings by reciprocal ranks or weighted scores",
)
