"""The gap report: what every stage of a cascade gains, what its cut loses, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np

from cascade.errors import InputError
from cascade.evaluation.measures import DEFAULT_MEASURES, Evaluation, Run, evaluate
from cascade.evaluation.significance import bootstrap_interval, holm, randomisation_test
from cascade.types import Qrel

Verdict: TypeAlias = Literal["starts", "pays", "does not pay", "hurts"]

GAIN_MEASURE = "nDCG@10"
"""What a stage's gain is measured in."""

PRECISION = "P@10"
CEILING = "SetR"
LEVEL = 0.05
"""A difference counts when chance alone would show one as large in less than this share of cases."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """What one stage made of every query.

    Args:
        name: of the stage.
        ranked: all documents in the stage's order, before its cut.
        survivors: the documents within its cut, which it passes on.
        seconds: spent on each query; 0 where the stage was skipped.
        scored: documents it scored for each query.
        inputs: names of the stages whose survivors it received; none for a retriever.
        budget_s: seconds that it may take, if it has a limit of its own.
    """

    name: str
    ranked: Run
    survivors: Run
    seconds: Mapping[str, float]
    scored: Mapping[str, int]
    inputs: tuple[str, ...] = ()
    budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class StagedRun:
    """A cascade's work over many queries, stage by stage.

    Args:
        stages: in the order in which they ran.
        seconds: from each query's arrival to its answer.
        budget_s: seconds that a query may take; None for no limit.
        config: what the report should say of the cascade; anything that JSON can hold.

    Raises:
        InputError: the stages do not speak of the same queries, or not of each other.
    """

    stages: tuple[StageRun, ...]
    seconds: Mapping[str, float]
    budget_s: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stages or not self.seconds:
            raise InputError("staged run: expected at least one stage and one query, got none; run some queries first")
        seen: set[str] = set()
        for stage in self.stages:
            _check_stage(stage, self.seconds, seen)
            seen.add(stage.name)


@dataclass(frozen=True, slots=True)
class Gain:
    """What a stage changed in nDCG@10, from its best input's order to its own.

    Args:
        compared_with: the stage it is compared with: the best of its inputs.
        difference: mean over all judged queries.
        low, high: 95 % bootstrap confidence interval of the difference.
        p_value: of the randomisation test.
        p_adjusted: the same after Holm's correction for all stages of the report.
    """

    compared_with: str
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds: the mean, and nearest-rank percentiles, so that each was really measured."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage of a gap report.

    Args:
        name: of the stage.
        inputs: the stages whose survivors it received.
        measures: of its whole order, before the cut.
        precision_before: P@10 of the input it is compared with; None for a retriever.
        precision_after: P@10 of its own order.
        recall_ceiling: recall of the survivors: no later stage can do better.
        relevant_lost: relevant documents, over all queries, that it received and cut; for a retriever, all that are
            judged relevant and not among its survivors.
        gain: None for a retriever, which has nothing to compare with.
        latency_ms: of the stage alone.
        over_budget: share of queries on which it took longer than its own budget; None where it has none.
        scored_mean: documents scored per query.
        ms_per_point: mean milliseconds for each hundredth of nDCG@10 gained (a retriever gains from 0); None without
            a gain.
        verdict: "starts" for a retriever; otherwise by the adjusted p-value.
        sentence: the verdict in words.
    """

    name: str
    inputs: tuple[str, ...]
    measures: Mapping[str, float]
    precision_before: float | None
    precision_after: float
    recall_ceiling: float
    relevant_lost: int
    gain: Gain | None
    latency_ms: Latency
    over_budget: float | None
    scored_mean: float
    ms_per_point: float | None
    verdict: Verdict
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        return {
            "name": self.name,
            "inputs": list(self.inputs),
            "measures": dict(self.measures),
            PRECISION: {"before": self.precision_before, "after": self.precision_after},
            "recall_ceiling": self.recall_ceiling,
            "relevant_lost": self.relevant_lost,
            "gain": None if self.gain is None else _fields(self.gain),
            "latency_ms": _fields(self.latency_ms),
            "over_budget": self.over_budget,
            "scored_mean": self.scored_mean,
            "ms_per_point": self.ms_per_point,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class GapReport:
    """The gap between what each stage receives and what it passes on.

    Args:
        stages: in the order in which they ran.
        query_count: queries that were run; all of them count for latency.
        judged_count: queries with judgments; all of them count for quality.
        missing: judged queries without results, which count as zero.
        unjudged: queries run that nothing can be said of for lack of judgments.
        latency_ms: from a query's arrival to its answer.
        over_budget: share of queries that took longer than the total budget; None without one.
        config: as handed in.
    """

    stages: tuple[StageReport, ...]
    query_count: int
    judged_count: int
    missing: tuple[str, ...]
    unjudged: tuple[str, ...]
    latency_ms: Latency
    over_budget: float | None
    config: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "stages": [stage.to_json() for stage in self.stages],
            "query_count": self.query_count,
            "judged_count": self.judged_count,
            "missing": list(self.missing),
            "unjudged": list(self.unjudged),
            "latency_ms": _fields(self.latency_ms),
            "over_budget": self.over_budget,
            "config": dict(self.config),
        }


