"""Rerankers at work: batch by batch, the best candidates first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cascade import scheduler
from cascade.stage import Batch, Encoded, ListwiseReranker, Reranker, Work
from cascade.stagerun import StageRun, Steps, encode, floats, own_form
from cascade.tasks import Outcome, Task
from cascade.types import Query, Rows

PROBE = 1
"""Candidates in the first batch of a stage whose cost nobody has measured."""
FRUITLESS = 4
"""Plans in a row of which not one batch could start, after which a stage gives up."""


def rerank(run: StageRun, query: Query, wanted: int) -> Steps:
    """Scores a reranker's candidates batch by batch, best first, until they or the time end, or the rest cannot matter.

    How many are planned for is what fits at the quantile; when they took less, the rest of the time goes to more.
    Fills ``run.scores`` and ``run.known``.

    Args:
        run: the stage's part in the query.
        query: the question.
        wanted: candidates that are passed on.
    """
    reranker = run.stage.opened
    assert isinstance(reranker, Reranker | ListwiseReranker)
    rows = run.received.rows
    if len(rows) == 0:
        return
    outcome = yield from encode(run, lambda: _encode_pairs(run, reranker, query))
    if outcome is None:
        return
    asked, lengths = outcome.value
    plan, task_of = _planner(run, reranker, lengths), _tasks(run, reranker, asked)
    adaptive, todo, fruitless = run.stage.planned.adaptive, np.arange(len(rows)), 0
    encoding_s = run.predicted_s
    while fruitless < FRUITLESS:
        groups = plan(todo, run.left_s)
        if len(todo) == len(rows) and not _worth_starting(run, groups, encoding_s):
            return
        if not groups:
            break
        done = 0
        for group in groups:
            task = task_of(rows[group.positions], group.work)
            outcome = (yield task) if run.may_start(task) else None
            if outcome is None:
                break
            if not _keep(run, group, outcome):
                return
            done += 1
            if run.scored + run.quarantined == run.total:
                return
            if adaptive is not None and scheduler.adaptive_stop(run.scores, run.known, wanted, adaptive):
                rates, left = run.costs.rates(run.key), plan(_without(todo, groups[:done]), math.inf)
                run.saturate(sum(rates.seconds(group.work) for group in left))
                return
        todo = _without(todo, groups[:done])
        fruitless = 0 if done else fruitless + 1
    run.out_of_time(f"{run.scored} of {run.total} candidates scored")


def _without(todo: npt.NDArray[np.int64], groups: Sequence[scheduler.Group]) -> npt.NDArray[np.int64]:
    left = np.zeros(int(todo[-1]) + 1, np.bool_)
    left[todo] = True
    for group in groups:
        left[group.positions] = False
    return np.flatnonzero(left)


def _worth_starting(run: StageRun, groups: Sequence[scheduler.Group], encoding_s: float) -> bool:
    """Notes the first plan; False when the stage is one to be done whole or not at all, and the former will not fit."""
    run.planned = sum(len(group.positions) for group in groups)
    rates = run.costs.rates(run.key)
    run.predicted_s = encoding_s + sum(rates.seconds(group.work) for group in groups)
    if run.costs.knows(run.key) and run.stage.planned.on_overrun == "skip" and run.planned < run.total:
        run.out_of_time(f"only {run.planned} of {run.total} candidates would have fitted")
        return False
    return True


def _encode_pairs(
    run: StageRun, reranker: Reranker | ListwiseReranker, query: Query
) -> tuple[Encoded, npt.NDArray[np.int32]]:
    asked, rows = own_form(run, query), run.received.rows
    lengths = np.asarray(reranker.lengths(asked, rows))
    if lengths.shape != rows.shape:
        raise ValueError(f"lengths() gave an array of shape {lengths.shape} for {len(rows)} candidates")
    return asked, lengths.astype(np.int32, copy=False)


def _planner(
    run: StageRun, reranker: Reranker | ListwiseReranker, lengths: npt.NDArray[np.int32]
) -> Callable[[npt.NDArray[np.int64], float], list[scheduler.Group]]:
    """What turns the candidates still to be scored into batches that fit into as many seconds."""
    stage_s = run.left_s
    shortest = max(1.0, float(np.minimum.reduce(lengths)))
    whole = scheduler.by_length(lengths, run.costs.rates(run.key))

    def plan(todo: npt.NDArray[np.int64], left_s: float) -> list[scheduler.Group]:
        rates = run.costs.rates(run.key)
        if left_s < rates.seconds(Work(1.0, shortest, shortest * shortest)) - scheduler.ROUNDING_S or left_s <= 0:
            return []
        if left_s < math.inf and not run.costs.knows(run.key):
            todo = todo[:PROBE]  # learn from a few before the many
        if isinstance(reranker, ListwiseReranker):
            return scheduler.windows(lengths, todo, left_s, rates, reranker.window, reranker.batch_tokens)
        part = whole if len(todo) == len(lengths) else whole.only(todo)
        return scheduler.batches(part, left_s, scheduler.quantum(stage_s, rates), rates, reranker.batch_tokens)

    return plan


def _tasks(run: StageRun, reranker: Reranker | ListwiseReranker, asked: Encoded) -> Callable[[Rows, Work], Task]:
    """What makes a task of some candidates."""
    if isinstance(reranker, ListwiseReranker):
        score_window = reranker.score_window
        return lambda rows, work: run.task("window", lambda: score_window(asked, rows), work)
    score = reranker.score

    def pointwise(rows: Rows, work: Work) -> Task:
        pairs = Batch.single(asked, rows)
        return run.task("score", lambda: score(pairs), work, pairs)

    return pointwise


def _keep(run: StageRun, group: scheduler.Group, outcome: Outcome) -> bool:
    """Takes over the scores of a batch; False when the stage has failed."""
    run.batches += 1
    if outcome.error is not None:
        run.fail(outcome.error)
        return False
    positions = group.positions
    try:
        scores = floats(outcome.value)
        if scores.shape != positions.shape:
            raise ValueError(f"expected {len(positions)} scores, got an array of shape {scores.shape}")
    except Exception as error:  # a stage may return anything
        run.reject(error)
        return False
    total, finite = len(scores), np.isfinite(scores)
    if not np.logical_and.reduce(finite):
        positions, scores = positions[finite], scores[finite]
    run.scores[positions] = scores
    run.known[positions] = True
    run.scored += len(positions)
    run.keeps(total, len(positions))
    return True
