"""Figures of the engine's process: its start, its rest, its haste, and what it takes from a busy notebook.

    python benchmarks/engine.py [--size BYTES] [--json]

Needs nginx on the PATH and the packages of the ``test`` extra. nginx plays the Hub and its CDN over TLS on loopback;
the client runs in this process, as in a kernel. Everything is in a temporary directory, and nothing is left running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import trustme

from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, GGUFFile
from modeldeck.service.client import Engine, connect_engine
from modeldeck.service.control import stop_engine

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPEATS = 5
ATTACHES = 20
REST_SECONDS = 10.0
LOOP_SECONDS = 3.0
LINK_BYTES_PER_SECOND = 100_000_000
MIB = 2**20

NGINX = """
daemon off; pid {root}/nginx.pid; error_log {root}/error.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root};
  uwsgi_temp_path {root}; scgi_temp_path {root};
  ssl_certificate {root}/server.pem; ssl_certificate_key {root}/server.key;
  server {{
    listen 127.0.0.1:{port} ssl;
    location /owner/name/resolve/ {{
      add_header X-Repo-Commit {commit} always;
      add_header X-Linked-Size {size} always;
      add_header X-Linked-Etag '"{sha256}"' always;
      return 302 https://localhost:{port}/files/model.gguf;
    }}
    location /files/ {{ alias {root}/files/; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What all measurements share."""

    root: Path
    port: int
    size: int
    sha256: str

    def request(self, name: str) -> DownloadRequest:
        """Download into a cache directory of its own, so that each measurement begins with nothing."""
        return DownloadRequest(
            repo_id="owner/name",
            revision="main",
            commit_hash=COMMIT,
            variant_id="model.gguf",
            label="model",
            files=(GGUFFile(filename="model.gguf", size=self.size, sha256=self.sha256),),
            endpoint=f"https://localhost:{self.port}",
            cache_dir=str(self.root / "caches" / name),
        )

    @property
    def settings(self) -> Settings:
        return Settings(endpoint=f"https://localhost:{self.port}", cache_dir=self.root / "caches")


@contextlib.contextmanager
def prepare(size: int) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="modeldeck-benchmark-") as directory:
        root = Path(directory)
        (root / "files").mkdir()
        tile = b"GGUF" + random.Random(1).randbytes(MIB - 4)
        digest = hashlib.sha256()
        with (root / "files" / "model.gguf").open("wb") as file:
            for start in range(0, size, len(tile)):
                piece = tile[: size - start]
                digest.update(piece)
                file.write(piece)
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(root / "server.key")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(root / "server.pem", append=True)
        authority.cert_pem.write_to_path(root / "authority.pem")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        stage = Stage(root, port, size, digest.hexdigest())
        (root / "nginx.conf").write_text(
            NGINX.format(root=root, port=port, size=size, sha256=stage.sha256, commit=COMMIT)
        )
        os.environ["SSL_CERT_FILE"] = str(root / "authority.pem")
        os.environ["MODELDECK_RUNTIME_DIR"] = str(root / "run")
        os.environ["MODELDECK_STATE_DIR"] = str(root / "state")
        os.environ["MODELDECK_ENGINE_IDLE_SECONDS"] = "30"
        server = subprocess.Popen(["nginx", "-p", directory, "-c", str(root / "nginx.conf")])
        try:
            wait_for_port(port)
            yield stage
        finally:
            stop_engine(stage.settings)
            server.terminate()
            server.wait()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


# --- measurements -----------------------------------------------------------------------------------------------------


def measure_start(stage: Stage) -> dict[str, float]:
    """From nothing to a connected client, and on to the first byte on the disk."""
    ready, first_byte = [], []
    for number in range(REPEATS):
        stop_engine(stage.settings)
        began = time.perf_counter()
        engine = connect_engine(stage.settings, inline=False)
        ready.append(time.perf_counter() - began)
        assert engine.mode == "process", engine.notice
        arrived: Future[float] = Future()

        def look(snapshot: DownloadSnapshot, arrived: Future[float] = arrived) -> None:
            if snapshot.bytes_fetched and not arrived.done():
                arrived.set_result(time.perf_counter())

        engine.subscribe(look)
        job = asyncio.run(engine.submit(stage.request(f"start-{number}")))
        first_byte.append(arrived.result(30) - began)
        asyncio.run(finish(engine, job.job_id))
    return {
        "start_seconds": statistics.median(ready),
        "start_to_first_byte_seconds": statistics.median(first_byte),
        "start_to_first_byte_seconds_max": max(first_byte),
    }


def measure_attach(stage: Stage) -> dict[str, float]:
    """A second client of a running engine."""
    first = connect_engine(stage.settings, inline=False)
    seconds = []
    for _ in range(ATTACHES):
        began = time.perf_counter()
        engine = connect_engine(stage.settings, inline=False)
        seconds.append(time.perf_counter() - began)
        asyncio.run(engine.aclose())
    asyncio.run(first.aclose())
    return {"attach_seconds": statistics.median(seconds), "attach_seconds_max": max(seconds)}


def measure_rest(stage: Stage) -> dict[str, float]:
    """An engine with one client and nothing to do: fresh, and after a download."""
    stop_engine(stage.settings)
    engine = connect_engine(stage.settings, inline=False)
    process = psutil.Process(asyncio.run(engine.status()).pid)
    fresh = process.memory_info().rss
    download(engine, stage.request("rest"))
    time.sleep(1)
    before = sum(process.cpu_times()[:2])
    switches = process.num_ctx_switches().voluntary
    time.sleep(REST_SECONDS)
    result = {
        "rest_fresh_rss_mib": fresh / MIB,
        "rest_after_download_rss_mib": process.memory_info().rss / MIB,
        "rest_cpu_seconds_in_10_s": sum(process.cpu_times()[:2]) - before,
        "rest_wakeups_in_10_s": process.num_ctx_switches().voluntary - switches,
    }
    asyncio.run(engine.aclose())
    return result


def measure_latency(stage: Stage) -> dict[str, float]:
    """From the engine's snapshot to the client's callback."""
    engine = connect_engine(stage.settings, inline=False)
    asyncio.run(engine.set_limits(limits(engine, LINK_BYTES_PER_SECOND // 2)))
    delays: list[float] = []
    engine.subscribe(lambda snapshot: delays.append(time.time() - snapshot.updated_at))
    download(engine, stage.request("latency"))
    asyncio.run(engine.set_limits(limits(engine, None)))
    asyncio.run(engine.aclose())
    ordered = sorted(delays)
    return {
        "snapshots": len(ordered),
        "latency_p50_ms": 1000 * statistics.median(ordered),
        "latency_p95_ms": 1000 * ordered[int(len(ordered) * 0.95)],
    }


def measure_busy(stage: Stage) -> dict[str, float]:
    """The same download beside an idle kernel and beside a pure-Python loop, in turns; the loop with and without it."""
    result = {}
    for name, limit in (("flat_out", None), ("at_100_mb_s", LINK_BYTES_PER_SECOND)):
        idle, busy, beside = [], [], []
        engine = connect_engine(stage.settings, inline=False)
        asyncio.run(engine.set_limits(limits(engine, limit)))
        alone = [count_rounds_alone()]
        for number in range(3):
            idle.append(stage.size / download(engine, stage.request(f"idle-{name}-{number}")))
            seconds, pace = download_beside_loop(engine, stage.request(f"busy-{name}-{number}"))
            busy.append(stage.size / seconds)
            beside.append(pace)
            alone.append(count_rounds_alone())
        asyncio.run(engine.set_limits(limits(engine, None)))
        asyncio.run(engine.aclose())
        result |= {
            f"{name}_idle_mb_s": statistics.median(idle) / 1e6,
            f"{name}_busy_mb_s": statistics.median(busy) / 1e6,
            f"{name}_busy_to_idle": statistics.median(busy) / statistics.median(idle),
            f"{name}_loop_to_alone": median_of(beside, "per_second") / median_of(alone, "per_second"),
            f"{name}_loop_to_alone_by_cpu": median_of(beside, "per_cpu_second") / median_of(alone, "per_cpu_second"),
        }
    return result


def measure_pause(stage: Stage) -> dict[str, float]:
    """What is left of a download one second after ``pause`` and after ``cancel``."""
    result = {}
    for name in ("pause", "cancel"):
        engine = connect_engine(stage.settings, inline=False)
        process = psutil.Process(asyncio.run(engine.status()).pid)
        asyncio.run(engine.set_limits(limits(engine, LINK_BYTES_PER_SECOND)))
        before = process.memory_info().rss
        request = stage.request(name)
        job = asyncio.run(engine.submit(request))
        while not engine.snapshots() or latest(engine, job.job_id).received < stage.size // 10:
            time.sleep(0.01)
        began = time.perf_counter()
        asyncio.run(engine.pause(job.job_id) if name == "pause" else engine.cancel(job.job_id))
        answered = time.perf_counter() - began
        time.sleep(1)
        after_one_second = sizes_in(Path(request.cache_dir))
        sockets = sum(item.status == psutil.CONN_ESTABLISHED for item in process.net_connections("inet"))
        time.sleep(1)
        result |= {
            f"{name}_answer_seconds": answered,
            f"{name}_sockets_after_1_s": sockets,
            f"{name}_bytes_written_after_1_s": sizes_in(Path(request.cache_dir)) - after_one_second,
            f"{name}_rss_growth_mib": (process.memory_info().rss - before) / MIB,
        }
        asyncio.run(engine.set_limits(limits(engine, None)))
        if name == "pause":
            asyncio.run(engine.cancel(job.job_id))
        asyncio.run(engine.aclose())
    return result


# --- parts ------------------------------------------------------------------------------------------------------------


def limits(engine: Engine, bandwidth: int | None) -> EngineLimits:
    return replace(asyncio.run(engine.status()).limits, bandwidth_bytes_per_second=bandwidth)


def latest(engine: Engine, job_id: str) -> DownloadSnapshot:
    return next(snapshot for snapshot in engine.snapshots() if snapshot.job_id == job_id)


async def finish(engine: Engine, job_id: str) -> None:
    last = await engine.wait(job_id)
    assert last.state is DownloadState.READY, last.error
    shutil.rmtree(last.request.cache_dir)
    await engine.aclose()


def download(engine: Engine, request: DownloadRequest) -> float:
    """Seconds from the request to the verified file."""

    async def run() -> None:
        job = await engine.submit(request)
        last = await engine.wait(job.job_id)
        assert last.state is DownloadState.READY, last.error
        await engine.dismiss(job.job_id)

    began = time.perf_counter()
    asyncio.run(run())
    seconds = time.perf_counter() - began
    shutil.rmtree(request.cache_dir)
    return seconds


def download_beside_loop(engine: Engine, request: DownloadRequest) -> tuple[float, Pace]:
    """Seconds of the download, and the pace of this thread's loop meanwhile."""
    ended: list[float] = []

    def look(snapshot: DownloadSnapshot) -> None:
        if snapshot.state is DownloadState.READY:
            ended.append(time.perf_counter())

    unsubscribe = engine.subscribe(look)
    began = time.perf_counter()
    job = asyncio.run(engine.submit(request))
    pace = count_rounds(lambda: bool(ended))
    unsubscribe()
    asyncio.run(engine.dismiss(job.job_id))
    shutil.rmtree(request.cache_dir)
    return ended[0] - began, pace


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a pure-Python loop. By the thread's CPU time it does not count what other processes take from the machine."""

    per_second: float
    per_cpu_second: float


def count_rounds(is_over: Callable[[], bool]) -> Pace:
    rounds = 0
    wall, cpu = time.perf_counter(), time.thread_time()
    while not is_over():
        for _ in range(1000):
            rounds += 1
    return Pace(rounds / (time.perf_counter() - wall), rounds / (time.thread_time() - cpu))


def count_rounds_alone() -> Pace:
    stop = time.perf_counter() + LOOP_SECONDS
    return count_rounds(lambda: time.perf_counter() > stop)


def median_of(paces: list[Pace], name: str) -> float:
    return statistics.median(getattr(pace, name) for pace in paces)


def sizes_in(directory: Path) -> int:
    """Bytes that are really on the disk: partial files are sparse."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000_000, help="of the file, in bytes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with prepare(options.size) as stage:
        for measure in (
            measure_start,
            measure_attach,
            measure_rest,
            measure_latency,
            measure_busy,
            measure_pause,
        ):
            part = measure(stage)
            figures |= part
            if not options.json:
                for name, value in part.items():
                    print(f"{name:40} {value:12.4g}", flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
