"""Every scheduling decision, as a pure function of what is known at that moment.

Nothing here reads a clock, holds state or knows a stage: the engine asks, with the time as an argument. Replay in the
tuner and the simulator ask the very same functions under a virtual clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascade.cost import Rates
from cascade.stage import Work

QUANTA = 10
"""A stage's time is worked through in at least about this many batches, where the work allows."""
ROUNDING_S = 1e-9
"""A nanosecond, so that sums of seconds in different orders decide alike."""
FINEST = 8
"""Most buckets to a doubling of length; coarser ones halve their number."""
PADDING = (0.045, 0.095, 0.207, 0.5)
"""For 8, 4, 2 and 1 buckets to a doubling of length: the share that padding adds on average, (2^(1/b) - 1) / 2."""
_GRID = (np.log2(np.maximum(np.arange(8192), 1)) * FINEST).astype(np.int16)
LEAST_FITTED = 30
"""Scores of a query below which nothing is fitted to them."""
MOST_FREEDOM = 10
"""Most degrees of freedom of what is fitted to scores, so that far outliers stay thinkable: real errors have them, and
a query that is asked after every batch meets the one moment at which its scores mislead."""
FINISH_STEP = 1.5
"""What is kept back for the way of an answer to its caller grows by this factor when that took longer."""
LATE_SHARE = 0.0003
"""Share of answers for which it may take longer."""
LONGEST_FINISH_S = 0.005
"""Most that is kept back for that way; with less, answers were late by a millisecond that the machine had not lost."""
TYPICAL_TOKENS = 128.0
"""Length of a candidate that nothing is known of."""


def stage_deadline(now: float, query_end: float, budget_s: float, carried_s: float, reserve_s: float) -> float:
    """When a stage has to end: with its own budget and what it inherits, or early enough for the stages after it.

    Args:
        now: the time at which the stage begins.
        query_end: the time at which the whole query has to end; inf for never.
        budget_s: the stage's own seconds; inf for no limit.
        carried_s: seconds that earlier stages left.
        reserve_s: seconds that the stages after it need at least.
    """
    return min(now + budget_s + carried_s, query_end - reserve_s)


def carried(budgets_s: Iterable[float], spent_s: Iterable[float]) -> float:
    """Seconds that stages with budgets of their own left unspent; overruns are paid back by those after them.

    Never negative: a stage that comes after an overrun still has its own budget, as far as the query's end allows.
    """
    left = sum(budget - spent for budget, spent in zip(budgets_s, spent_s, strict=True) if budget != math.inf)
    return max(0.0, left)


def reserve(needed_s: Iterable[float], spare_s: float) -> float:
    """Seconds to keep for the stages to come: the least that each needs, of those that fit at all."""
    kept_s = 0.0
    for seconds in needed_s:
        if kept_s + seconds <= spare_s:
            kept_s += seconds
    return kept_s


def share_end(now: float, deadlines: Sequence[float], served_s: Sequence[float], position: int, servers: int) -> float:
    """Until when one of several queries may work so that all get the same time in the end.

    Work that is optional would otherwise grow until the first deadline, and whoever entered a moment later would get
    nothing. The first j + 1 queries have had ``sum(served_s)`` and can have ``(deadline_j - now) * servers`` more; an
    equal part of both is what each is due. The least such part over all j that concern the query holds.

    Args:
        now: the time.
        deadlines: of all unanswered queries, earliest first.
        served_s: seconds that each has been worked on.
        position: which of them is meant.
        servers: workers that share the work.
    """
    total_s, part_s = 0.0, math.inf
    for j, deadline in enumerate(deadlines):
        total_s += served_s[j]
        if j >= position and deadline != math.inf:
            part_s = min(part_s, (total_s + max(0.0, deadline - now) * servers) / (j + 1))
    own_s = max(0.0, part_s - served_s[position])
    ahead_s = sum(max(0.0, part_s - served) for served in served_s[:position]) + own_s
    return min(deadlines[position], now + max(own_s, ahead_s / servers))


