"""Models for all hosts of a Dask cluster, from the cards of the widget."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from modeldeck import ClusterError, ModelBrowser, Session
from modeldeck._loop import LoopThread
from modeldeck._types import SearchQuery
from modeldeck.widget.bridge import Bridge
from modeldeck.widget.browser import _Traits
from tests.cluster.conftest import FILE, MakeSite, Site, make_site  # noqa: F401 - a fixture
from tests.widget.pages import Page
from tools.localhub import tiny_models
from tools.localhub.faults import Throttle

SIZE_BYTES = 24 << 20


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Site:  # noqa: F811
    return make_site("a", "b-0", "b-1")


@pytest.fixture
def page(site: Site, tmp_path: Path, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    site.hub.faults.clear()
    page = open_page(site.client, site.hub.endpoint, tmp_path, loop)
    yield page
    page.close()


def open_page(client: Any, endpoint: str, folder: Path, loop: LoopThread) -> Page:
    page = Page()
    session = Session(endpoint=endpoint, cache_dir=folder / "cache", token=False, inline=True)
    query = SearchQuery(text="model", limit=3)
    page.bridge = Bridge(page, loop, session, query=query, revision="main", n_ctx=1024, client=client)
    page.traits = {name.removeprefix("_"): value for name, value in page.bridge.initial_state().items()}
    page.close = loop.start(page.bridge.run()).cancel
    return page


def hosts(page: Page) -> list[dict[str, Any]]:
    """The hosts of the only pull."""
    (found,) = page.traits["cluster"]["pulls"].values()
    return list(found)


def job(page: Page) -> dict[str, Any]:
    (found,) = page.jobs()
    return found


def test_a_download_brings_the_model_to_every_host(site: Site, page: Page) -> None:
    content = site.put("all/model")
    site.hub.faults.add(Throttle(SIZE_BYTES / 4, is_shared=True), origin="cdn")
    assert page.ask("open_repo", repo_id="all/model")["ok"]
    assert page.act_on("all/model", FILE, "download")["ok"]
    page.until(lambda: page.jobs() and job(page)["state"] == "ready")
    assert [(host["state"], host["source"]) for host in hosts(page)] == [("ready", "hub"), ("ready", "peer")]
    assert hosts(page)[1]["peer"] == hosts(page)[0]["host"]
    assert job(page)["received"] == job(page)["total"] == 2 * len(content)
    assert job(page)["actions"] == ["dismiss"]
    assert all(site.has_exactly(name, "all/model", content) for name in "ab")
    assert page.toasts("success") == ["Q4_K_M of all/model is downloaded and verified."]

    percents = [
        value["jobs"][0]["percent"] or 0 for name, value in page.history if name == "downloads" and value["jobs"]
    ]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)
    assert page.act("dismiss", job(page)["job_id"])["ok"]
    page.until(lambda: page.jobs() == [] and page.traits["cluster"]["pulls"] == {})


def test_the_hosts_get_the_projector_only_if_its_box_is_ticked(site: Site, page: Page, tmp_path: Path) -> None:
    site.put("seeing/model")
    model = site.folder / "seeing--model.gguf"
    projector = tiny_models.write_projector(tmp_path / "mmproj-F16.gguf")
    site.hub.add_repo("seeing/model", {FILE: model, projector.name: projector}, gguf={})
    assert page.ask("open_repo", repo_id="seeing/model")["ok"]

    def count_files(*, is_wanted: bool) -> list[int]:
        assert page.ask("set_projector", repo_id="seeing/model", is_wanted=is_wanted)["ok"]
        assert page.act_on("seeing/model", FILE, "download")["ok"]
        page.until(lambda: len(page.toasts("success")) == 1 + is_wanted)
        return [len(site.blobs(name, "seeing/model")) for name in "ab"]

    assert count_files(is_wanted=False) == [1, 1]
    assert count_files(is_wanted=True) == [2, 2]


def test_a_cancelled_pull_leaves_the_page_and_the_hosts(site: Site, page: Page) -> None:
    site.put("given-up/model")
    site.hub.faults.add(Throttle(SIZE_BYTES / 30, is_shared=True), origin="cdn")
    page.ask("open_repo", repo_id="given-up/model")
    page.act_on("given-up/model", FILE, "download")
    page.until(lambda: page.jobs() and job(page)["received"] > 0)
    assert job(page)["actions"] == ["cancel"]
    assert page.act("cancel", job(page)["job_id"])["ok"]
    page.until(lambda: not page.jobs())
    assert [site.blobs(name, "given-up/model") for name in "ab"] == [[], []]


def test_a_host_that_failed_says_why_and_is_tried_again(site: Site, page: Page) -> None:
    content = site.put("partly/model")
    obstacle = site.cache("b") / "models--partly--model"
    obstacle.write_text("in the way")
    page.ask("open_repo", repo_id="partly/model")
    page.act_on("partly/model", FILE, "download")
    page.until(lambda: page.jobs() and job(page)["state"] == "failed")
    assert job(page)["actions"] == ["retry", "dismiss"]
    assert [host["state"] for host in hosts(page)] == ["ready", "failed"]
    assert hosts(page)[1]["error"]["code"] == "storage"
    assert page.toasts("error")[0].startswith("Q4_K_M of partly/model failed. 1 of 2 hosts do not have it.")
    obstacle.unlink()
    assert page.act("retry", job(page)["job_id"])["ok"]
    page.until(lambda: job(page)["state"] == "ready")
    assert site.has_exactly("b", "partly/model", content)


def test_the_page_is_not_told_more_than_four_times_a_second(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    told: list[float] = []
    publish = page.publish

    def note(name: str, value: dict[str, Any]) -> None:
        if name == "downloads":
            told.append(time.monotonic())
        publish(name, value)

    monkeypatch.setattr(page, "publish", note)
    site.put("calm/model")
    site.hub.faults.add(Throttle(SIZE_BYTES / 4, is_shared=True), origin="cdn")
    page.ask("open_repo", repo_id="calm/model")
    page.act_on("calm/model", FILE, "download")
    page.until(lambda: page.jobs() and job(page)["state"] == "ready")
    assert len(told) > 4
    assert all(later - earlier >= 0.99 for earlier, later in zip(told, told[4:], strict=False))
    cluster = [index for index, (name, _) in enumerate(page.history) if name == "cluster"]
    assert all(page.history[index - 1][0] == "downloads" for index in cluster), "both go in one message"
    assert all(later - earlier > 1 for earlier, later in pairwise(cluster))


def test_a_client_that_is_closed_meanwhile_ends_the_pull_with_a_message(
    site: Site, tmp_path: Path, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    site.hub.faults.clear()
    site.put("lost/model")
    site.hub.faults.add(Throttle(SIZE_BYTES / 30, is_shared=True), origin="cdn")
    client = Client(site.cluster.scheduler_address, set_as_default=False)
    page = open_page(client, site.hub.endpoint, tmp_path, loop)
    try:
        page.ask("open_repo", repo_id="lost/model")
        page.act_on("lost/model", FILE, "download")
        page.until(lambda: page.jobs() and job(page)["received"] > 0)
        client.close()
        page.until(lambda: job(page)["state"] == "failed")
        assert job(page)["error"]["code"] == "cluster"
        assert "Make a new one" in job(page)["error"]["message"]
        assert job(page)["actions"] == ["dismiss"]
        again = page.act_on("lost/model", FILE, "download")
        assert not again["ok"]
        assert "Make a new one" in again["error"]["message"]
        page.until(lambda: page.traits["cluster"]["error"])
        assert "Make a new" in page.traits["cluster"]["error"]["message"]
        page.until(lambda: page.variant("lost/model", "Q4_K_M")["hosts"] is None)
        assert page.act("dismiss", job(page)["job_id"])["ok"]
        page.until(lambda: not page.jobs())
    finally:
        page.close()


def test_a_card_counts_the_hosts_that_a_variant_fits_on(site: Site, page: Page) -> None:
    site.put("counted/model")
    page.until(lambda: page.traits["cluster"]["host_count"] == 2)
    assert page.ask("open_repo", repo_id="counted/model")["ok"]
    found = page.until(lambda: page.variant("counted/model", "Q4_K_M")["hosts"])
    assert (found["fitting"], found["total"], found["problem"]) == (2, 2, None)
    assert found["free_bytes"] > found["needed_bytes"] > 0
    assert page.traits["repos"]["counted/model"]["recommended"] == FILE


def test_a_worker_that_joins_is_counted(site: Site, page: Page) -> None:
    site.put("grown/model")
    page.ask("open_repo", repo_id="grown/model")
    page.until(lambda: (page.variant("grown/model", "Q4_K_M")["hosts"] or {}).get("total") == 2)
    site.add_worker("late")
    page.until(lambda: page.variant("grown/model", "Q4_K_M")["hosts"]["total"] == 3)
    page.until(lambda: page.traits["cluster"]["host_count"] == 3)


def test_a_cluster_without_workers_says_what_to_do(
    site: Site, tmp_path: Path, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    site.hub.faults.clear()
    site.put("nowhere/model")
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        page = open_page(client, site.hub.endpoint, tmp_path, loop)
        try:
            page.ask("open_repo", repo_id="nowhere/model")
            page.act_on("nowhere/model", FILE, "download")
            page.until(lambda: page.jobs() and job(page)["state"] == "failed")
            assert "no workers yet" in job(page)["error"]["message"]
            page.until(lambda: page.traits["cluster"]["error"])
            assert "no workers yet" in page.traits["cluster"]["error"]["message"]
            assert job(page)["actions"] == ["retry", "dismiss"]
        finally:
            page.close()


def test_a_bar_and_its_hosts_travel_in_one_message(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    browser = ModelBrowser(
        client=site.client, endpoint=site.hub.endpoint, token=False, cache_dir=tmp_path / "cache", inline=True
    )
    try:
        assert browser.client is site.client
        sent: list[dict[str, Any]] = []
        monkeypatch.setattr(browser, "_send", lambda message, buffers=None: sent.append(message))
        display = _Traits(browser)
        with display.together():
            display.publish("downloads", {"jobs": [{}]})
            display.publish("cluster", {"pulls": {"pull-1": []}})
        both = [message["state"] for message in sent if "_downloads" in message.get("state", {})]
        assert [set(state) for state in both] == [{"_downloads", "_cluster"}]
    finally:
        browser.close()


def test_only_a_dask_client_is_taken() -> None:
    with pytest.raises(ClusterError, match="not str"):
        ModelBrowser(client="tcp://scheduler:8786")
