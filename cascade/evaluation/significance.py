"""Whether a difference between two runs over the same queries is more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]

SAMPLES = 10_000
"""Random samples of a test or an interval."""

_CHUNK = 2**22
"""Random numbers held at a time: 32 MiB as float64."""


@dataclass(frozen=True, slots=True)
class TTest:
    """A two-sided paired t-test: its statistic, degrees of freedom and p-value."""

    statistic: float
    degrees: int
    p_value: float


def paired_t_test(before: Values, after: Values) -> TTest:
    """Student's two-sided test that the mean of ``after - before`` is zero.

    Args:
        before: float [n], one value a query.
        after: float [n], the same queries in the same order.

    Raises:
        ValueError: the lengths differ, or there are fewer than two queries.
    """
    differences = _differences(before, after)
    n = len(differences)
    if n < 2:
        raise ValueError(f"a t-test needs at least 2 queries, got {n}")
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0.0:
        return TTest(math.copysign(math.inf, mean) if mean else 0.0, n - 1, 0.0 if mean else 1.0)
    statistic = mean / (deviation / math.sqrt(n))
    return TTest(statistic, n - 1, student_t_tails(statistic, n - 1))


def randomisation_test(before: Values, after: Values, *, samples: int = SAMPLES, seed: int = 0) -> float:
    """p-value of the two-sided paired randomisation test on the mean difference.

    Under the null hypothesis each query's two values could be swapped. All swaps are tried where there are no more than
    ``samples`` of them, so the value is exact; otherwise ``samples`` random ones, and the observed one counts as one
    more, so that the value is never 0. Smucker, Allan and Carterette, CIKM 2007, find it to be the test to use in
    retrieval; the correction is Davison and Hinkley, Bootstrap Methods and their Application, 1997, eq. 4.11.

    Args:
        before: float [n], one value a query.
        after: float [n], the same queries in the same order.
        samples: swaps to try.
        seed: of the random swaps.

    Raises:
        ValueError: the lengths differ.
    """
    differences = _differences(before, after)
    differences = differences[differences != 0.0]
    n = len(differences)
    # Sums of the same numbers in another order differ in the last bits; they are ties all the same.
    observed = abs(float(differences.sum())) - 1e-12 * float(np.abs(differences).sum())
    exact = 2**n <= samples
    chunks = _all_signs(n) if exact else _random_signs(n, samples, seed)
    extreme = sum(int((np.abs(signs @ differences) >= observed).sum()) for signs in chunks)
    return extreme / 2**n if exact else (extreme + 1) / (samples + 1)


def bootstrap_interval(
    values: Values, *, confidence: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap confidence interval of the mean of ``values``.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. For a difference of two runs, hand over
    the differences by query, so that they are resampled as pairs.

    Raises:
        ValueError: there are no values.
    """
    data = np.asarray(values, np.float64)
    n = len(data)
    if n == 0:
        raise ValueError("a confidence interval needs at least one value, got none")
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    means = [
        data[random.integers(0, n, (min(rows, samples - start), n))].mean(axis=1) for start in range(0, samples, rows)
    ]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing several hypotheses at once, in the order given.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979: the i-th smallest of m is multiplied by
    m - i + 1 and never falls below its predecessor.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def student_t_tails(statistic: float, degrees: float) -> float:
    """Probability of a value at least as far from 0 as ``statistic`` under Student's t distribution.

    ``I_x(degrees / 2, 1 / 2)`` at ``x = degrees / (degrees + statistic^2)``; Abramowitz and Stegun 26.7.1, 26.5.27.
    """
    square = statistic * statistic
    return _incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + square), square / (degrees + square))


def _incomplete_beta(a: float, b: float, x: float, complement: float) -> float:
    """The regularised incomplete beta function I_x(a, b); ``complement`` is 1 - x, in full precision.

    The continued fraction DLMF 8.17.22, which converges quickly left of the mean; to the right of it by the symmetry
    I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if x <= 0.0 or complement <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(b, a, complement, x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    return math.exp(logarithm) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)) of DLMF 8.17.22 by Lentz's method (Thompson and Barnett, 1986)."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, 10_000):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / (1.0 + factor * d)
        c = 1.0 + factor / c
        value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return value
    raise ArithmeticError(f"the continued fraction of I_x({a}, {b}) at {x} does not converge")


def _differences(before: Values, after: Values) -> npt.NDArray[np.float64]:
    if len(before) != len(after):
        raise ValueError(f"expected as many values before as after, got {len(before)} and {len(after)}")
    return np.asarray(after, np.float64) - np.asarray(before, np.float64)


def _all_signs(n: int) -> Iterator[npt.NDArray[np.float64]]:
    """float64 [2^n, n], every choice of signs once."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    yield 1.0 - 2.0 * bits.astype(np.float64)


def _random_signs(n: int, samples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """float64 [some, n] until ``samples`` rows were given."""
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, samples, rows):
        bits = random.integers(0, 2, (min(rows, samples - start), n), dtype=np.int8)
        yield 1.0 - 2.0 * bits.astype(np.float64)