class Group(NamedTuple):
    """Candidates to score in one call.

    Args:
        positions: int64 [n], where they stand in the ranking.
        work: what they cost, padded to the longest.
    """

    positions: npt.NDArray[np.int64]
    work: Work


@dataclass(frozen=True, slots=True)
class Lengths:
    """Candidates sorted into buckets of similar length, which are batched apart from each other.

    Which bucket a candidate falls into, and so what it costs with its padding, depends neither on the time there is nor
    on how many candidates are scored. That is what makes more time never buy fewer candidates.

    Args:
        order: int64 [n], the candidates, bucket after bucket, each in rank order.
        counts: how many candidates each bucket has.
        longest: the longest of each bucket, which the others are padded to.
    """

    order: npt.NDArray[np.int64]
    counts: tuple[int, ...]
    longest: tuple[int, ...]

    def only(self, todo: npt.NDArray[np.int64]) -> Lengths:
        """The same for some of the candidates."""
        wanted = np.zeros(int(self.order.max()) + 1, np.bool_)
        wanted[todo] = True
        return self.where(wanted[self.order])

    def where(self, kept: npt.NDArray[np.bool_]) -> Lengths:
        """The same for the candidates of ``order`` that are marked, bool [n]."""
        bucket = np.arange(len(self.counts)).repeat(self.counts)
        counts = np.bincount(bucket[kept], minlength=len(self.counts))
        return Lengths(self.order[kept], tuple(counts.tolist()), self.longest)


def by_length(lengths: npt.NDArray[np.int32], rates: Rates) -> Lengths:
    """Sorts candidates into buckets, as fine as pays: finer ones save padding, but every bucket is one call more.

    Args:
        lengths: int32 [n], tokens of each candidate in rank order; n >= 1.
        rates: cost of scoring.
    """
    n = len(lengths)
    shortest, longest = int(np.minimum.reduce(lengths)), int(np.maximum.reduce(lengths))
    octaves = (_grid(longest) - _grid(shortest)) / FINEST
    mean = max(1.0, float(np.add.reduce(lengths)) / n)
    half_s = n / 2 * (rates.token_s * mean + rates.square_s * mean * mean)  # about half of them will be scored
    shift, cost_s = 0, math.inf
    for coarser, padding in enumerate(PADDING):
        total_s = half_s * padding + rates.fixed_s * octaves * (FINEST >> coarser)
        if total_s < cost_s:
            shift, cost_s = coarser, total_s
    if half_s * (2**octaves - 1) / 2 <= cost_s:
        return Lengths(np.arange(n), (n,), (longest,))
    found = _GRID.take(lengths, mode="clip") >> shift
    order = found.argsort(kind="stable")
    counts = np.bincount(found)
    counts = counts[counts > 0]
    tops = np.maximum.reduceat(lengths[order], counts.cumsum() - counts)
    return Lengths(order, tuple(counts.tolist()), tuple(tops.tolist()))


def _grid(length: int) -> int:
    return int(_GRID[min(max(0, length), len(_GRID) - 1)])


def quantum(seconds: float, rates: Rates) -> float:
    """Seconds that one batch may take: a tenth of the stage's time, but enough to be worth its fixed cost."""
    return max(seconds / QUANTA, 2 * rates.fixed_s)


