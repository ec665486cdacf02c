"""The rate at which the widget publishes: bounded, latest wins, nothing lost."""

import asyncio
import itertools

import pytest

from modeldeck.widget.throttle import Throttle

INTERVAL_SECONDS = 0.05


@pytest.mark.anyio
async def test_a_burst_becomes_two_calls_and_the_last_state_is_published() -> None:
    state = 0
    published: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()
    throttle = Throttle(INTERVAL_SECONDS, lambda: published.append((loop.time(), state)))
    throttle.mark()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for value in range(1, 100):
        state = value
        throttle.mark()
    await asyncio.sleep(INTERVAL_SECONDS * 4)
    assert [value for _, value in published] == [0, 99]
    assert published[1][0] - published[0][0] >= INTERVAL_SECONDS * 0.99


@pytest.mark.anyio
async def test_a_steady_stream_keeps_the_interval() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()
    throttle = Throttle(INTERVAL_SECONDS, lambda: times.append(loop.time()))
    while len(times) < 5:
        throttle.mark()
        await asyncio.sleep(0.001)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= INTERVAL_SECONDS * 0.99
