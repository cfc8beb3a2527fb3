import numpy as np
import pytest

from cascade.evaluation import bootstrap_interval, holm, paired_t_test, randomisation_test
from cascade.evaluation.significance import student_t_tails


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 49, 1000, 100_000])
def test_t_distribution_tails_agree_with_scipy(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for statistic in (0.0, 1e-9, 0.1, 1.0, 1.96, 5.0, 30.0, 1e6):
        expected = 2 * stats.t.sf(statistic, degrees)
        assert student_t_tails(statistic, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-300)
        assert student_t_tails(-statistic, degrees) == student_t_tails(statistic, degrees)


def test_t_distribution_tails_have_the_closed_forms_of_one_and_two_degrees() -> None:
    assert student_t_tails(1.0, 1) == pytest.approx(0.5, rel=1e-14)
    assert student_t_tails(2.0, 2) == pytest.approx(1 - 2 / 6**0.5, rel=1e-13)


def test_paired_t_test_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    before = random.random(43)
    after = before + random.normal(0.02, 0.1, 43)
    expected = stats.ttest_rel(after, before)
    result = paired_t_test(before, after)
    assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-10)
    assert result.degrees == 42


def test_paired_t_test_without_variance() -> None:
    assert paired_t_test([1, 2], [1, 2]).p_value == 1.0
    assert paired_t_test([1, 2], [2, 3]).p_value == 0.0
    with pytest.raises(ValueError, match="at least 2 queries, got 1"):
        paired_t_test([1], [2])
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_t_test([1], [2, 3])


def test_randomisation_test_is_exact_for_few_queries() -> None:
    # Of the 8 sign choices for (1, 2, 3) only +++ and --- reach |6|; for (1, 2, -3) all reach |0|.
    assert randomisation_test([0, 0, 0], [1, 2, 3]) == 2 / 8
    assert randomisation_test([0, 0, 3], [1, 2, 0]) == 1.0
    assert randomisation_test([0.1, 0.2, 0.7], [0.1, 0.2, 0.7]) == 1.0
    assert randomisation_test([0] * 10 + [0.5], [0.1] * 10 + [0.5]) == 2 / 2**10


def test_sampled_randomisation_test_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(3)
    differences = random.normal(0.03, 0.1, 30)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=50_000, rng=np.random.default_rng(0)
    ).pvalue
    sampled = randomisation_test(np.zeros(30), differences, samples=50_000)
    assert sampled == pytest.approx(expected, abs=0.01)
    assert 0.01 < expected < 0.9


def test_sampled_randomisation_test_is_seeded_and_never_zero() -> None:
    before, after = np.zeros(100), np.ones(100)
    assert randomisation_test(before, after, samples=999) == 1 / 1000
    values = np.random.default_rng(0).normal(0.01, 0.1, 100)
    assert randomisation_test(before, values, seed=4) == randomisation_test(before, values, seed=4)
    assert randomisation_test(before, values, seed=4) != randomisation_test(before, values, seed=5)


def test_sampling_goes_on_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(0.01, 0.1, 40)
    whole = randomisation_test(np.zeros(40), values, samples=1000), bootstrap_interval(values, samples=1000)
    monkeypatch.setattr("cascade.evaluation.significance._CHUNK", 40 * 64)
    parts = randomisation_test(np.zeros(40), values, samples=1000), bootstrap_interval(values, samples=1000)
    assert parts[0] == pytest.approx(whole[0], abs=0.05)
    assert parts[1] == pytest.approx(whole[1], abs=0.01)


def test_bootstrap_interval_of_normal_values_is_near_the_textbook_one() -> None:
    values = np.random.default_rng(2).normal(1.0, 0.5, 400)
    low, high = bootstrap_interval(values)
    margin = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.006)
    assert bootstrap_interval([0.3]) == pytest.approx((0.3, 0.3))
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


def test_holm_matches_his_steps() -> None:
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
