"""The manager: its queue, limits and subscribers, and its list over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import psutil
import pytest

from modeldeck._errors import InvalidRequestError
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, GGUFFile
from modeldeck.engine import job as job_module
from modeldeck.engine.leftovers import LEFT_OVER_SECONDS, discard_partials
from modeldeck.engine.patience import Patience
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.store import JobStore
from modeldeck.engine.threads import THREAD_COUNT
from tests.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS
from tools.localhub.faults import ChangeHeaders, Chunked, IgnoreRange, Reply, Stall, Throttle

if TYPE_CHECKING:
    from conftest import Playground, Until

pytestmark = pytest.mark.anyio

S = DownloadState


def several(playground: Playground, count: int) -> list[DownloadRequest]:
    requests = []
    for number in range(count):
        repo_id = f"owner/model-{number}"
        commit_hash = playground.hub.add_repo(repo_id, {"m.gguf": playground.content[: 3_000_000 + number]})
        file = GGUFFile(filename="m.gguf", size=3_000_000 + number, sha256=playground.hub.sha256(repo_id, "m.gguf"))
        requests.append(
            playground.request(repo_id=repo_id, commit_hash=commit_hash, files=(file,), variant_id="m.gguf")
        )
    return requests


async def test_the_same_request_joins(playground: Playground) -> None:
    playground.hub.faults.add(Throttle(20e6), origin="cdn")
    async with playground.manager() as manager:
        first = await manager.submit(playground.request())
        second = await manager.submit(playground.request(label="another text"))
        assert first.job_id == second.job_id
        assert len(manager.snapshots()) == 1
        playground.assert_exact(await manager.wait(first.job_id))
        third = await manager.submit(playground.request())
        assert third.job_id != first.job_id
        assert (await manager.wait(third.job_id)).bytes_fetched == 0
        assert len(manager.snapshots()) == 1


async def test_the_same_request_joins_whichever_path_leads_to_the_cache(playground: Playground) -> None:
    playground.hub.faults.add(Throttle(20e6), origin="cdn")
    playground.cache_dir.mkdir()
    link = playground.cache_dir.with_name("elsewhere")
    link.symlink_to(playground.cache_dir.name)
    async with playground.manager() as manager:
        first = await manager.submit(playground.request(cache_dir=str(link)))
        second = await manager.submit(playground.request())
        assert first.job_id == second.job_id
        done = await manager.wait(first.job_id)
    playground.assert_exact(done)
    assert done.bytes_fetched == len(playground.content)


@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("how", ["ranges", "chunked", "whole"])
async def test_pause_and_resume_act_at_once(playground: Playground, until: Until, how: str, is_limited: bool) -> None:
    playground.hub.faults.add(Throttle(4e6, is_shared=True, free_bytes=3_000_000), origin="cdn")
    if how == "chunked":  # httpx reads such a body, as it does behind a proxy
        playground.hub.faults.add(Chunked(), origin="cdn")
    if how == "whole":
        playground.hub.faults.add(IgnoreRange(), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        for share in (3_000_000, 8_000_000):
            await until(lambda share=share: manager.snapshots()[0].received > share)
            if is_limited:  # so low that what has arrived waits for minutes
                manager.set_limits(EngineLimits(bandwidth_bytes_per_second=2_000))
                await until(lambda: manager._resources.bandwidth._free_at > time.monotonic() + AT_ONCE_SECONDS)
            with anyio.fail_after(AT_ONCE_SECONDS):
                paused = await manager.act(job.job_id, "pause")
            manager.set_limits(EngineLimits())
            assert paused.state is S.PAUSED
            assert paused.connections == 0
            assert paused.rate is None
            received = paused.received
            assert (await manager.wait(job.job_id)).state is S.PAUSED
            assert manager.active == 0
            with anyio.fail_after(AT_ONCE_SECONDS):
                resumed = await manager.act(job.job_id, "resume")
            assert resumed.state in (S.QUEUED, S.RESOLVING)
            assert resumed.received >= received
        playground.hub.faults.clear()
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert done.bytes_fetched <= len(playground.content) + 1_000_000


async def test_waiting_for_the_bandwidth_limit_keeps_no_disk_thread(playground: Playground, until: Until) -> None:
    """Also not for bodies that httpx reads."""
    playground.hub.faults.add(Chunked(), origin="cdn")
    slow = EngineLimits(bandwidth_bytes_per_second=10_000, max_connections=THREAD_COUNT + 1)
    async with playground.manager(limits=slow) as manager:
        await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].connections > THREAD_COUNT)
        other = await manager.submit(several(playground, 1)[0])
        await until(lambda: manager.snapshots()[1].state is S.DOWNLOADING)
        manager.set_limits(EngineLimits())
        assert (await manager.wait(other.job_id)).state is S.READY


async def test_submitting_a_paused_or_failed_one_goes_on(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=3_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 3_000_000)
        await manager.act(job.job_id, "pause")
        fault = playground.hub.faults.add(Reply(404), origin="hub")
        again = await manager.submit(playground.request())
        assert again.job_id == job.job_id
        assert (await manager.wait(job.job_id)).state is S.FAILED
        playground.hub.faults.remove(fault)
        playground.hub.faults.clear()
        assert (await manager.submit(playground.request())).job_id == job.job_id
        playground.assert_exact(await manager.wait(job.job_id))


@pytest.mark.parametrize("phase", [S.RESOLVING, S.DOWNLOADING])
@pytest.mark.parametrize("request_", ["pause", "cancel"])
async def test_stopping_before_the_connection_exists(
    playground: Playground, until: Until, phase: DownloadState, request_: str
) -> None:
    where = {"origin": "hub"} if phase is S.RESOLVING else {"origin": "cdn"}
    playground.hub.faults.add(Stall(-1), **where)  # type: ignore[arg-type]
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].state is phase)
        with anyio.fail_after(AT_ONCE_SECONDS):
            stopped = await manager.act(job.job_id, request_)
        assert stopped.state is (S.PAUSED if request_ == "pause" else S.CANCELLED)
        if request_ == "cancel":
            assert playground.left_overs() == []


async def test_cancelling_a_paused_or_failed_one_deletes_what_it_has(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=3_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 3_000_000)
        await manager.act(job.job_id, "pause")
        assert playground.left_overs() != []
        assert (await manager.act(job.job_id, "cancel")).state is S.CANCELLED
        assert playground.left_overs() == []
        await manager.act(job.job_id, "dismiss")
        assert manager.snapshots() == ()
        with pytest.raises(InvalidRequestError):
            await manager.wait(job.job_id)


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("told", ["a sha256", "no digest"])
async def test_cancelling_deletes_also_what_the_listing_told_no_sha256_of(
    playground: Playground, until: Until, told: str, is_paused: bool
) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=3_000_000), origin="cdn")
    if told == "no digest":
        playground.hub.faults.add(ChangeHeaders({"X-Linked-Etag": None, "ETag": None}), origin="hub")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(files=(playground.file(sha256=None),)))
        await until(lambda: manager.snapshots()[0].received > 3_000_000)
        assert playground.left_overs() != []
        if is_paused:
            await manager.act(job.job_id, "pause")
        assert (await manager.act(job.job_id, "cancel")).state is S.CANCELLED
        assert playground.left_overs() == []


@pytest.mark.parametrize("told", ["a sha256", "no digest"])
async def test_the_next_engine_knows_the_partial_files_that_the_listing_told_no_sha256_of(
    playground: Playground, until: Until, told: str
) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=3_000_000), origin="cdn")
    if told == "no digest":
        playground.hub.faults.add(ChangeHeaders({"X-Linked-Etag": None, "ETag": None}), origin="hub")
    kept, other = playground.request(files=(playground.file(sha256=None),)), several(playground, 1)[0]
    async with playground.manager(state_dir=playground.state_dir) as manager:
        job = await manager.submit(kept)
        await until(lambda: manager.snapshots()[0].received > 3_000_000)
        received = (await manager.act(job.job_id, "pause")).received
    playground.hub.faults.clear()
    for name in playground.left_overs():
        os.utime(playground.repo_dir / "blobs" / name, (time.time() - 2 * LEFT_OVER_SECONDS,) * 2)
    engines = [{"state_dir": playground.state_dir}, {"lists": [playground.state_dir]}]
    for engine in engines:
        async with playground.manager(**engine) as manager:  # leaving it waits for the cleaning
            await manager.wait((await manager.submit(other)).job_id)
        assert playground.left_overs() != []
    async with playground.manager(state_dir=playground.state_dir) as manager:
        assert manager.snapshots()[0].received >= received - 1_000_000
        assert (await manager.act(job.job_id, "cancel")).state is S.CANCELLED
    assert playground.left_overs() == []


async def test_a_queued_one_does_not_start_while_it_is_cancelled(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_discarding, may_go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> int:
        is_discarding.set()
        assert may_go_on.wait(PATIENCE_SECONDS)
        return discard_partials(*arguments)

    first, second, third = several(playground, 3)
    playground.hub.faults.add(Stall(), path="*model-1*")
    async with playground.manager(limits=EngineLimits(max_active_jobs=1)) as manager:
        running = await manager.submit(first)
        waiting = await manager.submit(second)
        with monkeypatch.context() as patch, anyio.fail_after(PATIENCE_SECONDS):
            patch.setattr(job_module, "discard_partials", slow)
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(manager.act, waiting.job_id, "cancel")
                await anyio.to_thread.run_sync(is_discarding.wait)
                await manager.wait(running.job_id)
                may_go_on.set()
        assert manager.active == 0
        assert (await manager.wait(waiting.job_id)).state is S.CANCELLED
        await manager.act(waiting.job_id, "dismiss")
        done = await manager.wait((await manager.submit(third)).job_id)
        assert done.state is S.READY


async def test_one_that_is_being_cancelled_is_not_paused_and_resumed(
    playground: Playground, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_discarding, may_go_on = threading.Event(), threading.Event()
    states: list[DownloadState] = []

    def slow(*arguments: Any) -> int:
        is_discarding.set()
        assert may_go_on.wait(PATIENCE_SECONDS)
        return discard_partials(*arguments)

    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=1_000_000), origin="cdn")
    async with playground.manager() as manager:
        running = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 1_000_000)
        monkeypatch.setattr(job_module, "discard_partials", slow)

        async def pause() -> None:
            states.append((await manager.act(running.job_id, "pause")).state)

        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(manager.act, running.job_id, "cancel")
                await anyio.to_thread.run_sync(is_discarding.wait)
                task_group.start_soon(pause)
                await anyio.wait_all_tasks_blocked()
                may_go_on.set()
        assert states == [S.CANCELLED]
        assert playground.left_overs() == []


async def test_what_makes_no_sense_is_refused(playground: Playground) -> None:
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        for action in ("resume", "retry", "dismiss"):
            with pytest.raises(InvalidRequestError):
                await manager.act(job.job_id, action)
        playground.assert_exact(await manager.wait(job.job_id))
        for action in ("pause", "resume", "retry", "cancel"):
            with pytest.raises(InvalidRequestError):
                await manager.act(job.job_id, action)
            with pytest.raises(InvalidRequestError):
                await manager.act("nobody", action)
        for limits in (EngineLimits(max_active_jobs=0), EngineLimits(max_connections=0)):
            with pytest.raises(InvalidRequestError):
                manager.set_limits(limits)


async def test_no_more_run_than_allowed_and_in_order(playground: Playground) -> None:
    requests = several(playground, 6)
    playground.hub.faults.add(Throttle(20e6), origin="cdn")
    most = 0
    begun: list[str] = []
    async with playground.manager(limits=EngineLimits(max_active_jobs=2)) as manager:

        def watch(snapshot: DownloadSnapshot) -> None:
            nonlocal most
            most = max(most, sum(other.state.is_active for other in manager.snapshots()))
            if snapshot.state is S.RESOLVING and snapshot.job_id not in begun:
                begun.append(snapshot.job_id)

        manager.subscribe(watch)
        jobs = [await manager.submit(request) for request in requests]
        assert manager.waiting == 4
        for job in jobs:
            assert (await manager.wait(job.job_id)).state is S.READY
    assert most == 2
    assert begun == [job.job_id for job in jobs]


async def test_limits_change_while_it_runs(playground: Playground, until: Until) -> None:
    requests = several(playground, 4)
    playground.hub.faults.add(Throttle(300_000), origin="cdn")
    async with playground.manager(limits=EngineLimits(max_active_jobs=1, max_connections=1)) as manager:
        for request in requests:
            await manager.submit(request)
        await until(lambda: sum(snapshot.connections for snapshot in manager.snapshots()) == 1)
        assert manager.active == 1
        manager.set_limits(EngineLimits(max_active_jobs=4, max_connections=8))
        assert manager.active == 4
        await until(lambda: sum(snapshot.connections for snapshot in manager.snapshots()) >= 4)
        manager.set_limits(EngineLimits(max_active_jobs=1, max_connections=8))
        assert manager.active == 4, "a lower limit holds for those that start"
        playground.hub.faults.clear()
        for snapshot in manager.snapshots():
            assert (await manager.wait(snapshot.job_id)).state is S.READY


async def test_the_bandwidth_limit_holds_and_can_be_lifted(playground: Playground, until: Until) -> None:
    limit = 4_000_000
    async with playground.manager(limits=EngineLimits(bandwidth_bytes_per_second=limit)) as manager:
        started = time.monotonic()
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].bytes_fetched > 12_000_000)
        assert 12_000_000 / (time.monotonic() - started) < 1.4 * limit
        manager.set_limits(EngineLimits())
        playground.assert_exact(await manager.wait(job.job_id))


async def test_progress_is_told_four_times_a_second_at_most(playground: Playground) -> None:
    playground.hub.faults.add(Throttle(1.2e6), origin="cdn")
    playground.put(playground.content[: 20 << 20])
    seen: list[tuple[float, DownloadSnapshot]] = []
    async with playground.manager() as manager:
        unsubscribe = manager.subscribe(lambda snapshot: seen.append((time.monotonic(), snapshot)))
        job = await manager.submit(playground.request())
        done = await manager.wait(job.job_id)
        unsubscribe()
        count = len(seen)
        await manager.act(job.job_id, "dismiss")
        assert len(seen) == count
    playground.assert_exact(done)
    moving = [moment for moment, snapshot in seen if snapshot.state is S.DOWNLOADING]
    assert len(moving) <= (moving[-1] - moving[0]) * 4.5 + 3
    rates = [snapshot.rate for _, snapshot in seen if snapshot.rate]
    assert rates
    assert all(snapshot.eta_seconds is None for _, snapshot in seen if snapshot.rate is None)
    assert all(snapshot.percent != 100 for _, snapshot in seen if snapshot.state is not S.READY)


async def test_a_watcher_that_fails_harms_nobody(playground: Playground) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    seen = []
    async with playground.manager() as manager:

        def fail(snapshot: DownloadSnapshot) -> None:
            raise ZeroDivisionError

        manager.subscribe(fail)
        manager.subscribe(seen.append)
        job = await manager.submit(playground.request())
        playground.assert_exact(await manager.wait(job.job_id))
    asyncio.get_running_loop().set_exception_handler(None)
    assert seen
    assert all(isinstance(error, ZeroDivisionError) for error in reported)


async def test_a_stall_and_a_retry_are_told(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(Reply(503, {"Retry-After": "2"}), origin="cdn", times=1)
    one = EngineLimits(max_connections=1)  # with others beside it, a refused connection waits for nothing
    async with playground.manager(policy=RetryPolicy(base_seconds=0.01), limits=one) as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].retry_in_seconds is not None)
        (snapshot,) = manager.snapshots()
        assert snapshot.state is S.DOWNLOADING
        assert snapshot.attempt == 1
        assert 0 <= (snapshot.retry_in_seconds or 0) <= 2.1
        assert snapshot.rate is None
        playground.assert_exact(await manager.wait(job.job_id))


async def test_the_time_left_counts_what_was_lost_in_a_pause(playground: Playground, until: Until) -> None:
    """The progress bar does not go back, and the remaining time is that of the bytes that are really missing."""
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=16_000_000), origin="cdn")
    async with playground.manager(limits=EngineLimits(max_connections=1)) as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 16_000_000)
        paused = await manager.act(job.job_id, "pause")
        for path in (playground.repo_dir / "blobs").iterdir():
            path.unlink()
        await manager.act(job.job_id, "resume")
        await until(lambda: manager.snapshots()[0].eta_seconds is not None)
        (snapshot,) = manager.snapshots()
        assert snapshot.received >= paused.received
        assert snapshot.eta_seconds is not None
        assert snapshot.rate is not None
        since = snapshot.bytes_fetched - paused.bytes_fetched
        assert snapshot.eta_seconds * snapshot.rate > len(playground.content) - since - 1_000_000
        playground.hub.faults.clear()
        playground.assert_exact(await manager.wait(job.job_id))


async def test_leaving_the_manager_keeps_everything_for_the_next(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    requests = [playground.request(), *several(playground, 3)]
    async with playground.manager(state_dir=playground.state_dir, limits=EngineLimits(max_active_jobs=1)) as manager:
        jobs = [await manager.submit(request, token="hf_testtesttest") for request in requests]
        await manager.act(jobs[2].job_id, "pause")
        await until(lambda: manager.snapshots()[0].received > 4_000_000)
    for path in playground.state_dir.iterdir():
        assert b"hf_testtesttest" not in path.read_bytes()
    for path in playground.cache_dir.rglob("*"):
        assert not path.is_file() or b"hf_testtesttest" not in path.read_bytes()
    playground.hub.requests.clear()
    playground.hub.faults.clear()
    async with playground.manager(state_dir=playground.state_dir, limits=EngineLimits(max_active_jobs=1)) as manager:
        again = manager.snapshots()
        assert [snapshot.job_id for snapshot in again] == [job.job_id for job in jobs]
        assert [snapshot.request for snapshot in again] == [job.request for job in jobs]
        assert again[2].state is S.PAUSED
        assert again[0].received > 4_000_000
        playground.assert_exact(await manager.wait(jobs[0].job_id))
        assert (await manager.wait(jobs[1].job_id)).state is S.READY
        assert (await manager.wait(jobs[2].job_id)).state is S.PAUSED
        await manager.act(jobs[2].job_id, "resume")
        for job in jobs:
            assert (await manager.wait(job.job_id)).state is S.READY
    async with playground.manager(state_dir=playground.state_dir) as manager:
        assert [snapshot.job_id for snapshot in manager.snapshots()] == [job.job_id for job in jobs]
        for snapshot in manager.snapshots():
            assert snapshot.state is S.READY
            await manager.act(snapshot.job_id, "dismiss")
    assert list(playground.state_dir.iterdir()) == []


async def test_what_was_answered_is_on_the_disk(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine is killed after an answer, the next one knows the download, even if the disk is slow."""
    playground.hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    for name in ("save", "delete"):
        _delay(monkeypatch, name)

    def stored() -> list[str]:
        return [json.loads(path.read_bytes())["state"] for path in playground.state_dir.glob("*.download.json")]

    async with playground.manager(state_dir=playground.state_dir) as manager:
        first, second = [(await manager.submit(request)).job_id for request in several(playground, 2)]
        assert len(stored()) == 2
        await manager.act(first, "pause")
        assert "paused" in stored()
        await manager.act(first, "cancel")
        assert "paused" not in stored()
        playground.hub.faults.clear()
        await manager.wait(second)
        await manager.act(second, "dismiss")
        assert stored() == []


