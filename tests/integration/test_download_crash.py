"""After SIGKILL at any moment, the next process continues and ends with the exact file."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from modeldeck._types import DownloadState
from modeldeck.engine.store import StoredJob
from tools.localhub.faults import Throttle

if TYPE_CHECKING:
    from conftest import Playground

RANDOM_KILLS = 32
BYTES_A_KILL_MAY_COST = 24 << 20
"""For each of eight connections one block of 1 MiB and the bytes in flight. The goal is 64 MiB."""

CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
import msgspec
from modeldeck._types import DownloadRequest
from modeldeck.engine import partial
from modeldeck.engine.manager import DownloadManager
from modeldeck.hub import cache

request, state_dir, moment, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

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
        print(done.state, done.error)

asyncio.run(main())
"""


def start(playground: Playground, moment: str = "-", count: int = 1) -> subprocess.Popen[str]:
    request = msgspec.json.encode(playground.request()).decode()
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, request, str(playground.state_dir), moment, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(playground: Playground) -> None:
    child = start(playground)
    out, _ = child.communicate(timeout=100)
    assert out.strip() == "ready None"
    assert playground.pointer.read_bytes() == playground.content
    assert (playground.repo_dir / "refs" / "main").read_bytes() == playground.commit_hash.encode()
    assert [name for name in playground.left_overs() if name.endswith((".part", ".journal"))] == []
    (remembered,) = playground.state_dir.glob("*")
    stored = msgspec.json.decode(remembered.read_bytes(), type=StoredJob)
    assert stored.state is DownloadState.READY
    assert stored.finish is not None
    assert stored.finish.received == stored.finish.total == len(playground.content)


@pytest.mark.timeout(400)
def test_kills_at_random_moments(playground: Playground) -> None:
    draw = random.Random(7)
    throttle = playground.hub.faults.add(Throttle(bytes_per_second=1e6), origin="cdn")
    sent = 0
    for kill in range(RANDOM_KILLS):
        child = start(playground)
        wanted = draw.choice([0, 10_000, 500_000, 2_000_000])
        playground.hub.requests.clear()
        if wanted:
            playground.hub.requests.wait_until(
                lambda records, wanted=wanted: sum(record.bytes_sent for record in records) > wanted
            )
        time.sleep(draw.uniform(0, 0.3))
        child.kill()
        child.communicate()
        sent += playground.hub.requests.bytes_sent
        playground.assert_sound()
        if playground.blob.exists():
            assert kill > 5
            break
    playground.hub.faults.remove(throttle)
    playground.hub.requests.clear()
    finish(playground)
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


@pytest.mark.timeout(300)
def test_kills_at_chosen_moments(playground: Playground) -> None:
    """The kills follow each other on one download, so that each finds what the previous one left."""
    killed = 0
    playground.put(playground.content[: 12 << 20])
    for moment, count in MOMENTS:
        # How often a moment comes before the file is ready depends on the machine; once it always comes.
        for attempt in dict.fromkeys((count, 1)):
            child = start(playground, moment, attempt)
            out, _ = child.communicate(timeout=100)
            playground.assert_sound()
            if child.returncode == -9:
                killed += 1
                break
            assert out.strip() == "ready None"
            if playground.blob.exists():
                forget_the_file(playground)
        if playground.blob.exists():
            finish(playground)
            forget_the_file(playground)
    finish(playground)
    assert killed >= 18
    assert RANDOM_KILLS + killed >= 50


def test_a_killed_process_that_nobody_has_reaped_owns_nothing_any_more(playground: Playground) -> None:
    playground.hub.faults.add(Throttle(bytes_per_second=2e6), origin="cdn")
    with start(playground) as child:
        playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 18_000_000)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as children of a busy notebook server are
        playground.hub.faults.clear()
        playground.hub.requests.clear()
        finish(playground)
    assert playground.hub.requests.bytes_sent < len(playground.content) - 6_000_000


def test_a_partial_that_was_damaged_behind_our_back_is_mended(playground: Playground) -> None:
    playground.hub.faults.add(Throttle(bytes_per_second=2e6), origin="cdn")
    child = start(playground)
    playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 18_000_000)
    child.kill()
    child.communicate()
    playground.hub.faults.clear()
    (data,) = (playground.repo_dir / "blobs").glob("*.part")
    claimed = data.stat().st_size
    with data.open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(3_000_000))
    playground.hub.requests.clear()
    finish(playground)
    assert playground.hub.requests.bytes_sent < 2 * len(playground.content)
    assert claimed > 3_000_000


def test_a_partial_full_of_zeros_is_not_trusted(playground: Playground) -> None:
    """After a power loss a file can have its length but none of its bytes."""
    playground.hub.faults.add(Throttle(bytes_per_second=2e6), origin="cdn")
    child = start(playground)
    playground.hub.requests.wait_until(lambda records: sum(r.bytes_sent for r in records) > 18_000_000)
    child.kill()
    child.communicate()
    playground.hub.faults.clear()
    (data,) = (playground.repo_dir / "blobs").glob("*.part")
    data.write_bytes(bytes(len(playground.content)))
    finish(playground)
