"""After SIGKILL at any moment, the next process continues and ends with the exact file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from modeldeck._types import DownloadState
from modeldeck.engine.store import StoredJob
from tests.waiting import PATIENCE_SECONDS
from tools.localhub.faults import Throttle

if TYPE_CHECKING:
    from conftest import Playground

RANDOM_KILLS = 32
BYTES_A_KILL_MAY_COST = 24 << 20
"""For each of eight connections one block of 1 MiB and the bytes in flight. The goal is 64 MiB."""

CHILD = """
import asyncio, os, signal
from pathlib import Path
import msgspec
from modeldeck._types import DownloadRequest
from modeldeck.engine import partial
from modeldeck.engine.manager import DownloadManager
from modeldeck.hub import cache


def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dying(function, *, is_after=False):
    calls = 0
    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == count and not is_after:
            die()
        outcome = function(*arguments, **options)
        if calls == count:
            die()
        return outcome
    return call

def dying_in_the_middle(descriptor, data):
    global count
    count -= 1
    if count == 0:
        os.write(descriptor, bytes(data)[: len(data) // 2])
        die()
    real_write_all(descriptor, data)

real_write_all = partial.write_all
match moment:
    case "inside the journal's write":
        partial.write_all = dying_in_the_middle
    case "before the bytes are written":
        partial.write_at = dying(partial.write_at)
    case "between the bytes and the journal":
        partial.write_at = dying(partial.write_at, is_after=True)
    case "before a rename":
        os.replace = dying(os.replace)
    case "after a rename":
        os.replace = dying(os.replace, is_after=True)
    case "before the link":
        os.symlink = dying(os.symlink)
    case "after the link":
        os.symlink = dying(os.symlink, is_after=True)
    case "before the ref":
        cache.write_ref = dying(cache.write_ref)
    case "while a partial is taken over":
        os.rename = dying(os.rename)
    case "after a partial was taken over":
        os.rename = dying(os.rename, is_after=True)
    case "before the journal goes":
        partial.Partial.finish = dying(partial.Partial.finish)

async def main():
    async with DownloadManager(state_dir=Path(state_dir)) as manager:
        job = await manager.submit(msgspec.json.decode(request, type=DownloadRequest))
        done = await manager.wait(job.job_id)
        Path(outcome).write_text(f"{done.state} {done.error}")

asyncio.run(main())
"""


class Downloads:
    """Starts processes that download the playground's file."""

    def __init__(self, playground: Playground, forkserver: ForkServerContext, outcome: Path) -> None:
        self.playground = playground
        self._forkserver = forkserver
        self._outcome = outcome

    def start(self, moment: str = "-", count: int = 1) -> ForkServerProcess:
        process = self._forkserver.Process(target=exec, args=(CHILD, self._variables(moment, count)))
        process.start()
        return process

    def start_as_child(self) -> subprocess.Popen[bytes]:
        """Start one that only this process can reap."""
        program = "\n".join(f"{name} = {value!r}" for name, value in self._variables("-", 1).items())
        return subprocess.Popen([sys.executable, "-c", program + CHILD])

    def _variables(self, moment: str, count: int) -> dict[str, str | int]:
        self._outcome.unlink(missing_ok=True)
        return {
            "request": msgspec.json.encode(self.playground.request()).decode(),
            "state_dir": str(self.playground.state_dir),
            "outcome": str(self._outcome),
            "moment": moment,
            "count": count,
        }

    def wait(self, process: ForkServerProcess) -> int | None:
        """Wait until it has ended, and return its exit code; one that did not die has the file."""
        process.join(PATIENCE_SECONDS)
        if process.exitcode == 0:
            assert self._outcome.read_text() == "ready None"
        return process.exitcode

    def finish(self) -> None:
        assert self.wait(self.start()) == 0
        assert_finished(self.playground)


@pytest.fixture
def downloads(
    playground: Playground, forkserver: ForkServerContext, tmp_path_factory: pytest.TempPathFactory
) -> Downloads:
    return Downloads(playground, forkserver, tmp_path_factory.mktemp("downloads") / "outcome")


def kill(process: ForkServerProcess) -> None:
    process.kill()
    process.join()


def assert_finished(playground: Playground) -> None:
    assert playground.pointer.read_bytes() == playground.content
    assert (playground.repo_dir / "refs" / "main").read_bytes() == playground.commit_hash.encode()
    assert [name for name in playground.left_overs() if name.endswith((".part", ".journal"))] == []
    (remembered,) = playground.state_dir.glob("*")
    stored = msgspec.json.decode(remembered.read_bytes(), type=StoredJob)
    assert stored.state is DownloadState.READY
    assert stored.finish is not None
    assert stored.finish.received == stored.finish.total == len(playground.content)


def test_kills_at_random_moments(playground: Playground, downloads: Downloads) -> None:
    draw = random.Random(7)
    throttle = playground.hub.faults.add(Throttle(bytes_per_second=2e6), origin="cdn")
    sent = 0
    for number in range(RANDOM_KILLS):
        child = downloads.start()
        wanted = draw.choice([0, 10_000, 500_000, 2_000_000])
        playground.hub.requests.clear()
        if wanted:
            playground.hub.requests.wait_until(
                lambda records, wanted=wanted: sum(record.bytes_sent for record in records) > wanted
            )
        time.sleep(draw.uniform(0, 0.3))
        kill(child)
        sent += playground.hub.requests.bytes_sent
        playground.assert_sound()
        if playground.blob.exists():
            assert number > 5
            break
    playground.hub.faults.remove(throttle)
    playground.hub.requests.clear()
    downloads.finish()
    sent += playground.hub.requests.bytes_sent
    assert sent < len(playground.content) + RANDOM_KILLS * BYTES_A_KILL_MAY_COST


MOMENTS = [
    ("inside the journal's write", 1),
    ("inside the journal's write", 2),
    ("inside the journal's write", 9),
    ("inside the journal's write", 20),
    ("before the bytes are written", 3),
    ("between the bytes and the journal", 17),
    ("before a rename", 1),
    ("after a rename", 1),
    ("before a rename", 2),
    ("after a rename", 2),
    ("before a rename", 3),
    ("after a rename", 3),
    ("before a rename", 4),
    ("after a rename", 4),
    ("before the link", 1),
    ("after the link", 1),
    ("before the ref", 1),
    ("before the ref", 2),
    ("while a partial is taken over", 1),
    ("after a partial was taken over", 1),
    ("before the journal goes", 1),
]


def forget_the_file(playground: Playground) -> None:
    for path in (playground.pointer, playground.blob, playground.repo_dir / "refs" / "main"):
        path.unlink(missing_ok=True)


def test_kills_at_chosen_moments(playground: Playground, downloads: Downloads) -> None:
    """The kills follow each other on one download, so that each finds what the previous one left."""
    killed = 0
    playground.put(playground.content[: 12 << 20])
    for moment, count in MOMENTS:
        # How often a moment comes before the file is ready depends on the machine; once it always comes.
        for attempt in dict.fromkeys((count, 1)):
            exit_code = downloads.wait(downloads.start(moment, attempt))
            playground.assert_sound()
            if exit_code == -signal.SIGKILL:
                killed += 1
                break
            assert exit_code == 0
            if playground.blob.exists():
                forget_the_file(playground)
        if playground.blob.exists():
            downloads.finish()
            forget_the_file(playground)
    downloads.finish()
    assert killed >= 18
    assert RANDOM_KILLS + killed >= 50


def test_a_killed_process_that_nobody_has_reaped_owns_nothing_any_more(
    playground: Playground, downloads: Downloads
) -> None:
    playground.hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=15_000_000), origin="cdn")
    with downloads.start_as_child() as child:
        playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 18_000_000)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as children of a busy notebook server are
        playground.hub.faults.clear()
        playground.hub.requests.clear()
        downloads.finish()
    assert playground.hub.requests.bytes_sent < len(playground.content) - 6_000_000


def test_a_partial_that_was_damaged_behind_our_back_is_mended(playground: Playground, downloads: Downloads) -> None:
    playground.hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=15_000_000), origin="cdn")
    child = downloads.start()
    playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 18_000_000)
    kill(child)
    playground.hub.faults.clear()
    (data,) = (playground.repo_dir / "blobs").glob("*.part")
    claimed = data.stat().st_size
    with data.open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(3_000_000))
    playground.hub.requests.clear()
    downloads.finish()
    assert playground.hub.requests.bytes_sent < 2 * len(playground.content)
    assert claimed > 3_000_000


def test_a_partial_full_of_zeros_is_not_trusted(playground: Playground, downloads: Downloads) -> None:
    """After a power loss a file can have its length but none of its bytes."""
    playground.hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=15_000_000), origin="cdn")
    child = downloads.start()
    playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 18_000_000)
    kill(child)
    playground.hub.faults.clear()
    (data,) = (playground.repo_dir / "blobs").glob("*.part")
    data.write_bytes(bytes(len(playground.content)))
    downloads.finish()
