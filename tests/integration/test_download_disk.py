"""The disk: room is checked before and during a download, and received bytes are never thrown away."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from modeldeck._types import DownloadState, EngineLimits, GGUFFile
from modeldeck.engine import completion, disk, partial
from modeldeck.engine.journal import Block
from tests.waiting import PATIENCE_SECONDS
from tools.localhub.faults import Throttle

if TYPE_CHECKING:
    from conftest import Playground, Until

pytestmark = pytest.mark.anyio


@pytest.fixture
def small_disk(playground: Playground) -> Iterator[Path]:
    """Put the cache on a real filesystem of 16 MiB."""
    playground.cache_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(playground.cache_dir)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a filesystem needs root and the right to mount")
    yield playground.cache_dir
    playground.assert_sound()
    subprocess.run(["umount", str(playground.cache_dir)], check=True)


@pytest.fixture
def early_write_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write bytes back soon, so that it happens in a small file too."""
    monkeypatch.setattr(completion, "WRITEBACK_BYTES", 4 << 20)
    monkeypatch.setattr(completion, "WRITEBACK_SECONDS", 0.01)


@dataclass
class ThinDisk:
    """A filesystem that promises more than its disk can hold, so that writes fail when they are written back."""

    cache_dir: Path
    store: Path

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.store / "image"), str(self.cache_dir)], check=True)

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", str(self.store)], check=True)

    def read_again(self) -> None:
        """Drop the page cache, so that later reads return what the disk has."""
        subprocess.run(["umount", str(self.cache_dir)], check=True)
        self.mount()


@pytest.fixture
def thin_disk(playground: Playground) -> Iterator[ThinDisk]:
    disk = ThinDisk(playground.cache_dir, playground.cache_dir.parent / "elsewhere")
    disk.cache_dir.mkdir()
    disk.store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk.store)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a filesystem needs root and the right to mount")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", str(disk.store)], check=True)
        image = disk.store / "image"
        image.touch()
        os.truncate(image, 128 << 20)
        try:
            path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
            make = [shutil.which("mkfs.ext4", path=path) or "", "-q", "-O", "^has_journal", "-N", "128", str(image)]
            subprocess.run(make, check=True, capture_output=True)
            with image.open("r+b") as file:  # has room where the filesystem keeps its own: that is not what is tested
                start = file.read(8 << 20)
                file.seek(0)
                file.write(start)
            disk.mount()
        except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip("a filesystem in a file needs mkfs.ext4 and loop devices")
        stack.callback(subprocess.run, ["umount", str(disk.cache_dir)], check=True)
        yield disk
        playground.assert_sound()


@pytest.mark.usefixtures("early_write_back")
async def test_what_got_lost_on_its_way_to_the_disk_is_fetched_again(
    playground: Playground, thin_disk: ThinDisk
) -> None:
    playground.hub.faults.add(Throttle(20e6), origin="cdn")
    async with playground.manager(limits=EngineLimits(max_connections=1)) as manager:
        job = await manager.submit(playground.request())
        stopped = await manager.wait(job.job_id)
        assert stopped.state in (DownloadState.PAUSED, DownloadState.FAILED)
        thin_disk.grow()
        await manager.act(job.job_id, "resume" if stopped.state is DownloadState.PAUSED else "retry")
        done = await manager.wait(job.job_id)
        assert done.state is DownloadState.READY, done.error
    thin_disk.read_again()
    playground.assert_exact(done)


async def test_the_filesystem_of_the_cache_is_the_one_that_counts(playground: Playground, small_disk: Path) -> None:
    failed = await playground.download()
    playground.assert_failed(failed, "disk_full")
    assert failed.error is not None
    assert failed.error.details["free_bytes"] <= 16 << 20
    assert playground.hub.requests.to("cdn") == ()


async def test_a_disk_that_fills_up_on_the_way_pauses_with_everything_kept(
    playground: Playground, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "check_room", lambda *_, **__: None)
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        paused = await manager.wait(job.job_id)
        assert paused.state is DownloadState.PAUSED
        assert paused.error is not None
        assert paused.error.code == "disk_full"
        assert "MB of this download are still to be written" in paused.error.message
        needed = paused.error.details["needed_bytes"]
        assert 8 << 20 <= needed <= 16 << 20
        assert {"resume", "cancel"} == set(paused.actions)
        received = paused.received
        assert received > 8 << 20
        await anyio.run_process(["mount", "-o", "remount,size=64m", str(small_disk)])
        playground.hub.requests.clear()
        await manager.act(job.job_id, "resume")
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert playground.hub.requests.bytes_sent <= len(playground.content) - received + (8 << 20)


