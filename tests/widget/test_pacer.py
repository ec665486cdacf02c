"""The rate at which the widget publishes: bounded, with the latest state, nothing lost, and urgent news at once."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from modeldeck.widget.pacer import CALLS_PER_PERIOD, Pacer

PERIOD_SECONDS = 0.2
SLACK_SECONDS = 0.002
"""Timers may fire this much early, because of the resolution of the clock."""


class Calls:
    """Records the calls of a pacer."""

    def __init__(self, period_seconds: float = PERIOD_SECONDS) -> None:
        self.pacer = Pacer(self._call, period_seconds=period_seconds)
        self.state = 0
        self.times: list[float] = []
        self.states: list[int] = []
        self._news = asyncio.Event()

    def _call(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self.states.append(self.state)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def tick(self, count: int) -> None:
        """Mark all the time, as downloads do, until there were ``count`` more calls."""
        goal = len(self.times) + count
        while len(self.times) < goal:
            self.pacer.mark()
            await asyncio.sleep(PERIOD_SECONDS / 50)


@pytest.mark.anyio
async def test_a_burst_becomes_two_calls_and_the_last_state_is_published() -> None:
    calls = Calls()
    calls.pacer.mark()
    await calls.until(lambda: calls.states == [0])
    for value in range(1, 100):
        calls.state = value
        calls.pacer.mark()
    await calls.until(lambda: len(calls.states) == 2)
    assert calls.states == [0, 99]
    assert calls.times[1] - calls.times[0] >= PERIOD_SECONDS / (CALLS_PER_PERIOD - 1) - SLACK_SECONDS


@pytest.mark.anyio
async def test_what_has_time_is_told_evenly_and_leaves_one_call_of_each_period() -> None:
    calls = Calls()
    await calls.tick(7)
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls.times)]
    assert min(gaps) >= PERIOD_SECONDS / (CALLS_PER_PERIOD - 1) - SLACK_SECONDS


@pytest.mark.anyio
async def test_what_is_urgent_is_told_at_once_in_the_middle_of_ticks() -> None:
    calls = Calls()
    for _ in range(3):
        await calls.tick(CALLS_PER_PERIOD)
        calls.pacer.mark()
        calls.state += 1
        calls.pacer.mark(patience_seconds=0)
        called = len(calls.times)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(calls.times) == called + 1, "it did not wait for a timer"
        assert calls.states[-1] == calls.state


@pytest.mark.anyio
async def test_whatever_is_marked_there_are_never_more_calls_in_a_period() -> None:
    calls = Calls()
    patience = itertools.cycle([0.0, PERIOD_SECONDS / 10, None, 0.0])
    while len(calls.times) < 4 * CALLS_PER_PERIOD:
        calls.pacer.mark(patience_seconds=next(patience))
        await asyncio.sleep(PERIOD_SECONDS / 100)
    for earlier, later in zip(calls.times, calls.times[CALLS_PER_PERIOD:], strict=False):
        assert later - earlier >= PERIOD_SECONDS - SLACK_SECONDS


@pytest.mark.anyio
async def test_what_can_wait_a_little_is_told_with_what_comes_next_or_before_its_turn() -> None:
    calls = Calls()
    calls.pacer.mark(patience_seconds=PERIOD_SECONDS)
    calls.state = 1
    calls.pacer.mark(patience_seconds=0)
    await calls.until(lambda: calls.states == [1])

    long_seconds = 2.0
    patient, hurried = Calls(long_seconds), Calls(long_seconds)
    for each in (patient, hurried):
        await each.tick(1)
        each.pacer.mark()
    hurried.pacer.mark(patience_seconds=long_seconds / 20)
    await patient.until(lambda: len(patient.times) == 2)
    assert len(hurried.times) == 2
    assert hurried.times[1] < patient.times[1]
