"""The number of connections: it grows while that pays, and shrinks if the machine is the limit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from modeldeck.engine.tuning import (
    FEWEST_CONNECTIONS,
    FIRST_HOLD_SECONDS,
    START_CONNECTIONS,
    STEP_CONNECTIONS,
    ConnectionTuner,
)

TICK_SECONDS = 0.25
PROCESSORS = 4
LIMIT = 64


class Link:
    """A link with its speed for a number of connections, and the processors that they keep busy."""

    def __init__(self, rate: Callable[[int], float], busy: Callable[[int], float] = lambda connections: 0.1) -> None:
        self._rate = rate
        self._busy = busy
        self.tuner = ConnectionTuner(PROCESSORS)
        self.now = 0.0
        self.fetched = 0.0
        self.cpu_seconds = 0.0

    def run(self, seconds: float, *, limit: int = LIMIT) -> list[int]:
        """Return the number of connections at each tick."""
        seen = []
        for _ in range(int(seconds / TICK_SECONDS)):
            connections = min(limit, self.tuner.wanted)
            self.now += TICK_SECONDS
            self.fetched += self._rate(connections) * TICK_SECONDS
            self.cpu_seconds += self._busy(connections) * TICK_SECONDS
            self.tuner.update(
                self.now,
                fetched=int(self.fetched),
                cpu_seconds=self.cpu_seconds,
                is_settled=True,
                limit=limit,
            )
            seen.append(connections)
        return seen


def each_brings_its_share(connections: int) -> float:
    return connections * 1e6


def test_it_begins_with_several() -> None:
    assert ConnectionTuner(2).wanted == START_CONNECTIONS


def test_it_climbs_while_each_connection_brings_its_share() -> None:
    link = Link(each_brings_its_share)
    seen = link.run(30)
    assert seen == sorted(seen)
    assert seen[-1] > 4 * START_CONNECTIONS


def test_it_climbs_sooner_where_much_arrives() -> None:
    fast, slow = Link(lambda connections: connections * 20e6), Link(each_brings_its_share)
    assert fast.run(1.75, limit=16)[-1] == 16
    assert slow.run(1.75, limit=16)[-1] == START_CONNECTIONS + STEP_CONNECTIONS


def test_a_full_fast_line_gets_one_trial_too() -> None:
    seen = Link(lambda connections: 400e6).run(10)
    assert seen[-1] == START_CONNECTIONS
    assert max(seen) == START_CONNECTIONS + STEP_CONNECTIONS
    assert Link(lambda connections: min(connections, 12) * 20e6).run(12)[-1] == 12


def test_it_climbs_as_far_as_it_may() -> None:
    link = Link(each_brings_its_share)
    assert link.run(60, limit=16)[-1] == 16
    assert link.run(60, limit=5)[-1] == 5


def test_a_full_line_gets_one_trial_and_then_rest() -> None:
    seen = Link(lambda connections: 10e6).run(10)
    assert seen[-1] == START_CONNECTIONS
    assert max(seen) == START_CONNECTIONS + STEP_CONNECTIONS
    assert seen.count(max(seen)) * TICK_SECONDS <= 2.5


def test_trials_that_bring_nothing_become_rare() -> None:
    seen = Link(lambda connections: 10e6).run(400)
    starts = [index for index in range(1, len(seen)) if seen[index] > START_CONNECTIONS == seen[index - 1]]
    gaps = [(b - a) * TICK_SECONDS for a, b in pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= FIRST_HOLD_SECONDS
    assert gaps[-1] >= 4 * FIRST_HOLD_SECONDS


def test_it_stops_climbing_where_the_line_is_full() -> None:
    assert Link(lambda connections: min(connections, 12) * 1e6).run(12)[-1] == 12


def test_a_machine_at_its_limit_gets_by_with_fewer() -> None:
    link = Link(lambda connections: 500e6, busy=lambda connections: 3.0)
    seen = link.run(20)
    assert seen[:2] == [START_CONNECTIONS] * 2, "the first bytes say nothing yet"
    assert set(seen[2:]) == {PROCESSORS - 1}
    assert link.tuner.is_machine_busy


def test_fewer_that_bring_less_are_taken_back() -> None:
    link = Link(lambda connections: connections * 40e6, busy=lambda connections: connections * 0.25)
    seen = link.run(10)
    assert min(seen) == PROCESSORS - 1
    assert seen[-1] == START_CONNECTIONS
    assert seen.count(PROCESSORS - 1) * TICK_SECONDS <= 2.5


def test_when_the_machine_is_free_again_there_are_more() -> None:
    link = Link(lambda connections: 500e6, busy=lambda connections: 3.0)
    link.run(5)
    link._rate, link._busy = each_brings_its_share, lambda connections: 0.1
    assert link.run(2 * FIRST_HOLD_SECONDS)[-1] >= START_CONNECTIONS


@pytest.mark.parametrize(("processors", "fewest"), [(1, 2), (2, 2), (4, 3), (16, START_CONNECTIONS)])
def test_the_fewest_are_one_for_each_processor_but_that_of_the_digest(processors: int, fewest: int) -> None:
    tuner = ConnectionTuner(processors)
    for second in range(3):
        tuner.update(second, fetched=second + 1, cpu_seconds=second * processors, is_settled=True, limit=LIMIT)
    assert tuner.wanted == fewest >= FEWEST_CONNECTIONS


def test_what_is_not_settled_teaches_nothing_of_the_link() -> None:
    tuner = ConnectionTuner(PROCESSORS)
    for tick in range(100):
        tuner.update(tick * TICK_SECONDS, fetched=tick * 1_000_000, cpu_seconds=0, is_settled=False, limit=LIMIT)
    assert tuner.wanted == START_CONNECTIONS


def test_a_machine_at_its_limit_shows_also_in_what_is_not_settled() -> None:
    """With many small files never all connections receive."""
    tuner = ConnectionTuner(PROCESSORS)
    for tick in range(4):
        tuner.update(tick * TICK_SECONDS, fetched=tick * 1_000_000, cpu_seconds=tick, is_settled=False, limit=LIMIT)
    assert tuner.wanted == PROCESSORS - 1


def test_work_before_the_first_byte_does_not_count() -> None:
    """At the start certificates are read and connections opened."""
    tuner = ConnectionTuner(PROCESSORS)
    for tick, fetched in enumerate((0, 0, 0, 1000, 2000, 3000)):
        cpu_seconds = min(tick, 3) * PROCESSORS * TICK_SECONDS
        tuner.update(tick * TICK_SECONDS, fetched=fetched, cpu_seconds=cpu_seconds, is_settled=False, limit=LIMIT)
    assert tuner.wanted == START_CONNECTIONS
    assert not tuner.is_machine_busy


def test_a_rush_of_new_requests_does_not_look_like_a_busy_machine() -> None:
    """Connections of equal speed end, and begin their next requests, at the same time."""
    tuner = ConnectionTuner(PROCESSORS)
    cpu_seconds = 0.0
    for tick in range(1, 12):
        now = tick * TICK_SECONDS
        for rush in range(6 if tick % 4 == 0 else 1):
            cpu_seconds += 0.02 * PROCESSORS
            at = now + rush * 0.02
            fetched = int(at * 160e6)
            tuner.update(at, fetched=fetched, cpu_seconds=cpu_seconds, is_settled=False, limit=LIMIT)
            assert not tuner.is_machine_busy
    assert tuner.wanted == START_CONNECTIONS


def test_an_interruption_begins_the_measuring_anew() -> None:
    tuner = ConnectionTuner(PROCESSORS)
    for tick in range(100):
        tuner.update(tick * TICK_SECONDS, fetched=tick * 1_000_000, cpu_seconds=0, is_settled=True, limit=LIMIT)
        if tick % 3 == 2:
            tuner.interrupt()
    assert tuner.wanted == START_CONNECTIONS
