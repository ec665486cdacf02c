"""The engine where a container allows 1 GiB of memory: a control group of its own, made and removed here."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from modeldeck._types import DownloadRequest, GGUFFile
from tests.memory_group import MemoryGroup, limited_memory
from tests.service.engines import Engines
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub

MIB = 2**20
LIMIT_BYTES = 1024 * MIB
FILE_BYTES = 576 * MIB
DOWNLOADS = 2
"""Together more than the limit: what the engine does not let go of, and pages it writes, would not fit."""

MAX_ENGINE_PEAK_BYTES = 128 * MIB
"""About twice what it takes."""


@pytest.fixture
def memory_group() -> Iterator[MemoryGroup]:
    with limited_memory(LIMIT_BYTES) as group:
        yield group


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest
from modeldeck.service.connect import connect_engine

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
def test_a_memory_limit_of_1_gib(memory_group: MemoryGroup, engines: Engines, cache_dir: Path, tmp_path: Path) -> None:
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
            timeout=PATIENCE_SECONDS,
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
