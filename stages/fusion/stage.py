"""The fusion stage: which formula, with which weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.combining import z_score
from cascade.stage import Fuser, Passages, Stage
from cascade.types import Rows, Scores
from stages.fusion.formulas import min_max, reciprocal_rank_fusion, weighted_sum
from stages.fusion.kind import FusionSettings


class FusionStage(Stage):
    """Fusion under given settings; knows nothing of passages."""

    def __init__(self, settings: FusionSettings) -> None:
        self._settings = settings

    def open(self, passages: Passages, directory: Path | None) -> Fuser:
        """The fuser; the same over all collections."""
        return _Fuser(self._settings)


class _Fuser(Fuser):
    def __init__(self, settings: FusionSettings) -> None:
        self._settings = settings
        self._weights = [settings.weight_of(name) for name in settings.retrievers]
        self._normalise = min_max if settings.normalise == "min_max" else z_score

    def fuse(self, rankings: Sequence[tuple[Rows, Scores]]) -> tuple[Rows, Scores]:
        """Every row of any input once, best first, ties by row.

        Raises:
            ValueError: not as many rankings as retrievers.
        """
        if len(rankings) != len(self._weights):
            raise ValueError(
                f"fusion {self._settings.name!r}: expected {len(self._weights)} rankings "
                f"({', '.join(self._settings.retrievers)}), got {len(rankings)}"
            )
        if self._settings.method == "rrf":
            return reciprocal_rank_fusion([rows for rows, _ in rankings], self._weights, self._settings.rrf_k)
        return weighted_sum(rankings, self._weights, self._normalise)