def batches(lengths: Lengths, seconds: float, quantum_s: float, rates: Rates, batch_tokens: int) -> list[Group]:
    """As many candidates as are predicted to fit into ``seconds``, best first, in batches of similar length.

    The depth is the longest prefix of the candidates whose batches, padding and calls included, fit; it never shrinks
    when ``seconds`` or ``quantum_s`` grow. The batches come in the order of their middle candidates, so that the work
    done before an early end is the work that matters most.

    Args:
        lengths: of the candidates to score.
        seconds: time there is; inf for all of it.
        quantum_s: most seconds a batch may take; a candidate that takes longer goes alone.
        rates: cost of scoring.
        batch_tokens: most tokens in a batch, padding included; a longer candidate goes alone.
    """
    each = [rates.pair_s + top * (rates.token_s + rates.square_s * top) for top in lengths.longest]
    room_s = (quantum_s - rates.fixed_s) * (1 + ROUNDING_S)
    sizes = [_size(top, each_s, room_s, batch_tokens) for top, each_s in zip(lengths.longest, each, strict=True)]
    if len(each) == 1:
        return _alike(lengths, seconds, each[0], rates.fixed_s, sizes[0])
    costs_s = zip(lengths.counts, each, sizes, strict=True)
    if seconds < math.inf and sum(n * each_s + -(-n // size) * rates.fixed_s for n, each_s, size in costs_s) > seconds:
        lengths = _fitting(lengths, seconds, each, sizes, rates.fixed_s)
    groups: list[tuple[int, Group]] = []
    start = 0
    for count, size, longest in zip(lengths.counts, sizes, lengths.longest, strict=True):
        stop = start + count
        for at in range(start, stop, size):
            end = min(at + size, stop)
            groups.append((int(lengths.order[(at + end) // 2]), _group(lengths.order[at:end], longest)))
        start = stop
    groups.sort(key=_middle)
    return [group for _, group in groups]


def _fitting(lengths: Lengths, seconds: float, each: list[float], sizes: list[int], fixed_s: float) -> Lengths:
    """The longest prefix of the candidates whose batches fit; whoever opens a batch pays for the call."""
    cost = np.array(each).repeat(lengths.counts)
    start = 0
    for count, size in zip(lengths.counts, sizes, strict=True):
        cost[start : start + count : size] += fixed_s
        start += count
    by_rank = np.zeros(int(lengths.order.max()) + 1)
    by_rank[lengths.order] = cost
    last = by_rank.cumsum().searchsorted(seconds + ROUNDING_S, side="right")
    return lengths.where(lengths.order < last)


def _middle(item: tuple[int, Group]) -> int:
    return item[0]


def _size(longest: int, each_s: float, room_s: float, batch_tokens: int) -> int:
    """Candidates in a batch."""
    most = batch_tokens // max(1, longest)
    if room_s < most * each_s:
        most = int(room_s / each_s)
    return max(1, most)


def _alike(lengths: Lengths, seconds: float, each_s: float, fixed_s: float, size: int) -> list[Group]:
    """``batches`` of candidates that all cost the same: neighbours together."""
    depth = len(lengths.order)
    full_s = size * each_s + fixed_s
    if seconds != math.inf and full_s > 0:
        calls, rest_s = divmod(seconds + ROUNDING_S, full_s)
        more = int((rest_s - fixed_s) / each_s) if rest_s > fixed_s and each_s > 0 else 0
        depth = max(0, min(depth, int(calls) * size + more))
    top = lengths.longest[0]
    return [_group(lengths.order[at : min(at + size, depth)], top) for at in range(0, depth, size)]


def _group(positions: npt.NDArray[np.int64], length: int) -> Group:
    return Group(positions, _padded(len(positions), length))


@lru_cache(maxsize=4096)  # few of them come again and again
def _padded(count: int, length: int) -> Work:
    return Work(float(count), float(count * length), float(count * length * length))


def windows(
    lengths: npt.NDArray[np.int32],
    todo: npt.NDArray[np.int64],
    seconds: float,
    rates: Rates,
    size: int,
    batch_tokens: int,
) -> list[Group]:
    """Windows of neighbours for a listwise stage, best first, of which all fit into ``seconds`` whole.

    Args:
        lengths: int32 [all], tokens that each candidate adds to a window.
        todo: int64 [n], the candidates to score, in rank order.
        seconds: time there is; inf for all of it.
        rates: cost of scoring.
        size: most candidates in a window.
        batch_tokens: most tokens in a window; a longer candidate goes alone.
    """
    result: list[Group] = []
    at, left_s = 0, seconds + ROUNDING_S
    while at < len(todo):
        tokens = np.cumsum(lengths[todo[at : at + size]])
        count = max(1, int(np.searchsorted(tokens, batch_tokens, side="right")))
        total = float(tokens[count - 1])
        work = Work(float(count), total, total * total)
        left_s -= rates.seconds(work)
        if left_s < 0:
            break
        result.append(Group(todo[at : at + count], work))
        at += count
    return result


def may_start(now: float, predicted_s: float, deadline: float) -> bool:
    """Whether work that takes ``predicted_s`` would end in time; nothing starts at or after its deadline."""
    return now < deadline and now + predicted_s <= deadline + ROUNDING_S


def typical_seconds(rates: Rates, together: int = 1) -> float:
    """What a stage needs at least to be of any use, once the query is encoded: to score typical candidates.

    Args:
        rates: cost of scoring.
        together: how many it has to score at once: one, or a whole window of a listwise stage.
    """
    tokens = together * TYPICAL_TOKENS
    return rates.seconds(Work(float(together), tokens, tokens * tokens))


def adaptive_stop(scores: npt.NDArray[np.float32], known: npt.NDArray[np.bool_], top_k: int, confidence: float) -> bool:
    """Whether no candidate still to be scored enters the best ``top_k``, with at least this confidence.

    A new score is taken to be ``a + b * log(rank) + e`` with ``e`` normal; a, b and the variance are fitted to what
    this very query has scored so far. The chances of the others to beat the ``top_k``-th best, each by its predictive
    distribution (Draper and Smith 1998, section 3.1), add up to a bound on the chance that any of them does (Boole).
    They are Student's with two degrees of freedom less than there are scores, or ``MOST_FREEDOM``, by Wallace's normal
    approximation (1959, Annals of Mathematical Statistics 30, 1124-1130).

    Args:
        scores: float32 [n], new scores in the earlier order; ignored where not known.
        known: bool [n], which candidates have one.
        top_k: candidates that are passed on.
        confidence: between 0 and 1; 1 never stops.
    """
    done = int(np.count_nonzero(known))
    if done == len(known):
        return True
    if done < max(LEAST_FITTED, top_k + 1):
        return False
    log_rank = np.log(np.arange(1.0, len(known) + 1))
    seen, y = log_rank[known], scores[known].astype(np.float64)
    centred = seen - seen.mean()
    squares = float(centred @ centred)
    slope = min(0.0, float(centred @ y) / squares)  # a stage that turns the order round is not believed
    residuals = y - y.mean() - slope * centred
    variance = float(residuals @ residuals) / (done - 2)
    ahead = log_rank[~known] - seen.mean()
    threshold = float(np.partition(y, done - top_k)[done - top_k])
    deviations = np.sqrt(variance * (1 + 1 / done + ahead * ahead / squares)) + math.ulp(abs(threshold))
    t, freedom = (threshold - y.mean() - slope * ahead) / deviations, min(done - 2, MOST_FREEDOM)
    z = np.copysign(np.sqrt(freedom * np.log1p(t * t / freedom)), t) * (8 * freedom + 1) / (8 * freedom + 3)
    return sum(0.5 * math.erfc(value / math.sqrt(2)) for value in z.tolist()) <= 1 - confidence


def finish_seconds(known_s: float, seen_s: float, least_s: float) -> float:
    """What to keep back for handing over an answer: what all but about one in 3,000 take.

    Too little makes an answer late, too much leaves a candidate unread. So the logarithm of what is kept follows a
    high quantile: up by a step when it was exceeded, down by ``LATE_SHARE`` of that step when it was not, whose
    balance is that share of answers (Gibbs and Candes, arXiv 2106.00170, eq. 2). One long pause of the machine counts
    for little.

    Args:
        known_s: what has been kept back so far.
        seen_s: what the latest answer took from the moment when it was there, or its time was up, to its caller.
        least_s: least to keep back.

    >>> finish_seconds(0.001, 0.0015, 0.00025), finish_seconds(0.0025, 1.0, 0.00025)
    (0.0015, 0.00375)
    """
    if seen_s > known_s:
        return min(known_s * FINISH_STEP, LONGEST_FINISH_S)
    return max(least_s, known_s * math.exp(-LATE_SHARE * math.log(FINISH_STEP)))


def admits(now: float, deadline: float, queued_s: float, minimum_s: float) -> bool:
    """Whether a query that arrives now would get its minimum done in time behind the work already queued."""
    return now + queued_s + minimum_s <= deadline