def _delay(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method = getattr(JobStore, name)

    def delayed(store: JobStore, what: object) -> None:
        time.sleep(0.2)
        method(store, what)

    monkeypatch.setattr(JobStore, name, delayed)


async def test_a_gated_download_asks_for_the_token_after_a_restart(playground: Playground, until: Until) -> None:
    hub = playground.hub
    hub._site.tokens = {"hf_granted": {playground.repo_id}}  # type: ignore[assignment]
    playground.put(playground.content, gated="auto")
    hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    async with playground.manager(state_dir=playground.state_dir) as manager:
        job = await manager.submit(playground.request(), token="hf_granted")
        await until(lambda: manager.snapshots()[0].received > 4_000_000)
    hub.faults.clear()
    async with playground.manager(state_dir=playground.state_dir) as manager:
        failed = await manager.wait(job.job_id)
        assert failed.state is S.FAILED
        assert failed.error is not None
        assert failed.error.code == "gated"
        assert failed.received > 4_000_000
        await manager.act(job.job_id, "retry", "hf_granted")
        playground.assert_exact(await manager.wait(job.job_id))


async def test_a_state_directory_full_of_rubbish_harms_nobody(playground: Playground) -> None:
    playground.state_dir.mkdir()
    (playground.state_dir / ("a" * 32 + ".download.json")).write_text("{not json")
    (playground.state_dir / ("b" * 32 + ".download.json")).write_text('{"job_id": 7}')
    (playground.state_dir / "notes.txt").write_text("mine")
    async with playground.manager(state_dir=playground.state_dir) as manager:
        assert manager.snapshots() == ()
        job = await manager.submit(playground.request())
        playground.assert_exact(await manager.wait(job.job_id))
    assert (playground.state_dir / "notes.txt").read_text() == "mine"


async def test_a_thousand_queued_downloads_cost_nothing(playground: Playground) -> None:
    """The loop is as idle with them as without them: no timer runs for each of them."""
    playground.hub.faults.add(Stall(-1), origin="hub")
    patient = Patience(silence_seconds=100)
    async with playground.manager(limits=EngineLimits(max_active_jobs=1), patience=patient) as manager:
        file = GGUFFile(filename="m.gguf", size=10, sha256="a" * 64)
        request = playground.request(files=(file,))
        await manager.submit(request)
        for number in range(1000):
            await manager.submit(replace(request, repo_id=f"owner/m{number}"))
        assert manager.waiting == 1000
        before = time.process_time()
        await anyio.sleep(2)
        assert time.process_time() - before < 0.2
        for snapshot in manager.snapshots()[1:]:
            await manager.act(snapshot.job_id, "cancel")
        assert manager.waiting == 0


async def test_two_downloads_with_one_file_in_common_fetch_it_once(playground: Playground) -> None:
    names = {"a.gguf": playground.content[:5_000_000], "b.gguf": playground.content[:6_000_000]}
    shared = {"mmproj.gguf": playground.content[:8_000_000]}
    commit_hash = playground.hub.add_repo(playground.repo_id, {**names, **shared})
    files = {
        name: GGUFFile(filename=name, size=len(data), sha256=playground.hub.sha256(playground.repo_id, name))
        for name, data in {**names, **shared}.items()
    }
    async with playground.manager() as manager:
        jobs = [
            await manager.submit(
                playground.request(files=(files[name], files["mmproj.gguf"]), commit_hash=commit_hash, variant_id=name)
            )
            for name in names
        ]
        done = [await manager.wait(job.job_id) for job in jobs]
    assert [snapshot.state for snapshot in done] == [S.READY, S.READY]
    assert sum(snapshot.bytes_fetched for snapshot in done) == 19_000_000


def sharing(playground: Playground) -> tuple[DownloadRequest, DownloadRequest]:
    """Return the requests of two quantizations with one projector, which is most of both."""
    sizes = {"a.gguf": 300_000, "b.gguf": 400_000, "mmproj.gguf": 12_000_000}
    contents = {name: playground.content[:size] for name, size in sizes.items()}
    commit_hash = playground.hub.add_repo(playground.repo_id, contents)
    a, b, projector = (
        GGUFFile(filename=name, size=len(data), sha256=playground.hub.sha256(playground.repo_id, name))
        for name, data in contents.items()
    )
    request = playground.request(commit_hash=commit_hash, files=(a, projector), variant_id="a.gguf")
    return request, replace(request, files=(b, projector), variant_id="b.gguf")


async def test_cancelling_keeps_what_another_unfinished_download_needs(playground: Playground, until: Until) -> None:
    first, second = sharing(playground)
    playground.hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    async with playground.manager() as manager:
        kept = await manager.submit(first)
        await until(lambda: manager.snapshots()[0].received > 4_000_000)
        await manager.act(kept.job_id, "pause")
        given_up = await manager.submit(second)
        await until(lambda: manager.snapshots()[1].received > 4_000_000)
        await manager.act(given_up.job_id, "cancel")
        playground.hub.faults.clear()
        await manager.act(kept.job_id, "resume")
        done = await manager.wait(kept.job_id)
        assert done.state is S.READY, done.error
        assert done.bytes_fetched <= (done.total or 0) + 1_000_000
    assert playground.left_overs() == []


async def test_cancelling_two_at_once_leaves_nothing_of_what_both_needed(playground: Playground, until: Until) -> None:
    requests = sharing(playground)
    playground.hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    async with playground.manager() as manager:
        jobs = [await manager.submit(request) for request in requests]
        await until(lambda: sum(snapshot.received for snapshot in manager.snapshots()) > 4_000_000)
        async with anyio.create_task_group() as task_group:
            for job in jobs:
                task_group.start_soon(manager.act, job.job_id, "cancel")
    assert playground.left_overs() == []


async def test_one_file_comes_from_two_repositories_at_once(playground: Playground) -> None:
    playground.hub.faults.add(Throttle(20e6, is_shared=True), origin="cdn")
    requests = several(playground, 1)
    commit_hash = playground.hub.add_repo("other/name", {"m.gguf": playground.content[:3_000_000]})
    requests.append(replace(requests[0], repo_id="other/name", commit_hash=commit_hash))
    async with playground.manager() as manager:
        jobs = [await manager.submit(request) for request in requests]
        assert [(await manager.wait(job.job_id)).state for job in jobs] == [S.READY, S.READY]
        assert manager.open_partials == {}


async def test_a_paused_download_goes_on_with_other_files_beside_the_model(
    playground: Playground, until: Until
) -> None:
    contents = {"m.gguf": playground.content[:8_000_000], "mmproj.gguf": playground.content[:1_000_000]}
    commit_hash = playground.hub.add_repo(playground.repo_id, contents)
    model, projector = (
        GGUFFile(filename=name, size=len(data), sha256=playground.hub.sha256(playground.repo_id, name))
        for name, data in contents.items()
    )
    alone = playground.request(files=(model,), commit_hash=commit_hash)
    playground.hub.faults.add(Throttle(5e5, is_shared=True, free_bytes=2_000_000), origin="cdn")
    async with playground.manager() as manager:
        first = await manager.submit(alone)
        await until(lambda: manager.snapshots()[0].received > 2_000_000)
        await manager.act(first.job_id, "pause")
        playground.hub.faults.clear()
        await manager.submit(replace(alone, files=(model, projector)))
        (job,) = manager.snapshots()
        done = await manager.wait(job.job_id)
    assert (done.state, done.total) == (S.READY, 9_000_000)
    assert done.bytes_fetched < 7_500_000


@pytest.mark.parametrize("action", ["pause", "cancel"])
async def test_a_stopped_download_keeps_no_connection(playground: Playground, until: Until, action: str) -> None:
    ports = {urlsplit(origin).port for origin in (playground.hub.endpoint, playground.hub.cdn_origin)}

    def connections() -> list[object]:
        """This includes idle connections that are kept for the next request."""
        everything = psutil.Process().net_connections("tcp")
        return [item for item in everything if item.status == psutil.CONN_ESTABLISHED and item.raddr.port in ports]

    throttle = playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=1_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 1_000_000)
        assert connections()
        await manager.act(job.job_id, action)
        await until(lambda: not connections())
        playground.hub.faults.remove(throttle)
        again = await manager.submit(playground.request())
        playground.assert_exact(await manager.wait(again.job_id))
        await until(lambda: not connections())


