"""Whatever is combined, no candidate is lost, and a stage combined with nothing ranks as it would by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from cascade.engine import QueryRun
from cascade.stage import Batch
from cascade.types import Scores
from tests.fakes import FakeReranker, FakeRetriever, answer, cascade, stage, varied_lengths

N = 20
LENGTHS = varied_lengths(N)

single = st.floats(width=32, allow_nan=True, allow_infinity=True)
weight = st.one_of(st.just(0.0), st.floats(0, 1e3))


class Scripted(FakeReranker):
    """Scores by a list."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__(LENGTHS)
        self._scores = np.array(scores, np.float32)

    def score(self, batch: Batch) -> Scores:
        found: Scores = self._scores[batch.rows]
        return found


def run(late: list[float], cross: list[float], budget_s: float, **of_cross: Any) -> QueryRun:
    return answer(
        cascade(
            stage("words", FakeRetriever(N, 8), 16, combined_later=True),
            stage("late", Scripted(late), 12, combined_later=True),
            stage("cross", Scripted(cross), 5, **of_cross),
            passages=N,
        ),
        budget_s,
    )


scores = st.lists(single, min_size=N, max_size=N)
budgets = st.sampled_from([math.inf, 0.01, 0.015, 0.02, 0.025])


@given(late=scores, cross=scores, budget_s=budgets, weight=st.floats(1e-3, 1e3))
@example([0.0] * N, [1.0, *[1e-20 * n for n in range(N - 1)]], math.inf, 1.0)
def test_a_stage_combined_with_itself_alone_ranks_as_without(late, cross, budget_s, weight) -> None:
    combined = run(late, cross, budget_s, combine={"cross": weight})
    plain = run(late, cross, budget_s)
    np.testing.assert_array_equal(combined.order_after(2).rows, plain.order_after(2).rows)
    np.testing.assert_array_equal(combined.order_after(2).stages, plain.order_after(2).stages)


@given(late=scores, cross=scores, budget_s=budgets, words=weight, mid=weight, own=weight)
def test_no_candidate_is_lost_or_doubled(late, cross, budget_s, words, mid, own) -> None:
    done = run(late, cross, budget_s, combine={"words": words, "late": mid, "cross": own})
    order = done.order_after(2)
    assert sorted(order.rows.tolist()) == sorted(done.order_after(0).rows.tolist())
    assert np.isfinite(order.scores).all()
    first = order[: done.trace.stages[2].scored]
    assert (first.stages == 2).all()
    assert (np.diff(first.scores) <= 0).all()
