"""The machine's clock is set while a download runs: nothing is lost, and the bytes are exact."""

from __future__ import annotations

import time

import pytest

from tests.integration.conftest import Playground, Until
from tools.localhub import faults

pytestmark = pytest.mark.anyio
MONTH_SECONDS = 30 * 86400.0


@pytest.mark.parametrize("first", [MONTH_SECONDS, -MONTH_SECONDS], ids=["forward", "back"])
async def test_the_clock_is_set_while_a_download_runs(
    playground: Playground, until: Until, monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    clock = time.time
    playground.hub.faults.add(faults.Throttle(3e6, is_shared=True), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        for offset in (first, -first, 0.0):
            monkeypatch.setattr(time, "time", lambda offset=offset: clock() + offset)
            before = manager.snapshots()[0].received
            await until(lambda before=before: manager.snapshots()[0].received > before)
        playground.hub.faults.clear()
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert done.attempt == 0
    assert done.bytes_fetched == done.total


async def test_the_clock_was_set_back_before_a_download_is_resumed(
    playground: Playground, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    playground.hub.faults.add(faults.Throttle(3e6, is_shared=True), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 4_000_000)
        await manager.act(job.job_id, "pause")
        await until(lambda: manager.snapshots()[0].state == "paused")
        kept = manager.snapshots()[0].received
    playground.hub.faults.clear()
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - MONTH_SECONDS)
    done = await playground.download()
    playground.assert_exact(done)
    assert done.bytes_fetched <= (done.total or 0) - kept + (2 << 20), "what was there is not fetched again"
