"""Several writers of one file: nothing is corrupted, nobody waits for good, and nothing is left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import psutil
import pytest

from modeldeck._types import DownloadState, GGUFFile
from modeldeck.engine import partial
from modeldeck.engine.completion import Completion
from modeldeck.engine.journal import PartialHeader, sealed
from modeldeck.engine.leftovers import LEFT_OVER_SECONDS, clean_partials, discard_partials, list_partials
from modeldeck.engine.ownership import ABANDONED_SECONDS
from modeldeck.engine.partial import Partial, SegmentWriter
from modeldeck.engine.retry import RetryPolicy
from tests.waiting import PATIENCE_SECONDS
from tools.localhub.faults import Reply, Throttle

if TYPE_CHECKING:
    from conftest import Playground, Until

CHILD = """
import asyncio, sys
import msgspec
from modeldeck._types import DownloadRequest
from modeldeck.engine import ownership, partial
from modeldeck.engine.manager import DownloadManager

if sys.argv[2] == "lying":
    ownership.try_lock = partial.try_lock = lambda descriptor: True

async def main():
    async with DownloadManager() as manager:
        job = await manager.submit(msgspec.json.decode(sys.argv[1], type=DownloadRequest))
        done = await manager.wait(job.job_id)
        print(done.state, done.error)

asyncio.run(main())
"""
HUB_CHILD = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download(sys.argv[1], sys.argv[2], endpoint=sys.argv[3], cache_dir=sys.argv[4]))
"""


def start(playground: Playground, locks: str = "honest") -> subprocess.Popen[str]:
    request = msgspec.json.encode(playground.request()).decode()
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, request, locks], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_hub(playground: Playground) -> subprocess.Popen[str]:
    arguments = [playground.repo_id, playground.filename, playground.hub.endpoint, str(playground.cache_dir)]
    return subprocess.Popen(
        [sys.executable, "-c", HUB_CHILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )


@pytest.mark.parametrize("locks", ["honest", "lying"])
def test_two_processes_want_the_same_file(playground: Playground, locks: str) -> None:
    playground.hub.faults.add(Throttle(6e6), origin="cdn")
    children = [start(playground, locks) for _ in range(3)]
    for child in children:
        out, err = child.communicate(timeout=PATIENCE_SECONDS)
        assert out.strip() == "ready None", err
    assert playground.pointer.read_bytes() == playground.content
    assert [name for name in playground.left_overs() if name.endswith((".part", ".journal"))] == []


@pytest.mark.parametrize("order", ["hub first", "hub second"])
def test_a_process_with_huggingface_hub_wants_the_same_file(playground: Playground, order: str) -> None:
    playground.hub.faults.add(Throttle(1e6), origin="cdn")
    starters = [start_hub, start] if order == "hub first" else [start, start_hub]
    children = []
    for starter in starters:
        asked = len(playground.hub.requests.to("hub"))
        children.append(starter(playground))
        playground.hub.requests.wait_until(
            lambda records, asked=asked: (
                len([r for r in records if r.origin == "hub"]) > asked
                and sum(r.bytes_sent for r in records) > 1_000_000
            )
        )
    playground.hub.faults.clear()  # both are there
    for child in children:
        out, err = child.communicate(timeout=PATIENCE_SECONDS)
        assert child.returncode == 0, err
        assert out.strip() in ("ready None", str(playground.pointer))
    assert playground.pointer.read_bytes() == playground.content
    assert playground.blob.read_bytes() == playground.content


@pytest.mark.anyio
async def test_no_deadlock_with_hf_hub_download_in_the_same_process(playground: Playground, until: Until) -> None:
    from huggingface_hub import hf_hub_download

    async def lift_the_throttle_when_asked_for_more(asked: int) -> None:
        await until(lambda: len(playground.hub.requests.to("hub")) > asked)
        playground.hub.faults.clear()

    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=1_000_000), origin="cdn")
    async with playground.manager() as manager, anyio.create_task_group() as tasks:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 1_000_000)
        with anyio.fail_after(PATIENCE_SECONDS):
            tasks.start_soon(lift_the_throttle_when_asked_for_more, len(playground.hub.requests.to("hub")))
            found = await anyio.to_thread.run_sync(
                lambda: hf_hub_download(
                    playground.repo_id,
                    playground.filename,
                    endpoint=playground.hub.endpoint,
                    cache_dir=playground.cache_dir,
                )
            )
            done = await manager.wait(job.job_id)
    assert done.state is DownloadState.READY
    assert Path(found) == playground.pointer
    assert playground.pointer.read_bytes() == playground.content


