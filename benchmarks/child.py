"""One download by a Python library in a process of its own, timed without the start of the interpreter."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from bare import fetch_all


def hub(work: dict[str, Any], repo_id: str) -> dict[str, float]:
    from huggingface_hub import hf_hub_download

    def fetch(file: dict[str, Any]) -> str:
        return hf_hub_download(repo_id, file["name"], endpoint=work["endpoint"], cache_dir=work["cache_dir"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, work["files"]))
    return {}


def xet(work: dict[str, Any]) -> dict[str, float]:
    """Put the files together as huggingface_hub does where hf_xet is installed, from a store of this machine."""
    import hf_xet

    store = Path(work["xet_store"])
    hashes = json.loads((store / "hashes.json").read_text())
    with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{store}") as group:
        for file in work["files"]:
            info = hf_xet.XetFileInfo(hashes[file["name"]], file["size"])
            group.start_download_file(info, str(Path(work["cache_dir"]) / file["name"]))
    return {}


def fill_xet_store(files: Path, store: Path) -> None:
    import hf_xet

    with hf_xet.XetSession().new_upload_commit(endpoint=f"local://{store}") as commit:
        uploads = {path.name: commit.start_upload_file(str(path)) for path in files.iterdir()}
    hashes = {name: upload.result().xet_info.hash for name, upload in uploads.items()}
    (store / "hashes.json").write_text(json.dumps(hashes))


async def engine(work: dict[str, Any], repo_id: str, commit_hash: str) -> dict[str, float]:
    from modeldeck._types import DownloadRequest, DownloadState, EngineLimits, GGUFFile
    from modeldeck.engine.manager import DownloadManager
    from modeldeck.engine.transfer import Transfer

    files = [GGUFFile(filename=f["name"], size=f["size"], sha256=f["sha256"]) for f in work["files"]]
    groups = [files] if work["is_one_variant"] else [[file] for file in files]
    last_byte_at = 0.0
    run = Transfer.run

    async def run_and_note_end(transfer: Transfer) -> None:
        nonlocal last_byte_at
        await run(transfer)
        last_byte_at = time.perf_counter()

    Transfer.run = run_and_note_end  # type: ignore[method-assign]
    async with DownloadManager(limits=EngineLimits(max_active_jobs=8)) as manager:
        jobs = []
        for group in groups:
            request = DownloadRequest(
                repo_id=repo_id,
                revision="main",
                commit_hash=commit_hash,
                variant_id=group[0].filename,
                label="Q4_K_M",
                files=tuple(group),
                endpoint=work["endpoint"],
                cache_dir=work["cache_dir"],
            )
            jobs.append(await manager.submit(request))
        for job in jobs:
            done = await manager.wait(job.job_id)
            if done.state is not DownloadState.READY:
                raise SystemExit(f"{done.state}: {done.error}")
        ready = time.perf_counter()
    return {"tail_seconds": ready - last_byte_at, "ready": ready}


def main() -> None:
    parts: dict[str, float] = {}
    kind, work, repo_id, commit_hash = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
    if kind == "hub":
        import huggingface_hub  # noqa: F401 - its import is not part of the download
    elif kind == "xet":
        import hf_xet  # noqa: F401
    else:
        import modeldeck.engine.manager  # noqa: F401

        if kind == "unverified":
            _stop_hashing()
        elif kind == "parts":
            parts = _count_parts()
    idle = resource.getrusage(resource.RUSAGE_SELF)
    idle_bytes = psutil.Process().memory_info().rss
    Path(work["ballast"]).unlink()
    started = time.perf_counter()
    match kind:
        case "hub":
            told = hub(work, repo_id)
        case "xet":
            told = xet(work)
        case "bare":
            told = fetch_all(work)
        case _:
            told = asyncio.run(engine(work, repo_id, commit_hash))
    seconds = told.pop("ready", time.perf_counter()) - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - idle.ru_utime - idle.ru_stime
    peak = max(0, used.ru_maxrss * 1024 - idle_bytes)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "parts": parts, **told}))


def _stop_hashing() -> None:
    """Leave the sha256 out, to see what it costs. The product has no such switch."""
    from modeldeck.engine import completion
    from modeldeck.engine.digest import FrontHasher

    class NoHasher(FrontHasher):
        def __init__(self, digest: str | None, size: int | None) -> None:
            super().__init__(digest, size)
            self._digest = digest or ""

        def feed(self, data: memoryview) -> None:
            self.position += len(data)

        def advance(self, descriptor: int, stop: int) -> None:
            self.position = stop

        def hexdigest(self) -> str:
            return self._digest

    completion.FrontHasher = NoHasher  # type: ignore[misc]


def _count_parts() -> dict[str, float]:
    """Return the threads' CPU seconds by activity. The rest is the loop's, the interpreter's and the scheduler's."""
    from modeldeck.engine import digest
    from modeldeck.engine.network import SocketStream
    from modeldeck.engine.partial import SegmentWriter

    parts: dict[str, float] = {}
    for name, owner, function in (
        ("receiving and decrypting", SocketStream, "_read_block"),
        ("writing, with XXH3 and journal", SegmentWriter, "write"),
        ("sha256", digest.FrontHasher, "feed"),
        ("reading back for it", digest, "read_at"),
    ):
        _clock(parts, name, owner, function)
    return parts


def _clock(parts: dict[str, float], name: str, owner: object, attribute: str) -> None:
    function = getattr(owner, attribute)
    lock = threading.Lock()

    def clocked(*arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            with lock:
                parts[name] = parts.get(name, 0.0) + time.thread_time() - began

    setattr(owner, attribute, clocked)


if __name__ == "__main__":
    if sys.argv[1] == "fill-xet-store":
        fill_xet_store(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
