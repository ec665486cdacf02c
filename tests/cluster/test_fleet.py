"""Prompts over the workers of a cluster."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client, WorkerPlugin

import modeldeck
from modeldeck import DoesNotFitError, InvalidRequestError, PromptKilledWorkerError, cluster, llama
from modeldeck._loop import LoopThread
from modeldeck.cluster.crew import WINDOW
from tests.cluster.conftest import (
    FILE,
    LONG_STORY_N_CTX,
    LONG_STORY_TOKENS,
    REAL,
    TINY,
    MakeSite,
    Site,
    is_empty,
    loaded,
    open_fleet,
    running,
    wait_until,
)
from tests.waiting import AT_ONCE_SECONDS
from tests.widget.test_cluster import open_page
from tools.localhub import tiny_models

pytestmark = pytest.mark.llama
PROMPTS = [f"{number} apples and {number} pears are" for number in range(1, 5)]


@pytest.fixture(scope="module")
def site(make_site: MakeSite, smollm2: Path) -> Site:
    site = make_site("m-0", "m-1", "m-2")
    site.hub.add_repo(REAL, {FILE: smollm2}, gguf={})
    site.put(TINY, 1 << 20)
    return site


@pytest.fixture
def fleet(site: Site) -> Iterator[cluster.Fleet]:
    """A fleet with a model that answers at once."""
    with open_fleet(site, TINY) as fleet:
        assert len(fleet.members) == len(site.cluster.workers)
        yield fleet


@pytest.fixture
def real_fleet(site: Site) -> Iterator[cluster.Fleet]:
    with open_fleet(site, REAL) as fleet:
        yield fleet


@pytest.fixture
def long_fleet(site: Site) -> Iterator[cluster.Fleet]:
    with open_fleet(site, REAL, LONG_STORY_N_CTX) as fleet:
        yield fleet


class Observer(WorkerPlugin):
    """Notes each prompt that a worker begins in a file, and ends the worker at a prompt that asks for it."""

    name = "observer"

    def __init__(self, path: str) -> None:
        self.path = path

    def setup(self, worker: Any) -> None:
        models = worker.extensions["modeldeck"].models
        answer = models.answer

        def observed(message: dict[str, Any]) -> Any:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{message['prompt']}\n".encode())
            os.close(descriptor)
            if "kill" in message["prompt"]:
                os._exit(1)
            time.sleep(0.1)  # a prompt that takes a while
            return answer(message)

        models.answer = observed

    def teardown(self, worker: Any) -> None:
        if "modeldeck" in worker.extensions:  # a worker that closes has already lost it
            del worker.extensions["modeldeck"].models.answer


@pytest.fixture
def begun(site: Site, fleet: cluster.Fleet, tmp_path: Path) -> Iterator[Path]:
    """A file with a line for each time that a prompt began."""
    path = tmp_path / "begun"
    path.touch()
    module = sys.modules[__name__]
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    site.client.register_plugin(Observer(str(path)))
    yield path
    site.client.unregister_worker_plugin("observer")
    cloudpickle.unregister_pickle_by_value(module)


def test_results_come_in_order_and_are_the_same_as_on_one_machine(real_fleet: cluster.Fleet, smollm2: Path) -> None:
    fleet = real_fleet
    greedy = fleet.map(PROMPTS, max_tokens=6, temperature=0.0)
    sampled = fleet.map(PROMPTS, max_tokens=6, temperature=0.9, seed=7)
    with modeldeck.load(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1) as llm:

        def local(prompt: str, **parameters: Any) -> str:
            llm.reset()
            return str(llm(prompt, max_tokens=6, **parameters)["choices"][0]["text"])

        assert greedy == [local(prompt, temperature=0.0) for prompt in PROMPTS]
        assert sampled == [local(prompt, temperature=0.9, seed=7 + i) for i, prompt in enumerate(PROMPTS)]
    assert sum(member.done for member in fleet.members) == 2 * len(PROMPTS)
    assert all(member.tokens_per_second for member in fleet.members)


def test_chats_whole_answers_and_results_as_they_come(fleet: cluster.Fleet) -> None:
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:3]]
    answers = fleet.map(chats, max_tokens=4, full=True)
    assert [answer["object"] for answer in answers] == ["chat.completion"] * 3
    assert sorted(fleet.as_completed(chats, max_tokens=4, temperature=0.0)) == sorted(
        enumerate(fleet.map(chats, max_tokens=4, temperature=0.0))
    )
    assert fleet.map([]) == []
    with pytest.raises(InvalidRequestError, match="Prompt 1 is neither"):
        fleet.map(["text", 5])
    with pytest.raises(InvalidRequestError, match="2 seeds for 1 prompts"):
        fleet.map(["text"], seed=[1, 2])


def test_an_error_has_the_index_of_its_prompt_and_is_not_repeated(fleet: cluster.Fleet, begun: Path) -> None:
    too_long = "word " * 600
    with pytest.raises(Exception, match="context window") as caught:
        fleet.map([*PROMPTS[:2], too_long, *PROMPTS[2:]], max_tokens=4)
    assert caught.value.prompt_index == 2  # type: ignore[attr-defined]
    assert "Prompt 2 of 5" in "".join(caught.value.__notes__)
    results = fleet.map([*PROMPTS[:2], too_long, *PROMPTS[2:]], max_tokens=4, return_exceptions=True)
    assert [index for index, result in enumerate(results) if isinstance(result, Exception)] == [2]
    assert begun.read_text().splitlines().count(too_long) == 2


@pytest.mark.parametrize(
    ("prompts", "parameters", "message"),
    [
        ("Hello", {}, "must be a list, not str"),
        (b"Hello", {}, "must be a list, not bytes"),
        ({"a": 1}, {}, "must be a list, not dict"),
        (None, {}, "must be a list, not NoneType"),
        ([["a", "b"]], {}, "Prompt 0 is neither"),
        ([b"ab"], {}, "Prompt 0 is neither"),
        (["a"], {"seed": 3.0}, "seed must be an int"),
        (["a", "b"], {"seed": "ab"}, "seed must be an int"),
        (["a"], {"stream": True}, "cannot stream"),
        (["a"], {"workers": ["tcp://127.0.0.1:1"]}, "where the fleet is made"),
        (["a"], {"n_gpu_layers": 0}, "where the fleet is made"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_pulled(
    site: Site, prompts: Any, parameters: dict[str, Any], message: str
) -> None:
    site.hub.requests.clear()
    with pytest.raises(InvalidRequestError, match=message):
        cluster.map(site.client, f"{TINY}:Q4_K_M", prompts, endpoint=site.hub.endpoint, **parameters)
    assert not site.hub.requests.to("hub")


@pytest.mark.parametrize(
    "options", [{"workers": "tcp://127.0.0.1:1"}, {"workers": [0]}, {"cancel": True}, {"path": ""}]
)
def test_an_option_that_makes_no_sense_is_refused(site: Site, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be a list of addresses|has no option"):
        cluster.Fleet(site.client, f"{TINY}:Q4_K_M", **options)


def test_a_fleet_is_entered_once_at_a_time_and_a_seed_may_be_of_numpy(fleet: cluster.Fleet) -> None:
    with pytest.raises(InvalidRequestError, match="open already"), fleet:
        pass
    sampled = [fleet.map(PROMPTS, max_tokens=3, seed=seed) for seed in (3, np.int64(3), range(3, 3 + len(PROMPTS)))]
    assert sampled[0] == sampled[1] == sampled[2]


def test_what_cannot_be_sent_to_the_workers_is_an_error_of_its_prompt(fleet: cluster.Fleet) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot be sent to the workers: cannot pickle '_thread\.lock'"):
        fleet.map(PROMPTS, stop=threading.Lock())
    results = fleet.map(PROMPTS * 3, stop=threading.Lock(), return_exceptions=True)
    assert [error.prompt_index for error in results] == list(range(len(PROMPTS) * 3))
    chat = [{"role": "user", "content": threading.Lock()}]
    results = fleet.map([PROMPTS[0], chat, PROMPTS[1]], max_tokens=2, return_exceptions=True)
    assert [type(result) for result in results] == [str, InvalidRequestError, str]
    assert len(fleet.map(PROMPTS, max_tokens=2)) == len(PROMPTS), "another map is answered"


def test_a_killed_worker_repeats_at_most_what_it_had(site: Site, fleet: cluster.Fleet, begun: Path) -> None:
    """That is the prompt that it was answering, and one whose answer was lost on its way."""
    prompts = [f"Story {number}:" for number in range(15)]
    job = fleet.submit(prompts, max_tokens=4)
    wait_until(lambda: job.progress.done >= 3)
    site.kill("m-1")
    texts = job.result()
    counts = Counter(begun.read_text().splitlines())
    assert set(counts) == set(prompts)
    assert sum(counts.values()) <= len(prompts) + WINDOW
    assert all(isinstance(text, str) for text in texts)
    wait_until(lambda: len(fleet.members) == 3)  # its nanny has started it again


def test_a_prompt_that_kills_its_worker_is_repeated_once_and_named(
    site: Site, fleet: cluster.Fleet, begun: Path
) -> None:
    prompts = [*PROMPTS[:2], "kill", *PROMPTS[2:]]
    results = fleet.map(prompts, max_tokens=4, return_exceptions=True)
    error = results[2]
    assert isinstance(error, PromptKilledWorkerError)
    assert (error.index, len(set(error.workers))) == (2, 2)
    assert "Prompt 2" in str(error)
    assert begun.read_text().splitlines().count("kill") == 2
    assert all(isinstance(result, str) for index, result in enumerate(results) if index != 2)


def test_cancel_reaches_llama_cpp(site: Site, long_fleet: cluster.Fleet) -> None:
    fleet = long_fleet
    prompts = [f"Tell story {number}." for number in range(12)]
    job = fleet.submit(prompts, max_tokens=LONG_STORY_TOKENS, temperature=0.0)
    wait_until(lambda: running(site) == 3)
    progress = job.cancel()
    wait_until(lambda: running(site) == 0, AT_ONCE_SECONDS)  # it does not wait for the end of the stories
    assert progress.done == 0
    assert job.progress.is_over
    with pytest.raises(CancelledError):
        job.result()
    for _ in fleet.as_completed(["Short:", "Short:", "Short:", *["Long:"] * 6], max_tokens=20, temperature=0.0):
        break  # leaving the loop early cancels what is left
    wait_until(lambda: running(site) == 0)
    assert len(fleet.map(PROMPTS, max_tokens=2)) == len(PROMPTS), "the models can be used again"


def test_a_restart_of_the_cluster_is_survived(site: Site, fleet: cluster.Fleet, begun: Path) -> None:
    job = fleet.submit([f"Poem {number}:" for number in range(30)], max_tokens=4)
    wait_until(lambda: job.progress.done)
    site.client.restart()
    assert len(job.result()) == 30


def test_nothing_stays_on_the_workers_after_the_end(site: Site, fleet: cluster.Fleet) -> None:
    fleet.map(PROMPTS, max_tokens=2)
    assert not is_empty(site)
    with open_fleet(site, TINY) as other:
        fleet.close()
        assert len(other.map(PROMPTS, max_tokens=2)) == len(PROMPTS), "the other fleet has lost nothing"
    assert is_empty(site)
    with pytest.raises(InvalidRequestError, match="not open"):
        fleet.map(PROMPTS)


def test_a_client_that_dies_leaves_no_model_behind(site: Site) -> None:
    code = f"""