@pytest.mark.anyio
async def test_an_owner_that_was_taken_for_dead_leaves_the_file_to_the_other(
    playground: Playground, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a laptop wakes up, another process may have the partial file. Two processes never write into one."""
    monkeypatch.setattr(partial, "BEAT_SECONDS", 0.0)
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 4_000_000)
        (journal,) = (playground.repo_dir / "blobs").glob("*.journal")
        stolen = journal.with_name(journal.name.replace(journal.name.split(".")[1], "00000000"))
        journal.rename(stolen)
        playground.hub.faults.clear()
        done = await manager.wait(job.job_id)
        assert done.state is DownloadState.READY, done.error
    assert playground.pointer.read_bytes() == playground.content
    assert len(list((playground.repo_dir / "blobs").glob("*.part"))) <= 1


@pytest.mark.anyio
async def test_an_owner_that_reads_again_for_long_is_not_taken_for_dead(
    playground: Playground, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading 50 GB from a network filesystem takes longer than another machine waits for a sign of life."""
    reading_step = Completion._bad_blocks
    ages: list[float] = []

    def slow(completion: Completion, *rest: Any) -> Any:
        (journal,) = (playground.repo_dir / "blobs").glob("*.journal")
        long_ago = time.time() - ABANDONED_SECONDS
        os.utime(journal, (long_ago, long_ago))
        outcome = reading_step(completion, *rest)
        ages.append(time.time() - journal.stat().st_mtime)
        return outcome

    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=4_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 4_000_000)
        await manager.act(job.job_id, "pause")
        monkeypatch.setattr(Completion, "_bad_blocks", slow)
        monkeypatch.setattr(partial, "BEAT_SECONDS", 0.0)
        playground.hub.faults.clear()
        await manager.act(job.job_id, "resume")
        playground.assert_exact(await manager.wait(job.job_id))
    assert ages
    assert max(ages) < ABANDONED_SECONDS / 2


