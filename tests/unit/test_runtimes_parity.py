import numpy as np
import pytest

from cascade.errors import ModelError
from stages.runtimes.parity import compare, kendall_tau, ndcg

RANDOM = np.random.default_rng(3)
REFERENCE = [RANDOM.normal(size=20).astype(np.float32) for _ in range(40)]
RELEVANCE = [[2, 1, 1, 0] + [0] * 16 for _ in range(40)]


def test_a_form_that_scores_alike_holds() -> None:
    parity = compare(REFERENCE, [scores * 3 + 1 for scores in REFERENCE], RELEVANCE)
    assert (parity.tau, parity.ndcg_error) == (pytest.approx(1.0), 0.0)
    assert parity.ndcg == parity.ndcg_float32
    parity.require("model", "instead")


def test_a_form_that_ranks_otherwise_is_refused_with_the_figures() -> None:
    parity = compare(REFERENCE, [-scores for scores in REFERENCE], RELEVANCE)
    assert parity.tau == pytest.approx(-1.0)
    with pytest.raises(ModelError, match=r"model in int8: refused, .*tau -1\.000 .*40 questions with 800 .*; do this"):
        parity.require("model in int8", "do this")


def test_losing_relevant_documents_alone_is_reason_enough() -> None:
    scores = [np.arange(20, 0, -1, dtype=np.float32) for _ in range(40)]
    swapped = [one.copy() for one in scores]
    for one in swapped:
        one[[0, 1]] = one[[1, 0]]
    parity = compare(scores, swapped, RELEVANCE)
    assert parity.tau > 0.98
    assert not parity.holds
    assert compare(swapped, scores, RELEVANCE).holds  # a gain is welcome


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = [one.copy() for one in REFERENCE]
    scores[5][7] = bad
    assert not compare(REFERENCE, scores, RELEVANCE).holds


def test_a_form_that_says_the_same_of_everything_is_refused() -> None:
    assert not compare(REFERENCE, [np.zeros_like(one) for one in REFERENCE], RELEVANCE).holds


def test_measures_agree_with_known_implementations() -> None:
    stats = pytest.importorskip("scipy.stats")
    metrics = pytest.importorskip("sklearn.metrics")
    one, other = RANDOM.integers(0, 6, (2, 20)).astype(np.float32)
    assert kendall_tau(one, other) == pytest.approx(stats.kendalltau(one, other).statistic)
    scores, judged = RANDOM.normal(size=20), RANDOM.integers(0, 3, 20)
    assert ndcg(scores, judged.tolist()) == pytest.approx(metrics.ndcg_score([judged], [scores], k=10))
