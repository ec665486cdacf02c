"""A machine that is suspended: the engine stands still while its connections end, and goes on."""

import asyncio

import psutil
import pytest

from modeldeck._types import DownloadState
from modeldeck.service.connect import connect_engine
from tests.service.conftest import RequestFactory
from tests.service.engines import Engines, assert_exact, slow_down
from tools.localhub import LocalHub


@pytest.mark.anyio
async def test_a_suspended_engine_goes_on(engines: Engines, slow_hub: LocalHub, make_request: RequestFactory) -> None:
    slow_down(slow_hub, 1e5)
    engine = connect_engine(engines.settings, inline=False)
    request = make_request()
    job = await engine.submit(request)
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots()[0].received > 0)
    [process] = engines.processes()
    process.suspend()
    await asyncio.to_thread(engines.wait_until, lambda: process.status() == psutil.STATUS_STOPPED)
    asked = asyncio.create_task(engine.status())
    slow_hub.stop()
    slow_hub.start()
    slow_hub.faults.clear()
    done, _ = await asyncio.wait([asked], timeout=0.5)
    assert not done, "a suspended engine answers nothing"
    process.resume()
    assert (await asked).active == 1
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY, last.error
    await engine.aclose()
    assert_exact(request)