from distributed import Client
from modeldeck import cluster
client = Client({site.cluster.scheduler_address!r})
fleet = cluster.Fleet(client, "{REAL}:Q4_K_M", n_ctx=512, per="worker", endpoint={site.hub.endpoint!r})
fleet.__enter__()
fleet.submit(["Tell a story."] * 9, max_tokens=450)
import time
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: running(site) == 3)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: loaded(site) == 0)
    with open_fleet(site, TINY):
        pass
    assert is_empty(site), "the next one has removed what the dead one left"


def test_an_asynchronous_client_awaits_everything(site: Site) -> None:
    async def use() -> None:
        options: dict[str, Any] = {"n_ctx": 512, "per": "worker", "endpoint": site.hub.endpoint}
        async with (
            Client(site.cluster.scheduler_address, asynchronous=True) as client,
            cluster.Fleet(client, f"{TINY}:Q4_K_M", **options) as fleet,
        ):
            texts = await fleet.map(PROMPTS, max_tokens=3, temperature=0.0)
            assert texts == await fleet.submit(PROMPTS, max_tokens=3, temperature=0.0)
            seen = {index: text async for index, text in fleet.as_completed(PROMPTS, max_tokens=3, temperature=0.0)}
            assert [seen[index] for index in range(len(PROMPTS))] == texts

    asyncio.run(use())
    assert is_empty(site)


