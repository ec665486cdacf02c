"""Figures of the engine's process: its start, its rest, its haste, and what it takes from a busy notebook.

    python benchmarks/engine.py [--only start,busy] [--links 1_gbit_s] [--pairs 5] [--size BYTES] [--json]

Needs Linux, nginx, unshare, ip and tc on the PATH and the packages of the ``test`` extra. nginx plays the Hub and its
CDN over TLS on loopback; the client runs in this process, as in a kernel. Everything is in a temporary directory and a
network namespace of its own, and nothing is left running.
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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import psutil
import trustme

from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, GGUFFile
from modeldeck.engine.store import JobStore, StoredJob
from modeldeck.service.connect import connect_engine
from modeldeck.service.engine_client import EngineClient
from modeldeck.service.observe import stop_engine

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPEATS = 5
ATTACHES = 20
REST_SECONDS = 10.0
LOOP_SECONDS = 3.0
PAIRS = 5
STORED_ENTRIES = 1000
LINK_BYTES_PER_SECOND = 100_000_000
MIB = 2**20

LINKS: dict[str, int | None] = {"1_gbit_s": 125_000_000, "2_5_gbit_s": 312_500_000, "flat_out": None}
"""The network's limit in bytes per second, over all connections together."""

LINK_BURST_SECONDS = 0.005
LINK_QUEUE_MS = 20
NAMESPACE_VARIABLE = "MODELDECK_BENCHMARK_NAMESPACE"

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
        """Download into a new cache directory, so that each measurement starts from nothing."""
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
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules, as pip installs them
        os.environ["PYTHONPYCACHEPREFIX"] = str(root / "pycache")
        server = subprocess.Popen(["nginx", "-p", directory, "-c", str(root / "nginx.conf")])
        try:
            wait_for_port(port)
            yield stage
        finally:
            asyncio.run(stop_engine(stage.settings))
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
    """Measure the time to a connected client, and then to the first byte on the disk."""
    ready, first_byte = [], []
    asyncio.run(connect_engine(stage.settings, inline=False).aclose())  # compiles the modules
    for number in range(REPEATS):
        asyncio.run(stop_engine(stage.settings))
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


def measure_list(stage: Stage) -> dict[str, float]:
    """Measure the start of an engine with a long list of downloads, and connecting to it."""
    engine = connect_engine(stage.settings, inline=False)
    download(engine, stage.request("stored"), is_kept=True)
    asyncio.run(engine.aclose())
    asyncio.run(stop_engine(stage.settings))
    (entry,) = (stage.root / "state").glob("*/*.download.json")
    job = msgspec.json.decode(entry.read_bytes(), type=StoredJob)
    entry.unlink()
    store = JobStore(entry.parent)
    result = {}
    for state in (DownloadState.READY, DownloadState.PAUSED):
        times: list[tuple[float, float]] = []
        for count in (0, STORED_ENTRIES) * REPEATS:
            for number in range(count):
                stored = msgspec.structs.replace(
                    job,
                    job_id=f"{number:032x}",
                    request=replace(job.request, variant_id=f"{number}.gguf"),
                    state=state,
                    finish=job.finish if state is DownloadState.READY else None,
                )
                store.save(stored)
            began = time.perf_counter()
            first = connect_engine(stage.settings, inline=False)
            started = time.perf_counter()
            second = connect_engine(stage.settings, inline=False)
            times.append((started - began, time.perf_counter() - started))
            asyncio.run(first.aclose())
            asyncio.run(second.aclose())
            asyncio.run(stop_engine(stage.settings))
            for path in entry.parent.glob("*.download.json"):
                path.unlink()
        starts, attaches = zip(*times, strict=True)
        extra = statistics.median(after - before for before, after in zip(starts[::2], starts[1::2], strict=True))
        result |= {
            f"start_with_{STORED_ENTRIES}_{state}_extra_seconds": extra,
            f"attach_with_{STORED_ENTRIES}_{state}_seconds": statistics.median(attaches[1::2]),
        }
    return result


