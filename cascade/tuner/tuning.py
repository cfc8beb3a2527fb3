"""Tuning from beginning to end: tries cascades, finds the front, chooses, and says what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cascade.evaluation import bootstrap_interval, parse_measures
from cascade.schema import CascadeConfig
from cascade.tuner.choice import Goal, Tuning, chosen_by, split
from cascade.tuner.front import FrontPoint, ParetoFront
from cascade.tuner.quality import Judgments
from cascade.tuner.recording import Recording
from cascade.tuner.replayer import Load, Replayer
from cascade.tuner.space import SearchSpace
from cascade.tuner.study import Journal, Sampler, Workers, explore, header
from cascade.types import Qrel

TRIALS = 1500
BUDGETS_MS = (25.0, 50.0, 100.0, 200.0)


def budgets_ms(asked_ms: float) -> list[float]:
    """Budgets to try cascades under, and to say what they buy: the usual ones and the one asked for."""
    return sorted({*BUDGETS_MS, asked_ms})


@dataclass(frozen=True, slots=True)
class Effort:
    """How to search.

    Args:
        trials: cascades to try at most; a space of no more is tried whole.
        processes: that share the work.
        sampler: of larger spaces.
        seed: of sampler and split.
        journal: file that an interrupted study goes on from; None for none.
    """

    trials: int = TRIALS
    processes: int = 1
    sampler: Sampler = "tpe"
    seed: int = 0
    journal: Path | None = None


@dataclass(frozen=True, slots=True)
class Worth:
    """What a recorded stage is worth within the budget.

    Args:
        stage: its name.
        chosen: whether the chosen cascade has it.
        gain: mean quality of the best cascade with it minus that of the best without, on queries left out; None where
            all cascades within the budget have it, or none has.
        low, high: confidence interval of the gain, or None.
    """

    stage: str
    chosen: bool
    gain: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of tuning.

    Args:
        tuning: every trial.
        front: the best of each latency.
        chosen: the best within the budget; one that somebody wrote, unless another is better beyond chance.
        config: of the chosen cascade.
        worth: of each recorded stage but fusions.
        space: what was searched.
        load: how queries came; None for one after the other.
    """

    tuning: Tuning
    front: ParetoFront
    chosen: FrontPoint
    config: CascadeConfig
    worth: tuple[Worth, ...]
    space: SearchSpace
    load: Load | None

    def config_of(self, point: FrontPoint, name: str = "tuned", folder: Path | None = None) -> CascadeConfig:
        """The configuration of a point.

        Args:
            point: of the front, or the chosen one.
            name: of the cascade.
            folder: what relative paths to its models start from; the working directory by default.
        """
        config = self.space.config(self.tuning.trials[point.details["trial"]].point, name)
        return config if folder is None else replace(config, folder=folder)


def tune(
    recording: Recording,
    qrels: Sequence[Qrel],
    goal: Goal,
    *,
    space: SearchSpace | None = None,
    load: Load | None = None,
    effort: Effort | None = None,
    partial: bool = False,
    seeds: Sequence[CascadeConfig] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """The best cascade over recorded stages for a budget, and all others that are best for theirs.

    Args:
        recording: of the stages.
        qrels: judgments of its queries.
        goal: the budget, and what is to be best.
        space: cascades to choose from; derived from the recording by default.
        load: how queries come; one after the other by default.
        effort: how to search.
        partial: leave out judgments of queries that were not recorded.
        seeds: cascades to try in any case, such as hand-written ones; the space need not have them.
        progress: told how many of how many cascades were tried.

    Raises:
        InputError: the judgments do not fit, there are too few, a seed was not recorded, or no cascade meets the
            budget.
    """
    effort = Effort() if effort is None else effort
    (measure,) = map(repr, parse_measures([goal.measure]))
    judgments = Judgments.of(qrels, recording, partial=partial)
    goal.require_queries(int(judgments.judged.sum()))
    if space is None:
        space = SearchSpace.of(recording, budgets_ms=budgets_ms(goal.budget_ms))
    given = [space.seed(config) for config in seeds]
    replayer = Replayer(recording, judgments, (measure,), registry=space.registry)
    journal = Journal(effort.journal, header(replayer, space, measure, load))
    folds, answered = split(judgments.judged, effort.seed, goal.enough), replayer.answered(load)
    with Workers(replayer, space, measure, load, effort.processes) as workers:
        trials = explore(
            workers,
            space,
            journal,
            trials=effort.trials,
            percentile=goal.percentile,
            answers=chosen_by(folds)[answered],
            seeds=given,
            sampler=effort.sampler,
            seed=effort.seed,
            progress=progress,
        )
    tuning = Tuning(trials, answered, folds, goal)
    front = tuning.front()
    chosen = tuning.within(goal.budget_ms)
    config = space.config(trials[chosen.details["trial"]].point)
    return Tuned(tuning, front, chosen, config, _worth(recording, tuning, chosen), space, load)


def _worth(recording: Recording, tuning: Tuning, chosen: FrontPoint) -> tuple[Worth, ...]:
    """For each stage, the best cascades with and without it, compared on queries that neither was chosen by."""
    found = []
    point, budget_ms = tuning.trials[chosen.details["trial"]].point, tuning.goal.budget_ms
    latency = tuning.latency(tuning.tuning)
    for unit in recording.header.units:
        parts = [{*trial.point.first.retrievers, *trial.point.rerankers} for trial in tuning.trials]
        has = np.array([unit.name in names for names in parts])
        fits, is_chosen = latency <= budget_ms, unit.name in {*point.first.retrievers, *point.rerankers}
        if unit.role == "fuser":
            continue
        if has[fits].all() or not has[fits].any():
            found.append(Worth(unit.name, is_chosen))
            continue
        with_it, _ = tuning.validated(budget_ms, has)
        without, _ = tuning.validated(budget_ms, ~has)
        low, high = bootstrap_interval(with_it - without, confidence=tuning.goal.confidence, samples=2000)
        gain = float((with_it - without).mean())
        found.append(Worth(unit.name, is_chosen, gain, low, high))
    return tuple(found)