def test_what_would_wait_on_the_loop_of_an_asynchronous_client_is_refused(site: Site) -> None:
    target = f"{TINY}:Q4_K_M"

    async def use() -> None:
        async with Client(site.cluster.scheduler_address, asynchronous=True) as client:
            refused = pytest.raises(InvalidRequestError, match="use async with, async for and await")
            fleet = cluster.Fleet(client, target, n_ctx=512, per="worker", endpoint=site.hub.endpoint)
            with refused, fleet:
                pass
            pull = cluster.pull(client, target, endpoint=site.hub.endpoint, wait=False)
            with refused:
                pull.result()
            assert (await pull).failed == ()
            async with fleet:
                job = fleet.submit(PROMPTS, max_tokens=3)
                with refused:
                    job.result()
                assert len(await job) == len(PROMPTS)
                with refused:
                    next(iter(fleet.submit(PROMPTS, max_tokens=3)))
                assert len(await fleet.map(PROMPTS, max_tokens=3)) == len(PROMPTS)

    asyncio.run(use())
    assert is_empty(site)


@pytest.fixture
def leave(site: Site) -> Iterator[Callable[[int], None]]:
    """A function that lets Dask leave each worker this many bytes more than it has now."""

    def limit(spare_bytes: int, dask_worker: Any) -> None:
        manager = dask_worker.memory_manager
        dask_worker.limit_before = manager.memory_limit
        used_bytes = psutil.Process().memory_info().rss
        manager.memory_limit = int((used_bytes + spare_bytes) / manager.memory_pause_fraction)

    def restore(dask_worker: Any) -> None:
        dask_worker.memory_manager.memory_limit = dask_worker.limit_before

    yield lambda spare_bytes: site.client.run(limit, spare_bytes)
    site.client.run(restore)


