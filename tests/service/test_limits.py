"""The limits of an engine: they hold, change while downloads run, and outlive the engine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeldeck import DownloadState, EngineLimits, Session
from modeldeck.service.engine_client import EngineClient
from modeldeck.service.observe import stop_engine
from tests.service.conftest import RequestFactory
from tests.service.engines import SIZE_BYTES, Engines, assert_exact
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub

LIMIT_BYTES_PER_SECOND = SIZE_BYTES // 10


async def measure_rate(engine: EngineClient, seconds: float) -> float:
    """Bytes per second that a running download receives."""
    began, before = time.monotonic(), engine.snapshots()[0].received
    await asyncio.sleep(seconds)
    return (engine.snapshots()[0].received - before) / (time.monotonic() - began)


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [False, True], ids=["process", "inline"])
async def test_the_bandwidth_of_a_session_holds_and_can_be_lifted_while_a_download_runs(
    engines: Engines, slow_hub: LocalHub, make_request: RequestFactory, cache_dir: Path, inline: bool
) -> None:
    limits = EngineLimits(bandwidth_bytes_per_second=LIMIT_BYTES_PER_SECOND)
    async with Session(
        endpoint=slow_hub.endpoint, cache_dir=cache_dir, token=False, inline=inline, limits=limits
    ) as session:
        assert await session.limits() == limits
        engine = await session.engine()
        request = make_request()
        job = await engine.submit(request)
        while engine.snapshots()[0].received < SIZE_BYTES // 10:  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)
        limited = await measure_rate(engine, 3.0)
        received = engine.snapshots()[0].received
        assert 0.3 * LIMIT_BYTES_PER_SECOND < limited < 1.7 * LIMIT_BYTES_PER_SECOND

        await session.set_limits(EngineLimits())
        rest_began, rest = time.monotonic(), SIZE_BYTES - received
        assert (await engine.wait(job.job_id)).state is DownloadState.READY
        assert rest / (time.monotonic() - rest_began) > 1.5 * LIMIT_BYTES_PER_SECOND
        assert_exact(request)


@pytest.mark.anyio
async def test_the_command_limits_a_running_download_and_the_next_engine_too(
    engines: Engines, slow_hub: LocalHub, make_request: RequestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELDECK_INLINE", raising=False)

    async def limit(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "modeldeck", "engine", "limit", "--json", *arguments]
        result = await asyncio.to_thread(
            subprocess.run,
            [*command, "--cache-dir", str(engines.cache_dir)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        return dict(json.loads(result.stdout))

    usual = {"max_active_jobs": 3, "max_connections": 16, "bandwidth_bytes_per_second": None}
    assert await limit() == usual
    engine = engines.connect()
    await engine.set_limits(EngineLimits(bandwidth_bytes_per_second=LIMIT_BYTES_PER_SECOND // 100))
    job = await engine.submit(make_request())
    limits = {"max_active_jobs": 2, "max_connections": 5, "bandwidth_bytes_per_second": LIMIT_BYTES_PER_SECOND}
    rate = f"{LIMIT_BYTES_PER_SECOND / 1000}kB/s"
    assert await limit("--bandwidth", rate, "--downloads", "2", "--connections", "5") == limits
    began, before = time.monotonic(), engine.snapshots()[0].received
    while engine.snapshots()[0].received - before < LIMIT_BYTES_PER_SECOND:  # noqa: ASYNC110 - has no event
        await asyncio.sleep(0.01)
    assert time.monotonic() - began < 10, "the new limit holds for the download that runs"

    os.kill((await engine.status()).pid, signal.SIGKILL)
    assert await limit() == limits, "a crash does not lift them"
    assert (await engine.status()).limits.bandwidth_bytes_per_second == LIMIT_BYTES_PER_SECOND
    assert await limit("--bandwidth", "none") == {**limits, "bandwidth_bytes_per_second": None}
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    await engine.aclose()
    assert await stop_engine(engines.settings)
    assert await limit("--downloads", "3", "--connections", "16") == usual


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["limit", "--bandwidth", "20"], "not a bandwidth"),
        (["limit", "--bandwidth", "20Mb/s"], "bits or bytes"),
        (["limit", "--downloads", "0"], "at least 1"),
        (["limit", "--connections", "-3"], "at least 1"),
        (["limit", "--downloads", "two"], "invalid int value"),
        (["limit", "--inline"], "Session(limits=...)"),
        (["status", "--downloads", "2"], "engine limit"),
    ],
    ids=" ".join,
)
def test_wrong_limits_are_a_wrong_usage_and_start_no_engine(
    engines: Engines, arguments: list[str], message: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "modeldeck", "engine", *arguments, "--cache-dir", str(engines.cache_dir)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "MODELDECK_INLINE": "0"},
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert engines.processes() == []
