"""The engine where a container allows 1 GiB of memory: a control group of its own, made and removed here."""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import msgspec
import pytest

from modeldeck._types import DownloadRequest, GGUFFile
from tools.localhub import LocalHub

if TYPE_CHECKING:
    from conftest import Engines

MIB = 2**20
LIMIT_BYTES = 1024 * MIB
FILE_BYTES = 576 * MIB
DOWNLOADS = 2
"""Together more than the limit: what the engine does not let go of, and pages it writes, would not fit."""

MAX_ENGINE_PEAK_BYTES = 128 * MIB
"""About twice what it takes."""


@dataclass(frozen=True)
class MemoryGroup:
    path: Path
    version: Literal[1, 2]

    def limit(self) -> None:
        """Allow ``LIMIT_BYTES``, and no swap where there is any."""
        if self.version == 1:
            values = {"memory.limit_in_bytes": LIMIT_BYTES, "memory.memsw.limit_in_bytes": LIMIT_BYTES}
        else:
            values = {"memory.max": LIMIT_BYTES, "memory.swap.max": 0}
        for name, value in values.items():
            if (self.path / name).exists():
                (self.path / name).write_text(str(value))

    @property
    def peak_bytes(self) -> int | None:
        """The most that was charged to the group, cached pages included; ``None`` where the kernel does not tell."""
        file = self.path / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(file.read_text()) if file.exists() else None

    @property
    def kills(self) -> int:
        """How many processes were killed for want of memory."""
        file = self.path / ("memory.oom_control" if self.version == 1 else "memory.events")
        return int(dict(line.split() for line in file.read_text().splitlines())["oom_kill"])

    def remove(self) -> None:
        """The kernel refuses for a moment after the last process was killed."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def find_parent() -> tuple[Path, Literal[1, 2]]:
    """Where a group with a memory limit can be made: in this process's own group or, with version 2, near it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return mount_point("cgroup", "memory") / path.lstrip("/"), 1
    unified = mount_point("cgroup2")
    own = unified / path.lstrip("/")  # of the last line, "0::PATH"
    for group in (own, *own.parents):
        control = group / "cgroup.subtree_control"
        if group.is_relative_to(unified) and control.exists() and "memory" in control.read_text().split():
            return group, 2
    raise FileNotFoundError(None, "no control group here passes the memory controller on")


def mount_point(kind: str, option: str = "") -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, type_, options, *_ = line.split()
        if type_ == kind and (not option or option in options.split(",")):
            return Path(path)
    raise FileNotFoundError(None, f"no {kind} is mounted")


@pytest.fixture
def memory_group() -> Iterator[MemoryGroup]:
    try:
        parent, version = find_parent()
        group = MemoryGroup(parent / f"modeldeck-test-{uuid4().hex[:8]}", version)
        group.path.mkdir()
    except OSError as error:
        pytest.skip(f"no memory group can be made: {error.strerror or error}")
    try:
        try:
            group.limit()
        except OSError as error:
            pytest.skip(f"no memory limit can be set: {error.strerror or error}")
        yield group
    finally:
        group.remove()


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest
from modeldeck.service.client import connect_engine

group, cache_dir, requests = sys.argv[1:]
Path(group, "cgroup.procs").write_text(str(os.getpid()))  # the engine is born into it

async def run():
    engine = connect_engine(Settings(endpoint="https://hub.invalid", cache_dir=Path(cache_dir)))
    pid = (await engine.status()).pid
    for request in msgspec.json.decode(requests, type=list[DownloadRequest]):
        job = await engine.submit(request)
        last = await engine.wait(job.job_id)
        print(last.state, last.error, last.bytes_fetched)
    print(engine.mode, engine.notice, (await engine.status()).pid == pid)
    print(pid)
    await engine.aclose()

asyncio.run(run())
"""


def write_model(path: Path) -> str:
    """A file that no block of which repeats its neighbour; returns its sha256."""
    tile = b"GGUF" + random.Random(1).randbytes(7 * MIB + 1)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, FILE_BYTES, len(tile)):
            piece = tile[: FILE_BYTES - start]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def peak_resident_bytes(pid: int) -> int:
    """The most memory that was mapped by a process at once: its own and that of its libraries."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups")
def test_a_memory_limit_of_1_gib(
    memory_group: MemoryGroup, engines: "Engines", cache_dir: Path, tmp_path: Path
) -> None:
    """More than the limit's worth is downloaded: exact, by an engine that lives on and itself stays small."""
    sha256 = write_model(tmp_path / "model.gguf")
    with LocalHub() as hub:
        requests = []
        for number in range(DOWNLOADS):
            digests = {"model.gguf": sha256}
            commit_hash = hub.add_repo(
                f"owner/{number}", {"model.gguf": tmp_path / "model.gguf"}, gguf={}, digests=digests
            )
            requests.append(
                DownloadRequest(
                    repo_id=f"owner/{number}",
                    revision="main",
                    commit_hash=commit_hash,
                    variant_id="model.gguf",
                    label="model",
                    files=(GGUFFile(filename="model.gguf", size=FILE_BYTES, sha256=sha256),),
                    endpoint=hub.endpoint,
                    cache_dir=str(cache_dir),
                )
            )
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(memory_group.path), str(cache_dir), msgspec.json.encode(requests)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert result.stderr == ""
    *lines, pid = result.stdout.splitlines()
    assert lines == [f"ready None {FILE_BYTES}"] * DOWNLOADS + ["process None True"]
    for request in requests:
        (path,) = (cache_dir / f"models--{request.repo_id.replace('/', '--')}" / "snapshots").glob("*/model.gguf")
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
    os.kill(int(pid), 0)
    assert peak_resident_bytes(int(pid)) < MAX_ENGINE_PEAK_BYTES
    assert memory_group.kills == 0
    if memory_group.peak_bytes is not None:
        assert memory_group.peak_bytes > 0.9 * LIMIT_BYTES  # the limit was felt
