import math
import threading
from multiprocessing import Pipe

import pytest

from benchmarks import stalls


class Keeps:
    """A connection to a heartbeat that hands over one batch of losses for each time it is asked."""

    def __init__(self, *batches):
        self.batches, self.asked = list(batches), 0

    def send(self, _):
        self.asked += 1

    def recv(self):
        return self.batches.pop(0) if self.batches else []


def test_a_loss_counts_as_far_as_it_lies_between():
    seen = stalls.Stalls(Keeps([(1.0, 1.5, 1.0), (3.0, 3.25, 0.5)], [(9.0, 9.125, 1.0)]))
    assert seen.between(0.0, 4.0) == 0.625
    assert seen.between(1.25, 3.125) == 0.3125
    assert seen.between(2.0, 2.5) == 0


def test_what_several_cores_lose_at_the_same_time_is_lost_once():
    one, other = Keeps([(1.0, 2.0, 1.0), (4.0, 4.0, 1.0)]), Keeps([(1.5, 3.0, 0.5), (2.0, 2.25, 1.0)])
    seen = stalls.Stalls(one, other)
    assert seen.between(0.0, 5.0) == 1.0 + 0.25 + 0.375
    assert seen.between(1.5, 2.0) == 0.5


def test_the_heartbeat_is_asked_once_it_can_know_more():
    connection = Keeps()
    seen = stalls.Stalls(connection)
    assert connection.asked == 1
    seen.between(-2.0, -1.0)
    assert connection.asked == 1
    connection.batches.append([(math.nextafter(1e9, 0), 1e9 + 1, 1.0)])
    assert seen.between(0.0, 2e9) == pytest.approx(1.0)
    assert connection.asked == 2


class Machine:
    """Clocks of a machine: every beat takes 2 ms, of which 1 ms is work, unless the script says otherwise."""

    def __init__(self, *, late_s=0.0, slow=1.0, beats=0):
        self.late_s, self.slow, self.left = late_s, slow, beats + stalls.FIRST_BEATS
        self.at_s, self.processor_at_s, self.enough, self.beat = 0.0, 0.0, threading.Event(), 0

    def sleep(self, seconds):
        self.beat += 1
        self.at_s += seconds
        if stalls.FIRST_BEATS < self.beat <= self.left:
            self.at_s += self.late_s
        if self.beat > self.left:
            self.enough.set()

    def now(self):
        return self.at_s

    def processor_s(self):
        factor = self.slow if stalls.FIRST_BEATS < self.beat <= self.left else 1.0
        self.processor_at_s += 0.0005 * factor  # asked before and after the work: one step of it is the work
        self.at_s += 0.0005 * factor
        return self.processor_at_s


def seen_on(machine):
    """The heartbeat of that machine, asked when all was over, and the end of it."""
    ours, theirs = Pipe()
    beat = threading.Thread(
        target=stalls.beat, args=(theirs, machine.sleep, machine.now, machine.processor_s), daemon=True
    )
    beat.start()
    assert machine.enough.wait(60)
    seen = stalls.Stalls(ours)
    lost_s = seen.between(0.0, 1e9)
    ours.close()
    beat.join(60)
    assert not beat.is_alive()
    return lost_s


def test_no_late_beat_is_missed_however_late_the_heartbeat_is_asked():
    assert seen_on(Machine(late_s=0.01, beats=20_000)) == pytest.approx(20_000 * 0.01)


def test_a_machine_that_runs_at_a_quarter_of_its_speed_loses_three_quarters_of_the_time():
    machine = Machine(slow=4.0, beats=100)
    beat_s = stalls.BEAT_S + 2 * 0.0005 * 4
    assert seen_on(machine) == pytest.approx(0.75 * 100 * beat_s)


def test_a_machine_that_is_a_little_slower_loses_nothing():
    assert seen_on(Machine(slow=stalls.SLOW, late_s=stalls.STALL_S / 2, beats=100)) == 0


def test_the_real_heartbeat_answers():
    with stalls.heartbeat() as seen:
        assert seen.between(-2.0, -1.0) == 0
