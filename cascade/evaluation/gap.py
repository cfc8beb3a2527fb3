"""The gap report: what every stage of a cascade gains, what its cut loses, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np

from cascade.evaluation.measures import DEFAULT_MEASURES, Evaluation, evaluate
from cascade.evaluation.runs import Latency, StagedRun, StageRun, share_over
from cascade.evaluation.significance import bootstrap_interval, holm, randomisation_test
from cascade.types import Qrel

Verdict: TypeAlias = Literal["starts", "pays", "does not pay", "hurts", "did not run"]

GAIN_MEASURE = "nDCG@10"
"""What a stage's gain is measured in; a point of it is 0.01."""

PRECISION = "P@10"
CEILING = "SetR"
LEVEL = 0.05
"""A difference counts when chance alone would show one as large in less than this share of cases."""

_SHORTFALLS = {
    "budget": "ran out of time",
    "skipped": "was skipped",
    "failed": "failed",
    "cancelled": "was cancelled",
    "quarantined": "gave scores that are not numbers",
}


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
class StageReport:
    """One stage of a gap report.

    Args:
        name: of the stage.
        inputs: the stages whose survivors it received.
        measures: of its whole order, before the cut.
        precision_before: P@10 of the input it is compared with; None for a retriever.
        precision_after: P@10 of its own order.
        recall_ceiling: recall of the survivors: no later stage can do better.
        relevant_received: relevant documents, over all queries, that it was given; for a retriever, all there are.
        relevant_lost: those of them that are not among its survivors.
        gain: None for a retriever, which has nothing to compare with.
        latency_ms: of the stage alone.
        until_end_ms: from the first stage's beginning to this one's end, without waiting for a worker.
        over_budget: share of queries on which it took longer than it was granted; None where it never had a limit.
        scored_mean: documents scored per query.
        shortfalls: for each reason why it did less than it was asked to, on how many queries.
        ms_per_point: mean milliseconds that it added for each hundredth of nDCG@10 gained (a retriever gains from 0);
            None without a gain.
        verdict: "starts" for a retriever, otherwise by the adjusted p-value; "did not run" where it never got to score.
        sentence: the verdict in words.
    """

    name: str
    inputs: tuple[str, ...]
    measures: Mapping[str, float]
    precision_before: float | None
    precision_after: float
    recall_ceiling: float
    relevant_received: int
    relevant_lost: int
    gain: Gain | None
    latency_ms: Latency
    until_end_ms: Latency
    over_budget: float | None
    scored_mean: float
    shortfalls: Mapping[str, int]
    ms_per_point: float | None
    verdict: Verdict
    sentence: str

    @property
    def elapsed_ms(self) -> float:
        """Mean of ``until_end_ms``."""
        return self.until_end_ms.mean

    def to_json(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        return {
            "name": self.name,
            "inputs": list(self.inputs),
            "measures": dict(self.measures),
            PRECISION: {"before": self.precision_before, "after": self.precision_after},
            "recall_ceiling": self.recall_ceiling,
            "relevant_received": self.relevant_received,
            "relevant_lost": self.relevant_lost,
            "gain": None if self.gain is None else asdict(self.gain),
            "latency_ms": self.latency_ms.to_json(),
            "elapsed_ms": self.elapsed_ms,
            "until_end_ms": self.until_end_ms.to_json(),
            "over_budget": self.over_budget,
            "scored_mean": self.scored_mean,
            "shortfalls": dict(self.shortfalls),
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
        unanswered: queries run that a stage with ``on_overrun: fail`` ended; where judged, they count as zero.
    """

    stages: tuple[StageReport, ...]
    query_count: int
    judged_count: int
    missing: tuple[str, ...]
    unjudged: tuple[str, ...]
    latency_ms: Latency
    over_budget: float | None
    config: Mapping[str, Any]
    unanswered: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "stages": [stage.to_json() for stage in self.stages],
            "query_count": self.query_count,
            "judged_count": self.judged_count,
            "missing": list(self.missing),
            "unjudged": list(self.unjudged),
            "latency_ms": self.latency_ms.to_json(),
            "over_budget": self.over_budget,
            "config": dict(self.config),
            "unanswered": list(self.unanswered),
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
    elapsed_s = _elapsed_s(run.stages)
    relevant = _relevant(qrels)
    received = _received(run.stages, relevant)
    stages = tuple(
        _stage_report(
            stage,
            evaluations,
            gains.get(stage.name),
            _added_ms(stage, run.stages, gains),
            Latency.of(elapsed_s[stage.name].values()),
            received[stage.name],
            qrels,
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
        latency_ms=Latency.of(run.seconds.values()),
        over_budget=None if run.budget_s is None else share_over(run.seconds, dict.fromkeys(run.seconds, run.budget_s)),
        config=run.config,
        unanswered=run.unanswered,
    )


def _stage_report(
    stage: StageRun,
    evaluations: Mapping[str, Evaluation],
    gain: Gain | None,
    added_ms: float,
    until_end_ms: Latency,
    received: Mapping[str, set[str]],
    qrels: Sequence[Qrel],
) -> StageReport:
    means = evaluations[stage.name].means
    gained = means[GAIN_MEASURE] if gain is None else gain.difference
    shortfalls = Counter(stage.shortfalls.values())
    verdict = _verdict(gain, ran=any(stage.scored.values()) or not shortfalls)
    lost = sum(len(given.difference(stage.survivors.get(query_id, ()))) for query_id, given in received.items())
    sentence = _sentence(stage.name, verdict, means[GAIN_MEASURE], gain, added_ms)
    return StageReport(
        name=stage.name,
        inputs=stage.inputs,
        measures=means,
        precision_before=None if gain is None else evaluations[gain.compared_with].means[PRECISION],
        precision_after=means[PRECISION],
        recall_ceiling=evaluate(stage.survivors, qrels, [CEILING]).means[CEILING],
        relevant_received=sum(map(len, received.values())),
        relevant_lost=lost,
        gain=gain,
        latency_ms=Latency.of(stage.seconds.values()),
        until_end_ms=until_end_ms,
        over_budget=share_over(stage.seconds, stage.granted_s) if stage.granted_s else None,
        scored_mean=float(np.mean(list(stage.scored.values()))),
        shortfalls=shortfalls,
        ms_per_point=added_ms / (100.0 * gained) if gained > 0 else None,
        verdict=verdict,
        sentence=sentence + _caveat(shortfalls, len(stage.seconds)),
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


def _verdict(gain: Gain | None, *, ran: bool) -> Verdict:
    if not ran:
        return "did not run"
    if gain is None:
        return "starts"
    if gain.p_adjusted >= LEVEL:
        return "does not pay"
    return "pays" if gain.difference > 0 else "hurts"


def _sentence(name: str, verdict: Verdict, value: float, gain: Gain | None, added_ms: float) -> str:
    cost = f"for {three_digits(added_ms)} ms a query"
    if verdict == "did not run":
        return f"{name} did not run, so nothing can be said of it: give it more time, or ask the traces why."
    if gain is None:
        return f"{name} starts: {GAIN_MEASURE} {value:.3f} {cost}."
    if not (gain.low or gain.high or gain.difference):
        return f"{name} {verdict}: {GAIN_MEASURE} stays what {gain.compared_with} made it, {value:.3f}, {cost}."
    change = (
        f"{GAIN_MEASURE} {gain.difference:+.3f} over {gain.compared_with} "
        f"({value - gain.difference:.3f} to {value:.3f}, p = {gain.p_adjusted:.2g})"
    )
    return f"{name} {verdict}: {change}{' may be chance,' if verdict == 'does not pay' else ''} {cost}."


def three_digits(number: float) -> str:
    """Three significant digits; large numbers in full, without an exponent.

    >>> [three_digits(number) for number in (0.012345, 8.0, 53.21, 1161.7)]
    ['0.0123', '8', '53.2', '1162']
    """
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def _caveat(shortfalls: Mapping[str, int], queries: int) -> str:
    """On how many queries the stage could not show what it is worth."""
    what = [f"{_SHORTFALLS.get(reason, reason)} on {count}" for reason, count in sorted(shortfalls.items())]
    return f" It {', '.join(what)} of {queries} queries." if what else ""


def _added_ms(stage: StageRun, stages: Sequence[StageRun], gains: Mapping[str, Gain]) -> float:
    """Mean milliseconds that a stage adds to what it is compared with."""
    mean = Latency.of(stage.seconds.values()).mean
    if not stage.holds_inputs:
        return mean
    (compared,) = [other for other in stages if other.name == gains[stage.name].compared_with]
    return mean - Latency.of(compared.seconds.values()).mean


def _elapsed_s(stages: Sequence[StageRun]) -> dict[str, dict[str, float]]:
    """For each stage and query, seconds from the first stage's beginning to its end."""
    found: dict[str, dict[str, float]] = {}
    for stage in stages:
        before = () if stage.holds_inputs else [found[name] for name in stage.inputs]
        found[stage.name] = {
            query_id: seconds + max((other[query_id] for other in before), default=0.0)
            for query_id, seconds in stage.seconds.items()
        }
    return found


def _relevant(qrels: Sequence[Qrel]) -> dict[str, set[str]]:
    """The relevant documents of every judged query."""
    relevant: dict[str, set[str]] = {}
    for qrel in qrels:
        documents = relevant.setdefault(qrel.query_id, set())
        if qrel.relevance > 0:
            documents.add(qrel.doc_id)
    return relevant


def _received(stages: Sequence[StageRun], relevant: Mapping[str, set[str]]) -> dict[str, dict[str, set[str]]]:
    """For each stage and query, the relevant documents that it was given: all there are, for a retriever."""
    survivors = {stage.name: stage.survivors for stage in stages}
    return {
        stage.name: {
            query_id: documents.intersection(
                chain.from_iterable(survivors[name].get(query_id, ()) for name in stage.inputs)
            )
            if stage.inputs
            else documents
            for query_id, documents in relevant.items()
        }
        for stage in stages
    }
