"""Comparing runs over the same queries: which differences are more than chance, and which queries pay for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.evaluation.gap import LEVEL
from cascade.evaluation.measures import Evaluation, Run, evaluate, parse_measures
from cascade.evaluation.runs import Latency, StagedRun, share_over
from cascade.evaluation.significance import SAMPLES, bootstrap_interval, holm, paired_t_test, randomisation_test
from cascade.types import Qrel

Values: TypeAlias = npt.NDArray[np.float64]
"""float64 [queries]."""

COMPARED_MEASURES = ("nDCG@10", "RR@10", "P@10", "R@100")
JUDGED = "Judged@10"
"""Always reported, tested only when asked for: where it differs, missing judgments may be what differs."""

WORST = 5
_TIE = 1e-9
"""Sums of the same gains in another order differ in the last bits."""


@dataclass(frozen=True, slots=True)
class System:
    """Something that ranked documents for queries, by the name that the comparison gives it.

    Args:
        name: unlike that of the others.
        ranked: its rankings.
        seconds: what each query took; None where that is not known.
        budget_s: seconds that a query might take; None for no limit.
        unanswered: how many queries a stage with ``on_overrun: fail`` ended.
    """

    name: str
    ranked: Run
    seconds: Mapping[str, float] | None = None
    budget_s: float | None = None
    unanswered: int = 0

    @classmethod
    def of(cls, name: str, run: StagedRun) -> System:
        """A whole cascade: the order after its last stage, the time of all."""
        return cls(name, run.stages[-1].ranked, run.seconds, run.budget_s, len(run.unanswered))


@dataclass(frozen=True, slots=True)
class SystemReport:
    """One system by itself.

    Args:
        name: of the system.
        means: of each measure, and Judged@10.
        missing: judged queries without results, which count as zero.
        latency_ms: of whole queries; None where it is not known.
        over_budget: share of queries that took longer than their budget; None without one.
        unanswered: queries that a stage with ``on_overrun: fail`` ended.
    """

    name: str
    means: Mapping[str, float]
    missing: int
    latency_ms: Latency | None
    over_budget: float | None
    unanswered: int


@dataclass(frozen=True, slots=True)
class Significance:
    """The p-value of a test, and the same after Holm's correction for everything that the comparison tests."""

    p_value: float
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one measure from one system to another.

    Args:
        measure: its name.
        before, after: the means.
        difference: mean over all judged queries of after - before.
        low, high: 95 % bootstrap confidence interval of the difference.
        t_test: of the paired t-test.
        randomisation: of the paired randomisation test.
        wins, losses, ties: queries that are better, worse and the same after.
    """

    measure: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    t_test: Significance
    randomisation: Significance
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A query that is worse after than before, by the first measure."""

    query_id: str
    before: float
    after: float
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two systems side by side.

    Args:
        before, after: their names.
        changes: one for each measure, in the order asked for.
        worst: the greatest losses by the first measure, greatest first.
    """

    before: str
    after: str
    changes: tuple[Change, ...]
    worst: tuple[Loss, ...]

    @property
    def sentence(self) -> str:
        """What the first measure says, in words, by the randomisation test."""
        change = self.changes[0]
        p_adjusted = change.randomisation.p_adjusted
        figures = f"{change.measure} {change.difference:+.3f} ({change.before:.3f} to {change.after:.3f}"
        if change.ties and not change.wins + change.losses:
            return f"{self.after} equals {self.before}: {change.measure} is the same for every query."
        if p_adjusted >= LEVEL:
            return f"{self.after} over {self.before}: {figures}, p = {p_adjusted:.2g}) may be chance."
        verdict = "is better than" if change.difference > 0 else "is worse than"
        return f"{self.after} {verdict} {self.before}: {figures}, p = {p_adjusted:.2g})."


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several systems over the same judged queries.

    Args:
        systems: in the order given.
        pairs: every two of them, the earlier as ``before``.
        query_count: judged queries; all of them count.
        test_count: tests of each kind that the p-values are corrected for.
        smallest_p: the least p-value, after correction, that so few queries could show for the clearest difference.
    """

    systems: tuple[SystemReport, ...]
    pairs: tuple[Pair, ...]
    query_count: int
    test_count: int
    smallest_p: float

    @property
    def too_few_queries(self) -> bool:
        """Whether no difference, however clear, could have counted as more than chance."""
        return self.smallest_p >= LEVEL

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON holds it."""
        return asdict(self)


def compare(
    systems: Sequence[System],
    qrels: Sequence[Qrel],
    measures: Sequence[str] = COMPARED_MEASURES,
    *,
    texts: Mapping[str, str] = MappingProxyType({}),
    worst: int = WORST,
    seed: int = 0,
) -> Comparison:
    """Compares every two of several systems.

    Args:
        systems: at least two, with distinct names.
        qrels: the judgments; every judged query counts, as zero where a system has no results for it.
        measures: what to compare by; the first one decides which losses are the worst.
        texts: the queries' texts by id, as far as they are known.
        worst: losses to list for each pair.
        seed: of the randomisation tests and the bootstrap.

    Raises:
        InputError: there are fewer than two systems, two have one name, one shares no query with the judgments, fewer
            than two queries are judged, or a measure is unknown.
    """
    names = [system.name for system in systems]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"compare: expected at least two runs with distinct names, got {names}; name others")
    tested = [repr(measure) for measure in parse_measures(measures)]
    evaluations = [_evaluate(system, qrels, tested) for system in systems]
    query_count = len(evaluations[0].by_query[JUDGED])
    if query_count < 2:
        raise InputError(f"compare: expected at least 2 judged queries, got {query_count}; add judgments")
    pairs = list(combinations(evaluations, 2))
    values = [(m, _values(before, m), _values(after, m)) for before, after in pairs for m in tested]
    t_tests = _corrected([paired_t_test(old, new).p_value for _, old, new in values])
    randomisations = _corrected([randomisation_test(old, new, seed=seed) for _, old, new in values])
    changes = [
        _change(*value, t_test, randomisation, seed)
        for value, t_test, randomisation in zip(values, t_tests, randomisations, strict=True)
    ]
    return Comparison(
        systems=tuple(map(_system_report, systems, evaluations)),
        pairs=tuple(
            Pair(
                before,
                after,
                tuple(changes[number * len(tested) : (number + 1) * len(tested)]),
                _worst(old.by_query[tested[0]], new.by_query[tested[0]], worst, texts),
            )
            for number, ((before, after), (old, new)) in enumerate(zip(combinations(names, 2), pairs, strict=True))
        ),
        query_count=query_count,
        test_count=len(changes),
        smallest_p=min(1.0, len(changes) * max(2.0 ** (1 - query_count), 1 / (SAMPLES + 1))),
    )


def _evaluate(system: System, qrels: Sequence[Qrel], measures: Sequence[str]) -> Evaluation:
    evaluation = evaluate(system.ranked, qrels, (*measures, JUDGED))
    if len(evaluation.missing) == len(evaluation.by_query[JUDGED]):
        raise InputError(
            f"{system.name}: expected results for judged queries, such as {evaluation.missing[0]!r}, got "
            f"{', '.join(map(repr, evaluation.unjudged[:3])) or 'none'}; take run and judgments of the same queries"
        )
    return evaluation


def _system_report(system: System, evaluation: Evaluation) -> SystemReport:
    over = None
    if system.seconds is not None and system.budget_s is not None:
        over = share_over(system.seconds, dict.fromkeys(system.seconds, system.budget_s))
    return SystemReport(
        name=system.name,
        means=evaluation.means,
        missing=len(evaluation.missing),
        latency_ms=None if system.seconds is None else Latency.of(system.seconds.values()),
        over_budget=over,
        unanswered=system.unanswered,
    )


def _values(evaluation: Evaluation, measure: str) -> Values:
    return np.array(list(evaluation.by_query[measure].values()))


def _corrected(p_values: Sequence[float]) -> list[Significance]:
    return [Significance(*both) for both in zip(p_values, holm(p_values), strict=True)]


def _change(
    measure: str, old: Values, new: Values, t_test: Significance, randomisation: Significance, seed: int
) -> Change:
    differences = np.where(np.abs(new - old) < _TIE, 0.0, new - old)
    low, high = bootstrap_interval(differences, seed=seed)
    return Change(
        measure=measure,
        before=float(old.mean()),
        after=float(new.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        t_test=t_test,
        randomisation=randomisation,
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def _worst(
    before: Mapping[str, float], after: Mapping[str, float], count: int, texts: Mapping[str, str]
) -> tuple[Loss, ...]:
    losses = [query_id for query_id in before if after[query_id] < before[query_id] - _TIE]
    losses.sort(key=lambda query_id: after[query_id] - before[query_id])
    return tuple(Loss(q, before[q], after[q], texts.get(q, "")) for q in losses[:count])