@pytest.mark.parametrize(
    ("number", "code", "state", "words"),
    [
        (errno.ENOSPC, "disk_full", DownloadState.PAUSED, "full"),
        (errno.EDQUOT, "disk_full", DownloadState.PAUSED, "quota"),
        (errno.EROFS, "permission_denied", DownloadState.FAILED, "read-only"),
        (errno.EACCES, "permission_denied", DownloadState.FAILED, "No permission"),
        (errno.EFBIG, "storage", DownloadState.FAILED, "files this large"),
        (errno.EIO, "storage", DownloadState.FAILED, "failed"),
    ],
)
async def test_each_failure_of_the_disk_says_what_it_is(
    playground: Playground, monkeypatch: pytest.MonkeyPatch, number: int, code: str, state: DownloadState, words: str
) -> None:
    """A write fails after a few that worked. A test cannot set a real quota."""
    real = partial.write_at
    count = 0

    def failing(descriptor: int, buffers: Any, offset: int) -> None:
        nonlocal count
        count += 1
        if count > 12:
            raise OSError(number, os.strerror(number))
        real(descriptor, buffers, offset)

    read_again: list[int] = []
    async with playground.manager() as manager:
        monkeypatch.setattr(partial, "write_at", failing)
        monkeypatch.setattr(partial, "read_from_disk", read_again.append)
        job = await manager.submit(playground.request())
        stopped = await manager.wait(job.job_id)
        assert len(read_again) == 1, "memory is not believed after an error of the disk"
        assert (stopped.state, stopped.error and stopped.error.code) == (state, code)
        assert stopped.error is not None
        assert words in stopped.error.message
        assert str(playground.cache_dir) not in stopped.error.message
        assert stopped.received > 0
        monkeypatch.undo()
        await manager.act(job.job_id, "resume" if state is DownloadState.PAUSED else "retry")
        playground.assert_exact(await manager.wait(job.job_id))


async def test_a_failed_journal_write_is_a_failed_disk(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: partial.Partial, block: Block) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with playground.manager() as manager:
        with monkeypatch.context() as patch:
            patch.setattr(partial.Partial, "record", failing)
            job = await manager.submit(playground.request())
            stopped = await manager.wait(job.job_id)
        assert stopped.error is not None
        assert stopped.error.code == "disk_full"
        await manager.act(job.job_id, "resume" if stopped.state is DownloadState.PAUSED else "retry")
        playground.assert_exact(await manager.wait(job.job_id))