def gap_report(
    run: StagedRun, qrels: Sequence[Qrel], measures: Sequence[str] = DEFAULT_MEASURES, *, seed: int = 0
) -> GapReport:
    """Measures every stage of ``run`` against the judgments.

    Args:
        run: what the stages did.
        qrels: the judgments.
        measures: what to report; nDCG@10 and P@10 are computed in any case.
        seed: of the randomisation test and the bootstrap.

    Raises:
        InputError: there are no judgments, or a measure is unknown.
    """
    names = (*measures, GAIN_MEASURE, PRECISION)
    evaluations = {stage.name: evaluate(stage.ranked, qrels, names) for stage in run.stages}
    gains = _gains(run.stages, evaluations, seed)
    relevant = _relevant(qrels)
    survivors = {stage.name: stage.survivors for stage in run.stages}
    stages = tuple(
        _stage_report(
            stage,
            evaluations,
            gains.get(stage.name),
            evaluate(stage.survivors, qrels, [CEILING]).means[CEILING],
            _lost(stage.survivors, [survivors[name] for name in stage.inputs], relevant),
        )
        for stage in run.stages
    )
    last = evaluations[run.stages[-1].name]
    return GapReport(
        stages=stages,
        query_count=len(run.seconds),
        judged_count=len(relevant),
        missing=last.missing,
        unjudged=last.unjudged,
        latency_ms=_latency(run.seconds.values()),
        over_budget=_over(run.seconds.values(), run.budget_s),
        config=run.config,
    )


def _stage_report(
    stage: StageRun, evaluations: Mapping[str, Evaluation], gain: Gain | None, ceiling: float, lost: int
) -> StageReport:
    means = evaluations[stage.name].means
    latency = _latency(stage.seconds.values())
    difference = means[GAIN_MEASURE] if gain is None else gain.difference
    verdict = _verdict(gain)
    return StageReport(
        name=stage.name,
        inputs=stage.inputs,
        measures=means,
        precision_before=None if gain is None else evaluations[gain.compared_with].means[PRECISION],
        precision_after=means[PRECISION],
        recall_ceiling=ceiling,
        relevant_lost=lost,
        gain=gain,
        latency_ms=latency,
        over_budget=_over(stage.seconds.values(), stage.budget_s),
        scored_mean=float(np.mean(list(stage.scored.values()))),
        ms_per_point=latency.mean / (100.0 * difference) if difference > 0 else None,
        verdict=verdict,
        sentence=_sentence(stage.name, verdict, means[GAIN_MEASURE], gain, latency.mean),
    )


