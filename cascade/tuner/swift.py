"""Replay of one query at a time without the engine's machinery around it.

Takes the engine's decisions from the engine's own ``scheduler`` functions, in the order in which ``QueryRun`` does, but
makes no tasks, traces or locks, and shares what cascades without limits have in common. It knows fewer cases than the
engine: where one comes up that it does not know, it says so, and the engine itself has to replay that query. A property
test holds both equal, in ranking and in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade import scheduler
from cascade.combining import combine
from cascade.cost import CostModel, Rates
from cascade.engine import FINISH_S
from cascade.ranking import cut, places, reorder, within
from cascade.stage import Work
from cascade.tasks import Action, OpenedCascade, OpenedStage
from cascade.tuner.finding import ONCE, Finder, Found, Minima, Shared, Unknown
from cascade.tuner.recording import UnitData
from cascade.types import Candidates, Rows, Scores

End: TypeAlias = Literal["ended", "saturated", "skipped", "expired"]
"""Of a reranker: by itself or its time, early on purpose, before it began, or with the whole query."""


@dataclass(slots=True)
class State:
    """A query between two stages.

    Args:
        candidates: in rank order, after the last stage not cut; their ``rows`` are positions among the query's recorded
            candidates.
        now: virtual seconds since the query came.
        spent: seconds of each stage so far.
        scored: candidates that each stage scored.
        degraded: whether any stage did less than it was asked for.
        read: the readers that have read the query.
        over: whether the deadline came, so that nothing follows.
        given: the scores of stages that later ones combine with their own, by name.
    """

    candidates: Candidates
    now: float
    spent: list[float]
    scored: list[int]
    read: frozenset[str]
    degraded: bool = False
    over: bool = False
    given: dict[str, tuple[Rows, Scores]] = field(default_factory=dict)


class Part(NamedTuple):
    """A reranker of a cascade, looked up in the recording.

    Args:
        stage: as opened.
        number: its position in the cascade.
        data: what was recorded.
        encode: rates of its query-side work, by action.
        score: rates of its batches as the scheduler sees them.
        typical: the same without margin.
        ratios: real over typical seconds of its tasks, by query; None for typical ones.
        typical_encode_s: seconds of its query-side work, by action, where what is typical counts; else empty.
        wanted: candidates that it passes on.
    """

    stage: OpenedStage
    number: int
    data: UnitData
    encode: Mapping[Action, Rates]
    score: Rates
    typical: Rates
    ratios: Sequence[Sequence[float]] | None
    typical_encode_s: Mapping[Action, float]
    wanted: int


class Swift:
    """Replays the queries of one cascade.

    Args:
        cascade: opened over the recording.
        costs: what the scheduler believes; does not change.
        shared: with other cascades over the same recording.
        units: what was recorded of each stage, by the name that it has in this cascade.

    Raises:
        Unknown: the cascade has a stage that only the engine can replay.
    """

    def __init__(self, cascade: OpenedCascade, costs: CostModel, shared: Shared, units: dict[str, UnitData]) -> None:
        plan, self._shared, self._costs, self._units = cascade.plan, shared, costs, units
        if any(unit.on_overrun == "fail" or unit.role == "listwise" for unit in plan.units()):
            raise Unknown("only the engine replays it")
        self._cascade = cascade
        deadline_s = plan.budget_s
        answer_by = deadline_s - shared.recording.finish_s
        self._end = answer_by - FINISH_S / 2
        self._expires = max(0.0, answer_by)
        self._handling_s = shared.recording.handling_s
        self._finder = Finder(cascade, costs, shared, units, self._expires)
        self._parts = [self._part(stage, number) for number, stage in enumerate(cascade.stages) if number > 0]
        self._minima_s = Minima(cascade.stages, self._minimum)
        self._budgets_s = [stage.planned.budget_s for stage in cascade.stages]
        self._carry = plan.slack == "carry"
        self._limited = deadline_s != math.inf or any(unit.budget_s != math.inf for unit in plan.units())
        general = (plan.quantile, plan.passages.per_document)
        self._uncut = (*general, _key(cascade.stages[:1], cuts=False))
        self._keys = [(*general, _key(cascade.stages[: number + 1])) for number in range(len(cascade.stages))]

    def run(self, query: int) -> State:
        """The last state of a query.

        Raises:
            Unknown: the engine itself has to replay it.
        """
        state = self._found(query)
        for part in self._parts:
            if state.over:
                state = self._after(part, query, state, state.candidates, state.now, 0, True)
                state.over = True
            elif self._limited:
                state = self._rerank(part, query, state, self._deadline_of(part.number, state))
            else:
                known = self._shared.results(self._keys[part.number])
                if query not in known:
                    known[query] = self._rerank(part, query, state, math.inf)
                state = known[query]
        return state

    def _found(self, query: int) -> State:
        known = self._shared.results(self._keys[0])
        if query not in known:
            uncut = self._shared.results(("whole", self._uncut))
            if query not in uncut:
                uncut[query] = self._finder.whole(query)
            known[query] = self._begun(uncut[query], query)
        whole: State = known[query]
        if self._limited:
            deadline = self._deadline_at(0, 0.0, 0.0, frozenset())
            if not self._finder.unhindered(query, deadline, whole.now):
                return self._begun(self._finder.within(query, deadline), query)
        return whole

    def _begun(self, found: Found, query: int) -> State:
        known = self._shared.results((self._keys[0], found.searched, found.fused))
        if query not in known:
            known[query] = self._first_cut(found, query)
        spent, scored, given = [found.now], [found.scored], self._given(found, query)
        return State(known[query], found.now, spent, scored, found.read, found.degraded, found.over, given)

    def _first_cut(self, found: Found, query: int) -> Candidates:
        """``ranking.cut`` of what was found; where documents have several passages, cascades share half of its work."""
        ranking, documents = self._uncut_ranking(found, query), self._shared.documents[query]
        top_k, per_document = self._cascade.stages[0].planned.top_k, self._cascade.plan.passages.per_document
        if documents.one_passage_each:
            return ranking[:top_k]
        known = self._shared.results(("places", self._uncut, found.searched, found.fused))
        if query not in known:
            known[query] = places(documents.doc_rows(ranking.rows))
        before, earlier = known[query]
        return ranking[within(before, earlier, top_k, per_document)]

    def _uncut_ranking(self, found: Found, query: int) -> Candidates:
        rankings = self._shared.results((self._uncut, found.searched, found.fused))
        if query not in rankings:
            rows, scores = self._finder.ranked(found)
            rankings[query] = Candidates(rows, scores, np.zeros(len(rows), np.int16))
        whole: Candidates = rankings[query]
        return whole

    def _given(self, found: Found, query: int) -> dict[str, tuple[Rows, Scores]]:
        """What the first stage and its retrievers say, as far as later stages combine it."""
        first = self._cascade.stages[0]
        parts = zip(first.retrievers or (first,), found.parts, strict=False)  # fewer where the deadline came
        given = {stage.planned.name: part for stage, part in parts if stage.planned.combined_later}
        if first.retrievers and first.planned.combined_later and found.fused:
            ranking = self._uncut_ranking(found, query)
            given[first.planned.name] = ranking.rows, ranking.scores
        return given

    # Reranking

    def _rerank(self, part: Part, query: int, state: State, deadline: float) -> State:
        """What ``reranking.rerank`` does, for a stage that behaves."""
        received, now = state.candidates, state.now
        total = len(received)
        if total == 0:
            return self._after(part, query, state, received, now, 0, False)
        encoding = part.stage.encoding(state.read)
        least_s = part.encode[encoding].seconds(ONCE) + scheduler.typical_seconds(part.score)
        if not scheduler.may_start(now, least_s, deadline):
            return self._after(part, query, state, received, now, 0, True)
        typical_s = part.typical_encode_s
        now += typical_s[encoding] if typical_s else float(part.data.encode_s[encoding][query])
        now += self._handling_s
        state = replace(state, read=state.read | {part.stage.reader})
        known = np.zeros(total, np.bool_)
        end: End = "expired"
        if now < self._expires:
            now, end = self._score(part, query, received, deadline, now, known)
            if end == "skipped":
                return self._after(part, query, state, received, now, 0, True)
        now = min(now, self._expires)
        scored = int(np.count_nonzero(known))
        ranked, given = received, state.given
        cut_short = scored < total and end != "saturated"
        if scored and not (cut_short and part.stage.planned.on_overrun == "skip"):
            scores = part.data.scores[query][received.rows]
            if scored < total:
                scores = np.where(known, scores, np.float32(0))
            ranked, given = self._reordered(part, state, scores, known)
        after = self._after(part, query, state, ranked, now, scored, cut_short)
        after.over, after.given = end == "expired", given
        return after

    def _reordered(
        self, part: Part, state: State, scores: Scores, known: npt.NDArray[np.bool_]
    ) -> tuple[Candidates, dict[str, tuple[Rows, Scores]]]:
        """The candidates in the order that a stage gives them, and the scores that later stages combine."""
        planned, received, given = part.stage.planned, state.candidates, state.given
        own = received.rows[known], scores[known]
        if planned.combined_later:
            given = {**given, planned.name: own}
        if planned.combine is None:
            return reorder(received, scores, known, part.number), given
        combined = np.zeros(len(received))
        combined[known], _ = combine(own[0], {**given, planned.name: own}, planned.combine)
        return reorder(received, combined, known, part.number, ties=scores), given

    def _score(
        self, part: Part, query: int, received: Candidates, deadline: float, now: float, known: npt.NDArray[np.bool_]
    ) -> tuple[float, End]:
        """Notes in ``known`` what is scored; the time after it, and why it ended."""
        lengths = part.data.lengths[query][received.rows]
        shortest = float(max(1, lengths.min()))
        least_s = part.score.seconds(Work(1.0, shortest, shortest * shortest)) - scheduler.ROUNDING_S
        whole = scheduler.by_length(lengths, part.score)
        quantum_s = scheduler.quantum(deadline - now, part.score)
        batch_tokens = part.data.unit.batch_tokens
        ratios = None if part.ratios is None else part.ratios[query]
        todo, total, calls = np.arange(len(received)), len(received), 0
        predict, take = part.score.seconds, part.typical.seconds
        planned, scores = part.stage.planned, part.data.scores[query][received.rows]
        confidence, handling_s, expires = planned.adaptive, self._handling_s, self._expires
        while len(todo) > 0:
            left_s = deadline - now
            groups: list[scheduler.Group] = []
            if left_s >= least_s and left_s > 0:
                lengths_left = whole if len(todo) == total else whole.only(todo)
                groups = scheduler.batches(lengths_left, left_s, quantum_s, part.score, batch_tokens)
            if calls == 0 and planned.on_overrun == "skip" and sum(len(group.positions) for group in groups) < total:
                return now, "skipped"
            if not groups:
                break
            if deadline == math.inf and expires == math.inf and confidence is None:
                for calls, (_, work) in enumerate(groups):
                    seconds = take(work)
                    now += (seconds * ratios[calls % len(ratios)] if ratios else seconds) + handling_s
                known.fill(True)
                break
            done = 0
            for positions, work in groups:
                if not scheduler.may_start(now, predict(work), deadline):
                    break
                seconds = take(work)
                now += (seconds * ratios[calls % len(ratios)] if ratios else seconds) + handling_s
                calls += 1
                if now >= expires:
                    return now, "expired"
                known[positions] = True
                done += 1
                if confidence is not None and scheduler.adaptive_stop(scores, known, part.wanted, confidence):
                    return now, "saturated"
            if done == 0:
                break  # nothing changes by asking again
            todo = todo[~known[todo]]
        return now, "ended"

    def _after(
        self, part: Part, query: int, state: State, ranked: Candidates, now: float, scored: int, degraded: bool
    ) -> State:
        kept = ranked if part is self._parts[-1] else self._cut(part.stage, ranked, query)
        spent = [*state.spent, now - state.now]
        return State(
            kept, now, spent, [*state.scored, scored], state.read, state.degraded or degraded, given=state.given
        )

    def _cut(self, stage: OpenedStage, ranked: Candidates, query: int) -> Candidates:
        per_document = self._cascade.plan.passages.per_document
        return cut(ranked, stage.planned.top_k, self._shared.documents[query], per_document)[0]

    # What the engine works out before and between stages

    def _deadline_of(self, number: int, state: State) -> float:
        carried_s = scheduler.carried(self._budgets_s[:number], state.spent) if self._carry else 0.0
        return self._deadline_at(number, state.now, carried_s, state.read)

    def _deadline_at(self, number: int, now: float, carried_s: float, read: frozenset[str]) -> float:
        reserve_s = 0.0
        if number > 0:
            least_s, *later_s = self._minima_s(number, read)
            reserve_s = scheduler.reserve(later_s, self._end - now - least_s)
        return scheduler.stage_deadline(now, self._end, self._budgets_s[number], carried_s, reserve_s)

    def _minimum(self, stage: OpenedStage, read: frozenset[str]) -> float:
        encode_s = self._costs.rates(stage.key(stage.encoding(read))).seconds(ONCE)
        return encode_s + scheduler.typical_seconds(self._costs.rates(stage.key(stage.scoring)))

    def _part(self, stage: OpenedStage, number: int) -> Part:
        data, recording = self._units[stage.planned.name], self._shared.recording
        if not np.isfinite(data.scores.values).all():
            raise Unknown("some scores are not finite")
        recorded = self._shared.recorded
        keys = {action: stage.key(action) for action in data.encode_s}
        return Part(
            stage=stage,
            number=number,
            data=data,
            encode={action: self._costs.rates(key) for action, key in keys.items()},
            score=self._costs.rates(stage.key("score")),
            typical=recording.rates[stage.key("score")],
            ratios=recording.ratios.get(stage.key("score")) if recorded else None,
            typical_encode_s={} if recorded else {a: recording.rates[key].seconds(ONCE) for a, key in keys.items()},
            wanted=self._cascade.rows_wanted(stage.planned.top_k),
        )


def _key(stages: Sequence[OpenedStage], *, cuts: bool = True) -> object:
    """What decides the result of the first stages where nothing is limited, with or without their own cuts."""
    return tuple(
        (
            stage.cost_key,
            stage.planned.top_k if cuts or not stage.retrievers else 0,
            stage.planned.settings.model_dump_json(exclude={"name", "top_k", "budget_ms", "on_overrun", "on_error"})
            if stage.retrievers
            else "",
            tuple((inner.cost_key, inner.planned.top_k) for inner in stage.retrievers),
            tuple(unit.planned.name for unit in (*stage.retrievers, stage) if unit.planned.combined_later),
            None if stage.planned.combine is None else (stage.planned.name, *stage.planned.combine.items()),
            stage.planned.adaptive,
        )
        for stage in stages
    )
