"""A chain of hosts whose links are slow, in a network namespace where each host sends at most 50 MB/s."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from distributed import Client, SpecCluster

from benchmarks.cluster_links import HOSTS, host, limit_links, scheduler
from modeldeck import cluster
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, tiny_models

SIZE_BYTES = 32 << 20
UNSHARE = ["unshare", "--map-root-user", "--net"]


def may_limit_links() -> bool:
    """Return whether a network namespace can be made here, and links be limited in it."""
    if shutil.which("unshare") is None or shutil.which("tc") is None:
        return False
    attempt = [*UNSHARE, "tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb"]
    return subprocess.run(attempt, capture_output=True).returncode == 0


def sent_bytes() -> list[int]:
    """Return how many bytes each host has sent so far, as the kernel counts them."""
    text = subprocess.run(["tc", "-s", "class", "show", "dev", "lo"], capture_output=True, text=True, check=True).stdout
    counts = {
        int(number, 16): int(count) for number, count in re.findall(r"htb 1:(\w+) .*?Sent (\d+) bytes", text, re.S)
    }
    return [counts[number] for number in range(2, 2 + HOSTS)]


def main(folder: Path) -> None:
    """Bring a model to all hosts, and print what went where."""
    limit_links()
    hosts = {number: host(folder, number) for number in range(2, 2 + HOSTS)}
    with (
        LocalHub() as hub,
        SpecCluster(workers=hosts, scheduler=scheduler()) as dask_cluster,
        Client(dask_cluster) as client,
    ):
        client.wait_for_workers(HOSTS)
        path = folder / "model.gguf"
        tiny_models.write_chat_model(path, size_bytes=SIZE_BYTES)
        hub.add_repo("some/model", {"model-Q4_K_M.gguf": path}, gguf={})
        before = sent_bytes()
        model = cluster.pull(client, "some/model:Q4_K_M", endpoint=hub.endpoint, progress=False)
        sent = [after - count for after, count in zip(sent_bytes(), before, strict=True)]
        served = sum(record.bytes_sent for record in hub.requests.to("cdn"))
        sources = [str(each.source) for each in model.hosts]
        names = [each.host for each in model.hosts]
        found = {"size": path.stat().st_size, "served": served, "sources": sources, "hosts": names, "sent": sent}
        sys.stdout.write(json.dumps(found))


@pytest.mark.skipif(not may_limit_links(), reason="network namespaces or tc are not available")
def test_on_slow_links_each_host_sends_one_copy_to_the_next_and_the_hub_one_in_all() -> None:
    command = [*UNSHARE, sys.executable, "-m", __name__]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_SECONDS)
    found = json.loads(result.stdout)
    assert found["served"] <= 1.02 * found["size"] + (2 << 20)
    assert found["sources"] == ["hub", *(f"peer {name}" for name in found["hosts"][:-1])]
    *senders, last = sorted(found["sent"], reverse=True)
    assert all(found["size"] <= count <= 1.1 * found["size"] for count in senders)
    assert last < 0.1 * found["size"], "the end of the chain sends nothing"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
