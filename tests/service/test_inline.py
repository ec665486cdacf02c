"""The engine on a thread of this process."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import pytest
from copying_manager import CopyingManager

from modeldeck._errors import EngineLostError, InvalidRequestError
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits
from modeldeck.service.inline import InlineEngine

RequestFactory = Callable[..., DownloadRequest]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="empty")


def create_copying(state_dir: Path | None) -> CopyingManager:
    return CopyingManager(state_dir=state_dir)


def content(path: Path) -> bytes:
    return path.read_bytes()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
async def engine(cache_dir: Path) -> AsyncIterator[InlineEngine]:
    engine = InlineEngine(cache_dir, create_manager=create_copying)
    yield engine
    await engine.aclose()


@pytest.mark.anyio
async def test_download_ends_exact(
    engine: InlineEngine, make_request: RequestFactory, source: Path, cache_dir: Path
) -> None:
    seen: list[DownloadSnapshot] = []
    threads: set[str] = set()
    engine.subscribe(lambda snapshot: (seen.append(snapshot), threads.add(threading.current_thread().name)))
    job = await engine.submit(make_request())
    assert [snapshot.job_id for snapshot in engine.snapshots()] == [job.job_id]
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY
    assert content(cache_dir / "model.gguf") == content(source)
    assert seen[-1] == last
    assert [snapshot.rev for snapshot in seen] == sorted({snapshot.rev for snapshot in seen})
    assert threads == {"modeldeck-engine"}


@pytest.mark.anyio
async def test_pause_keeps_and_cancel_deletes_the_partial(
    engine: InlineEngine, make_request: RequestFactory, cache_dir: Path
) -> None:
    job = await engine.submit(make_request())
    paused = await engine.act(job.job_id, "pause")
    assert paused.state is DownloadState.PAUSED
    assert (await engine.wait(job.job_id)) == paused
    assert (cache_dir / "model.gguf.part").exists()
    resumed = await engine.act(job.job_id, "resume")
    assert resumed.state is DownloadState.DOWNLOADING
    assert (await engine.act(job.job_id, "cancel")).state is DownloadState.CANCELLED
    assert names_in(cache_dir) == []


@pytest.mark.anyio
async def test_dismissed_download_leaves_the_list_of_every_client(
    engine: InlineEngine, make_request: RequestFactory, cache_dir: Path
) -> None:
    other = InlineEngine(cache_dir)
    removed: list[str] = []
    other.subscribe(lambda _: None, on_removed=removed.append)
    job = await engine.submit(make_request())
    await engine.wait(job.job_id)
    await engine.act(job.job_id, "dismiss")
    assert engine.snapshots() == other.snapshots() == ()
    assert removed == [job.job_id]
    with pytest.raises(InvalidRequestError):
        await engine.wait(job.job_id)
    with pytest.raises(InvalidRequestError):
        await engine.act(job.job_id, "pause")
    await other.aclose()


@pytest.mark.anyio
async def test_clients_of_one_cache_share_one_download(
    engine: InlineEngine, make_request: RequestFactory, cache_dir: Path
) -> None:
    first = await engine.submit(make_request())
    other = InlineEngine(cache_dir)
    assert [snapshot.job_id for snapshot in other.snapshots()] == [first.job_id]
    assert (await other.submit(make_request())).job_id == first.job_id
    assert (await other.status()).clients == 2
    await other.aclose()
    assert (await engine.status()).clients == 1
    assert (await engine.wait(first.job_id)).state is DownloadState.READY


@pytest.mark.anyio
async def test_cancel_leaves_the_download_to_the_other_client_until_asked_again(
    engine: InlineEngine, make_request: RequestFactory, cache_dir: Path
) -> None:
    other = InlineEngine(cache_dir)
    job_id = (await engine.submit(make_request())).job_id
    await other.submit(make_request())

    answer = await engine.act(job_id, "cancel")
    assert answer.state is DownloadState.DOWNLOADING
    assert answer.notice is not None
    assert "Cancel again" in answer.notice
    assert engine.snapshots()[0].notice == answer.notice
    assert other.snapshots()[0].notice is None

    assert (await engine.act(job_id, "cancel")).state is DownloadState.CANCELLED
    assert (await other.wait(job_id)).state is DownloadState.CANCELLED
    await other.aclose()


@pytest.mark.anyio
async def test_cancel_acts_at_once_when_the_other_client_has_left(
    engine: InlineEngine, make_request: RequestFactory, cache_dir: Path
) -> None:
    other = InlineEngine(cache_dir)
    job_id = (await other.submit(make_request())).job_id
    await other.aclose()
    assert (await engine.act(job_id, "cancel")).state is DownloadState.CANCELLED


@pytest.mark.anyio
async def test_callbacks_run_in_an_empty_context(engine: InlineEngine, make_request: RequestFactory) -> None:
    values: set[str] = set()
    engine.subscribe(lambda _: values.add(variable.get()))
    variable.set("the cell that clicked")
    job = await engine.submit(make_request())
    await engine.wait(job.job_id)
    assert values == {"empty"}


@pytest.mark.anyio
async def test_cancelled_wait_leaves_the_download(engine: InlineEngine, make_request: RequestFactory) -> None:
    job = await engine.submit(make_request())
    waiting = asyncio.create_task(engine.wait(job.job_id))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await engine.wait(job.job_id)).state is DownloadState.READY


@pytest.mark.anyio
async def test_limits_and_status(engine: InlineEngine) -> None:
    limits = EngineLimits(max_active_jobs=1, bandwidth_bytes_per_second=5)
    await engine.set_limits(limits)
    status = await engine.status()
    assert (status.mode, status.limits, status.active, status.waiting) == ("inline", limits, 0, 0)


@pytest.mark.anyio
async def test_last_user_ends_the_engine_and_keeps_the_partial(make_request: RequestFactory, cache_dir: Path) -> None:
    before = threading.active_count()
    engine = InlineEngine(cache_dir, create_manager=create_copying)
    job = await engine.submit(make_request())
    waiting = asyncio.create_task(engine.wait(job.job_id))
    await asyncio.sleep(0)
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineLostError):
        await waiting
    with pytest.raises(EngineLostError):
        await engine.act(job.job_id, "pause")
    assert (cache_dir / "model.gguf.part").exists()
    assert threading.active_count() <= before + 1  # the default executor of this test's own loop


@pytest.mark.anyio
async def test_a_new_engine_waits_for_the_old_one_to_let_go(make_request: RequestFactory, cache_dir: Path) -> None:
    alive: list[CopyingManager] = []

    class SlowToLeave(CopyingManager):
        async def __aenter__(self) -> Self:
            assert alive == []
            alive.append(self)
            return await super().__aenter__()

        async def __aexit__(self, *args: object) -> None:
            await asyncio.sleep(0.2)
            alive.remove(self)

    def create(state_dir: Path | None) -> CopyingManager:
        return SlowToLeave(state_dir=state_dir)

    old = InlineEngine(cache_dir, create_manager=create)
    closing = asyncio.create_task(old.aclose())
    await asyncio.sleep(0)
    new = InlineEngine(cache_dir, create_manager=create)  # blocks this very loop meanwhile
    await closing
    assert len(alive) == 1
    await new.aclose()


def test_process_ends_quietly_while_a_download_runs(tmp_path: Path, source: Path) -> None:
    """Nothing is printed and nothing waits at the interpreter's exit, closed or not."""
    program = f"""
import asyncio, sys
from pathlib import Path
sys.path.append({str(Path(__file__).parent)!r})
from copying_manager import CopyingManager, DownloadRequest
from modeldeck.service.inline import InlineEngine
engine = InlineEngine(Path({str(tmp_path)!r}), create_manager=lambda _: CopyingManager(bytes_per_second=10_000))
asyncio.run(engine.submit(DownloadRequest(repo_id="a/b", revision="main", commit_hash=None, variant_id="m", label="m",
    files=(), endpoint={str(source)!r}, cache_dir={str(tmp_path)!r})))
"""
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.monotonic() - started < 20
    assert (tmp_path / "m.part").exists()
