"""Real threads; time is virtual or stands still, and events decide who waits for whom. Timeouts guard the suite."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from cascade.clock import Deadline, MonotonicClock, VirtualClock
from cascade.cost import CostModel
from cascade.engine import FINISH_S, QueryRun
from cascade.errors import Cancelled, CascadeError, Overloaded
from cascade.executor import HUNG_AFTER_S, HUNG_FACTOR, HUNG_UNKNOWN_S, Executor, hangs, is_stuck
from cascade.stage import Work
from cascade.tasks import Healthy, OpenedCascade, Outcome
from cascade.types import Candidates, Query
from cascade.workqueue import WorkQueue, admit, outcomes, total
from tests.fakes import (
    QUERY,
    FakeReranker,
    FakeRetriever,
    Hangs,
    answer,
    cascade,
    costs_of,
    model,
    no_fault,
    stage,
    varied_lengths,
)

GUARD_S = 60.0
N = 100
LENGTHS = varied_lengths(N)


def two_stages(fault=no_fault, **settings) -> OpenedCascade:
    reranker = FakeReranker(LENGTHS, fault=fault, batch_tokens=1000)
    return cascade(stage("bm25", FakeRetriever(N, 50), 50), stage("ce", reranker, 10, **settings), passages=N)


class Bench:
    """An executor under a clock that stands still unless told otherwise."""

    def __init__(self, opened: OpenedCascade, clock=None, **settings) -> None:
        self.opened = opened
        self.clock = VirtualClock() if clock is None else clock
        self.costs: CostModel = model(costs_of(opened))
        self.executor = Executor(self.costs, clock=self.clock, **settings)

    def run(self, budget_s: float = math.inf, query: Query = QUERY) -> QueryRun:
        return QueryRun(
            self.opened,
            query,
            clock=self.clock,
            deadline=Deadline.after(self.clock, budget_s),
            costs=self.costs,
            health=self.executor.health,
        )


@pytest.fixture
def bench():
    made: list[Bench] = []

    def make(opened: OpenedCascade, **settings) -> Bench:
        made.append(Bench(opened, **settings))
        return made[-1]

    yield make
    for each in made:
        each.executor.close(drain_s=0.0)


def finished(future: Future[None]) -> bool:
    return future.result(GUARD_S) is None


def test_a_query_is_answered_as_by_the_engine_alone(bench):
    opened = two_stages()
    made = bench(opened)
    ticket = made.executor.submit(made.run())
    ticket.wait()
    assert ticket.run.result().hits == answer(opened).result().hits


def test_many_queries_on_many_workers_are_all_answered(bench):
    opened = two_stages()
    made = bench(opened, workers=4)
    tickets = [made.executor.submit(made.run(query=Query(f"q{i}", "?"))) for i in range(200)]
    expected = answer(opened).result().hits
    for ticket in tickets:
        assert finished(ticket.future)
        assert ticket.run.result().hits == expected
    assert made.executor.queued_s() == 0.0


def test_waiting_batches_of_one_stage_are_scored_together(bench):
    gate = Hangs()
    reranker = FakeReranker(np.full(N, 50, np.int32), batch_tokens=100_000)
    blocker = cascade(stage("other", FakeRetriever(N, fault=gate), 5), passages=N)
    opened = cascade(stage("bm25", FakeRetriever(N), 20), stage("ce", reranker, 10), passages=N)
    made = bench(opened)
    blocking = QueryRun(blocker, QUERY, clock=made.clock, deadline=Deadline.never(), costs=made.costs)
    first = made.executor.submit(blocking)
    assert gate.entered.wait(GUARD_S)
    tickets = [made.executor.submit(made.run()) for _ in range(5)]
    gate.release.set()
    assert all(finished(ticket.future) for ticket in [first, *tickets])
    assert max(len(rows) for rows in reranker.calls) == 100
    alone = answer(opened).result().hits
    assert all(ticket.run.result().hits == alone for ticket in tickets)


def test_the_most_urgent_query_goes_first(bench):
    gate = Hangs()
    order: list[str] = []

    class Noting(FakeRetriever):
        def encode_query(self, query: Query) -> str:
            order.append(query.query_id)
            if query.query_id == "gate":
                gate(None)
            return query.text

    opened = cascade(stage("bm25", Noting(N), 5), passages=N)
    made = bench(opened)
    tickets = [made.executor.submit(made.run(query=Query("gate", "?")))]
    assert gate.entered.wait(GUARD_S)
    for name, budget_s in (("never", math.inf), ("late", 9.0), ("soon", 1.0), ("middle", 5.0)):
        tickets.append(made.executor.submit(made.run(budget_s, Query(name, "?"))))
    gate.release.set()
    assert all(finished(ticket.future) for ticket in tickets)
    assert order == ["gate", "soon", "middle", "late", "never"]


def test_expired_work_is_dropped_before_it_is_scored(bench):
    gate = Hangs()
    opened = two_stages(fault=gate)
    made = bench(opened)
    first = made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    waiting = made.executor.submit(made.run(1.0))
    made.clock.advance(1.5)
    gate.release.set()
    assert finished(waiting.future)
    assert finished(first.future)
    assert waiting.run.trace.stages[0].reason == "skipped"
    assert waiting.run.trace.stages[0].batches == 0
    assert waiting.run.trace.waited_s == pytest.approx(1.5)


def test_a_hung_stage_is_abandoned_at_the_deadline_from_outside(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate), clock=MonotonicClock())
    made.costs.replace(model({}).profile)
    ticket = made.executor.submit(made.run(0.2))
    assert gate.entered.wait(GUARD_S)
    ticket.wait()
    ranking = ticket.run.result()
    gate.release.set()
    assert len(ranking) == 10
    assert ranking.degraded
    assert ranking.trace.stages[1].reason == "budget"
    assert ranking.trace.stages[1].detail == "still in score when the deadline came"
    assert ranking.trace.stages[1].waited_s < 0.15 < ranking.trace.stages[1].seconds


def test_a_hung_worker_is_replaced_and_its_query_goes_on_without_the_stage(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate))
    ticket = made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    made.clock.advance(3600.0)
    made.executor.replace_hung()
    assert finished(ticket.future)
    trace = ticket.run.trace.stages[1]
    assert trace.reason == "failed"
    assert "no answer from one score task" in trace.detail
    assert len(ticket.run.result()) == 10
    after = made.executor.submit(made.run())
    assert finished(after.future)
    assert "left out" in after.run.trace.stages[1].detail
    gate.release.set()
    made.clock.advance(3600.0)
    recovered = made.executor.submit(made.run())
    assert finished(recovered.future)
    assert recovered.run.trace.stages[1].reason == "complete"


def test_other_queries_go_on_while_a_worker_is_stuck_and_what_it_brings_back_counts(bench):
    gate = Hangs(times=1)
    made = bench(two_stages(fault=gate))
    stuck = made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    made.clock.advance(1.0)
    made.executor.relieve_stuck()
    other = made.executor.submit(made.run())
    assert finished(other.future)
    assert other.run.trace.stages[1].reason == "complete"
    assert not stuck.future.done()
    gate.release.set()
    assert finished(stuck.future)
    assert stuck.run.trace.stages[1].reason == "complete"
    after = made.executor.submit(made.run())
    assert finished(after.future)
    assert made.executor.relieve_stuck() == 0


def test_a_task_is_stuck_after_some_times_its_prediction():
    opened = two_stages()
    run = QueryRun(opened, QUERY, clock=VirtualClock(), deadline=Deadline.never(), costs=model(costs_of(opened)))
    task = run.start()
    assert task is not None
    assert not is_stuck(task._replace(predicted_s=0.001), 0.09)
    assert is_stuck(task._replace(predicted_s=0.001), 0.11)
    assert not is_stuck(task._replace(predicted_s=1.0), 4.9)
    assert is_stuck(task._replace(predicted_s=1.0), 5.1)
    assert not is_stuck(task._replace(predicted_s=0.0), 1.9)


def test_what_a_retired_worker_brings_back_is_ignored(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate))
    ticket = made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    made.clock.advance(3600.0)
    made.executor.replace_hung()
    assert finished(ticket.future)
    before = ticket.run.trace.to_json()
    gate.release.set()
    made.executor.close()
    assert ticket.run.trace.to_json() == before


def test_a_task_hangs_after_many_times_its_prediction():
    opened = two_stages()
    run = QueryRun(opened, QUERY, clock=VirtualClock(), deadline=Deadline(10.0), costs=model(costs_of(opened)))
    task = run.start()
    assert task is not None
    assert not hangs(task, 1.0)
    assert hangs(task, 2.1)
    assert not hangs(task._replace(predicted_s=1.0), HUNG_FACTOR - 0.1)
    assert hangs(task._replace(predicted_s=1.0), HUNG_FACTOR + 0.1)
    for patient in (task._replace(predicted_s=0.0), task._replace(deadline=math.inf)):
        assert not hangs(patient, HUNG_UNKNOWN_S - 1)
        assert hangs(patient, HUNG_UNKNOWN_S + 1)


def test_a_worker_survives_whatever_a_stage_raises(bench):
    def exits(value: object) -> object:
        raise SystemExit("a stage that thinks it is a program")

    made = bench(two_stages(fault=exits))
    for _ in range(2):
        ticket = made.executor.submit(made.run())
        assert finished(ticket.future)
        assert "SystemExit" in ticket.run.trace.stages[1].detail


def test_a_withdrawn_query_is_dropped_within_one_batch(bench):
    gate = Hangs()
    reranker = FakeReranker(LENGTHS, fault=gate, batch_tokens=500)
    opened = cascade(stage("bm25", FakeRetriever(N, 50), 50), stage("ce", reranker, 10), passages=N)
    made = bench(opened)
    ticket = made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    ticket.cancel()
    gate.release.set()
    made.executor.close()
    assert len(reranker.calls) == 1
    with pytest.raises(Cancelled, match="withdrawn"):
        ticket.run.result()


def test_a_waiter_is_woken_when_its_query_is_withdrawn_by_another_thread(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate))
    ticket = made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    waiter = threading.Thread(target=ticket.wait)
    waiter.start()
    ticket.cancel()
    waiter.join(GUARD_S)
    assert not waiter.is_alive()
    gate.release.set()


def test_a_full_queue_refuses_and_says_when_to_come_back(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate), max_waiting=2)
    tickets = [made.executor.submit(made.run())]
    assert gate.entered.wait(GUARD_S)
    tickets += [made.executor.submit(made.run()) for _ in range(2)]
    with pytest.raises(Overloaded, match="2 queries are waiting") as caught:
        made.executor.submit(made.run())
    assert caught.value.retry_after_s > 0
    tickets[1].cancel()
    tickets.append(made.executor.submit(made.run()))
    gate.release.set()
    assert finished(tickets[-1].future)


def test_closing_lets_queries_end_and_refuses_new_ones(bench):
    made = bench(two_stages(), workers=2)
    tickets = [made.executor.submit(made.run()) for _ in range(20)]
    made.executor.close(GUARD_S)
    assert all(len(ticket.run.result()) == 10 for ticket in tickets)
    with pytest.raises(CascadeError, match="closed"):
        made.executor.submit(made.run())
    made.executor.close()


def test_every_worker_prepares_itself_the_one_that_relieves_another_too(bench):
    gate, prepared = Hangs(), []
    made = bench(two_stages(fault=gate), workers=2, prepare=lambda: prepared.append(threading.get_ident()))
    made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    made.clock.advance(3 * HUNG_AFTER_S)
    assert made.executor.relieve_stuck() == 1
    gate.release.set()
    made.executor.close(GUARD_S)
    assert len(set(prepared)) == 3


def test_a_query_that_was_still_waiting_at_its_deadline_says_so(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate))
    made.executor.submit(made.run())
    assert gate.entered.wait(GUARD_S)
    waiting = made.executor.submit(made.run(1.0))
    made.clock.advance(1.5)
    waiting.expire()
    gate.release.set()
    assert waiting.run.trace.stages[0].detail == "still waiting for encode when the deadline came"
    assert waiting.run.trace.stages[0].waited_s == pytest.approx(1.5)


class Started(QueryRun):
    """A query that is accepted, and has its first task when told to."""

    def start(self):
        self.accepted.set()
        assert self.may_start.wait(GUARD_S)
        return super().start()


def test_a_query_accepted_just_before_closing_does_not_wait_for_its_end(bench):
    made = bench(two_stages())
    busy = made.executor.submit(made.run())
    released = threading.Event()
    busy.future.add_done_callback(lambda future: released.wait(GUARD_S))
    last = Started(made.opened, QUERY, clock=made.clock, deadline=Deadline.never(), costs=made.costs)
    last.accepted, last.may_start = threading.Event(), threading.Event()
    tickets = []
    submitting = threading.Thread(target=lambda: tickets.append(made.executor.submit(last)))
    submitting.start()
    assert last.accepted.wait(GUARD_S)
    closing = threading.Thread(target=made.executor.close, args=(GUARD_S / 4,))
    closing.start()
    closing.join(0.05)  # it is waiting now, and so is the worker a little later
    released.set()
    submitting.join(0.05)
    last.may_start.set()
    submitting.join(GUARD_S)
    assert finished(tickets[0].future)
    assert len(last.result()) == 10
    closing.join(GUARD_S)


def test_closing_without_time_drops_what_is_unanswered(bench):
    gate = Hangs()
    made = bench(two_stages(fault=gate))
    tickets = [made.executor.submit(made.run()) for _ in range(3)]
    assert gate.entered.wait(GUARD_S)
    closing = threading.Thread(target=made.executor.close, args=(0.0,))
    closing.start()
    for ticket in tickets:
        assert finished(ticket.future)
        with pytest.raises(Cancelled, match="closed"):
            ticket.run.result()
    gate.release.set()
    closing.join(GUARD_S)
    assert not closing.is_alive()


# The queue by itself


def queue_of(*budgets_s: float, spread: float = 1.0):
    opened = two_stages()
    clock, costs = VirtualClock(), model(costs_of(opened), spread)
    queue: WorkQueue[int] = WorkQueue(costs)
    for number, budget_s in enumerate(budgets_s):
        run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline(budget_s), costs=costs)
        entry = queue.enter(run, number)
        run.start()
        queue.push(entry)
    return queue, clock


def test_the_queue_takes_by_deadline_and_ties_in_turn():
    queue, clock = queue_of(2.0, 1.0, 2.0, math.inf)
    assert [queue.take(clock.now())[0].token for _ in range(4)] == [1, 0, 2, 3]
    assert queue.take(clock.now()) == []


def scoring(lengths: list[int], *parts: range, batch_tokens: int = 4096, deadline: float = math.inf):
    """A queue of queries that are about to score the given passages; its costs, which really are those of padding."""
    opened = cascade(stage("ce", FakeReranker(np.array(lengths, np.int32), batch_tokens=batch_tokens), 10))
    clock, costs = VirtualClock(), model(costs_of(opened))
    queue: WorkQueue[int] = WorkQueue(costs)
    for number, rows in enumerate(parts):
        run = QueryRun(
            opened,
            QUERY,
            clock=clock,
            deadline=Deadline(deadline),
            costs=costs,
            candidates=Candidates.unscored(np.array(rows, np.int32)),
        )
        entry = queue.enter(run, number)
        encoding = run.start()
        run.advance(Outcome(encoding.call(), None, 0.0, 0.0))
        queue.push(entry)
    return queue, costs


def taken(queue: WorkQueue[int]) -> list[list[int]]:
    """What is executed, call by call."""
    calls = []
    while entries := queue.take(0.0):
        calls.append([entry.token for entry in entries])
    return calls


def test_only_batches_of_similar_length_are_merged():
    lengths = [20] * 10 + [25] * 5 + [26] * 5 + [500] * 2
    alike, longer, long = range(10), range(10, 15), range(15, 20)
    assert taken(scoring(lengths, alike, longer, alike)[0]) == [[0, 1, 2]]
    assert taken(scoring(lengths, alike, long)[0]) == [[0], [1]]
    assert taken(scoring(lengths, longer, alike, long, range(20, 22))[0]) == [[0, 1], [2], [3]]


def test_merged_batches_are_padded_to_the_longest_in_tokens_and_seconds():
    lengths = [80] * 10 + [100] * 10
    short, long = range(10), range(10, 20)
    assert taken(scoring(lengths, short, long, batch_tokens=2000)[0]) == [[0, 1]]
    assert taken(scoring(lengths, short, long, batch_tokens=1999)[0]) == [[0], [1]]
    end = FINISH_S + 0.0005 + 2 * 100 * 1e-5
    assert taken(scoring(lengths, range(1), range(10, 11), deadline=end)[0]) == [[0, 1]]
    assert taken(scoring(lengths, range(1), range(10, 11), deadline=end - 1e-4)[0]) == [[0], [1]]


def test_costs_are_learnt_from_what_merged_batches_are_padded_to():
    queue, costs = scoring([80] * 10 + [100] * 10, range(10), range(10, 20))
    tasks = [entry.run.pending for entry in queue.take(0.0)]
    assert total(tasks) == Work(20.0, 2000.0, 200_000.0)
    before = costs.rates("ce/score")
    outcomes(tasks, [None, None], None, 0.0, 0.0005 + 2000 * 1e-5, costs, Healthy())
    assert costs.rates("ce/score") == pytest.approx(before)


def test_the_seconds_of_a_call_are_split_by_work():
    queue, costs = scoring([100] * 10, range(2), range(8))
    tasks = [entry.run.pending for entry in queue.take(0.0)]
    shares = [outcome.share for outcome in outcomes(tasks, [None, None], None, 0.0, 1.0, costs, Healthy())]
    assert shares == pytest.approx([0.2, 0.8])
    shares = [outcome.share for outcome in outcomes(tasks, [], RuntimeError(), 0.0, 1.0, costs, Healthy())]
    assert sum(shares) == pytest.approx(1.0)
    assert [outcome.share for outcome in outcomes(tasks[:1], [None], None, 0.0, 1.0, costs, Healthy())] == [1.0]


def test_answered_queries_do_not_pile_up_behind_those_of_earlier_stages():
    queue, _ = scoring([100] * 10, *[range(10)] * 50)
    waiting = next(iter(queue._lanes.values()))
    entries = [item[3] for item in waiting]
    for answered, entry in enumerate(entries[:40], start=1):
        entry.run.abandon()
        queue.leave(entry)
        assert len(queue) == 50 - answered
        assert sum(map(len, queue._lanes.values())) <= 2 * len(queue) + 1
    assert sorted(entry.token for entry in queue.take(0.0)) == [entry.token for entry in entries[40:44]]
    for entry in entries:
        entry.run.abandon()
        queue.leave(entry)
    assert (len(queue), queue._lanes) == (0, {})


def test_a_query_answered_while_its_task_ended_is_not_put_back():
    queue, _ = scoring([100] * 10, range(10))
    (entry,) = queue.take(0.0)
    entry.run.abandon()
    queue.leave(entry)
    queue.push(entry)
    assert len(queue) == 0


def test_demand_counts_what_those_due_before_need_for_an_answer():
    queue, clock = queue_of(2.0, 1.0, math.inf)
    one, two, three = (queue.demand_s(clock.now(), deadline) for deadline in (1.0, 2.0, math.inf))
    assert 0 < one < two < three
    assert three == pytest.approx(3 * one)


def test_the_margins_of_many_queries_are_not_all_needed_at_once():
    def demand_s(queries: int) -> float:
        return queue_of(*[1.0] * queries, spread=3.0)[0].demand_s(0.0)

    assert demand_s(1) == pytest.approx(admitted(0.0, 1.0, spread=3.0).minimum_s)
    margin_s = (2 * demand_s(1) - demand_s(2)) / (2 - math.sqrt(2))
    assert margin_s == pytest.approx(0.0004)  # of an encoding that takes 0.2 ms, or 0.6 with the spread
    assert demand_s(16) == pytest.approx(16 * demand_s(1) - 12 * margin_s)


def test_demand_counts_a_task_under_way_whoever_s_it_is():
    queue, clock = queue_of(2.0)
    (entry,) = queue.take(clock.now())
    task = entry.run.pending
    assert queue.demand_s(0.0, deadline=0.5) == pytest.approx(task.predicted_s)
    assert queue.demand_s(task.predicted_s / 2, deadline=0.5) == pytest.approx(task.predicted_s / 2)
    queue.push(entry)
    assert queue.demand_s(0.0, deadline=0.5) == 0.0


def test_earlier_stages_go_first_whoever_is_due_first():
    queue, clock = queue_of(1.0, 2.0)
    (urgent,) = queue.take(clock.now())
    while urgent.run.pending.action != "score":
        task = urgent.run.pending
        urgent.run.advance(Outcome(task.call(), None, 0.0, 0.0))
    queue.push(urgent)
    assert [queue.take(clock.now())[0].token for _ in range(2)] == [1, 0]


def test_a_lone_query_may_use_all_its_time_and_two_share_it():
    queue, clock = queue_of(1.0)
    (entry,) = queue.take(clock.now())
    assert queue.share_end(entry, 0.0) == math.inf
    queue, clock = queue_of(1.0, 1.1)
    (entry,) = queue.take(clock.now())
    assert queue.share_end(entry, 0.0) == pytest.approx(0.55)


def test_answered_queries_are_forgotten():
    queue, clock = queue_of(1.0, 2.0)
    (entry,) = queue.take(clock.now())
    entry.run.abandon()
    queue.leave(entry)
    queue.leave(entry)
    assert queue.unanswered == 1
    (other,) = queue.take(clock.now())
    queue.push(other)
    other.run.abandon()
    assert queue.take(clock.now()) == []
    assert queue.unanswered == 0


def admitted(queued_s: float, budget_s: float, overload: str = "degrade", spread: float = 1.0) -> QueryRun:
    opened = cascade(*two_stages().stages, passages=N, overload=overload)
    clock, costs = VirtualClock(), model(costs_of(opened), spread)
    run = QueryRun(opened, QUERY, clock=clock, deadline=Deadline.after(clock, budget_s), costs=costs)
    admit(run, queued_s, clock.now())
    return run


def test_admission_asks_for_an_answer_by_the_first_stage_or_by_all():
    first_s = admitted(0.0, 1.0).minimum_s
    whole_s = admitted(0.0, 1.0, "refuse").minimum_s
    assert first_s < whole_s
    budget_s = 0.01 + first_s + 0.0006
    assert not admitted(0.01, budget_s).done
    with pytest.raises(Overloaded, match="try again in") as caught:
        admitted(0.01, budget_s, "refuse")
    assert caught.value.retry_after_s == pytest.approx(whole_s - first_s - 0.0001)
    with pytest.raises(Overloaded):
        admitted(0.01, 0.01 + first_s + 0.0004)  # half a millisecond is kept back for the caller


def test_an_empty_queue_refuses_nobody():
    assert not admitted(0.0, 0.0).done


def test_an_answer_that_takes_long_to_hand_over_is_begun_earlier(bench):
    made = bench(two_stages())
    run = made.run(1.0)
    made.executor.submit(run).wait()
    before_s = made.executor.finish_s
    made.clock.advance(1.5 * before_s)
    made.executor.answered(run)
    assert made.executor.finish_s == pytest.approx(1.5 * before_s)
    later = QueryRun(
        made.opened,
        QUERY,
        clock=made.clock,
        deadline=Deadline.after(made.clock, 1.0),
        costs=made.costs,
        finish_s=made.executor.finish_s,
    )
    assert later.deadline.at - later.answer_by == pytest.approx(1.5 * before_s)
