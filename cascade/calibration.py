"""Measures what the stages of an opened cascade cost on this machine.

Queries are made from passages of the collection itself, so that no other input is needed. Each stage is given work of
several sizes, about as many seconds of each: so most of the measurements are of small batches, which is what a deadline
leaves room for. What they took goes into the fit of ``cost.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cascade.clock import Clock
from cascade.cost import CostProfile, Sample, fit, joined, machine
from cascade.stage import Batch, Encoded, ListwiseReranker, QuerySide, Reranker, Retriever, Work
from cascade.tasks import Action, OpenedCascade, OpenedStage, encodings
from cascade.types import Document, Query, Rows

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
QUERY_WORDS = 9
LARGEST_SHARE = 1 / 16
"""Batches are not made larger when one is expected to take more than this share of a stage's seconds."""
MOST_MEASURED = 4000
"""Measurements of a stage, however short they are."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly to measure.

    Args:
        stage_s: seconds spent on each stage, about.
        least: measurements of every size however long they take; one before them only warms up.
        highest_quantile: what so few measurements can say something of. A short warm-up would take its one slowest
            task for the rule; what happens later corrects the rest.
    """

    stage_s: float
    least: int
    highest_quantile: float = 1.0


TOUCH = Effort(stage_s=0.0, least=1)
"""For what is known already: everything is called twice, so that no query waits for kernels and pages."""
WARM_UP = Effort(stage_s=0.6, least=4, highest_quantile=0.9)
TEXT_WARM_UP = Effort(stage_s=0.6, least=2, highest_quantile=0.9)
THOROUGH = Effort(stage_s=15.0, least=4)

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
    known: CostProfile | None = None,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> CostProfile:
    """A profile of every stage of the cascade.

    Args:
        cascade: open over the collection that it will serve.
        clock: time.
        quantile: share of tasks that must end within what is predicted.
        effort: how thoroughly.
        known: what was measured before. Its costs are kept, and the stages that it has costs of are only called twice,
            so that no query waits for what is compiled then.
        progress: told of each stage and the share (0 to 1) of its measuring that is done.

    Raises:
        Whatever a stage raises: a stage that cannot be measured cannot be run.
    """
    costs = {} if known is None else dict(known.costs)
    sources: list[str] = []
    stated = min(quantile, effort.highest_quantile)
    rng = np.random.default_rng(0)
    for stage in _units(cascade):
        samples: dict[str, list[Sample]] = {}
        old = known if known is not None and _knows(known, stage) else None
        for share, found in _measurements(stage, cascade, clock, rng, effort if old is None else TOUCH):
            progress(stage.planned.name, share)
            for key, sample in found:
                if sample.seconds > 0:
                    samples.setdefault(key, []).append(sample)
        progress(stage.planned.name, 1.0)
        if old is None:
            costs.update({key: fit(measured, stated) for key, measured in samples.items()})
        own = "calibrated" if effort is THOROUGH else "warm-up"
        sources.append(own if old is None else old.source)
    return CostProfile(quantile, machine(), costs, joined(sources))


def knows_all(known: CostProfile, cascade: OpenedCascade) -> bool:
    """Whether a profile has costs of every stage of the cascade."""
    return all(_knows(known, stage) for stage in _units(cascade))


def _knows(known: CostProfile, stage: OpenedStage) -> bool:
    return all(stage.key(action) in known.costs for action in (*encodings(stage.reader), stage.scoring))


def _units(cascade: OpenedCascade) -> Iterator[OpenedStage]:
    for stage in cascade.stages:
        yield from stage.retrievers or (stage,)


def _measurements(
    stage: OpenedStage, cascade: OpenedCascade, clock: Clock, rng: np.random.Generator, effort: Effort
) -> Iterator[tuple[float, list[tuple[str, Sample]]]]:
    """Measurements of one stage, each with the share (0 to 1) of the effort that has been made with it.

    The size on which the least time has been spent has its turn; a size twice as large joins in when the largest one
    has been measured and there is time enough.
    """
    most = 1 if isinstance(stage.opened, Retriever) else len(cascade.collection)
    spent_s, counts = [0.0], [0]
    while sum(spent_s) < effort.stage_s or min(counts) <= effort.least:
        turn = spent_s.index(min(spent_s)) if min(counts) > effort.least else counts.index(min(counts))
        began = clock.now()
        found, whole = _measured(stage, cascade, BATCH_SIZES[turn], clock, rng)
        seconds = clock.now() - began
        counts[turn] += 1
        if counts[turn] == 1:  # compiles kernels and touches pages
            continue
        spent_s[turn] += seconds
        if whole and turn == len(counts) - 1 and counts[turn] == 2 and 2 * seconds <= effort.stage_s * LARGEST_SHARE:
            larger = [size for size in BATCH_SIZES[turn + 1 : turn + 2] if size <= most]
            spent_s += [0.0 for _ in larger]
            counts += [0 for _ in larger]
        yield min(0.99, sum(spent_s) / effort.stage_s) if effort.stage_s > 0 else 0.0, found
        if sum(counts) >= MOST_MEASURED:
            return


def _measured(
    stage: OpenedStage, cascade: OpenedCascade, size: int, clock: Clock, rng: np.random.Generator
) -> tuple[list[tuple[str, Sample]], bool]:
    """One query's tasks over ``size`` candidates; whether a batch may hold as many."""
    collection = cascade.collection
    (text,) = collection.texts(rng.integers(0, len(collection), 1).astype(np.int32))
    query = Query("calibration", " ".join(text.split()[:QUERY_WORDS]) or "query")
    encoded, taken = measured_encoding(stage, query, clock)
    found = [(stage.key(action), Sample(Work(1.0), seconds)) for action, seconds in taken]
    if isinstance(stage.opened, Retriever):
        wanted = cascade.rows_wanted(stage.planned.top_k)
        return found + _searches(stage, stage.opened, encoded, wanted, clock), True
    rows = rng.choice(len(collection), size, replace=False).astype(np.int32)
    scored = _scores(stage, encoded, rows, clock)
    return [*found, scored], scored[1].work.pairs == size


def measured_encoding(stage: OpenedStage, query: Query, clock: Clock) -> tuple[Encoded, list[tuple[Action, float]]]:
    """A query in a stage's own form, and seconds of making it: the whole, and what is left where it was read before."""
    opened, began = stage.opened, clock.now()
    assert isinstance(opened, QuerySide)
    if not stage.reader:
        encoded = opened.encode_query(query)
        return encoded, [("encode", clock.now() - began)]
    reading, read = opened.read_query(query), clock.now()
    encoded, ended = opened.encode_read(query, reading), clock.now()
    return encoded, [("encode", ended - began), ("encode_read", ended - read)]


def _searches(
    stage: OpenedStage, retriever: Retriever, encoded: object, wanted: int, clock: Clock
) -> list[tuple[str, Sample]]:
    found = []
    for start, stop in retriever.ranges():
        began = clock.now()
        retriever.search(encoded, wanted, start, stop)
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
