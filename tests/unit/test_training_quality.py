import ir_measures
import numpy as np
import pytest

from cascade.errors import InputError
from stages.measures import ndcg
from stages.training.depth import deepest_within
from stages.training.teachers import SPREAD, ensemble


def test_ndcg_is_that_of_ir_measures() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        gains = rng.integers(0, 3, 14)
        gains[0] = 1
        scores = rng.permutation(14).astype(np.float32)
        qrels = [ir_measures.Qrel("q", str(i), int(gain)) for i, gain in enumerate(gains)]
        run = [ir_measures.ScoredDoc("q", str(i), float(score)) for i, score in enumerate(scores)]
        expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
        assert ndcg(scores, gains.astype(float)) == pytest.approx(expected, abs=1e-6)


def test_one_teacher_keeps_its_scores_and_several_meet_on_one_scale() -> None:
    first, second = np.array([1, 2, 6], np.float32), np.array([100, 400, 300], np.float32)
    assert ensemble([[first]])[0] is first
    both = ensemble([[first], [second]])[0]
    assert both.std() == pytest.approx(SPREAD, rel=1e-5)
    np.testing.assert_allclose(both, ensemble([[first * 50 - 3], [second]])[0], rtol=1e-4)


def test_a_teacher_that_cannot_tell_has_no_say() -> None:
    first, flat = np.array([1, 2, 6], np.float32), np.full(3, 5, np.float32)
    np.testing.assert_allclose(ensemble([[first], [flat]])[0], ensemble([[first], [first]])[0], rtol=1e-5)


def test_the_deepest_student_that_is_in_time_is_chosen() -> None:
    assert deepest_within(0.02, {1: 0.01, 2: 0.02, 3: 0.03}) == 2
    with pytest.raises(InputError, match=r"expected at least 10\.0, what 1 layer\(s\) take here, got 5"):
        deepest_within(0.005, {1: 0.01, 2: 0.02})
