"""An interrupt (Ctrl-C) of what waits for the workers: it ends the work there and raises KeyboardInterrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modeldeck import cluster
from modeldeck.cluster.plugin_shell import make_agent_plugin
from tests.cluster.conftest import (
    FILE,
    LONG_STORY_N_CTX,
    LONG_STORY_TOKENS,
    REAL,
    SIZE_BYTES,
    MakeSite,
    Site,
    is_empty,
    loaded,
    parts,
    running,
    wait_until,
)
from tests.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS
from tools.localhub.faults import Throttle

HOSTS = 3
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
from distributed import Client
from modeldeck import cluster
client = Client({address!r})
options = dict(endpoint={endpoint!r})
def wait_for_parent(word):
    print(word, flush=True)
    sys.stdin.readline()
{body}
"""
INTERRUPTED = """
try:
    {act}
except KeyboardInterrupt:
    wait_for_parent("interrupted")  # the client lives on: nothing ended because it is gone
"""


@pytest.fixture(scope="module")
def site(make_site: MakeSite, smollm2: Path) -> Site:
    site = make_site("a", "b", "c")
    site.hub.add_repo(REAL, {FILE: smollm2}, gguf={})
    return site


@contextmanager
def interrupted(site: Site, body: str, when: Callable[[], object]) -> Iterator[subprocess.Popen[str]]:
    """Run a program with a client of its own, and interrupt it at some time. Yield it when it has noticed."""
    code = PROGRAM.format(address=site.cluster.scheduler_address, endpoint=site.hub.endpoint, body=body)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        wait_until(when)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        yield process
        process.communicate("\n")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def is_half_way(site: Site) -> bool:
    """Return whether each host has begun with a partial file, and the hub has sent some of it."""
    return len(parts(site)) == 2 * HOSTS and site.bytes_served > SIZE_BYTES // 4


@pytest.mark.parametrize(
    "act",
    ['cluster.pull(client, "{}:Q4_K_M", **options)', 'cluster.Fleet(client, "{}:Q4_K_M", **options).__enter__()'],
    ids=["pull", "fleet"],
)
def test_an_interrupt_of_a_pull_pauses_it_on_all_hosts(site: Site, act: str, request: pytest.FixtureRequest) -> None:
    repo_id = f"{request.node.callspec.id}/model"
    content = site.put(repo_id)
    site.hub.faults.add(Throttle(SIZE_BYTES / 12, is_shared=True), origin="cdn")
    program = INTERRUPTED.format(act=act.format(repo_id))
    with interrupted(site, program, lambda: is_half_way(site)):
        left = parts(site)
        assert len(left) == 2 * HOSTS, "a part and a journal on each host"
        for path in left:
            path.rename(path.with_suffix(path.suffix + ".kept"))
        assert is_empty(site)
        for path in left:
            path.with_suffix(path.suffix + ".kept").rename(path)
    site.hub.faults.clear()
    site.hub.requests.clear()
    assert cluster.pull(site.client, f"{repo_id}:Q4_K_M", endpoint=site.hub.endpoint).failed == ()
    assert site.bytes_served < len(content), "it went on from what the hosts had"
    assert is_empty(site)


def test_an_interrupt_of_a_pull_that_has_not_begun_ends_it(site: Site) -> None:
    site.put("early/model")
    site.hub.faults.add(Throttle(1000.0), origin="cdn")  # the header, which is read first, takes minutes
    program = INTERRUPTED.format(act='cluster.pull(client, "early/model:Q4_K_M", **options)')
    with interrupted(site, program, lambda: site.hub.requests.to("cdn")):
        assert is_empty(site)
    site.hub.faults.clear()


def loading(site: Site) -> int:
    return sum(site.client.run(lambda dask_worker: len(dask_worker.extensions["modeldeck"].models._loading)).values())


@pytest.mark.llama
def test_an_interrupt_while_a_fleet_loads_its_model_ends_the_loads(site: Site) -> None:
    keeper = make_agent_plugin(site.client.id)
    site.client.register_plugin(keeper)

    def make_slow(dask_worker: Any) -> None:
        models = dask_worker.extensions["modeldeck"].models
        judge = models._judge

        def slow(*arguments: Any) -> None:
            (stop,) = models._loading.values()
            assert stop.wait(PATIENCE_SECONDS), "the load was not stopped"
            judge(*arguments)

        models._judge = slow

    site.client.run(make_slow)
    program = INTERRUPTED.format(act=f'cluster.Fleet(client, "{REAL}:Q4_K_M", per="worker", **options).__enter__()')
    with interrupted(site, program, lambda: loading(site) > 0):
        assert loading(site) == loaded(site) == 0
        site.client.unregister_worker_plugin(keeper.name)
        assert is_empty(site)


@pytest.mark.llama
def test_an_interrupt_of_a_map_cancels_its_prompts(site: Site) -> None:
    body = f"""
with cluster.Fleet(client, "{REAL}:Q4_K_M", n_ctx={LONG_STORY_N_CTX}, per="worker", n_threads=1, **options) as fleet:
    try:
        fleet.map(["Tell a story."] * 9, max_tokens={LONG_STORY_TOKENS}, temperature=0.0)
    except KeyboardInterrupt:
        wait_for_parent("interrupted")
    assert len(fleet.map(["A short one."] * 3, max_tokens=2)) == 3
wait_for_parent("closed")
"""
    with interrupted(site, body, lambda: running(site) == HOSTS) as process:
        wait_until(lambda: running(site) == 0, AT_ONCE_SECONDS)
        assert loaded(site) == HOSTS
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        assert is_empty(site)
