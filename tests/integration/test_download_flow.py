"""A download that works, and the most frequent ways in which one does not."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from modeldeck._errors import DiskFullError
from modeldeck._types import DownloadSnapshot, DownloadState, EngineLimits
from modeldeck.engine import disk
from tests.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS
from tools.localhub.faults import Cut, FlipBit, Throttle

if TYPE_CHECKING:
    from conftest import Playground, Until

pytestmark = pytest.mark.anyio


async def test_successful_download(playground: Playground, until: Until) -> None:
    seen: list[DownloadSnapshot] = []
    async with playground.manager() as manager:
        manager.subscribe(seen.append)
        job = await manager.submit(playground.request())
        assert job.state is DownloadState.RESOLVING or job.state is DownloadState.QUEUED
        done = await manager.wait(job.job_id)
        await until(lambda: seen and seen[-1].state is DownloadState.READY)
    playground.assert_exact(done)
    assert done.bytes_fetched == len(playground.content)
    assert done.commit_hash == playground.commit_hash
    states = list(dict.fromkeys(snapshot.state for snapshot in seen))
    assert states == [
        DownloadState.QUEUED,
        DownloadState.RESOLVING,
        DownloadState.DOWNLOADING,
        DownloadState.VERIFYING,
        DownloadState.READY,
    ]
    assert [s.rev for s in seen] == sorted({s.rev for s in seen})
    assert [s.received for s in seen] == sorted(s.received for s in seen)
    assert all(s.percent != 100 for s in seen if s.state is not DownloadState.READY)
    assert sum(record.method == "HEAD" for record in playground.hub.requests) == 1


async def test_cancellation(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=1_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 1_000_000)
        with anyio.fail_after(AT_ONCE_SECONDS):
            cancelled = await manager.act(job.job_id, "cancel")
        assert cancelled.state is DownloadState.CANCELLED
        assert playground.left_overs() == []
        assert not playground.blob.exists()
        playground.hub.faults.clear()
        again = await manager.submit(playground.request())
        assert again.job_id != job.job_id
        playground.assert_exact(await manager.wait(again.job_id))


async def test_not_enough_disk_space(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda path: 20_000_000)
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        failed = await manager.wait(job.job_id)
        playground.assert_failed(failed, "disk_full")
        assert failed.error is not None
        assert failed.error.details == {"needed_bytes": len(playground.content), "free_bytes": 20_000_000}
        assert "25.2 MB needed, 20.0 MB free" in failed.error.message
        assert playground.hub.requests.to("cdn") == ()
        assert "retry" in failed.actions
        monkeypatch.undo()
        await manager.act(job.job_id, "retry")
        playground.assert_exact(await manager.wait(job.job_id))


async def test_lost_connection(playground: Playground) -> None:
    cut = playground.hub.faults.add(Cut(after_bytes=3_000_000), origin="cdn", times=3)
    done = await playground.download()
    playground.assert_exact(done)
    assert playground.hub.faults.fired(cut) == 3
    assert done.bytes_fetched < len(playground.content) + 1_000_000


async def test_lost_connection_for_good_keeps_what_came(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=8_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 8_000_000)
        playground.hub.stop()
        failed = await manager.wait(job.job_id)
        playground.assert_failed(failed, "offline")
        assert failed.received > 8_000_000
        playground.hub.start()
        playground.hub.faults.clear()
        playground.hub.requests.clear()
        await manager.act(job.job_id, "retry")
        playground.assert_exact(await manager.wait(job.job_id))
    assert playground.hub.requests.bytes_sent < len(playground.content) - 3_000_000


async def test_corrupted_file(playground: Playground) -> None:
    playground.hub.faults.add(FlipBit(offset=9_000_000), origin="cdn")
    failed = await playground.download()
    playground.assert_failed(failed, "integrity")
    assert failed.error is not None
    assert failed.error.details["expected"] == playground.sha256
    wrong = bytearray(playground.content)
    wrong[9_000_000] ^= 1
    assert failed.error.details["actual"] == hashlib.sha256(wrong).hexdigest()


async def test_a_bit_flipped_once_is_mended(playground: Playground) -> None:
    flip = playground.hub.faults.add(FlipBit(offset=1000), origin="cdn", times=1)
    done = await playground.download()
    playground.assert_exact(done)
    assert playground.hub.faults.fired(flip) == 1
    assert done.bytes_fetched == 2 * len(playground.content)


def test_resume_in_a_new_process(playground: Playground) -> None:
    """The downloading process is killed, and another one continues."""
    playground.hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=16_000_000), origin="cdn")
    script = (
        "import asyncio, sys, msgspec\n"
        "from modeldeck._types import DownloadRequest\n"
        "from modeldeck.engine.manager import DownloadManager\n"
        "async def main():\n"
        "    async with DownloadManager() as manager:\n"
        "        job = await manager.submit(msgspec.json.decode(sys.argv[1], type=DownloadRequest))\n"
        "        print((await manager.wait(job.job_id)).state)\n"
        "asyncio.run(main())\n"
    )
    import msgspec

    request = msgspec.json.encode(playground.request()).decode()
    child = subprocess.Popen([sys.executable, "-c", script, request], stdout=subprocess.PIPE, text=True)
    try:
        playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 20_000_000)
    finally:
        child.kill()
        child.communicate()
    assert any(name.endswith(".part") for name in playground.left_overs())
    playground.hub.faults.clear()
    playground.hub.requests.clear()
    out = subprocess.run([sys.executable, "-c", script, request], stdout=subprocess.PIPE, text=True, check=True)
    assert out.stdout.strip() == "ready"
    assert playground.pointer.read_bytes() == playground.content
    assert playground.left_overs() == []
    assert playground.hub.requests.bytes_sent < len(playground.content)


def test_the_disk_error_names_no_path(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError) as caught:
        disk.check_room(tmp_path / "not" / "there", needed=1 << 60, reserved=0)
    assert str(tmp_path) not in caught.value.message


async def test_a_slow_connection_shows_its_progress_in_small_steps(playground: Playground) -> None:
    playground.put(playground.content[: 1 << 20])
    playground.hub.faults.add(Throttle(400_000, is_shared=True), origin="cdn")
    received: list[int] = []
    async with playground.manager(limits=EngineLimits(max_connections=1)) as manager:
        manager.subscribe(lambda snapshot: received.append(snapshot.received))
        job = await manager.submit(playground.request(), token=None)
        playground.assert_exact(await manager.wait(job.job_id))
    steps = [after - before for before, after in itertools.pairwise(received)]
    assert min(steps) >= 0
    assert max(steps) < 512 << 10, "less than a whole buffer at once"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids these names")
@pytest.mark.parametrize("filename", ["aux/con.gguf", "model.gguf.", "what?.gguf", "ab::c.gguf"])
async def test_names_that_only_windows_forbids(playground: Playground, filename: str) -> None:
    playground.filename = filename
    playground.put(playground.content)
    playground.assert_exact(await playground.download())


CROWDED = """
import asyncio, os, resource, sys
import msgspec
from modeldeck._types import DownloadRequest
from modeldeck.engine.manager import DownloadManager
from modeldeck.engine.retry import RetryPolicy

