"""A Dask cluster of real processes, each worker a host with a cache of its own, and a hub."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster

from tools.localhub import LocalHub, tiny_models
from tools.localhub.tiny_models import CHAT_TEMPLATE

SIZE_BYTES = 24 << 20
FILE = "model-Q4_K_M.gguf"


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition did not hold in time"
        time.sleep(0.01)


@dataclass
class Site:
    """A running cluster with its client, its hub, and the caches of its workers by address."""

    cluster: SpecCluster
    client: Client
    hub: LocalHub
    folder: Path
    worker_spec: Callable[[str], Any]

    def cache(self, name: str) -> Path:
        return self.folder / name

    def address(self, name: str) -> str:
        return str(self.cluster.workers[name].worker_address)

    def put(self, repo_id: str, size_bytes: int = SIZE_BYTES) -> bytes:
        """Give the hub a model of its own, whose bytes no other repository has, and forget the hub's requests."""
        path = self.folder / f"{repo_id.replace('/', '--')}.gguf"
        tiny_models.write_chat_model(path, size_bytes=size_bytes, chat_template=f"{{# {repo_id} #}}{CHAT_TEMPLATE}")
        self.hub.add_repo(repo_id, {FILE: path}, gguf={})
        self.hub.requests.clear()
        return path.read_bytes()

    def blobs(self, name: str, repo_id: str) -> list[Path]:
        return sorted((self.cache(name) / f"models--{repo_id.replace('/', '--')}" / "blobs").glob("*"))

    def has_exactly(self, name: str, repo_id: str, content: bytes) -> bool:
        """Return whether a cache has the model and nothing else of the repository."""
        repository = self.cache(name) / f"models--{repo_id.replace('/', '--')}"
        (path,) = repository.glob(f"snapshots/*/{FILE}")
        names = [blob.name for blob in self.blobs(name, repo_id)]
        return path.read_bytes() == content and names == [hashlib.sha256(content).hexdigest()]

    def pid(self, name: str) -> int:
        return int(self.cluster.workers[name].pid)

    def add_worker(self, name: str) -> None:
        self.cluster.worker_spec[name] = self.worker_spec(name)
        self.cluster.sync(self.cluster._correct_state)
        self.client.wait_for_workers(len(self.cluster.worker_spec))

    @property
    def bytes_served(self) -> int:
        """Bytes of files that the hub has sent."""
        return sum(record.bytes_sent for record in self.hub.requests.to("cdn"))


MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """Start clusters whose workers have the given names. Workers whose names begin alike share a cache."""
    sites: list[Site] = []

    def make(*names: str, hub: LocalHub | None = None, **options: Any) -> Site:
        folder = tmp_path_factory.mktemp("site")
        hub = hub or LocalHub()
        hub.start()
        numbers = itertools.count(2)

        def worker_spec(name: str) -> Any:
            environment = {
                "HF_HUB_CACHE": str(folder / name.split("-")[0]),
                "MODELDECK_STATE_DIR": str(folder / f"state-{name}"),
                "MODELDECK_RUNTIME_DIR": str(folder / "run"),
            }
            host = f"127.0.0.{next(numbers)}"
            return {"cls": Nanny, "options": {"host": host, "nthreads": 1, "env": environment, **options}}

        site = Site(None, None, hub, folder, worker_spec)
        sites.append(site)
        site.cluster = SpecCluster(
            scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}},
            workers={name: worker_spec(name) for name in names},
            silence_logs=logging.CRITICAL,
        )
        site.client = Client(site.cluster)
        site.client.wait_for_workers(len(names))
        return site

    yield make
    for site in sites:
        if site.client is not None:
            site.client.close()
        if site.cluster is not None:
            site.cluster.close()
        site.hub.stop()
