"""How much of a budget the engine comes to keep back for handing an answer over to its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from cascade.clock import Clock, Deadline
from cascade.cost import Cost, CostModel, CostProfile, Sample, fit, machine
from cascade.engine import QueryRun
from cascade.errors import DeadlineExceeded
from cascade.executor import Executor
from cascade.opening import with_budget
from cascade.stage import Work
from cascade.tasks import OpenedCascade, encodings
from cascade.tuner.format import TASK_COLUMNS
from cascade.types import Query

BUDGET_S = 0.1
"""Of each search; what is learned does not depend on it, as long as most answers are cut short."""


def learn_finish_s(
    cascade: OpenedCascade, queries: Sequence[Query], columns: Mapping[str, list[Any]], known_s: float, clock: Clock
) -> float:
    """Searches under a budget, one query after the other, so that the executor learns what handing over takes.

    Args:
        cascade: the opened stages.
        queries: to search for.
        columns: what was measured of them, which the scheduler predicts from.
        known_s: seconds that have been kept back so far.
        clock: time.

    Returns:
        Seconds that the executor keeps back in the end.
    """
    limited = with_budget(cascade, BUDGET_S)
    quantile = cascade.plan.quantile
    costs = CostModel(CostProfile(quantile, machine(), _costs(cascade, columns, quantile), source="recorded"))
    with Executor(costs, clock=clock) as executor:
        executor.finish_s = known_s
        for query in queries:
            deadline = Deadline.after(clock, BUDGET_S)
            run = QueryRun(limited, query, clock=clock, deadline=deadline, costs=costs, finish_s=executor.finish_s)
            executor.submit(run).wait()
            with suppress(DeadlineExceeded):
                run.result()
            executor.answered(run)
        return executor.finish_s


def _costs(cascade: OpenedCascade, columns: Mapping[str, list[Any]], quantile: float) -> dict[str, Cost]:
    """What the measured tasks cost, by cost key."""
    samples: dict[str, list[Sample]] = {}
    for stage in (unit for outer in cascade.stages for unit in (*outer.retrievers, outer)):
        parts = [np.concatenate(columns[f"{stage.planned.name}/{column}"]).tolist() for column in TASK_COLUMNS]
        samples[stage.key(stage.scoring)] = [Sample(Work(*work), s) for *work, s in zip(*parts, strict=True) if s > 0]
        for action in encodings(stage.reader):
            taken_s = columns.get(f"{stage.planned.name}/{action}_s", [])
            samples[stage.key(action)] = [Sample(Work(1.0), s) for s in taken_s if s > 0]
    return {key: fit(measured, quantile) for key, measured in samples.items() if measured}