def measure_attach(stage: Stage) -> dict[str, float]:
    """Measure a second client of a running engine."""
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
    """Measure an idle engine with one client: a new one, and one after a download."""
    asyncio.run(stop_engine(stage.settings))
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
    """Measure the time from the engine's snapshot to the client's callback."""
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


def measure_busy(stage: Stage, links: Sequence[str], pairs: int) -> dict[str, float]:
    """The same download beside an idle kernel and beside a pure-Python loop, in turns; the loop with and without it.

    Flat out on few cores, the server, the engine and the loop share what there is, and each gets less by arithmetic.
    The limited links are where cores are left, as beside a real network.
    """
    result = {}
    for link in links:
        with limited_link(LINKS[link]):
            result |= {f"{link}_{name}": value for name, value in busy_figures(stage, link, pairs).items()}
    return result


def busy_figures(stage: Stage, link: str, pairs: int) -> dict[str, float]:
    engine = connect_engine(stage.settings, inline=False)
    process = psutil.Process(asyncio.run(engine.status()).pid)
    download(engine, stage.request(f"warm-up-{link}"))
    runs: list[BusyRun] = []
    for number in range(pairs):
        alone = count_rounds_alone()
        seconds: dict[str, float] = {}
        cpu_seconds: dict[str, float] = {}
        for kind in ("idle", "busy") if number % 2 else ("busy", "idle"):
            request = stage.request(f"{kind}-{link}-{number}")
            before = sum(process.cpu_times()[:2])
            if kind == "idle":
                seconds[kind] = download(engine, request)
            else:
                seconds[kind], beside = download_beside_loop(engine, request)
            cpu_seconds[kind] = sum(process.cpu_times()[:2]) - before
        runs.append(BusyRun(seconds=seconds, cpu_seconds=cpu_seconds, alone=alone, beside=beside))
    asyncio.run(engine.aclose())
    ratios = [run.seconds["idle"] / run.seconds["busy"] for run in runs]
    return {
        "idle_mb_s": statistics.median(stage.size / run.seconds["idle"] for run in runs) / 1e6,
        "busy_mb_s": statistics.median(stage.size / run.seconds["busy"] for run in runs) / 1e6,
        "busy_to_idle": statistics.median(ratios),
        "busy_to_idle_min": min(ratios),
        "busy_to_idle_max": max(ratios),
        "loop_to_alone": statistics.median(run.beside.per_second / run.alone.per_second for run in runs),
        "loop_to_alone_by_cpu": statistics.median(run.beside.per_cpu_second / run.alone.per_cpu_second for run in runs),
        "loop_core_share": statistics.median(run.beside.core_share for run in runs),
        "idle_engine_cpu_s_per_gb": statistics.median(run.cpu_seconds["idle"] for run in runs) / stage.size * 1e9,
        "busy_engine_cpu_s_per_gb": statistics.median(run.cpu_seconds["busy"] for run in runs) / stage.size * 1e9,
    }


def measure_pause(stage: Stage) -> dict[str, float]:
    """Measure what is left of a download one second after ``pause`` and after ``cancel``."""
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
        asyncio.run(engine.act(job.job_id, name))
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
            asyncio.run(engine.act(job.job_id, "cancel"))
        asyncio.run(engine.aclose())
    return result


# --- parts ------------------------------------------------------------------------------------------------------------


def limits(engine: EngineClient, bandwidth: int | None) -> EngineLimits:
    return replace(asyncio.run(engine.status()).limits, bandwidth_bytes_per_second=bandwidth)


def latest(engine: EngineClient, job_id: str) -> DownloadSnapshot:
    return next(snapshot for snapshot in engine.snapshots() if snapshot.job_id == job_id)


async def finish(engine: EngineClient, job_id: str) -> None:
    last = await engine.wait(job_id)
    assert last.state is DownloadState.READY, last.error
    shutil.rmtree(last.request.cache_dir)
    await engine.aclose()