def _gains(stages: Sequence[StageRun], evaluations: Mapping[str, Evaluation], seed: int) -> dict[str, Gain]:
    """The gain of every stage that has inputs, by name."""
    found: dict[str, tuple[str, list[float], float]] = {}
    for stage in stages:
        if not stage.inputs:
            continue
        best = max(stage.inputs, key=lambda name: evaluations[name].means[GAIN_MEASURE])
        after = evaluations[stage.name].by_query[GAIN_MEASURE]
        before = evaluations[best].by_query[GAIN_MEASURE]
        differences = [after[query_id] - before[query_id] for query_id in after]
        p_value = randomisation_test(list(before.values()), list(after.values()), seed=seed)
        found[stage.name] = best, differences, p_value
    adjusted = holm([p_value for _, _, p_value in found.values()])
    return {
        name: Gain(best, float(np.mean(differences)), *bootstrap_interval(differences, seed=seed), p_value, p_adjusted)
        for (name, (best, differences, p_value)), p_adjusted in zip(found.items(), adjusted, strict=True)
    }


def _verdict(gain: Gain | None) -> Verdict:
    if gain is None:
        return "starts"
    if gain.p_adjusted >= LEVEL:
        return "does not pay"
    return "pays" if gain.difference > 0 else "hurts"


def _sentence(name: str, verdict: Verdict, value: float, gain: Gain | None, mean_ms: float) -> str:
    cost = f"{mean_ms:.3g} ms a query"
    if gain is None:
        return f"{name} starts: {GAIN_MEASURE} {value:.3f} for {cost}."
    change = (
        f"{GAIN_MEASURE} {gain.difference:+.3f} over {gain.compared_with} "
        f"({value - gain.difference:.3f} to {value:.3f}, p = {gain.p_adjusted:.2g})"
    )
    if verdict == "does not pay":
        return f"{name} does not pay: {change} may be chance, for {cost}."
    return f"{name} {verdict}: {change} for {cost}."


def _relevant(qrels: Sequence[Qrel]) -> dict[str, set[str]]:
    """The relevant documents of every judged query."""
    relevant: dict[str, set[str]] = {}
    for qrel in qrels:
        documents = relevant.setdefault(qrel.query_id, set())
        if qrel.relevance > 0:
            documents.add(qrel.doc_id)
    return relevant


def _lost(survivors: Run, received: Sequence[Run], relevant: Mapping[str, set[str]]) -> int:
    """Relevant documents that were received (all that exist, for a retriever) and are not among the survivors."""
    lost = 0
    for query_id, documents in relevant.items():
        given = documents
        if received:
            given = documents.intersection(chain.from_iterable(run.get(query_id, ()) for run in received))
        lost += len(given.difference(survivors.get(query_id, ())))
    return lost


def _latency(seconds: Iterable[float]) -> Latency:
    milliseconds = 1000.0 * np.fromiter(seconds, np.float64)
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99], method="inverted_cdf")
    return Latency(float(milliseconds.mean()), float(p50), float(p95), float(p99))


def _over(seconds: Iterable[float], budget_s: float | None) -> float | None:
    if budget_s is None:
        return None
    return float(np.mean([value > budget_s for value in seconds]))


def _fields(record: Gain | Latency) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


def _check_stage(stage: StageRun, queries: Mapping[str, float], seen: set[str]) -> None:
    if stage.name in seen:
        raise InputError(f"staged run: expected each stage once, got {stage.name!r} twice; rename one")
    unknown = [name for name in stage.inputs if name not in seen]
    if unknown:
        raise InputError(
            f"staged run: {stage.name}: expected inputs among the earlier stages {sorted(seen)}, got {unknown}; "
            "put the stages in the order in which they ran"
        )
    for part in ("ranked", "survivors", "seconds", "scored"):
        if getattr(stage, part).keys() != queries.keys():
            raise InputError(
                f"staged run: {stage.name}.{part}: expected the {len(queries)} queries of the run, "
                f"got {len(getattr(stage, part))}, or others; record every query for every stage"
            )
    for query_id, survivors in stage.survivors.items():
        if not set(survivors) <= set(stage.ranked[query_id]):
            raise InputError(
                f"staged run: {stage.name}: query {query_id!r}: expected survivors among the ranked documents, got "
                "others; record the order before the cut"
            )