async def test_no_task_and_no_connection_is_left(playground: Playground, until: Until) -> None:
    before = asyncio.all_tasks()
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=1_000_000), origin="cdn")
    async with playground.manager() as manager:
        await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 1_000_000)
    assert asyncio.all_tasks() == before
    with contextlib.suppress(TimeoutError):
        playground.hub.requests.wait_until(lambda records: all(record.is_finished for record in records))
    assert all(record.is_finished for record in playground.hub.requests)


async def test_the_queue_has_an_order_that_can_be_changed_and_that_a_restart_keeps(
    playground: Playground, until: Until
) -> None:
    first, *waiting = several(playground, 4)
    playground.hub.faults.add(Stall(0), origin="cdn", times=1)
    limits = EngineLimits(max_active_jobs=1)
    patience = Patience()  # the first one stands still for as long as this takes
    async with playground.manager(state_dir=playground.state_dir, limits=limits, patience=patience) as manager:
        await manager.submit(first)
        a, b, c = [(await manager.submit(request)).job_id for request in waiting]
        places: dict[str, int | None] = {}
        manager.subscribe(lambda snapshot: places.update({snapshot.job_id: snapshot.queue_position}))
        for job_id, action in ((c, "move_up"), (c, "move_up"), (c, "move_up"), (b, "move_down"), (a, "move_down")):
            await manager.act(job_id, action)
        await until(lambda: [places.get(job_id) for job_id in (c, b, a)] == [0, 1, 2])
        for action in ("pause", "resume"):
            for job_id in (a, c):
                await manager.act(job_id, action)
        await until(lambda: [places.get(job_id) for job_id in (c, b, a)] == [0, 1, 2])

    started = []
    async with playground.manager(state_dir=playground.state_dir, limits=limits) as manager:
        manager.subscribe(lambda snapshot: started.append(snapshot.job_id) if snapshot.state is S.RESOLVING else None)
        for job_id in (a, b, c):
            done = await manager.wait(job_id)
            assert done.state is S.READY
            assert done.finished_at is not None
    assert [job_id for job_id in dict.fromkeys(started) if job_id in (a, b, c)] == [c, b, a]


async def test_closing_ends_also_when_the_last_chore_has_just_ended(playground: Playground) -> None:
    async def chore() -> None:
        pass

    async with playground.manager() as manager:
        manager._do_chore(chore())
        await asyncio.sleep(0)
        (task,) = manager._chores
        assert task.done()
    assert not manager._chores
