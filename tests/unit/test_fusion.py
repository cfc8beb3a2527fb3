from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cascade.combining import z_score
from cascade.stage import Context, Fuser
from cascade.types import Rows, Scores
from stages.fusion import KIND
from stages.fusion.formulas import min_max, weighted_sum


def ranking(**scores: float) -> tuple[Rows, Scores]:
    """``ranking(r7=0.5, r3=0.2)``: row 7, then row 3."""
    return np.array([int(name[1:]) for name in scores], np.int32), np.array([*scores.values()], np.float32)


def settings(**own: Any) -> Any:
    return KIND.settings(name="hybrid", kind="fusion", top_k=10, **{"retrievers": ("lexical", "dense"), **own})


def fuse(*rankings: tuple[Rows, Scores], **own: Any) -> dict[int, float]:
    fuser = KIND.load(settings(**own), Context(Path())).open(None, None)  # type: ignore[arg-type]
    assert isinstance(fuser, Fuser)
    rows, scores = fuser.fuse(rankings)
    assert rows.dtype == np.int32
    assert scores.dtype == np.float32
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def test_rrf_adds_reciprocal_ranks():
    fused = fuse(ranking(r7=9, r3=5), ranking(r3=0.9, r8=0.1))

    assert list(fused) == [3, 7, 8]
    assert fused == pytest.approx({3: 1 / 62 + 1 / 61, 7: 1 / 61, 8: 1 / 62})


def test_rrf_looks_at_ranks_only_and_takes_weights():
    fused = fuse(ranking(r1=1e30, r2=math.nan), ranking(r2=0), rrf_k=0, weights={"dense": 0.25, "lexical": 1})

    assert fused == pytest.approx({1: 1.0, 2: 0.5 + 0.25})


def test_weighted_min_max_gives_missing_rows_nothing():
    fused = fuse(
        ranking(r7=30, r3=20, r5=10), ranking(r3=0.8, r8=0.6), method="weighted", weights={"lexical": 0.4, "dense": 0.6}
    )

    assert list(fused) == [3, 7, 5, 8]
    assert fused == pytest.approx({3: 0.4 * 0.5 + 0.6, 7: 0.4, 5: 0.0, 8: 0.0})


def test_weighted_z_score_gives_missing_rows_the_lowest():
    fused = fuse(ranking(r1=3, r2=1), ranking(r3=9, r4=5), method="weighted", normalise="z_score")

    assert fused == pytest.approx({1: 0.0, 3: 0.0, 2: -2.0, 4: -2.0})
    assert list(fused) == [1, 3, 2, 4]


def test_the_only_hit_of_a_retriever_counts_in_full():
    assert fuse(ranking(r5=7), ranking(r1=2, r2=1), method="weighted") == {1: 1.0, 5: 1.0, 2: 0.0}


def test_ties_are_broken_by_row_whatever_the_order_of_retrievers():
    first, second = ranking(r9=1, r4=0.5), ranking(r4=1, r9=0.5)

    assert list(fuse(first, second)) == list(fuse(second, first)) == [4, 9]


@pytest.mark.parametrize("method", ["rrf", "weighted"])
def test_a_retriever_that_failed_leaves_the_other_in_order(method: str):
    assert list(fuse(ranking(r7=3, r2=2, r5=1), ranking(), method=method)) == [7, 2, 5]
    assert fuse(ranking(), ranking(), method=method) == {}


@pytest.mark.parametrize("normalise", ["min_max", "z_score"])
def test_scores_that_are_no_numbers_stay_within_their_ranking(normalise: str):
    bad = ranking(r1=math.inf, r2=5, r3=1, r4=-math.inf, r5=math.nan)

    fused = fuse(bad, ranking(r6=math.nan), method="weighted", normalise=normalise)

    assert all(map(math.isfinite, fused.values()))
    assert fused[1] == fused[2] > fused[3] == fused[4] == fused[5]


def test_normalising_does_not_overflow():
    assert min_max(np.array([3e38, -3e38])).tolist() == [1.0, 0.0]
    assert np.isfinite(z_score(np.array([3e38, -3e38]))).all()
    rows, scores = weighted_sum([ranking(r1=3e38, r2=-3e38)], [1.0], min_max)
    assert (rows.tolist(), scores.tolist()) == ([1, 2], [1.0, 0.0])


def test_a_ranking_too_few_is_an_error_that_names_the_retrievers():
    with pytest.raises(ValueError, match=r"expected 2 rankings \(lexical, dense\), got 1"):
        fuse(ranking(r1=1))


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"lexical": 1, "dens": 1}, "no retriever is called 'dens'; did you mean 'dense'?"),
        ({"lexical": 1}, "expected a weight for each of lexical, dense, got none for dense"),
        ({"lexical": 0, "dense": 0}, "expected at least one above 0, got none"),
    ],
)
def test_weights_are_checked_against_the_retrievers(weights: dict[str, float], problem: str):
    assert ("weights", problem) in KIND.check(settings(weights=weights), Context(Path()))


def test_good_weights_have_no_problems():
    assert not KIND.check(settings(weights={"lexical": 0, "dense": 2.5}), Context(Path()))
    assert not KIND.check(settings(), Context(Path()))


@pytest.mark.parametrize(
    "own", [{"rrf_k": -1}, {"method": "borda"}, {"weights": {"dense": -1}}, {"weights": {"dense": math.inf}}]
)
def test_wrong_settings_are_refused(own: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(own))):
        settings(**own)
