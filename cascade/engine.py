"""One query's way through a plan, as a series of tasks that somebody else executes.

A ``QueryRun`` decides; it never waits, never scores and reads no clock but the one it was given. It hands out one
``Task`` at a time and is told the ``Outcome``. So the same code serves the executor's worker threads, tests under a
fake clock, and replay under a virtual one.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from cascade import scheduler
from cascade.clock import Clock, Deadline
from cascade.combining import combine
from cascade.cost import CostModel
from cascade.errors import Cancelled, DeadlineExceeded, StageError
from cascade.ranking import best_passages, cut, hits, interleave, merge, reorder
from cascade.reranking import rerank
from cascade.retrieval import fuse, judge, retrieve
from cascade.stage import Reading, Work
from cascade.stagerun import ENCODING, StageRun, Steps
from cascade.tasks import Health, Healthy, OpenedCascade, OpenedStage, Outcome, Task, foreseen
from cascade.trace import Reason, StageTrace, Trace
from cascade.types import Candidates, Query, Ranking, Rows, Scores

FINISH_S = 0.0005
"""Seconds kept back at the end of a query: half of them, or more where it is known to take longer, to wake its caller
and make the answer, half so that the last task has ended by then."""


class QueryRun:
    """One query on its way through an opened cascade.

    Call ``start`` for the first task and ``advance`` with each outcome for the next, until there is none; then
    ``result``. ``abandon`` ends it from outside at any moment with the best order known then. Safe to use from several
    threads. Its lock is never held while a stage's code runs, so that ``abandon`` never waits for a stage.

    ``answer_by`` is when the caller stops waiting, ``work_by`` when the last task has to have ended. ``minimum_s`` are
    the predicted seconds of an answer worth having, by the first retriever or by every stage (``overload``), of which
    ``margin_s`` are caution; ``served_s`` those that it was worked on. ``level`` says how far it is: who is behind goes
    first, so that everybody has an answer before anybody has a better one. ``yield_at`` is set from outside, to make it
    rerank less when others wait; so is ``begun_at``, when the pending task began to be executed: inf while it waits.
    """

    def __init__(
        self,
        cascade: OpenedCascade,
        query: Query,
        *,
        clock: Clock,
        deadline: Deadline,
        costs: CostModel,
        health: Health | None = None,
        candidates: Candidates | None = None,
        entered: float | None = None,
        finish_s: float = FINISH_S / 2,
    ) -> None:
        """Prepares a run; nothing happens yet.

        Args:
            cascade: what to run.
            query: the question.
            clock: time.
            deadline: when the answer is due.
            costs: predicts what work takes.
            health: which stages to leave out; none by default.
            candidates: start from these and pass the retrievers over.
            entered: when the query came in, if that was before now.
            finish_s: seconds before the deadline at which the caller has to stop waiting, to have the answer in time.
        """
        self.cascade = cascade
        self.query = query
        self.deadline = deadline
        self.pending: Task | None = None
        self.done = False
        self.yield_at = self.begun_at = math.inf
        self.served_s = 0.0
        self.entered = self._queued_at = clock.now() if entered is None else entered
        self._clock = clock
        self._costs = costs
        self._health = Healthy() if health is None else health
        self.answer_by = deadline.at - finish_s
        self.ended_at = math.nan
        self.work_by = self.answer_by - FINISH_S / 2
        self._waited_s = 0.0
        self._worked = False
        self._positions = [i for i, stage in enumerate(cascade.stages) if candidates is None or stage.reranks]
        self._ranked = Candidates.empty() if candidates is None else candidates
        self._kept: list[Candidates] = []
        self._tails: list[Candidates] = []
        self._retrieved: dict[str, Candidates] = {}
        self._given: dict[str, tuple[Rows, Scores]] = {}
        self._readings: dict[str, Reading] = {}
        self._traces: list[StageTrace] = []
        self._open: list[StageRun] = []
        self._failure: Exception | None = None
        self._overrun = ""
        self._short = False
        needed = list(foreseen(self._needed_units()))
        self.minimum_s = sum(self._minimum(stage, read) for stage, read in needed)
        self.margin_s = sum(self._margin(stage, read) for stage, read in needed)
        self._ahead = len(cascade.stages) - len(self._positions)
        self.level = (self._ahead, 0)
        self._lock = threading.RLock()  # a garbage collection may abandon it in the middle of a step
        self._steps = self._run()

    def remaining_s(self) -> float:
        """Seconds that such an answer is still expected to need; less than predicted, for predictions are cautious."""
        return 0.0 if self.done else max(0.0, self.minimum_s - self.margin_s - self.served_s)

    def start(self) -> Task | None:
        """The first task; None when there is nothing to do."""
        with self._lock:
            self._queued_at = self._clock.now()
            return None if self.done else self._next(None)

    def advance(self, outcome: Outcome | None) -> Task | None:
        """The next task, given what became of the pending one; None when the query is answered.

        An ``outcome`` of None says that the task was not started, because it would have ended too late.
        """
        with self._lock:
            if self.done:
                return None
            if outcome is None:
                self._note_waiting(self._clock.now(), started=False)
            else:
                self._note_waiting(outcome.began, started=True)
                self.served_s += (outcome.ended - outcome.began) * outcome.share
            return self._next(outcome)

    def abandon(self, reason: Reason = "budget", detail: str = "") -> None:
        """Ends the query now: the stage it is in keeps what it has scored, those after it are skipped."""
        with self._lock:
            if self.done or inspect.getgeneratorstate(self._steps) == inspect.GEN_RUNNING:
                return
            now = self._clock.now()
            self._note_waiting(min(now, self.begun_at), started=self.begun_at <= now)
            if reason == "cancelled":
                self._failure = Cancelled(detail)
            while self._open:
                self._open[-1].end(reason, detail)
                self._close(self._open[-1])
            for position in self._positions[len(self._traces) :]:
                self._leave_out(position, "cancelled" if reason == "cancelled" else "skipped", "no time left")
            self._finish()

    def result(self, top_k: int | None = None) -> Ranking:
        """The answer.

        Args:
            top_k: documents wanted; by default as many as the last stage passes on. More than that appends what
                earlier stages cut, in their order.

        Raises:
            DeadlineExceeded: if a stage with ``on_overrun: fail`` ran out of time.
            StageError: if a stage with ``on_error: fail`` failed.
            Cancelled: if it was withdrawn.
        """
        if self._failure is not None:
            raise self._failure
        ranking = self._ranking(top_k)
        if self._overrun:
            raise DeadlineExceeded(self._overrun, ranking)
        return ranking

    def order_after(self, stage: int) -> Candidates:
        """The whole order after the ``stage``-th stage (from 0): what it passed on, then what was cut, latest first."""
        ordered = self._kept[stage]
        for tail in reversed(self._tails[: stage + 1]):
            ordered = Candidates.concatenate(ordered, tail)
        return ordered

    def passed_by(self, stage: int) -> Candidates:
        """What the ``stage``-th stage (from 0) handed on."""
        return self._kept[stage]

    @property
    def overran(self) -> bool:
        """Whether it ended in a stage that says ``on_overrun: fail``."""
        return bool(self._overrun)

    @property
    def retrieved(self) -> Mapping[str, Candidates]:
        """What each retriever of a fusion stage found, by its name."""
        return self._retrieved

    @property
    def trace(self) -> Trace:
        """What has happened so far."""
        return Trace(
            cascade=self.cascade.plan.name,
            budget_s=self.deadline.at - self.entered,
            seconds=(self.ended_at if self.done else self._clock.now()) - self.entered,
            waited_s=self._waited_s,
            stages=tuple(self._traces),
            costs=self._costs.profile.source,
        )

    def _ranking(self, top_k: int | None) -> Ranking:
        collection, stages = self.cascade.collection, self.cascade.stages
        if top_k is None:
            top_k = stages[-1].planned.top_k if stages else len(self._ranked)
        best = best_passages(self._ranked, collection, top_k)
        if len(best) < top_k and self._kept:
            best = best_passages(self.order_after(len(self._kept) - 1), collection, top_k)
        return Ranking(self.query, hits(best, collection, [stage.planned.settings for stage in stages]), self.trace)

    # Everything below runs under the lock.

    def _next(self, outcome: Outcome | None) -> Task | None:
        for run in self._open:
            run.yield_at = self.yield_at
        self.begun_at = math.inf
        try:
            self.pending = self._steps.send(outcome)
            self._queued_at = self._clock.now()
            self.level = self._level(self.pending)
        except StopIteration:
            self._finish()
        except Exception as error:  # a fault of the engine belongs to the caller, and must not cost a worker
            self._failure = error
            self._finish()
        return self.pending

    def _level(self, task: Task) -> tuple[int, int]:
        """Stages behind it, and retrievers of this one; to fuse what they gave is as urgent as the first."""
        return self._ahead + len(self._traces), 0 if task.action == "fuse" else len(self._open[0].retrievers)

    def _note_waiting(self, until: float, *, started: bool) -> None:
        """Counts the time since the pending task entered the queue."""
        waited_s = max(0.0, until - self._queued_at)
        for run in self._open:
            run.wait(waited_s)
        if not self._worked:
            self._waited_s, self._worked = until - self.entered, started

    def _finish(self) -> None:
        self.ended_at = self._clock.now()
        self.done, self.pending = True, None
        self._steps.close()

    def _run(self) -> Steps:
        for number, position in enumerate(self._positions):
            stage = self.cascade.stages[position]
            if blocked := self._health.blocked(stage.planned.name):
                self._leave_out(position, "failed" if stage.planned.on_error == "fail" else "skipped", blocked)
            elif self._short and len(self._ranked) == 0:
                self._leave_out(position, "skipped", "nothing was found in time")
            else:
                run = self._begin(stage, *self._deadline_of(number))
                if stage.retrievers:
                    yield from self._fuse(run)
                elif not stage.reranks:
                    run.first = True
                    yield from retrieve(run, self.query, self.cascade.rows_wanted(stage.planned.top_k))
                else:
                    yield from rerank(run, self.query, self.cascade.rows_wanted(stage.planned.top_k))
                self._close(run)
            if self._failure is not None or self._overrun:
                return

    def _fuse(self, fusion: StageRun) -> Steps:
        """Several retrievers, one after the other, then what merges them."""
        retrievers = fusion.stage.retrievers
        most = sum(self.cascade.rows_wanted(inner.planned.top_k) for inner in retrievers)
        fusing_s = self._costs.rates(fusion.stage.key("fuse")).seconds(Work(pairs=float(most)))
        for i, inner in enumerate(retrievers):
            now = self._clock.now()
            end = fusion.deadline - (fusing_s if i > 0 else 0.0)  # what the first one finds is an answer by itself
            least_s, *later_s = self._minima(retrievers[i:])
            reserve_s = scheduler.reserve(later_s, end - now - least_s)
            deadline = scheduler.stage_deadline(now, end, inner.planned.budget_s, 0.0, reserve_s)
            run = self._begin(inner, deadline, fusion.latest)
            if not any(trace.scored > 0 for trace in fusion.retrievers):
                whole = scheduler.stage_deadline(now, fusion.deadline, inner.planned.budget_s, 0.0, 0.0)
                run.first, run.kept_s = True, whole - deadline if whole < math.inf else 0.0
            if blocked := self._health.blocked(inner.planned.name):
                run.end("failed" if inner.planned.on_error == "fail" else "skipped", blocked)
            else:
                yield from retrieve(run, self.query, self.cascade.rows_wanted(inner.planned.top_k))
            self._close(run)
            if self._failure is not None or self._overrun:
                judge(fusion)
                return
        if any(trace.scored > 0 for trace in fusion.retrievers):
            yield from fuse(fusion, interleave)
            if fusion.stage.planned.combined_later and fusion.reason == "complete":  # else not its own
                self._given[fusion.stage.planned.name] = fusion.found[0]
        if fusion.reason == "complete":
            judge(fusion)

    def _deadline_of(self, number: int) -> tuple[float, float]:
        """When the ``number``-th stage of this run has to end, and when at the latest if it has to wait.

        The first stage leaves no reserve to those after it: they would have nothing to improve on.
        """
        now, carried_s = self._clock.now(), 0.0
        if self.cascade.plan.slack == "carry" and number > 0:
            budgets_s = [self.cascade.stages[position].planned.budget_s for position in self._positions[:number]]
            carried_s = scheduler.carried(budgets_s, [trace.seconds - trace.waited_s for trace in self._traces])
        stage, reserve_s = self.cascade.stages[self._positions[number]], 0.0
        if stage.reranks:
            least_s, *later_s = self._minima([self.cascade.stages[position] for position in self._positions[number:]])
            reserve_s = scheduler.reserve(later_s, self.work_by - now - least_s)
        deadline = scheduler.stage_deadline(now, self.work_by, stage.planned.budget_s, carried_s, reserve_s)
        return deadline, self.work_by - reserve_s

    def _minima(self, stages: Sequence[OpenedStage]) -> list[float]:
        """Predicted seconds of the least that each of the next stages can do, given what has read the query so far."""
        return [self._minimum(stage, read) for stage, read in foreseen(stages, self._readings)]

    def _minimum(self, stage: OpenedStage, read: frozenset[str]) -> float:
        """Predicted seconds of the least that a stage can do, where some readers have read the query before."""
        if stage.retrievers:
            return sum(self._minimum(inner, before) for inner, before in foreseen(stage.retrievers, read))
        encode_s = self._costs.rates(stage.key(stage.encoding(read))).seconds(ENCODING)
        if not stage.reranks:
            return encode_s + stage.ranges * self._costs.typical_s(stage.key("search"))
        return encode_s + scheduler.typical_seconds(self._costs.rates(stage.key(stage.scoring)), stage.together)

    def _needed_units(self) -> Sequence[OpenedStage]:
        """Whose least makes an answer worth having."""
        stages = [self.cascade.stages[position] for position in self._positions]
        if self.cascade.plan.overload == "refuse" or not stages:
            return stages
        return [(*stages[0].retrievers, stages[0])[0]]

    def _margin(self, stage: OpenedStage, read: frozenset[str]) -> float:
        """Seconds by which the least that a stage can do is predicted to take more than on average."""
        if stage.retrievers:
            return sum(self._margin(inner, before) for inner, before in foreseen(stage.retrievers, read))
        encode = stage.key(stage.encoding(read))
        return self._costs.rates(encode).seconds(ENCODING) - self._costs.typical_s(encode)

    def _begin(self, stage: OpenedStage, deadline: float, latest: float) -> StageRun:
        received, total = self._ranked, len(self._ranked)
        if not stage.reranks:
            received, total = Candidates.empty(), len(self.cascade.collection)
        now = self._clock.now()
        run = StageRun(
            stage,
            received,
            total,
            now,
            deadline,
            latest,
            self._clock,
            self._costs,
            self._health,
            self.yield_at,
            readings=self._readings,
        )
        self._open.append(run)
        return run

    def _leave_out(self, position: int, reason: Reason, detail: str) -> None:
        """Passes a stage over: its candidates go on in their order, cut as if it had run."""
        stage = self.cascade.stages[position]
        now = self._clock.now()
        run = self._begin(stage, now, now)
        run.end("budget" if reason == "skipped" and stage.planned.on_overrun == "fail" else reason, detail)
        self._close(run)

    def _close(self, run: StageRun) -> None:
        """Turns what a stage did into the next ranking and its trace."""
        self._open.remove(run)
        self._short = self._short or run.short
        if self._open:
            self._close_retriever(run, self._open[-1])
        else:
            ranked = self._ranked_by(run, self._positions[len(self._traces)])
            plan = self.cascade.plan
            self._ranked, rest = cut(
                ranked, run.stage.planned.top_k, self.cascade.collection, plan.passages.per_document
            )
            self._kept.append(self._ranked)
            self._tails.append(rest)
            self._traces.append(run.trace(self._clock.now(), len(self._ranked)))
        self._fail_if_told_to(run)

    def _close_retriever(self, run: StageRun, fusion: StageRun) -> None:
        """Hands what a retriever found to the fusion stage that it belongs to."""
        plan = run.stage.planned
        if plan.on_overrun == "skip" and run.reason in ("budget", "cancelled"):
            run.found.clear()
        rows, scores = merge(run.found, self.cascade.rows_wanted(plan.top_k))
        fusion.found.append((rows, scores))
        fusion.retrievers.append(run.trace(self._clock.now(), len(rows)))
        fusion.short = fusion.short or run.short
        fusion.planned, fusion.scored = max(fusion.planned, run.planned), max(fusion.scored, run.scored)
        fusion.batches += run.batches
        fusion.predicted_s = run.predicted_s + (0.0 if len(fusion.found) == 1 else fusion.predicted_s)
        if plan.combined_later:
            self._given[plan.name] = rows, scores
        self._retrieved[plan.name] = Candidates(rows, scores, np.full(len(rows), -1, np.int16))

    def _ranked_by(self, run: StageRun, position: int) -> Candidates:
        """The candidates in the order that a stage gives them."""
        plan = run.stage.planned
        if not run.stage.reranks:
            fused = bool(run.stage.retrievers)  # into one list, or abandoned before
            rows, scores = interleave(run.found) if fused else merge(run.found, self.cascade.rows_wanted(plan.top_k))
            if plan.combined_later and not fused:
                self._given[plan.name] = rows, scores
            return Candidates(rows, scores, np.full(len(rows), position, np.int16))
        if plan.on_overrun == "skip" and run.reason in ("budget", "cancelled"):
            return run.received
        if plan.combined_later:
            self._given[plan.name] = run.own
        if plan.combine is None:
            return reorder(run.received, run.scores, run.known, position)
        combined, given = np.zeros(len(run.received)), {**self._given, plan.name: run.own}
        combined[run.known], run.combined = combine(run.own[0], given, plan.combine)
        return reorder(run.received, combined, run.known, position, ties=run.scores)

    def _fail_if_told_to(self, run: StageRun) -> None:
        """Ends the query where the settings of a stage want no answer without it."""
        plan, place = run.stage.planned, f"stage {run.stage.planned.name!r}"
        if self._failure is not None:
            return
        if run.reason == "failed" and plan.on_error == "fail":
            self._failure = StageError(f"{place} failed: {run.detail}; its settings say on_error: fail")
        elif run.reason == "budget" and plan.on_overrun == "fail" and not self._overrun:
            spent_ms = (self._clock.now() - run.began) * 1000
            self._overrun = f"{place} ran out of time after {spent_ms:.1f} ms: {run.detail}; it says on_overrun: fail"