def download(engine: EngineClient, request: DownloadRequest, *, is_kept: bool = False) -> float:
    """Return the seconds from the request to the verified file, which is deleted unless ``is_kept`` is set."""

    async def run() -> None:
        job = await engine.submit(request)
        last = await engine.wait(job.job_id)
        assert last.state is DownloadState.READY, last.error
        if not is_kept:
            await engine.act(job.job_id, "dismiss")

    began = time.perf_counter()
    asyncio.run(run())
    seconds = time.perf_counter() - began
    if not is_kept:
        shutil.rmtree(request.cache_dir)
    return seconds


def download_beside_loop(engine: EngineClient, request: DownloadRequest) -> tuple[float, Pace]:
    """Return the seconds of the download, and the pace of this thread's loop meanwhile."""
    ended: list[float] = []

    def look(snapshot: DownloadSnapshot) -> None:
        if snapshot.state is DownloadState.READY:
            ended.append(time.perf_counter())

    unsubscribe = engine.subscribe(look)
    began = time.perf_counter()
    job = asyncio.run(engine.submit(request))
    pace = count_rounds(lambda: bool(ended))
    unsubscribe()
    asyncio.run(engine.act(job.job_id, "dismiss"))
    shutil.rmtree(request.cache_dir)
    return ended[0] - began, pace


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a pure-Python loop.

    ``per_cpu_second`` leaves out the time that other processes ran in its place, and ``core_share``, that part of a
    core which it got, leaves out how fast the machine happened to be.
    """

    per_second: float
    per_cpu_second: float
    core_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyRun:
    """One pair of downloads, by "idle" and "busy", and the loop's pace without and with the latter."""

    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    alone: Pace
    beside: Pace


def count_rounds(is_over: Callable[[], bool]) -> Pace:
    rounds = 0
    wall, cpu = time.perf_counter(), time.thread_time()
    while not is_over():
        for _ in range(1000):
            rounds += 1
    seconds, cpu_seconds = time.perf_counter() - wall, time.thread_time() - cpu
    return Pace(rounds / seconds, rounds / cpu_seconds, cpu_seconds / seconds)


def count_rounds_alone() -> Pace:
    stop = time.perf_counter() + LOOP_SECONDS
    return count_rounds(lambda: time.perf_counter() > stop)


def sizes_in(directory: Path) -> int:
    """Return the bytes that are really on the disk, as partial files are sparse."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


# --- the link ---------------------------------------------------------------------------------------------------------


def enter_own_network() -> None:
    """Start this program again in a network namespace of its own, whose loopback can be slowed down."""
    if os.environ.get(NAMESPACE_VARIABLE) != str(os.getpid()):
        os.environ[NAMESPACE_VARIABLE] = str(os.getpid())
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        os.execvp("unshare", ["unshare", *user, "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextlib.contextmanager
def limited_link(bytes_per_second: int | None) -> Iterator[None]:
    """Let the kernel's traffic shaper hold all connections together to a rate, as a network does.

    nginx's own ``limit_rate`` counts each request for itself and lets the first second of each through at once; the
    engine's own limit would measure the engine with itself.
    """
    if bytes_per_second is None:
        yield
        return
    burst = max(256 * 1024, int(bytes_per_second * LINK_BURST_SECONDS))
    shaper = ["tbf", "rate", f"{8 * bytes_per_second}bit", "burst", f"{burst}b", "latency", f"{LINK_QUEUE_MS}ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", *shaper], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000_000, help="of the file, in bytes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="comma-separated names of measurements; all by default")
    parser.add_argument("--links", default=",".join(LINKS), help="comma-separated, of the measurement 'busy'")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of downloads, in the measurement 'busy'")
    options = parser.parse_args()
    measurements: dict[str, Callable[[Stage], dict[str, float]]] = {
        "start": measure_start,
        "list": measure_list,
        "attach": measure_attach,
        "rest": measure_rest,
        "latency": measure_latency,
        "busy": lambda stage: measure_busy(stage, options.links.split(","), options.pairs),
        "pause": measure_pause,
    }
    enter_own_network()
    figures: dict[str, float] = {}
    with prepare(options.size) as stage:
        for name in options.only.split(",") if options.only else measurements:
            part = measurements[name](stage)
            figures |= part
            if not options.json:
                for figure, value in part.items():
                    print(f"{figure:40} {value:12.4g}", flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
