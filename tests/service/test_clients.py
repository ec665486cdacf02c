"""What holds for every client of an engine, wherever the engine runs."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modeldeck._errors import InvalidRequestError
from modeldeck._types import DownloadSnapshot, DownloadState, EngineLimits
from modeldeck.service.engine_client import EngineClient
from tests.service.conftest import RequestFactory
from tests.service.engines import NAMES, Engines, assert_exact, partials_of, slow_down
from tools.localhub import LocalHub

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="empty")

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["inline", "process"])
def is_inline(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "inline")


@pytest.fixture
async def engine(engines: Engines, is_inline: bool) -> AsyncIterator[EngineClient]:
    engine = engines.connect(inline=is_inline)
    yield engine
    await engine.aclose()


async def test_download_ends_exact(engine: EngineClient, is_inline: bool, make_request: RequestFactory) -> None:
    seen: list[DownloadSnapshot] = []
    threads: set[str] = set()
    engine.subscribe(lambda snapshot: (seen.append(snapshot), threads.add(threading.current_thread().name)))
    request = make_request()
    job = await engine.submit(request)
    assert [snapshot.job_id for snapshot in engine.snapshots()] == [job.job_id]
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY
    assert_exact(request)
    assert seen[-1] == last == engine.snapshots()[0]
    assert [snapshot.rev for snapshot in seen] == sorted({snapshot.rev for snapshot in seen})
    assert threads == {"modeldeck-engine-client"}
    assert engine.mode == ("inline" if is_inline else "process")


async def test_actions_and_their_errors(engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub) -> None:
    slow_down(slow_hub, 1e5)
    request = make_request()
    job_id = (await engine.submit(request)).job_id
    while not engine.snapshots()[0].received:  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.01)
    paused = await engine.act(job_id, "pause")
    assert paused is not None
    assert paused.state is DownloadState.PAUSED
    assert await engine.wait(job_id) == paused
    assert partials_of(request)
    resumed = await engine.act(job_id, "resume")
    assert resumed is not None
    assert not resumed.state.is_final
    with pytest.raises(InvalidRequestError, match="dismiss"):
        await engine.act(job_id, "dismiss")
    cancelled = await engine.act(job_id, "cancel")
    assert cancelled is not None
    assert cancelled.state is DownloadState.CANCELLED
    assert not partials_of(request)
    assert await engine.act(job_id, "dismiss") is None
    assert engine.snapshots() == ()
    with pytest.raises(InvalidRequestError):
        await engine.wait(job_id)
    with pytest.raises(InvalidRequestError):
        await engine.act(job_id, "pause")


async def test_dismissed_download_leaves_the_list_of_every_client(
    engines: Engines, engine: EngineClient, is_inline: bool, make_request: RequestFactory
) -> None:
    other = engines.connect(inline=is_inline)
    removed: list[str] = []
    is_removed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_removed(job_id: str) -> None:
        removed.append(job_id)
        loop.call_soon_threadsafe(is_removed.set)

    other.subscribe(lambda _: None, on_removed=on_removed)
    job = await engine.submit(make_request())
    await engine.wait(job.job_id)
    await engine.act(job.job_id, "dismiss")
    assert engine.snapshots() == ()
    await asyncio.wait_for(is_removed.wait(), 30)
    assert other.snapshots() == ()
    assert removed == [job.job_id]
    await other.aclose()


async def test_clients_of_one_cache_share_one_download(
    engines: Engines, engine: EngineClient, is_inline: bool, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    first = await engine.submit(make_request())
    other = engines.connect(inline=is_inline)
    assert [snapshot.job_id for snapshot in other.snapshots()] == [first.job_id]
    assert (await other.submit(make_request())).job_id == first.job_id
    assert (await other.status()).clients == 2
    await other.aclose()
    assert (await engine.status()).clients == 1, "a client that was closed does not count any more"
    slow_hub.faults.clear()
    assert (await engine.wait(first.job_id)).state is DownloadState.READY


async def test_cancel_leaves_the_download_to_the_other_client_until_asked_again(
    engines: Engines, engine: EngineClient, is_inline: bool, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    other = engines.connect(inline=is_inline)
    job_id = (await engine.submit(make_request())).job_id
    assert (await other.submit(make_request())).job_id == job_id

    answer = await engine.act(job_id, "cancel")
    assert answer is not None
    assert not answer.state.is_final
    assert "Cancel again" in (answer.notice or "")
    assert engine.snapshots()[0].notice == answer.notice
    assert other.snapshots()[0].notice is None

    cancelled = await engine.act(job_id, "cancel")
    assert cancelled is not None
    assert cancelled.state is DownloadState.CANCELLED
    assert (await other.wait(job_id)).state is DownloadState.CANCELLED
    await other.aclose()


async def test_cancel_acts_at_once_when_the_other_client_has_left(
    engines: Engines, engine: EngineClient, is_inline: bool, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    other = engines.connect(inline=is_inline)
    job_id = (await other.submit(make_request())).job_id
    await other.aclose()
    cancelled = await engine.act(job_id, "cancel")
    assert cancelled is not None
    assert cancelled.state is DownloadState.CANCELLED


async def test_callbacks_run_in_an_empty_context(engine: EngineClient, make_request: RequestFactory) -> None:
    values: set[str] = set()
    engine.subscribe(lambda _: values.add(variable.get()))
    variable.set("the cell that clicked")
    job = await engine.submit(make_request())
    await engine.wait(job.job_id)
    assert values == {"empty"}


async def test_cancelled_wait_leaves_the_download(engine: EngineClient, make_request: RequestFactory) -> None:
    job = await engine.submit(make_request())
    waiting = asyncio.create_task(engine.wait(job.job_id))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await engine.wait(job.job_id)).state is DownloadState.READY


async def test_limits_and_status(engine: EngineClient, is_inline: bool) -> None:
    limits = EngineLimits(max_active_jobs=1, bandwidth_bytes_per_second=5)
    await engine.set_limits(limits)
    status = await engine.status()
    assert (status.mode, status.limits) == ("inline" if is_inline else "process", limits)
    assert (status.active, status.waiting, status.clients) == (0, 0, 1)


async def test_one_client_serves_several_loops(engine: EngineClient, make_request: RequestFactory) -> None:
    def download(name: str) -> DownloadState:
        async def run() -> DownloadState:
            job = await engine.submit(make_request(name))
            return (await engine.wait(job.job_id)).state

        return asyncio.run(run())

    with ThreadPoolExecutor(4) as pool:
        states = pool.map(download, NAMES)
        assert set(await asyncio.to_thread(list, states)) == {DownloadState.READY}


async def test_a_callback_that_raises_does_not_affect_the_others(
    engine: EngineClient, make_request: RequestFactory, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[DownloadSnapshot] = []

    def fail(snapshot: DownloadSnapshot) -> None:
        raise ValueError("on purpose")

    engine.subscribe(fail)
    engine.subscribe(seen.append)
    job = await engine.submit(make_request())
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY
    assert seen[-1] == last
    assert "on purpose" in caplog.text