async def main():
    async with DownloadManager(policy=RetryPolicy(max_attempts=2, base_seconds=0.01)) as manager:
        request = msgspec.json.decode(sys.argv[1], type=DownloadRequest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        for _ in range(int(sys.argv[2])):
            os.close(held.pop())
        job = await manager.submit(request)
        first = await manager.wait(job.job_id)
        print(first.state, first.error and first.error.message)
        for descriptor in held:
            os.close(descriptor)
        if first.error:
            await manager.act(job.job_id, "retry" if first.state == "failed" else "resume")
            first = await manager.wait(job.job_id)
        print(first.state, first.error)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is that of POSIX")
@pytest.mark.parametrize("free", [0, 2, 4, 8])
def test_too_many_open_files_are_named_and_a_retry_goes_on(playground: Playground, free: int) -> None:
    """If some descriptors are left the engine uses fewer connections. If none are left it says why it fails."""
    request = msgspec.json.encode(playground.request()).decode()
    child = subprocess.run(
        [sys.executable, "-c", CROWDED, request, str(free)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    crowded, alone = child.stdout.splitlines()
    assert crowded == "ready None" or "Too many files and connections are open" in crowded, crowded
    assert alone == "ready None"
    assert playground.pointer.read_bytes() == playground.content


async def test_a_frugal_download_has_the_hub_send_each_byte_once(playground: Playground) -> None:
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(is_frugal=True))
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert sum(record.bytes_sent for record in playground.hub.requests.to("cdn")) == len(playground.content)
