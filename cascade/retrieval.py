"""Retrievers and fusers at work: range by range, then merged."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cascade import scheduler
from cascade.stage import Encoded, Fuser, Retriever, Work
from cascade.stagerun import StageRun, Steps, encode, floats, own_form
from cascade.types import Query, Rows, Scores


def retrieve(run: StageRun, query: Query, wanted: int) -> Steps:
    """Searches a retriever's ranges in order until they or the time end; fills ``run.found``."""
    retriever = run.stage.opened
    assert isinstance(retriever, Retriever)
    outcome = yield from encode(run, lambda: _encode_ranges(run, retriever, query))
    if outcome is None:
        return
    asked, ranges, works = outcome.value
    rates = run.costs.rates(run.key)
    seconds = list(itertools.accumulate(rates.seconds(work) for work in works))
    fitting = bisect.bisect_right(seconds, run.deadline - run.clock.now() + scheduler.ROUNDING_S)
    run.planned = sum(stop - start for start, stop in ranges[:fitting])
    run.predicted_s += seconds[fitting - 1] if fitting else 0.0
    for (start, stop), work in zip(ranges, works, strict=True):
        task = run.task("search", _search(retriever, asked, wanted, start, stop), work)
        may_start = run.may_start(task)
        if may_start and run.planned == 0:
            run.planned, run.predicted_s = stop - start, run.predicted_s + task.predicted_s
        outcome = (yield task) if may_start else None
        if outcome is None:
            run.out_of_time(f"{run.scored} of {run.total} rows searched")
            return
        run.batches += 1
        if outcome.error is not None:
            run.fail(outcome.error)
            return
        try:
            rows, scores = _checked(outcome.value, start, stop)
        except Exception as error:  # a stage may return anything
            run.reject(error)
            return
        total, finite = len(scores), np.isfinite(scores)
        if not np.logical_and.reduce(finite):
            rows, scores = rows[finite], scores[finite]
        run.keeps(total, len(scores))
        run.found.append((rows, scores))
        run.scored += stop - start


def _encode_ranges(
    run: StageRun, retriever: Retriever, query: Query
) -> tuple[Encoded, list[tuple[int, int]], list[Work]]:
    asked, ranges = own_form(run, query), list(retriever.ranges())
    return asked, ranges, [retriever.work(asked, start, stop) for start, stop in ranges]


def _search(retriever: Retriever, asked: Encoded, wanted: int, start: int, stop: int) -> Callable[[], Any]:
    return lambda: retriever.search(asked, wanted, start, stop)


def _checked(value: Any, start: int, stop: int) -> tuple[Rows, Scores]:
    """What a retriever or fuser returned, if that can be rows of [start, stop), each once, with scores.

    Raises:
        Exception: of any kind, when it cannot.
    """
    rows, scores = value
    rows, scores = np.asarray(rows), floats(scores)
    if rows.ndim != 1 or rows.shape != scores.shape:
        raise ValueError(f"expected as many rows as scores, got arrays of shape {rows.shape} and {scores.shape}")
    if len(rows) == 0:
        return np.empty(0, np.int32), scores
    rising = np.sort(rows)
    if rows.dtype.kind not in "iu" or rising[0] < start or rising[-1] >= stop:
        raise ValueError(f"expected rows from {start} to {stop - 1}, got {rows.dtype} {rising[0]} to {rising[-1]}")
    if np.count_nonzero(rising[1:] == rising[:-1]) > 0:
        raise ValueError("expected every row once, got some twice")
    return rows.astype(np.int32, copy=False), scores


def fuse(run: StageRun, fallback: Callable[[Sequence[tuple[Rows, Scores]]], tuple[Rows, Scores]]) -> Steps:
    """Merges what the retrievers in ``run.found`` gave into one ranking, which takes their place.

    Starts if it ends in time on average: what it makes is better than any stopgap, and nobody waits for it too long.
    """
    fuser, inputs = run.stage.opened, tuple(run.found)
    assert isinstance(fuser, Fuser)
    work = Work(pairs=float(sum(len(rows) for rows, _ in inputs)))
    task = run.task("fuse", lambda: fuser.fuse(inputs), work)
    task = task._replace(predicted_s=run.costs.likely_s(run.key, work))
    outcome = (yield from run.tried(task)) if run.may_start(task) else None
    if outcome is None:
        run.end("budget", "no time to fuse")
        if run.left_s > 0:
            run.costs.relax(run.key)
    elif outcome.error is not None:
        run.fail(outcome.error)
    else:
        try:
            rows, scores = _checked(outcome.value, 0, run.total)
            expected = np.unique(np.concatenate([rows for rows, _ in inputs]))
            if not np.array_equal(np.sort(rows), expected):
                raise ValueError(f"expected the {len(expected)} rows of its inputs, got {len(rows)}, not all of them")
            if not np.isfinite(scores).all():
                raise ValueError("expected finite scores")
        except Exception as error:  # a stage may return anything
            run.reject(error)
        else:
            run.found[:] = [(rows, scores)]
            return
    run.found[:] = [fallback(inputs)]


def judge(run: StageRun) -> None:
    """Notes what became of a fusion stage that has no fault of its own, given what became of its retrievers."""
    if any(trace.scored > 0 for trace in run.retrievers):
        if run.short:
            run.end("budget", "a retriever was cut short")
        return
    detail = "; ".join(f"{trace.name}: {trace.detail}" for trace in run.retrievers)
    if not run.short or any(trace.reason == "failed" for trace in run.retrievers):
        run.end("failed", detail)
    else:
        run.end("budget" if run.stage.planned.on_overrun == "fail" else "skipped", detail)