async def test_a_disk_too_full_to_release_the_journal_keeps_what_came(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = partial.write_all
    count = 0

    def failing(descriptor: int, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > 10:  # the header and nine blocks
            real(descriptor, data[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, data)

    async with playground.manager() as manager:
        with monkeypatch.context() as patch:
            patch.setattr(partial, "write_all", failing)
            job = await manager.submit(playground.request())
            assert (await manager.wait(job.job_id)).state is DownloadState.PAUSED
        playground.hub.requests.clear()
        await manager.act(job.job_id, "resume")
        playground.assert_exact(await manager.wait(job.job_id))
    assert playground.hub.requests.bytes_sent <= len(playground.content) - (4 << 20)


@pytest.mark.usefixtures("early_write_back")
async def test_a_write_that_fails_on_its_way_to_the_disk_pauses(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network filesystems accept bytes first and report later that the quota is used up."""

    def failing(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    playground.hub.faults.add(Throttle(40e6), origin="cdn")
    async with playground.manager() as manager:
        with monkeypatch.context() as patch:
            patch.setattr(partial, "write_back", failing)
            job = await manager.submit(playground.request())
            paused = await manager.wait(job.job_id)
        assert paused.state is DownloadState.PAUSED
        assert paused.error is not None
        assert "quota" in paused.error.message
        assert 0 < paused.received < len(playground.content)
        await manager.act(job.job_id, "resume")
        playground.assert_exact(await manager.wait(job.job_id))


@pytest.mark.usefixtures("early_write_back")
async def test_a_write_that_fails_when_all_has_come_is_not_published(
    playground: Playground, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """The system reports such an error only once."""
    has_come = threading.Event()

    def failing(descriptor: int) -> None:
        assert has_come.wait(PATIENCE_SECONDS)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    playground.hub.faults.add(Throttle(100e6), origin="cdn")
    async with playground.manager() as manager:
        with monkeypatch.context() as patch:
            patch.setattr(partial, "write_back", failing)
            job = await manager.submit(playground.request())
            await until(lambda: manager.snapshots()[0].received == len(playground.content))
            await until(lambda: manager.snapshots()[0].connections == 0)
            has_come.set()
            paused = await manager.wait(job.job_id)
        assert paused.state is DownloadState.PAUSED
        assert paused.error is not None
        assert "quota" in paused.error.message
        await manager.act(job.job_id, "resume")
        playground.assert_exact(await manager.wait(job.job_id))


@pytest.mark.usefixtures("early_write_back")
async def test_an_error_of_the_disk_in_the_middle_of_a_pause_is_not_forgotten(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, is_paused = threading.Event(), threading.Event()
    read_again: list[int] = []

    def failing(descriptor: int) -> None:
        asked.set()
        assert is_paused.wait(PATIENCE_SECONDS)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(partial, "write_back", failing)
    monkeypatch.setattr(partial, "read_from_disk", read_again.append)
    playground.hub.faults.add(Throttle(20e6), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        assert await anyio.to_thread.run_sync(asked.wait, PATIENCE_SECONDS)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(manager.act, job.job_id, "pause")
            await anyio.wait_all_tasks_blocked()
            is_paused.set()
        assert (await manager.wait(job.job_id)).state is DownloadState.PAUSED
    assert len(read_again) == 1


def test_bytes_are_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb", buffering=0) as written:
        for _ in range(2):
            written.write(b"x" * (1 << 20))
            disk.write_back(written.fileno())
        if sys.platform.startswith("linux"):
            assert not synced, "the kernel's own call does it"
        monkeypatch.setattr(disk, "_sync_file_range", None)
        synced.clear()
        disk.write_back(written.fileno())
        assert synced == [written.fileno()]


@pytest.mark.parametrize("code", [errno.EBADF, errno.EDQUOT, errno.EIO, errno.ENOSYS])
def test_what_the_kernel_could_not_write_is_told_at_once(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The kernel reports it to one call only, so a second call would consider the file whole."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    if code != errno.EBADF:

        def failing(*_: int) -> int:
            ctypes.set_errno(code)
            return -1

        monkeypatch.setattr(disk, "_sync_file_range", failing)
    if code == errno.ENOSYS:
        disk.write_back(1 << 20)
        assert synced
    else:
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            disk.write_back(1 << 20)
        assert not synced


async def test_no_permission(playground: Playground) -> None:
    blocked = playground.cache_dir.parent / "elsewhere"
    blocked.write_text("a file where a folder should be")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(cache_dir=str(blocked / "cache")))
        failed = await manager.wait(job.job_id)
    assert failed.state is DownloadState.FAILED
    assert failed.error is not None
    assert failed.error.code in ("permission_denied", "storage")


async def test_a_cache_in_a_folder_of_somebody_else(playground: Playground) -> None:
    locked = playground.cache_dir.parent / "elsewhere"
    locked.mkdir(mode=0)
    user = os.geteuid()
    async with playground.manager(limits=EngineLimits(max_active_jobs=1)) as manager:
        with ExitStack() as stack:
            if user == 0:
                os.seteuid(65534)
                stack.callback(os.seteuid, user)
            requests = [playground.request(cache_dir=str(locked / "cache"), variant_id=name) for name in "ab"]
            jobs = [await manager.submit(request) for request in requests]
            for job in jobs:
                failed = await manager.wait(job.job_id)
                assert failed.error is not None
                assert failed.error.code == "permission_denied"
                assert "set HF_HUB_CACHE to a directory you own" in failed.error.message
    locked.chmod(0o700)


async def test_a_cache_that_cannot_be_looked_at_keeps_no_engine_from_starting(playground: Playground) -> None:
    """For example on a network filesystem that is gone. A name that is too long behaves the same for every user."""
    out_of_reach = str(playground.cache_dir / ("x" * 300))
    async with playground.manager(state_dir=playground.state_dir) as manager:
        job = await manager.submit(playground.request(cache_dir=out_of_reach))
        failed = await manager.wait(job.job_id)
        assert failed.error is not None
        assert "The disk with the cache failed" in failed.error.message
    async with playground.manager(state_dir=playground.state_dir) as manager:
        assert [job.state for job in manager.snapshots()] == [DownloadState.FAILED]
        assert (await manager.act(job.job_id, "cancel")).state is DownloadState.CANCELLED


async def test_a_cache_that_may_not_be_looked_at(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like another user's directory in a shared cache. It is simulated, because root may read everything."""

    def refuse(path: Path) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(disk, "free_bytes", refuse)
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        failed = await manager.wait(job.job_id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (DownloadState.FAILED, "permission_denied")


async def test_partial_bytes_are_counted(playground: Playground, monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    """Half of the file is already received, so half of the room is enough."""
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=16 << 20), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 16 << 20)
        await manager.act(job.job_id, "pause")
        monkeypatch.setattr(disk, "free_bytes", lambda path: 12 << 20)
        playground.hub.faults.clear()
        await manager.act(job.job_id, "resume")
        playground.assert_exact(await manager.wait(job.job_id))


async def test_queued_downloads_are_counted(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for one of two downloads: the second is refused at once, and not when its turn comes."""
    second = {"other-Q8_0.gguf": playground.content}
    playground.hub.add_repo("owner/other", second)
    other = playground.request(
        repo_id="owner/other",
        commit_hash=None,
        files=(GGUFFile(filename="other-Q8_0.gguf", size=len(playground.content), sha256=playground.sha256),),
        variant_id="other-Q8_0.gguf",
    )
    monkeypatch.setattr(disk, "free_bytes", lambda path: 40 << 20)
    playground.hub.faults.add(Throttle(2e6), origin="cdn")
    async with playground.manager(limits=EngineLimits(max_active_jobs=1)) as manager:
        first = await manager.submit(playground.request())
        refused = await manager.submit(other)
        assert refused.state is DownloadState.FAILED
        assert refused.error is not None
        assert refused.error.code == "disk_full"
        assert "for other downloads" in refused.error.message
        assert manager.waiting == 0
        playground.hub.faults.clear()
        playground.assert_exact(await manager.wait(first.job_id))
        await manager.act(refused.job_id, "retry")
        assert (await manager.wait(refused.job_id)).state is DownloadState.READY
