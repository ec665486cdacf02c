"""A client that is closed, or whose cluster goes away, while something waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from modeldeck import ClusterError, cluster
from tests.cluster.conftest import FILE, SIZE_BYTES, TINY, wait_until
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, tiny_models
from tools.localhub.faults import Throttle

Place = tuple[Client, Callable[[], object]]
"""A client, and what ends it."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub() as hub:
        path = tiny_models.write_chat_model(tmp_path / "model.gguf", size_bytes=SIZE_BYTES)
        hub.add_repo(TINY, {FILE: path}, gguf={})
        yield hub


@pytest.fixture
def options(hub: LocalHub, tmp_path: Path) -> dict[str, Any]:
    return {"endpoint": hub.endpoint, "cache_dir": tmp_path / "hub", "token": False}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A cluster of one worker, and a client that ends in the way that the test names."""
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    with ExitStack() as stack:
        if request.param == "the scheduler dies":
            scheduler_file = tmp_path / "scheduler.json"
            scheduler = start(stack, "dask_scheduler", scheduler_file, "--port", "0", "--no-dashboard")
            start(stack, "dask_worker", scheduler_file, "--nthreads", "1", "--no-dashboard", "--no-nanny")
            wait_until(scheduler_file.exists)
            client = stack.enter_context(Client(scheduler_file=str(scheduler_file), timeout=5, set_as_default=False))
            client.wait_for_workers(1)
            yield client, scheduler.kill
            return
        here = stack.enter_context(
            LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0)
        )
        # A client of an address has a loop of its own, which ends with it. The other one has that of the cluster.
        address = here.scheduler_address if request.param == "its loop ends" else here
        client = stack.enter_context(Client(address, set_as_default=False))
        yield client, here.close if request.param == "the cluster is closed" else client.close


def start(stack: ExitStack, program: str, scheduler_file: Path, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(scheduler_file), *arguments],
        env={**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


WAYS = ["its loop ends", "its loop goes on", "the cluster is closed", "the scheduler dies"]


@pytest.mark.llama
@pytest.mark.parametrize("place", WAYS, indirect=True)
def test_a_map_ends_with_its_client_and_everything_says_so(place: Place, options: dict[str, Any]) -> None:
    client, end = place
    fleet = cluster.Fleet(client, f"{TINY}:Q4_K_M", n_ctx=512, **options)
    with fleet, ThreadPoolExecutor(1) as pool:
        job = fleet.submit(["Once upon a time"] * 4000, max_tokens=400, return_exceptions=True)
        wait_until(lambda: job.progress.done)
        waiting = pool.submit(job.result, PATIENCE_SECONDS)
        end()
        with pytest.raises(ClusterError, match="client is closed"):
            waiting.result()
        for act in (job.result, job.cancel, lambda: fleet.submit(["A text."]), lambda: fleet.map(["A text."])):
            with pytest.raises(ClusterError, match="client is closed"):
                act()
        wait_until(lambda: job.progress.is_over)
        assert job.progress.failed == 0, "a prompt has no error of its own"
    assert fleet.close() is None
    with pytest.raises(ClusterError, match="client is closed"):
        fleet.__enter__()


@pytest.mark.parametrize("place", WAYS[:2], indirect=True)
def test_a_pull_ends_with_its_client_and_says_so(place: Place, hub: LocalHub, options: dict[str, Any]) -> None:
    client, end = place
    hub.faults.add(Throttle(SIZE_BYTES / 60, is_shared=True), origin="cdn")
    job = cluster.pull(client, f"{TINY}:Q4_K_M", wait=False, **options)
    with ThreadPoolExecutor(1) as pool:
        wait_until(lambda: job.snapshot.received)
        waiting = pool.submit(job.result, PATIENCE_SECONDS)
        end()
        with pytest.raises(ClusterError, match="client is closed"):
            waiting.result()
    for act in (job.result, job.cancel, lambda: cluster.pull(client, f"{TINY}:Q4_K_M", **options)):
        with pytest.raises(ClusterError, match="client is closed"):
            act()
