"""Pulls between the hosts of a Dask cluster whose links are limited: to one host, and to three in a chain.

    unshare --map-root-user --net python -m benchmarks.cluster_links [MB/s, by default 50]

The network namespace is what `unshare` makes: in it, a rule for each host limits what that host sends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distributed import Client, Nanny, Scheduler, SpecCluster

from modeldeck import cluster
from tools.localhub import LocalHub, tiny_models
from tools.localhub.tiny_models import CHAT_TEMPLATE

HOSTS = 4
RATE = 50.0
"""MB/s that a host sends at most."""
SIZE_BYTES = 64 << 20
FILE = "model-Q4_K_M.gguf"


def limit_links(rate: float = RATE) -> None:
    """Limit what each host sends. The hub and the scheduler, on 127.0.0.1, are not limited."""

    def run(command: str) -> None:
        subprocess.run(command.split(), check=True)

    run("ip link set lo up")
    run("tc qdisc add dev lo root handle 1: htb default 99")
    run("tc class add dev lo parent 1: classid 1:99 htb rate 100gbit")
    # Packets of 52 bytes, which acknowledge others, do not wait behind data, as in the usual queues of Linux.
    run("tc filter add dev lo parent 1: protocol ip prio 1 u32 match u16 52 0xffff at 2 flowid 1:99")
    for number in range(2, 2 + HOSTS):
        run(f"tc class add dev lo parent 1: classid 1:{number} htb rate {rate * 8:g}mbit burst 256k")
        run(f"tc filter add dev lo parent 1: protocol ip prio 2 u32 match ip src 127.0.0.{number}/32 flowid 1:{number}")


def host(folder: Path, number: int) -> dict[str, Any]:
    environment = {"HF_HUB_CACHE": str(folder / f"host{number}"), "MODELDECK_STATE_DIR": str(folder / f"state{number}")}
    return {"cls": Nanny, "options": {"nthreads": 1, "host": f"127.0.0.{number}", "env": environment}}


def scheduler() -> dict[str, Any]:
    return {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}


def main(folder: Path, rate: float) -> None:
    limit_links(rate)
    with (
        LocalHub() as hub,
        SpecCluster(
            workers={number: host(folder, number) for number in range(2, 2 + HOSTS)},
            scheduler=scheduler(),
        ) as dask_cluster,
        Client(dask_cluster) as client,
    ):
        client.wait_for_workers(HOSTS)
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])

        def put(repo_id: str, size_bytes: int) -> None:
            path = folder / f"{repo_id.replace('/', '--')}.gguf"
            template = f"{{# {repo_id} #}}{CHAT_TEMPLATE}"
            tiny_models.write_chat_model(path, size_bytes=size_bytes, chat_template=template)
            hub.add_repo(repo_id, {FILE: path}, gguf={})

        def seconds(repo_id: str, others: int, source: str = "peer") -> float:
            begun_at = time.monotonic()
            model = cluster.pull(
                client, f"{repo_id}:Q4_K_M", endpoint=hub.endpoint, workers=workers[: 1 + others], progress=False
            )
            assert model.failed == ()
            assert {str(pulled.source).split()[0] for pulled in model.hosts} == {"already", source}
            return time.monotonic() - begun_at

        def spread(repo_id: str, others: int) -> float:
            put(repo_id, SIZE_BYTES)
            cluster.pull(client, f"{repo_id}:Q4_K_M", endpoint=hub.endpoint, workers=workers[:1])
            os.sync()
            return seconds(repo_id, others)

        put("warm/up", 1 << 20)
        cluster.pull(client, "warm/up:Q4_K_M", endpoint=hub.endpoint)  # each engine starts with its first pull
        one, three = spread("one/copy", 1), spread("three/copies", 3)
        none = seconds("three/copies", 3, "already")
        ideal = SIZE_BYTES / rate / 1e6
        print(f"to one host: {one:.1f} s ({ideal:.1f} s at {rate:g} MB/s)")
        print(f"to three: {three:.1f} s, {three / one:.2f} copies")
        print(f"a pull that brings nothing, because all hosts have the model: {none:.1f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="modeldeck-benchmark-") as name:
        main(Path(name), float(sys.argv[1]) if sys.argv[1:] else RATE)
