from __future__ import annotations

from cascade.clock import VirtualClock
from cascade.health import CircuitBreaker


def broken(clock: VirtualClock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock, threshold=3, pause_s=5.0, longest_pause_s=15.0)
    for _ in range(3):
        breaker.failed("ce", "no memory")
    return breaker


def test_a_stage_is_left_out_after_failures_in_a_row_and_the_reason_says_why():
    clock = VirtualClock()
    breaker = CircuitBreaker(clock)
    breaker.failed("ce", "no memory")
    breaker.failed("ce", "no memory")
    assert breaker.blocked("ce") == ""
    breaker.failed("ce", "no memory")
    assert breaker.blocked("ce") == "left out for 5.0 s more after 3 failures, the last: no memory"
    assert breaker.blocked("bm25") == ""


def test_a_success_in_between_starts_the_count_anew():
    breaker = CircuitBreaker(VirtualClock())
    for _ in range(10):
        breaker.failed("ce", "x")
        breaker.failed("ce", "x")
        breaker.succeeded("ce")
    assert breaker.blocked("ce") == ""


def test_after_a_pause_one_query_tries_and_its_success_closes_the_circuit():
    clock = VirtualClock()
    breaker = broken(clock)
    clock.advance(5.0)
    assert breaker.blocked("ce") == ""
    breaker.tries("ce")
    assert breaker.blocked("ce") != ""
    breaker.succeeded("ce")
    assert breaker.blocked("ce") == ""


def test_a_failed_trial_doubles_the_pause_up_to_the_longest():
    clock = VirtualClock()
    breaker = broken(clock)
    for pause_s in (10.0, 15.0, 15.0):
        clock.advance(1000.0)
        assert breaker.blocked("ce") == ""
        breaker.tries("ce")
        breaker.failed("ce", "still no memory")
        clock.advance(pause_s - 0.01)
        assert breaker.blocked("ce") != ""
        clock.advance(0.02)
        assert breaker.blocked("ce") == ""


def test_tasks_that_began_before_the_circuit_opened_change_nothing():
    clock = VirtualClock()
    breaker = broken(clock)
    breaker.failed("ce", "another worker")
    breaker.succeeded("ce")
    clock.advance(4.9)
    assert breaker.blocked("ce") != ""
    clock.advance(0.2)
    assert breaker.blocked("ce") == ""


def test_a_hung_stage_is_left_out_at_once():
    breaker = CircuitBreaker(VirtualClock())
    breaker.failed("ce", "hung", hung=True)
    assert "hung" in breaker.blocked("ce")


def test_a_trial_that_nobody_reports_on_is_repeated_after_another_pause():
    clock = VirtualClock()
    breaker = broken(clock)
    clock.advance(5.0)
    breaker.tries("ce")
    clock.advance(4.9)
    assert breaker.blocked("ce") != ""
    clock.advance(0.1)
    assert breaker.blocked("ce") == ""


def test_asking_is_no_trial_and_one_that_had_no_time_is_given_back():
    clock = VirtualClock()
    breaker = broken(clock)
    breaker.tries("ce")
    clock.advance(5.0)
    assert breaker.blocked("ce") == breaker.blocked("ce") == ""
    breaker.tries("ce")
    clock.advance(1.0)
    breaker.untried("ce")
    assert breaker.blocked("ce") == ""
    breaker.tries("ce")
    breaker.failed("ce", "still no memory")
    clock.advance(9.9)
    assert breaker.blocked("ce") != ""