@pytest.mark.anyio
async def test_an_owner_that_waits_for_the_server_is_not_taken_for_dead(
    playground: Playground, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may ask for a longer wait than another machine allows."""
    monkeypatch.setattr(partial, "BEAT_SECONDS", 0.0)
    playground.hub.faults.add(Reply(503, headers={"Retry-After": "600"}), origin="cdn")
    async with playground.manager(policy=RetryPolicy()) as manager:
        await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].retry_in_seconds is not None)
        (journal,) = (playground.repo_dir / "blobs").glob("*.journal")
        long_ago = time.time() - ABANDONED_SECONDS
        os.utime(journal, (long_ago, long_ago))
        await until(lambda: time.time() - journal.stat().st_mtime < ABANDONED_SECONDS / 2)


# --- who may take over ------------------------------------------------------------------------------------------------

HEADER = PartialHeader(
    digest="ab" * 32, size=1000, repo_id="o/n", filename="m.gguf", commit_hash="c" * 40, endpoint="http://h"
)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    directory = tmp_path / "models--o--n" / "blobs"
    directory.mkdir(parents=True)
    return directory


def abandoned(blobs: Path, *, host: str | None = None, pid: int | None = None) -> Path:
    """Create a partial file with 100 bytes that belongs to another owner."""
    first = Partial.open(blobs, HEADER)
    writer = SegmentWriter(first, 0)
    writer.write([bytes(100)])
    writer.flush()
    lines = first.journal_path.read_bytes().split(b"\n")
    first.close()
    values = json.loads(lines[0][:-9])
    values["owner"]["host"] = host or values["owner"]["host"]
    values["owner"]["pid"] = pid or values["owner"]["pid"]
    if pid is not None and psutil.pid_exists(pid):
        values["owner"]["started_at"] = psutil.Process(pid).create_time()
    lines[0] = sealed(json.dumps(values))[:-1]
    first.journal_path.write_bytes(b"\n".join(lines))
    return first.journal_path


def free_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_dead_owner_on_this_machine_is_followed_at_once(blobs: Path) -> None:
    abandoned(blobs, pid=free_pid())
    assert Partial.open(blobs, HEADER).received == 100


def test_a_living_owner_is_left_alone_even_where_locks_lie(blobs: Path) -> None:
    abandoned(blobs, pid=os.getppid())
    assert Partial.open(blobs, HEADER).received == 0
    assert [info.is_owned for info in list_partials(blobs)] == [True, True]
    assert discard_partials(blobs) == 0


def test_what_this_process_has_closed_is_free_without_a_word_in_the_journal(blobs: Path) -> None:
    abandoned(blobs)
    again = Partial.open(blobs, HEADER)
    assert again.received == 100
    assert Partial.open(blobs, HEADER).received == 0, "the first one has it open"


@pytest.mark.parametrize(("age", "received"), [(0, 0), (ABANDONED_SECONDS + 5, 100)])
def test_an_owner_on_another_machine_has_some_time(blobs: Path, age: float, received: int) -> None:
    journal = abandoned(blobs, host="elsewhere")
    moment = time.time() - age
    os.utime(journal, (moment, moment))
    assert Partial.open(blobs, HEADER).received == received


def test_only_one_of_many_takes_over(blobs: Path) -> None:
    abandoned(blobs, pid=free_pid())
    opened = [Partial.open(blobs, HEADER) for _ in range(5)]
    assert sorted(one.received for one in opened) == [0, 0, 0, 0, 100]


@pytest.mark.parametrize(
    "data", ["../../evil", "/etc/passwd", "other.00000000.part", f"{'ab' * 32}.00000000.journal", "x\x00y"]
)
def test_a_journal_that_points_elsewhere_is_no_journal(blobs: Path, data: str) -> None:
    journal = abandoned(blobs, pid=free_pid())
    lines = journal.read_bytes().split(b"\n")
    values = json.loads(lines[0][:-9])
    values["data"] = data
    journal.write_bytes(b"\n".join([sealed(json.dumps(values))[:-1], *lines[1:]]))
    assert Partial.open(blobs, HEADER).received == 0


# --- left over --------------------------------------------------------------------------------------------------------


def test_left_overs_are_listed_and_cleaned_after_seven_days(tmp_path: Path, blobs: Path) -> None:
    journal = abandoned(blobs, pid=free_pid())
    (info,) = list_partials(blobs)
    assert (info.received, info.is_owned, info.header) == (100, False, HEADER)
    assert info.allocated_bytes > 0
    assert clean_partials(tmp_path) == 0
    old = time.time() - LEFT_OVER_SECONDS - 100
    os.utime(journal, (old, old))
    assert clean_partials(tmp_path, keep=[HEADER.digest]) == 0
    assert clean_partials(tmp_path) == info.allocated_bytes
    assert list(blobs.iterdir()) == []


def test_cleaning_touches_nothing_of_others(tmp_path: Path, blobs: Path) -> None:
    old = time.time() - LEFT_OVER_SECONDS - 100
    names = [
        "ab" * 32,
        "ab" * 32 + ".incomplete",
        "ab" * 32 + ".12345678.incomplete",
        "notes.txt",
        "ab" * 32 + ".12345678.partial",
    ]
    for name in names:
        (blobs / name).write_bytes(b"theirs")
        os.utime(blobs / name, (old, old))
    orphan = blobs / f"{'cd' * 32}.12345678.part"
    orphan.write_bytes(b"ours, without a journal")
    os.utime(orphan, (old, old))
    clean_partials(tmp_path)
    assert sorted(path.name for path in blobs.iterdir()) == sorted(names)


@pytest.mark.anyio
async def test_an_engine_cleans_when_it_first_sees_a_cache(playground: Playground) -> None:
    directory = playground.cache_dir / "models--o--n" / "blobs"
    directory.mkdir(parents=True)
    journal = abandoned(directory, pid=free_pid())
    old = time.time() - LEFT_OVER_SECONDS - 100
    os.utime(journal, (old, old))
    playground.assert_exact(await playground.download())
    assert list(directory.iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("is_inline", [False, True])
async def test_an_engine_keeps_what_a_long_paused_download_has(
    playground: Playground, until: Until, is_inline: bool
) -> None:
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=8_000_000), origin="cdn")
    async with playground.manager(state_dir=playground.state_dir) as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received > 8_000_000)
        await manager.act(job.job_id, "pause")
    playground.hub.faults.clear()
    commit_hash = playground.hub.add_repo("owner/other", {"README.md": b"# Readme"})
    files = (GGUFFile(filename="README.md"),)
    blobs = playground.repo_dir / "blobs"
    abandoned(blobs, pid=free_pid())
    old = time.time() - LEFT_OVER_SECONDS - 100
    for path in blobs.iterdir():
        os.utime(path, (old, old))
    own = {"lists": [playground.state_dir]} if is_inline else {"state_dir": playground.state_dir}
    async with playground.manager(**own) as manager:
        other = await manager.submit(playground.request(repo_id="owner/other", commit_hash=commit_hash, files=files))
        assert (await manager.wait(other.job_id)).state is DownloadState.READY
    assert not list(blobs.glob(f"{HEADER.digest}.*")), "it has cleaned"
    async with playground.manager(state_dir=playground.state_dir) as manager:
        await manager.act(job.job_id, "resume")
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert done.bytes_fetched < len(playground.content) - 6_000_000
