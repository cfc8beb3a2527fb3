"""Measures what the stages of an opened cascade cost on this machine.

Queries are made from passages of the collection itself, so that no other input is needed. Each stage is given work of
several sizes; what it took goes into the fit of ``cost.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cascade.clock import Clock
from cascade.cost import CostProfile, Sample, fit, machine
from cascade.stage import Batch, ListwiseReranker, Reranker, Retriever, Work
from cascade.tasks import OpenedCascade, OpenedStage
from cascade.types import Document, Query, Rows

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
QUERY_WORDS = 9
QUERIES = 16


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly to measure.

    Args:
        stage_s: seconds spent on each stage, about.
        least_rounds: rounds over all sizes however long they take; the first of them only warms up.
        highest_quantile: what so few measurements can say something of. A short warm-up would take its one slowest
            task for the rule; what happens later corrects the rest.
    """

    stage_s: float
    least_rounds: int
    highest_quantile: float = 1.0


WARM_UP = Effort(stage_s=0.6, least_rounds=3, highest_quantile=0.9)
TEXT_WARM_UP = Effort(stage_s=0.6, least_rounds=2, highest_quantile=0.9)
THOROUGH = Effort(stage_s=15.0, least_rounds=4)

SAMPLE = tuple(
    Document(str(words), "a passage of a few words that is read like any other " * (words // 10))
    for words in (10, 30, 80, 160)
)
"""Texts to measure rerankers with where there is no index."""


def calibrate(
    cascade: OpenedCascade,
    clock: Clock,
    *,
    quantile: float,
    effort: Effort = THOROUGH,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> CostProfile:
    """A profile of every stage of the cascade.

    Args:
        cascade: open over the collection that it will serve.
        clock: time.
        quantile: share of tasks that must end within what is predicted.
        effort: how thoroughly.
        progress: told of each stage and the share (0 to 1) of its measuring that is done.

    Raises:
        Whatever a stage raises: a stage that cannot be measured cannot be run.
    """
    costs = {}
    stated = min(quantile, effort.highest_quantile)
    rng = np.random.default_rng(0)
    for stage in _units(cascade):
        samples: dict[str, list[Sample]] = {}
        began = clock.now()
        for number, found in enumerate(_rounds(stage, cascade, clock, rng)):
            if number > 0:  # the first round compiles kernels and touches pages
                for key, sample in found:
                    samples.setdefault(key, []).append(sample)
            spent_s = clock.now() - began
            if number + 1 >= effort.least_rounds and spent_s >= effort.stage_s:
                break
            progress(stage.planned.name, min(0.99, spent_s / effort.stage_s) if effort.stage_s > 0 else 0.0)
        progress(stage.planned.name, 1.0)
        costs.update({key: fit(measured, stated) for key, measured in samples.items()})
    return CostProfile(quantile, machine(), costs, source="calibrated" if effort is THOROUGH else "warm-up")


def _units(cascade: OpenedCascade) -> Iterator[OpenedStage]:
    for stage in cascade.stages:
        yield from stage.retrievers or (stage,)


def _rounds(
    stage: OpenedStage, cascade: OpenedCascade, clock: Clock, rng: np.random.Generator
) -> Iterator[list[tuple[str, Sample]]]:
    """Endless rounds of measurements of one stage, over all sizes of work."""
    collection = cascade.collection
    while True:
        chosen = rng.integers(0, len(collection), QUERIES).astype(np.int32)
        words = [text.split() for text in collection.texts(chosen)]
        queries = [Query(f"calibration-{i}", " ".join(part[:QUERY_WORDS]) or "query") for i, part in enumerate(words)]
        found: list[tuple[str, Sample]] = []
        sizes = [size for size in BATCH_SIZES if size <= len(collection)]
        for query, size in zip(queries, sizes * (1 + QUERIES // len(sizes)), strict=False):
            began = clock.now()
            encoded = stage.opened.encode_query(query)  # type: ignore[union-attr]  # fusers are never measured
            found.append((stage.key("encode"), Sample(Work(1.0), clock.now() - began)))
            if isinstance(stage.opened, Retriever):
                found += _searches(stage, stage.opened, encoded, clock)
            else:
                rows = rng.choice(len(collection), size, replace=False).astype(np.int32)
                found.append(_scores(stage, encoded, rows, clock))
        yield [(key, sample) for key, sample in found if sample.seconds > 0]


def _searches(stage: OpenedStage, retriever: Retriever, encoded: object, clock: Clock) -> list[tuple[str, Sample]]:
    found = []
    for start, stop in retriever.ranges():
        began = clock.now()
        retriever.search(encoded, stage.planned.top_k, start, stop)
        found.append((stage.key("search"), Sample(retriever.work(encoded, start, stop), clock.now() - began)))
    return found


def _scores(stage: OpenedStage, encoded: object, rows: Rows, clock: Clock) -> tuple[str, Sample]:
    reranker = stage.opened
    assert isinstance(reranker, Reranker | ListwiseReranker)
    lengths = reranker.lengths(encoded, rows)
    rows = rows[np.argsort(-lengths, kind="stable")]  # batches are of similar length, as the scheduler makes them
    lengths = np.sort(lengths)[::-1]
    limit = reranker.batch_tokens // max(1, int(lengths[0]))
    if isinstance(reranker, ListwiseReranker):
        rows = rows[: max(1, min(reranker.window, limit))]
        total = float(lengths[: len(rows)].sum())
        work = Work(float(len(rows)), total, total * total)
    else:
        rows = rows[: max(1, limit)]
        longest, count = float(lengths[0]), float(len(rows))
        work = Work(count, count * longest, count * longest * longest)
    began = clock.now()
    if isinstance(reranker, ListwiseReranker):
        reranker.score_window(encoded, rows)
    else:
        reranker.score(Batch.single(encoded, rows))
    return stage.key(stage.scoring), Sample(work, clock.now() - began)
