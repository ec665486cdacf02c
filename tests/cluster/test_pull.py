"""One download from the Hub for all hosts."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from distributed import Client

from modeldeck import GatedError, HubError, NetworkError, RemoteFileNotFoundError, cluster
from modeldeck._types import DownloadState
from modeldeck.cluster.plugin_shell import make_agent_plugin
from tests.cluster.conftest import FILE, SIZE_BYTES, MakeSite, Site, wait_until
from tools.localhub.faults import Reply, Throttle

HEADER_BYTES = 2 << 20


@pytest.fixture(scope="module")
def whole_site(make_site: MakeSite) -> Site:
    site = make_site("a", "b", "c", "d-0", "d-1")
    site.client.register_plugin(make_agent_plugin(site.client.id))  # so that what is patched stays until the next pull
    return site


@pytest.fixture
def site(whole_site: Site) -> Site:
    forget_faults(whole_site)
    return whole_site


def forget_faults(site: Site) -> None:
    site.hub.faults.clear()


def pull(site: Site, repo_id: str, **options: Any) -> Any:
    return cluster.pull(site.client, f"{repo_id}:Q4_K_M", endpoint=site.hub.endpoint, **options)


def slow_down(site: Site, seconds: float, *, free_bytes: int = 0) -> None:
    """Let the whole model take this long, less what comes at once."""
    site.hub.faults.add(Throttle(SIZE_BYTES / seconds, is_shared=True, free_bytes=free_bytes), origin="cdn")


def slow_host(site: Site, name: str, seconds: float = 0.4) -> None:
    """Let a host give one block after the other, each after this long. With 0 it gives them at once again."""

    def patch(seconds: float, dask_worker: Any) -> None:
        agent = dask_worker.extensions["modeldeck"]
        turn = asyncio.Lock()

        async def chunk(**arguments: Any) -> Any:
            async with turn:
                await asyncio.sleep(seconds)
            if agent._methods["chunk"] is not chunk:  # the host that asked is gone: read no more for it
                return {"state": "gone"}
            return await agent.copies.chunk(**arguments)

        agent._methods["chunk"] = chunk if seconds else agent.copies.chunk

    site.client.run(patch, seconds, workers=[site.address(name)])


def is_once(site: Site, content: bytes) -> bool:
    """Return whether the hub has sent a small model once, beside the header that is read before a download."""
    return site.bytes_served <= 1.02 * len(content) + HEADER_BYTES


def sources(model: cluster.PulledModel | cluster.PullSnapshot) -> list[str]:
    return [str(host.source).split()[0] for host in model.hosts]


def test_the_hub_serves_a_model_once_whatever_the_number_of_hosts(site: Site) -> None:
    content = site.put("one/model")
    seen: list[cluster.PullSnapshot] = []
    model = pull(site, "one/model", progress=seen.append)
    assert model.failed == ()
    assert sources(model) == ["hub", "peer", "peer", "peer"]
    assert [len(host.workers) for host in model.hosts] == [1, 1, 1, 2]
    assert is_once(site, content)
    assert all(site.has_exactly(name, "one/model", content) for name in "abcd")
    assert not list(site.folder.glob("*/.modeldeck-*")), "a marker was left behind"
    assert seen[-1].received == seen[-1].total == 4 * len(content)

    site.hub.requests.clear()
    again = pull(site, "one/model")
    assert [host.source for host in again.hosts] == ["already there"] * 4
    assert site.bytes_served == 0


def test_pulls_of_one_model_at_the_same_time_share_its_download(site: Site) -> None:
    content = site.put("shared/model")
    with ThreadPoolExecutor(2) as pool, Client(site.cluster.scheduler_address) as other:

        def pull_with(client: Client) -> Any:
            return cluster.pull(client, "shared/model:Q4_K_M", endpoint=site.hub.endpoint)

        slow_down(site, 4.0)  # so that both are there while it runs
        fresh = list(pool.map(pull_with, (site.client, other)))
        assert [model.failed for model in fresh] == [(), ()]
        assert site.bytes_served <= 1.02 * len(content) + 2 * HEADER_BYTES, "each of them reads the header"
        for _ in range(4):
            assert [model.failed for model in pool.map(pull_with, (site.client, other))] == [(), ()]
    assert all(site.has_exactly(name, "shared/model", content) for name in site.caches)


def test_a_worker_that_joins_later_takes_the_model_from_a_host(site: Site) -> None:
    content = site.put("late/model")
    given = read_from_peers(site, lambda: pull(site, "late/model"))
    assert max(given.values()) <= len(content), "a chain: no host sends more than one copy"
    assert sum(given.values()) == 3 * len(content)
    site.hub.requests.clear()
    site.add_worker("e")
    model = pull(site, "late/model")
    assert sorted(sources(model)) == ["already"] * 4 + ["peer"]
    assert site.bytes_served == 0
    assert site.has_exactly("e", "late/model", content)


def test_a_host_that_fails_says_why_and_the_others_finish(site: Site) -> None:
    content = site.put("partly/model")
    obstacle = site.cache("b") / "models--partly--model"
    obstacle.write_text("in the way")
    job = pull(site, "partly/model", wait=False)
    model = job.result()
    (failed,) = model.failed
    assert failed.workers == (site.address("b"),)
    assert failed.error is not None
    assert failed.error.code == "storage"
    assert site.has_exactly("a", "partly/model", content)
    assert site.has_exactly("c", "partly/model", content)
    obstacle.unlink()
    job.retry()
    assert job.result().failed == ()
    assert site.has_exactly("b", "partly/model", content)
    assert is_once(site, content)


def test_a_host_that_sends_wrong_bytes_is_left_out(site: Site) -> None:
    content = site.put("wrong/model")
    slow_down(site, 1.0)

    def corrupt(dask_worker: Any) -> None:
        copies = dask_worker.extensions["modeldeck"]
        right = copies._methods["chunk"]

        async def wrong(**arguments: Any) -> Any:
            from distributed.protocol import to_serialize

            answer = await right(**arguments)
            if answer["state"] == "here":
                data = bytearray(answer["data"].data)
                data[len(data) // 2] ^= 1
                answer["data"] = to_serialize(memoryview(data))
            return answer

        copies._methods["chunk"] = wrong

    def mend(dask_worker: Any) -> None:
        agent = dask_worker.extensions["modeldeck"]
        agent._methods["chunk"] = agent.copies.chunk

    relay = site.address("b")
    site.client.run(corrupt, workers=[relay])
    try:
        model = pull(site, "wrong/model")
    finally:
        site.client.run(mend, workers=[relay])
    assert model.failed == ()
    left_out = [host.left_out for host in model.hosts if host.left_out]
    assert left_out == [(name,) for name in [model.hosts[1].host]]
    assert all(site.has_exactly(name, "wrong/model", content) for name in site.caches)
    assert is_once(site, content)


def test_a_paused_pull_goes_on_from_what_the_hosts_have(site: Site) -> None:
    content = site.put("half/model")
    pull(site, "half/model", workers=[site.address("a")])
    slow_host(site, "a", 1.5)
    job = pull(site, "half/model", wait=False)
    wait_until(lambda: all(host.received for host in job.snapshot.hosts) and job.snapshot.hosts)
    job._stop("pause")
    slow_host(site, "a", 0)
    states = {host.host: host.state for host in job.snapshot.hosts}
    assert list(states.values()) == [DownloadState.READY, *[DownloadState.PAUSED] * (len(site.caches) - 1)]
    partials = {path: path.stat().st_blocks for name in site.caches[1:] for path in site.blobs(name, "half/model")}
    assert all(partials.values())
    fetched = read_from_peers(site, lambda: pull(site, "half/model"))
    assert max(fetched.values()) < len(content), "what was received was fetched again"
    assert is_once(site, content)
    assert all(site.has_exactly(name, "half/model", content) for name in site.caches)


def read_from_peers(site: Site, act: Callable[[], object]) -> dict[str, int]:
    """Return how many bytes each worker has given to others meanwhile."""

    def begin(dask_worker: Any) -> None:
        agent = dask_worker.extensions["modeldeck"]
        agent.given = 0

        async def chunk(**arguments: Any) -> Any:
            answer = await agent.copies.chunk(**arguments)
            if answer["state"] == "here":
                agent.given += arguments["stop"] - arguments["start"]
            return answer

        agent._methods["chunk"] = chunk

    def end(dask_worker: Any) -> int:
        agent = dask_worker.extensions["modeldeck"]
        agent._methods["chunk"] = agent.copies.chunk
        return int(agent.given)

    site.client.run(begin)
    try:
        act()
    finally:
        given = site.client.run(end)
    return dict(given)


def test_a_cancelled_pull_leaves_nothing_behind(site: Site) -> None:
    site.put("given-up/model")
    slow_down(site, 20.0)
    job = pull(site, "given-up/model", wait=False)
    wait_until(lambda: any(host.received for host in job.snapshot.hosts))
    snapshot = job.cancel()
    assert {host.state for host in snapshot.hosts} == {DownloadState.CANCELLED}
    assert not any(site.blobs(name, "given-up/model") for name in site.caches)


@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_host_that_dies_does_not_stop_the_others(site: Site, victim: str) -> None:
    """Neither the one that downloads, nor one in the middle of the chain."""
    repo_id = f"dying-{victim}/model"
    content = site.put(repo_id)
    if victim == "a":
        slow_down(site, 120.0, free_bytes=len(content) // 4)
    else:
        pull(site, repo_id, workers=[site.address("a")])
        slow_host(site, "a")
    job = pull(site, repo_id, wait=False)
    dying = site.address(victim)

    def received() -> int:
        return next((host.received for host in job.snapshot.hosts if dying in host.workers), 0)

    wait_until(lambda: received() > len(content) * 11 // 40)  # seconds after the burst, so that its journal is written
    site.kill(victim)
    forget_faults(site)
    (failed,) = job.result().failed
    assert failed.workers == (dying,)
    assert failed.error is not None
    assert "left the cluster" in failed.error.message
    assert site.bytes_served <= (1.02 + 0.5 * (victim == "a")) * len(content) + HEADER_BYTES
    site.client.wait_for_workers(len(site.cluster.workers))
    wait_until(lambda: site.address(victim) != dying)
    served = site.bytes_served
    fetched = read_from_peers(site, lambda: pull(site, repo_id))
    assert site.bytes_served <= served + HEADER_BYTES
    assert 0 < sum(fetched.values()) < len(content), "it went on from its part"
    assert all(site.has_exactly(each, repo_id, content) for each in site.caches)


def test_an_asynchronous_client_gets_awaitables(site: Site) -> None:
    content = site.put("async/model")

    async def use() -> None:
        async with Client(site.cluster.scheduler_address, asynchronous=True) as client:
            model = await cluster.pull(client, "async/model:Q4_K_M", endpoint=site.hub.endpoint)
            assert model.failed == ()
            job = cluster.pull(client, "async/model:Q4_K_M", endpoint=site.hub.endpoint, wait=False)
            assert (await job).failed == ()

    asyncio.run(use())
    assert is_once(site, content)


def test_the_hubs_own_refusals_arrive_as_the_errors_they_are(site: Site) -> None:
    site.put("named/model")
    with pytest.raises(RemoteFileNotFoundError, match="Q8_0"):
        cluster.pull(site.client, "named/model:Q8_0", endpoint=site.hub.endpoint)


def test_the_token_reaches_the_hub_and_no_log(site: Site) -> None:
    token = "hf_secretsecretsecret"
    site.put("gated/model")
    site.hub.add_repo("gated/model", {FILE: site.folder / "gated--model.gguf"}, gguf={}, gated="manual")
    site.hub.grant(token, "gated/model")
    with pytest.raises(GatedError):
        pull(site, "gated/model", token=False)
    assert pull(site, "gated/model", token=token).failed == ()
    logs = site.client.get_worker_logs(), site.client.get_scheduler_logs()
    plugins = site.client.run_on_scheduler(lambda dask_scheduler: repr(dask_scheduler.worker_plugins))
    assert token not in repr((logs, plugins, site.client.get_events()))


@pytest.mark.parametrize("is_reachable", [True, False], ids=["refused", "unreachable"])
def test_the_token_goes_only_to_the_workers_that_ask_the_hub(site: Site, is_reachable: bool) -> None:
    repo_id = f"asked-{is_reachable}/model"
    site.put(repo_id)
    site.hub.grant("hf_secret", repo_id)

    def record(dask_worker: Any) -> None:
        agent = dask_worker.extensions["modeldeck"]
        methods, agent.seen = dict(agent._methods), []

        def recorded(name: str) -> Callable[..., Any]:
            async def method(**arguments: Any) -> Any:
                settings = arguments["settings"]
                token = None if settings is None else getattr(settings, "data", settings).token
                agent.seen.append((name, bool(arguments.get("is_cache_only")), token))
                return await methods[name](**arguments)

            return method

        agent._methods.update(resolve=recorded("resolve"), pull=recorded("pull"))

    def seen(dask_worker: Any) -> list[tuple[str, bool, str | None]]:
        agent = dask_worker.extensions["modeldeck"]
        agent._methods.update(resolve=agent._resolve, pull=agent.copies.pull)
        return list(agent.seen)

    if is_reachable:
        site.hub.faults.add(Reply(401), origin="hub")
    endpoint = site.hub.endpoint if is_reachable else "http://127.0.0.1:9"
    site.client.run(record)
    try:
        with pytest.raises((HubError, NetworkError)):
            cluster.pull(site.client, f"{repo_id}:Q4_K_M", endpoint=endpoint, token="hf_secret")
        forget_faults(site)
        pull(site, repo_id, token="hf_secret")
    finally:
        found = list(site.client.run(seen).values())
    hosts, asked = len(site.caches), 1 if is_reachable else len(site.caches)
    assert Counter(call for calls in found for call in calls) == {
        ("resolve", False, "hf_secret"): asked + 1,  # the Hub, in vain and then not
        ("resolve", True, None): hosts,  # the caches
        ("pull", False, "hf_secret"): 1,
        ("pull", False, None): hosts - 1,
    }


@pytest.mark.skipif(not hasattr(psutil.Process, "io_counters"), reason="the system does not tell what a process reads")
def test_a_host_does_not_read_ahead_of_one_that_takes_nothing(site: Site) -> None:
    size_bytes = 128 << 20
    site.put("big/model", size_bytes)
    addresses = [site.address(name) for name in "ab"]
    giver, taker = (psutil.Process(site.pid(name)) for name in "ab")
    pull(site, "big/model", workers=addresses[:1])
    before, has_read = giver.memory_info().rss, giver.io_counters().read_chars
    job = pull(site, "big/model", workers=addresses, wait=False)
    wait_until(lambda: giver.io_counters().read_chars > has_read + (4 << 20))
    taker.suspend()
    try:
        for _ in range(200):  # this often, the giver has time for other things
            site.client.run(os.getpid, workers=addresses[:1])
        assert giver.memory_info().rss - before < 32 << 20
    finally:
        taker.resume()
    assert job.result().failed == ()


@pytest.mark.parametrize("is_reachable", [True, False], ids=["removed", "unreachable"])
def test_a_model_that_only_one_host_has_is_taken_from_there(site: Site, is_reachable: bool) -> None:
    repo_id = f"rare-{is_reachable}/model"
    content = site.put(repo_id)
    pull(site, repo_id, workers=[site.address("c")])
    endpoint = site.hub.endpoint if is_reachable else "http://127.0.0.1:9"
    if is_reachable:
        site.hub.faults.add(Reply(404, headers={"X-Error-Code": "RepoNotFound"}), origin="hub")
    with pytest.warns(UserWarning, match="has it in its cache, and the others take it from there"):
        model = cluster.pull(site.client, f"{repo_id}:Q4_K_M", endpoint=endpoint)
    assert model.failed == ()
    assert sorted(sources(model)) == ["already", *["peer"] * (len(model.hosts) - 1)]
    assert all(site.has_exactly(name, repo_id, content) for name in "abcd")
    with pytest.raises((HubError, NetworkError)):
        cluster.pull(site.client, "unknown/model:Q4_K_M", endpoint=endpoint)
