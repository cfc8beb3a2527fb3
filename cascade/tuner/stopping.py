"""How sure ``adaptive`` has to be told to be, so that it errs as seldom as is asked: learned on recorded runs.

``adaptive: 0.95`` takes new scores to be normal around a curve of their rank, fitted to the query at hand. Where they
are not, it stops more or less often in error than in one query of twenty. How often it does with a given stage is seen
in replay, and the least value that errs seldom enough is what should stand in the YAML file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cascade.errors import InputError
from cascade.planner import plan
from cascade.registry import Registry
from cascade.schema import CascadeConfig, StageEntry
from cascade.tuner.recording import Recording
from cascade.tuner.replayer import Replayer

LEVELS = (0.9999, 0.999, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.1)
"""Values of ``adaptive`` that are tried, the safest first."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """What a value of ``adaptive`` does on recorded queries.

    Args:
        adaptive: the value.
        stopped: share of the queries in which the stage stopped early.
        missed: share in which something unscored belonged to what the stage passes on.
        scored: mean candidates that it scored.
        of: mean candidates that it scores without.
        saved_ms: milliseconds of the stage that it saves, on average.
    """

    adaptive: float
    stopped: float
    missed: float
    scored: float
    of: float
    saved_ms: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What is learned about one stage.

    Args:
        stage: its name.
        tried: from the safest value on, down to the first that errs too often.
        chosen: the least safe value that errs seldom enough; None where the safest already errs too often, or where
            none ever stops.
    """

    stage: str
    tried: tuple[Stopping, ...]
    chosen: Stopping | None


def learn_stopping(
    recording: Recording,
    config: CascadeConfig,
    confidence: float,
    *,
    registry: Registry | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Learned]:
    """For each pointwise reranker that does not combine, the ``adaptive`` that errs in at most 1 - confidence.

    It is the least value whose misses keep ``(misses + 1) / (queries + 1)`` at or below ``1 - confidence``; a new query
    like the recorded ones is then missed with no more than that probability (Angelopoulos et al., Conformal Risk
    Control, arXiv 2208.02814, equation 4, with a loss of 0 or 1). An error is that a candidate left unscored belonged,
    by its recorded score, to the best ``top_k`` of the stage. Stages before are as the configuration has them.

    Args:
        recording: of the stages.
        config: whose stages are learned about; its budgets hold in replay.
        confidence: between 0 and 1.
        registry: the kinds of stage; the installed ones by default.
        progress: told how many of how many replays are done at most.

    Raises:
        InputError: the recording has too few queries for the confidence, or not these stages, or the configuration has
            no stage that could stop early.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    needed = math.ceil(1 / (1 - confidence) - 1 - 1e-9)
    if len(recording) < needed:
        raise InputError(
            f"queries: a confidence of {confidence:g} needs at least {needed} recorded queries, got {len(recording)}; "
            "record more, or ask for less"
        )
    stages = [number for number, entry in enumerate(config.stages) if _can_stop(entry)]
    if not stages:
        raise InputError(
            f"{config.source}: expected a reranker that scores one by one and does not combine; no other stops early"
        )
    replayer = Replayer(recording, registry=registry)
    found: list[Learned] = []
    for at, number in enumerate(stages):
        tried: list[Stopping] = []
        chosen = None
        for done, stopping in enumerate(_levels(replayer, config, number), start=1):
            progress(at * len(LEVELS) + done, len(stages) * len(LEVELS))
            tried.append(stopping)
            misses = round(stopping.missed * len(recording))
            if (misses + 1) / (len(recording) + 1) > 1 - confidence + 1e-12:
                break
            chosen = stopping if stopping.stopped > 0 else None
        found.append(Learned(config.stages[number].settings.name, tuple(tried), chosen))
    progress(len(stages) * len(LEVELS), len(stages) * len(LEVELS))
    return found


def _can_stop(entry: StageEntry) -> bool:
    return entry.role == "reranker" and entry.settings.combine is None


def _levels(replayer: Replayer, config: CascadeConfig, number: int) -> Iterator[Stopping]:
    """What each level does, the stage being the last of the cascade."""
    name = config.stages[number].settings.name
    plain = _until(config, number, None)
    reference, whole = replayer.ranked(plain)
    documents = plan(plain).stages[number].top_k
    for level in LEVELS:
        stopping = _until(config, number, level)
        replayed, rankings = replayer.ranked(stopping)
        early = replayed.scored[name] < reference.scored[name]
        missed = [
            early[query] and set(whole[query_id][:documents]) != set(rankings[query_id][:documents])
            for query, query_id in enumerate(replayed.query_ids)
        ]
        spent = (reference.stage_seconds[name] - replayed.stage_seconds[name]).mean()
        yield Stopping(
            adaptive=level,
            stopped=float(early.mean()),
            missed=float(np.mean(missed)),
            scored=float(replayed.scored[name].mean()),
            of=float(reference.scored[name].mean()),
            saved_ms=float(spent) * 1000,
        )


def _until(config: CascadeConfig, number: int, adaptive: float | None) -> CascadeConfig:
    """The cascade up to a stage, which stops early so surely; the stages before it do not."""
    stages = []
    for at, entry in enumerate(config.stages[: number + 1]):
        own = {"adaptive": adaptive if at == number else None}
        stages.append(replace(entry, settings=entry.settings.model_copy(update=own)))
    return replace(config, stages=tuple(stages))