def test_the_memory_is_judged_for_the_options_of_the_load(
    site: Site, smollm2: Path, leave: Callable[[int], None]
) -> None:
    def options(cache_type: int) -> dict[str, Any]:
        return {"n_ctx": 8192, "flash_attn": True, "type_k": cache_type, "type_v": cache_type}

    f16, q8_0 = options(1), options(8)
    needed = [llama.plan(smollm2, **each).fit.needed_bytes or 0 for each in (f16, q8_0)]
    with open_fleet(site, REAL):
        pass  # what is imported for a load is in the memory now
    leave(sum(needed) // 2)
    with cluster.Fleet(site.client, f"{REAL}:Q4_K_M", endpoint=site.hub.endpoint, **q8_0) as fleet:
        assert fleet.map(PROMPTS[:1], max_tokens=2)
    with (
        pytest.raises(DoesNotFitError, match="memory_limit is"),
        cluster.Fleet(site.client, f"{REAL}:Q4_K_M", endpoint=site.hub.endpoint, **f16),
    ):
        pass


def test_the_memory_is_judged_without_the_projector_which_is_not_loaded(
    site: Site, tmp_path: Path, leave: Callable[[int], None]
) -> None:
    model = tiny_models.write_chat_model(tmp_path / "model.gguf", size_bytes=1 << 20)
    projector = tiny_models.write_projector(tmp_path / "mmproj-F16.gguf")
    os.truncate(projector, 256 << 20)
    site.hub.add_repo("seeing/model", {FILE: model, projector.name: projector}, gguf={})
    with open_fleet(site, TINY):
        pass
    leave(128 << 20)
    with open_fleet(site, "seeing/model") as fleet:
        assert fleet.map(PROMPTS[:1], max_tokens=2)


def test_a_worker_that_joins_takes_part(site: Site, fleet: cluster.Fleet) -> None:
    site.add_worker("late")
    wait_until(lambda: len(fleet.members) == 4)
    assert site.blobs("late", TINY)
    assert len(fleet.map(PROMPTS, max_tokens=2)) == len(PROMPTS)


def test_a_cluster_that_shrinks_loses_no_prompt(site: Site, fleet: cluster.Fleet, begun: Path) -> None:
    prompts = [f"Song {number}:" for number in range(24)]
    job = fleet.submit(prompts, max_tokens=4)
    wait_until(lambda: job.progress.done >= 2)
    site.retire_worker("late")
    assert len(job.result()) == len(prompts)
    assert len(fleet.members) == 3


def test_all_in_one_call(site: Site) -> None:
    texts = cluster.map(
        None, f"{TINY}:Q4_K_M", PROMPTS[:2], max_tokens=3, n_ctx=512, endpoint=site.hub.endpoint, temperature=0.0
    )
    assert len(texts) == 2
    assert is_empty(site)


def test_the_widget_shows_what_is_mapped_and_cancels_it(
    site: Site, real_fleet: cluster.Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that began before the widget, and one that begins while it is shown."""
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    first = real_fleet.submit(PROMPTS * 50, max_tokens=16)
    loop = LoopThread("widget-on-a-fleet")
    page = open_page(site.client, site.hub.endpoint, tmp_path, loop)
    try:

        def maps() -> Any:
            return page.traits["cluster"]["maps"]

        page.until(lambda: maps() and maps()[0]["done"] > 2)
        (shown,) = maps()
        assert (shown["target"], shown["total"], shown["failed"]) == (f"{REAL}:Q4_K_M", len(PROMPTS) * 50, 0)
        assert [host["host"] for host in shown["hosts"]] == sorted({member.host for member in real_fleet.members})
        assert all(host["tokens_per_second"] > 0 for host in shown["hosts"])
        assert page.act("cancel", shown["job_id"])["ok"]
        with pytest.raises(CancelledError):
            first.result()
        page.until(lambda: maps() == [])

        second = real_fleet.submit(PROMPTS * 20, max_tokens=16)
        page.until(lambda: maps() and maps()[0]["total"] == len(PROMPTS) * 20)
        second.cancel()
        page.until(lambda: maps() == [])
    finally:
        page.close()
        loop.stop()
