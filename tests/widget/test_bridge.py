"""The bridge between the session and the traits, over the real engine and a real hub, without a notebook."""

import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from modeldeck import LoadFailedError, NoFrontEndError, Session
from modeldeck._loop import LoopThread
from modeldeck._types import LoadProgress, LocalModel, RepoDetails
from modeldeck.cache_contents import CacheContents
from modeldeck.llama import Measurement, MeasurementStore
from modeldeck.service.discovery import find_state_directory
from modeldeck.sizing.hardware import probe_hardware
from modeldeck.widget import downloads as downloads_module
from modeldeck.widget import handover as handover_module
from modeldeck.widget.pacer import Pacer
from tests.waiting import PATIENCE_SECONDS
from tests.widget.pages import SPLIT, TINY, VISION, Page
from tools.llama_wheel import Status
from tools.localhub import LocalHub
from tools.localhub.demo import GATED_REPO_ID
from tools.localhub.faults import Reply, Stall, Throttle


@pytest.fixture
def rare_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish progress, and states that are passed through, so rarely that no test sees them; for later bridges."""
    monkeypatch.setattr(downloads_module, "Pacer", partial(Pacer, period_seconds=3600.0))
    monkeypatch.setattr(downloads_module, "PASSING_STATE_SECONDS", 60.0)  # on a busy machine such a state may last


def test_the_first_search_runs_by_itself_and_more_appends(page: Page) -> None:
    page.until(lambda: page.traits.get("search", {}).get("state") == "done")
    first = [model["repo_id"] for model in page.traits["search"]["models"]]
    assert len(first) == 3
    assert page.traits["search"]["has_more"]
    assert page.ask("search_more")["ok"]
    models = [model["repo_id"] for model in page.traits["search"]["models"]]
    assert models[:3] == first
    assert len(models) > 3
    assert page.traits["view"]["endpoint"].startswith("http://127.0.0.1")


def test_download_shows_progress_then_ready_then_load_and_remove(page: Page, demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(3e6, is_shared=True), origin="cdn")
    assert page.ask("open_repo", repo_id=SPLIT)["ok"]
    variant = page.variant(SPLIT, "F16")
    assert variant["actions"] == ["download"]
    assert page.act_on(SPLIT, variant["variant_id"], "download")["ok"]
    page.until(lambda: page.variant(SPLIT, "F16")["state"] == "downloaded")
    assert page.variant(SPLIT, "F16")["actions"] == ["load", "remove"]
    assert page.until(lambda: page.toasts("success"))[0].startswith(f"F16 of {SPLIT}")
    page.until(lambda: page.jobs() and page.jobs()[0]["state"] == "ready")

    percents = [
        job["percent"]
        for name, value in page.history
        if name == "downloads"
        for job in value["jobs"]
        if job["percent"] is not None
    ]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert any(0 < percent < 100 for percent in percents)
    assert page.act_on(SPLIT, variant["variant_id"], "remove")["ok"]
    assert page.variant(SPLIT, "F16")["state"] == "available"
    page.until(lambda: not page.jobs())


def test_what_is_here_is_shown_whatever_the_hub_says(page: Page, demo_hub: LocalHub) -> None:
    page.ask("open_repo", repo_id=TINY)
    variant_id = page.variant(TINY, "Q4_0")["variant_id"]
    page.act_on(TINY, variant_id, "download")
    page.until(lambda: page.variant(TINY, "Q4_0")["state"] == "downloaded")

    demo_hub.update_file(TINY, "README.md", b"The model is as it was.")
    page.ask("open_repo", repo_id=TINY)
    page.until(lambda: page.variant(TINY, "Q4_0")["actions"] == ["load", "remove"])
    assert page.traits["repos"][TINY]["hub_error"] is None

    fault = demo_hub.faults.add(Reply(403, {"x-error-code": "GatedRepo"}))
    assert page.ask("open_repo", repo_id=TINY)["ok"]
    assert page.traits["repos"][TINY]["hub_error"]["code"] == "gated"
    assert [variant["label"] for variant in page.traits["repos"][TINY]["variants"]] == ["Q4_0"]
    assert page.variant(TINY, "Q4_0")["actions"] == ["load", "remove"]

    demo_hub.faults.remove(fault)
    page.ask("open_repo", repo_id=TINY)
    assert page.act_on(TINY, variant_id, "remove")["ok"]
    assert page.variant(TINY, "Q4_0")["state"] == "available"


def test_a_download_that_ends_during_a_look_at_the_disk_is_seen(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.ask("open_repo", repo_id=TINY)
    look, has_looked, may_tell = Session.contents, threading.Event(), threading.Event()

    async def slow_look(self: Session) -> CacheContents:
        found = await look(self)
        has_looked.set()
        assert await anyio.to_thread.run_sync(may_tell.wait, PATIENCE_SECONDS)
        return found

    monkeypatch.setattr(Session, "contents", slow_look)
    look_at_disk = page.send("act_on_library", action="refresh")
    assert has_looked.wait(PATIENCE_SECONDS)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    may_tell.set()
    page.answer(look_at_disk)
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")


def test_what_somebody_else_removes_is_available_again(
    page: Page, loop: LoopThread, demo_hub: LocalHub, tmp_path: Path
) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")

    async def remove() -> None:
        async with Session(endpoint=demo_hub.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as other:
            await other.engine()
            await other.remove(f"{TINY}:F16")

    loop.start(remove()).result(PATIENCE_SECONDS)
    page.until(lambda: page.variant(TINY, "F16")["state"] == "available")
    page.until(lambda: not page.jobs())


def test_a_download_into_the_same_cache_by_another_path_is_shown(
    page: Page, loop: LoopThread, demo_hub: LocalHub, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to("cache")
    link.resolve().mkdir(exist_ok=True)
    page.until(lambda: page.traits["view"]["engine"]["limits"])

    async def download() -> None:
        async with Session(endpoint=demo_hub.endpoint, cache_dir=link, token=False, inline=True) as other:
            await other.download(f"{TINY}:F16")

    loop.start(download()).result(PATIENCE_SECONDS)
    page.until(lambda: [job["state"] for job in page.jobs()] == ["ready"])


@pytest.mark.usefixtures("rare_ticks")
def test_a_change_of_state_does_not_wait_for_the_next_tick_of_progress(page: Page, demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    page.ask("open_repo", repo_id=SPLIT)
    page.act_on(SPLIT, page.variant(SPLIT, "F16")["variant_id"], "download")
    page.until(lambda: page.jobs() and page.jobs()[0]["state"] == "downloading")
    (job,) = page.jobs()
    page.act("pause", job["job_id"])
    page.until(lambda: page.jobs()[0]["state"] == "paused")
    page.act("cancel", job["job_id"])
    page.until(lambda: not page.jobs())


@pytest.mark.usefixtures("rare_ticks")
@pytest.mark.llama
def test_a_click_costs_one_publication(page: Page, demo_hub: LocalHub) -> None:
    """There are few in a second: what a download only passes through, or is told twice, takes none of them."""
    page.open_and_read(TINY)
    variant = page.variant(TINY, "Q8_0")
    stall = demo_hub.faults.add(Stall(0), origin="cdn")  # so that there is nothing to tell in between
    before = sum(name == "downloads" for name, _ in page.history)
    page.act_on(TINY, variant["variant_id"], "download")
    page.until(lambda: [job for job in page.jobs() if job["state"] == "downloading"])
    page.act("cancel", page.jobs()[0]["job_id"])
    page.until(lambda: page.jobs() == [])
    demo_hub.faults.remove(stall)
    page.ask("open_repo", repo_id=SPLIT)
    assert sum(name == "downloads" for name, _ in page.history) == before + 2


def test_one_thread_publishes_everything(page: Page) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    assert page.threads == {"bridge-under-test"}


def test_a_request_is_acknowledged_before_it_is_carried_out(page: Page) -> None:
    request_id = page.send("open_repo", repo_id=TINY)
    page.answer(request_id)
    kinds = [message["kind"] for message in page.messages if message.get("id") == request_id]
    assert kinds == ["modeldeck-ack", "modeldeck-answer"]


def test_a_request_that_comes_twice_is_carried_out_and_answered_once(page: Page, demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    page.ask("open_repo", repo_id=SPLIT)
    variant_id = page.variant(SPLIT, "F16")["variant_id"]
    request_id = page.send("act_on_variant", times=5, repo_id=SPLIT, variant_id=variant_id, action="download")
    page.answer(request_id)
    page.until(page.jobs)
    page.ask("hello")
    assert len(page.about(request_id, "modeldeck-answer")) == 1
    (job,) = page.jobs()
    assert page.act("cancel", job["job_id"])["ok"]
    page.until(lambda: not page.jobs())
    assert page.variant(SPLIT, "F16")["state"] == "available"


def test_the_page_knows_the_comm_before_it_sends_anything(page: Page) -> None:
    assert page.bridge.initial_state()["_view"]["comm_id"] == "comm-1"
    page.until(lambda: page.traits["view"]["hardware"])
    assert page.traits["view"]["comm_id"] == "comm-1"


def test_a_copy_is_acknowledged_again_for_a_page_that_heard_nothing(page: Page) -> None:
    request_id = page.send("hello")
    page.answer(request_id)
    page.bridge.post({"kind": "modeldeck-request", "id": request_id, "method": "hello", "params": {}})
    page.until(lambda: len(page.about(request_id, "modeldeck-ack")) == 2)
    assert len(page.about(request_id, "modeldeck-answer")) == 1


def test_a_message_that_cannot_be_sent_takes_nothing_with_it(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    page.failures = 1  # the acknowledgement
    request_id = page.send("hello")
    page.answer(request_id)
    assert page.about(request_id, "modeldeck-ack") == []
    page.failures = 2  # acknowledgement and answer
    page.send("hello")
    page.until(lambda: page.failures == 0)
    assert page.ask("hello")["ok"]
    assert "could not send a message" in caplog.text


def test_a_projector_is_left_out_where_its_box_is_not_ticked(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []

    async def load(self: Session, model: LocalModel, *, mmproj: object = None, **_: object) -> None:
        loads.append(mmproj)
        raise LoadFailedError("It is only a test.")

    monkeypatch.setattr(Session, "load", load)

    def card() -> dict[str, Any]:
        repo: dict[str, Any] = page.traits["repos"][VISION]
        return repo

    def load_it() -> None:
        count = len(loads)
        assert page.act_on(VISION, variant_id, "load")["ok"]
        page.until(lambda: len(loads) > count and page.traits["load"]["state"] == "failed")

    page.ask("open_repo", repo_id=VISION)
    ((projector,), whole) = card()["common"], page.variant(VISION, "Q8_0")
    variant_id = whole["variant_id"]
    assert (projector["kind"], card()["has_projector"]) == ("mmproj", True)
    assert page.ask("set_projector", repo_id=VISION, is_wanted=False)["ok"]
    assert (card()["common"], card()["has_projector"]) == ([projector], False)
    assert page.variant(VISION, "Q8_0")["sidecars"] == []
    assert page.variant(VISION, "Q8_0")["size"] == whole["size"] - projector["size"]
    assert page.traits["picks"][VISION]["size"] == whole["size"] - projector["size"]
    assert page.act_on(VISION, variant_id, "download")["ok"]
    page.until(lambda: page.variant(VISION, "Q8_0")["state"] == "downloaded")
    page.until(lambda: page.traits["library"]["models"])
    assert page.variant(VISION, "Q8_0")["actions"] == ["load", "remove"]
    load_it()

    assert page.ask("set_projector", repo_id=VISION, is_wanted=True)["ok"]
    assert page.variant(VISION, "Q8_0")["actions"] == ["load", "remove", "download"]
    assert page.act_on(VISION, variant_id, "download")["ok"]
    page.until(lambda: page.variant(VISION, "Q8_0")["actions"] == ["load", "remove"])
    assert page.traits["library"]["models"][0]["filenames"] == [variant_id, projector["filename"]]
    load_it()
    page.ask("set_projector", repo_id=VISION, is_wanted=False)
    load_it()
    assert loads == [False, None, False]


def test_exact_figures_that_come_late_do_not_bring_the_projector_back(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, has_begun, may_end = Session.reassess, threading.Event(), threading.Event()

    async def slow_judge(self: Session, details: RepoDetails, *, n_ctx: int, exact: bool = False) -> RepoDetails:
        if exact:
            has_begun.set()
            assert await anyio.to_thread.run_sync(may_end.wait, PATIENCE_SECONDS)
        return await judge(self, details, n_ctx=n_ctx, exact=exact)

    monkeypatch.setattr(Session, "reassess", slow_judge)
    page.ask("open_repo", repo_id=VISION)
    assert has_begun.wait(PATIENCE_SECONDS)
    page.ask("set_projector", repo_id=VISION, is_wanted=False)
    shown = sum(name == "repos" for name, _ in page.history)
    may_end.set()
    page.until(lambda: sum(name == "repos" for name, _ in page.history) > shown)
    assert page.variant(VISION, "Q8_0")["sidecars"] == []


def test_a_download_asked_for_right_after_the_tick_was_removed_leaves_the_projector_out(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, may_end = Session.reassess, threading.Event()

    async def slow_judge(self: Session, details: RepoDetails, **options: Any) -> RepoDetails:
        assert await anyio.to_thread.run_sync(may_end.wait, PATIENCE_SECONDS)
        return await judge(self, details, **options)

    page.ask("open_repo", repo_id=VISION)
    variant_id = page.variant(VISION, "Q8_0")["variant_id"]
    monkeypatch.setattr(Session, "reassess", slow_judge)
    choosing = page.send("set_projector", repo_id=VISION, is_wanted=False)
    assert page.act_on(VISION, variant_id, "download")["ok"]
    may_end.set()
    assert page.answer(choosing)["ok"]
    page.until(lambda: page.jobs() and page.jobs()[0]["state"] == "ready")
    page.ask("act_on_library", action="refresh")
    assert page.traits["library"]["models"][0]["filenames"] == [variant_id]


def test_a_download_that_is_resumed_takes_the_projector_as_it_is_ticked_now(page: Page, demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(100e3, is_shared=True), origin="cdn")
    page.ask("open_repo", repo_id=VISION)
    variant, (projector,) = page.variant(VISION, "Q8_0"), page.traits["repos"][VISION]["common"]
    assert page.act_on(VISION, variant["variant_id"], "download")["ok"]
    page.until(lambda: page.jobs() and page.jobs()[0]["state"] == "downloading")
    page.act("pause", page.jobs()[0]["job_id"])
    page.until(lambda: page.jobs()[0]["state"] == "paused")
    page.ask("set_projector", repo_id=VISION, is_wanted=False)
    demo_hub.faults.clear()
    assert page.act("resume", page.jobs()[0]["job_id"])["ok"]
    page.until(lambda: [job["state"] for job in page.jobs()] == ["ready"])
    assert page.jobs()[0]["total"] == variant["size"] - projector["size"]


def test_failures_are_told_where_they_belong(page: Page, demo_hub: LocalHub) -> None:
    answer = page.ask("open_repo", repo_id="nobody/nothing")
    assert answer["error"]["code"] == "repo_not_found"
    assert page.traits["repos"]["nobody/nothing"]["state"] == "failed"
    assert page.traits["repos"]["nobody/nothing"]["error"]["code"] == "repo_not_found"

    page.ask("open_repo", repo_id=GATED_REPO_ID)
    steps = page.traits["repos"][GATED_REPO_ID]["steps"]
    assert [(step["code"], step["state"]) for step in steps] == [
        ("gated_log_in", "now"),
        ("gated_accept", "later"),
        ("gated_wait", "later"),
    ]
    assert steps[1]["url"] == f"{demo_hub.endpoint}/{GATED_REPO_ID}"
    page.act_on(GATED_REPO_ID, page.variant(GATED_REPO_ID, "Q8_0")["variant_id"], "download")
    page.until(lambda: page.jobs() and page.jobs()[0]["state"] == "failed")
    (job,) = page.jobs()
    assert job["error"]["code"] == "gated"
    assert job["error"]["details"]["url"] == f"{demo_hub.endpoint}/{GATED_REPO_ID}"
    assert "retry" in job["actions"]
    assert page.toasts("error")

    demo_hub.add_repo("owner/damaged", {"m-Q8_0.gguf": b"GGUF, but no more than that"}, gguf={})
    page.ask("peek", repo_id="owner/damaged")
    answer = page.act_on("owner/damaged", "m-Q8_0.gguf", "get")
    assert answer["error"]["code"] == "not_gguf"
    assert "owner/damaged" not in page.traits["picks"]

    assert page.act_on(TINY, "x.gguf", "download")["error"]["code"] == "invalid_request"
    assert page.act("pause", "no-such-job")["error"]["code"] == "invalid_request"
    demo_hub.stop()
    assert page.ask("search", text="anything")["error"]["code"] == "offline"
    assert page.traits["search"]["state"] == "failed"


@pytest.mark.parametrize(
    ("broken", "method", "params", "trait"),
    [
        ("search", "search", {"text": "tiny"}, "search"),
        ("describe", "open_repo", {"repo_id": TINY}, "repos"),
        ("model_card", "open_about", {"repo_id": TINY}, "about"),
    ],
)
def test_a_bug_leaves_nothing_waiting(
    page: Page, monkeypatch: pytest.MonkeyPatch, broken: str, method: str, params: dict[str, str], trait: str
) -> None:
    async def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("unknown keyword")

    page.until(lambda: page.traits["search"]["state"] == "done")
    with monkeypatch.context() as patch:
        patch.setattr(Session, broken, fail)
        assert "unknown keyword" in page.ask(method, **params)["error"]["message"]
    view = page.traits[trait]
    view = view if trait == "search" else view[TINY]
    assert view["state"] == "failed"
    assert "unknown keyword" in view["error"]["message"]
    assert page.ask(method, **params)["ok"]


def test_a_message_that_makes_no_sense_is_answered(page: Page) -> None:
    assert page.ask("make_coffee")["error"]["code"] == "protocol"
    assert page.ask("act_on_variant", repo_id=TINY)["error"]["code"] == "protocol"
    page.bridge.post({"kind": "of-somebody-else"})
    page.bridge.post({"kind": "modeldeck-request", "method": "hello"})
    assert page.until(lambda: page.about("", "modeldeck-answer"))[0]["error"]["code"] == "protocol"
    assert page.ask("hello")["ok"]


def test_buttons_of_a_download_that_failed_or_was_paused(page: Page, demo_hub: LocalHub) -> None:
    refusal = demo_hub.faults.add(Reply(404), origin="cdn")
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: [job for job in page.jobs() if job["state"] == "failed"])
    assert page.act("dismiss", page.jobs()[0]["job_id"])["ok"]
    page.until(lambda: not page.jobs())

    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: [job for job in page.jobs() if job["state"] == "failed"])
    demo_hub.faults.remove(refusal)
    throttle = demo_hub.faults.add(Throttle(20_000.0), origin="cdn")
    assert page.act("retry", page.jobs()[0]["job_id"])["ok"]
    page.until(lambda: page.jobs()[0]["state"] == "downloading")
    assert page.jobs()[0]["error"] is None
    assert page.act("pause", page.jobs()[0]["job_id"])["ok"]
    page.until(lambda: page.jobs()[0]["state"] == "paused")
    demo_hub.faults.remove(throttle)
    assert page.act("resume", page.jobs()[0]["job_id"])["ok"]
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")


def test_a_load_can_be_cancelled_and_begun_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    begun = threading.Event()

    async def endless_load(*args: Any, progress: Callable[[LoadProgress], object], **kwargs: Any) -> None:
        progress(LoadProgress(stage="loading", fraction=0.5))
        begun.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(Session, "load", endless_load)
    page.ask("set_n_ctx", n_ctx=4096)
    for _ in range(2):
        begun.clear()
        assert page.act_on(TINY, "tiny-chat-F16.gguf", "load")["ok"]
        assert begun.wait(PATIENCE_SECONDS)
        page.until(lambda: page.traits["load"]["fraction"] == 0.5)
        page.until(lambda: page.variant(TINY, "F16")["state"] == "loading")
        assert page.traits["load"]["n_ctx"] == 2048, "no more than the model was made for"
        second = page.act_on(TINY, "tiny-chat-F16.gguf", "load")
        assert second["error"]["code"] == "invalid_request"
        assert page.act_on(TINY, "tiny-chat-F16.gguf", "remove")["error"]["code"] == "invalid_request"
        assert page.act_on(TINY, "tiny-chat-F16.gguf", "cancel_load")["ok"]
        page.until(lambda: page.traits["load"]["state"] == "none")
        page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    assert page.toasts("error") == []


def test_a_load_of_what_is_gone_fails_and_offers_the_download(page: Page, tmp_path: Path) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    (path,) = (tmp_path / "cache").rglob("tiny-chat-F16.gguf")
    path.unlink()
    assert page.act_on(TINY, "tiny-chat-F16.gguf", "load")["ok"]
    page.until(lambda: page.traits["load"]["state"] == "failed")
    assert "Download it again" in page.traits["load"]["error"]["message"]
    page.until(lambda: page.variant(TINY, "F16")["actions"] == ["download"])
    assert page.toasts("error")
    assert page.act_on(TINY, "tiny-chat-F16.gguf", "remove")["ok"]
    page.until(lambda: not page.jobs())


def test_a_failed_load_is_repeated_with_its_commit_and_choices(page: Page, tmp_path: Path) -> None:
    page.ask("open_repo", repo_id=TINY)
    variant_id = page.variant(TINY, "F16")["variant_id"]
    page.act_on(TINY, variant_id, "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    page.until(lambda: page.traits["library"]["models"])
    commit = page.traits["library"]["models"][0]["commit_hash"]
    (blob,) = tmp_path.glob("cache/models--*/blobs/*")
    content = blob.read_bytes()
    blob.write_bytes(b"XXXX" + content[4:])

    def load(**params: Any) -> dict[str, Any]:
        assert page.ask("act_on_variant", repo_id=TINY, variant_id=variant_id, action="load", **params)["ok"]
        page.until(lambda: page.traits["load"]["state"] in ("ready", "failed"))
        shown: dict[str, Any] = page.traits["load"]
        return shown

    choices = {"n_ctx": 512, "n_threads": 1}
    assert load(commit_hash=commit, choices=choices)["state"] == "failed"
    blob.write_bytes(content)
    loaded = load(is_retry=True)
    assert (loaded["state"], loaded["commit_hash"], loaded["n_ctx"]) == ("ready", commit, 512)
    assert "n_threads=1" in loaded["code"]["modeldeck"]
    assert page.act_on(TINY, variant_id, "unload")["ok"]
    assert load()["n_ctx"] == 1024


def test_a_newer_search_takes_the_place_of_an_older_one(page: Page, demo_hub: LocalHub) -> None:
    page.until(lambda: page.traits["search"]["state"] == "done")
    demo_hub.faults.add(Stall(-1), path="/api/models*", times=1)
    older = page.send("search", text="split")
    page.until(lambda: page.traits["search"]["text"] == "split")
    demo_hub.requests.wait_until(
        lambda records: any("split" in record.target for record in records)
    )  # the fault is taken
    assert page.ask("search", text="vision")["ok"]
    assert page.answer(older)["ok"], page.answer(older)
    assert (page.traits["search"]["state"], page.traits["search"]["text"]) == ("done", "vision")
    assert [model["repo_id"] for model in page.traits["search"]["models"]] == ["modeldeck-demo/tiny-vision-GGUF"]


def test_a_model_card_is_shown_as_tokens_until_it_is_closed(page: Page, demo_hub: LocalHub) -> None:
    assert page.ask("open_about", repo_id=TINY)["ok"]
    card = page.traits["about"][TINY]
    assert card["state"] == "open"
    assert card["tokens"][0]["tag"] == "h1"
    page.ask("close_about", repo_id=TINY)
    assert page.traits["about"] == {}
    demo_hub.update_file(TINY, "README.md", None)
    assert page.ask("open_about", repo_id=TINY)["ok"]
    assert (page.traits["about"][TINY]["state"], page.traits["about"][TINY]["tokens"]) == ("open", [])
    page.ask("close_about", repo_id=TINY)
    answer = page.ask("open_about", repo_id="modeldeck-demo/nothing")
    assert answer["error"]["code"] == "repo_not_found"
    assert page.traits["about"]["modeldeck-demo/nothing"]["error"]["code"] == "repo_not_found"


def test_the_first_screen_of_a_long_model_card_comes_before_the_rest(page: Page, demo_hub: LocalHub) -> None:
    parts = "".join(f"## Part {number}\n\nSome text of this part.\n\n" for number in range(1000))
    metadata = "".join(f"- tag-{number}\n" for number in range(1000))
    demo_hub.update_file(TINY, "README.md", f"---\ntags:\n{metadata}---\n\n# Title\n\n{parts}".encode())
    assert page.ask("open_about", repo_id=TINY)["ok"]
    shown = [value[TINY] for name, value in page.history if name == "about"]
    assert [card["state"] for card in shown] == ["opening", "open", "open"]
    first, whole = (card["tokens"] for card in shown[1:])
    assert first[0]["tag"] == "h1"
    assert 20 < len(first) < len(whole) / 5
    assert whole[: len(first)] == first


def test_filters_narrow_a_search_and_the_models_of_this_machine_are_known(page: Page) -> None:
    page.until(lambda: page.traits["search"]["state"] == "done")

    def found(**filters: object) -> set[str]:
        assert page.ask("search", text="", filters=filters)["ok"]
        assert page.traits["search"]["filters"]["quantization"] == filters.get("quantization")
        return {model["repo_id"] for model in page.traits["search"]["models"]}

    assert found(author="nobody") == set()
    assert TINY in found(quantization="F16")
    assert TINY not in found(quantization="IQ1_S")
    assert page.traits["search"]["local"] == []
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.traits["search"]["local"] == [TINY])
    assert page.ask("search", text="split")["ok"]
    assert page.traits["search"]["local"] == [TINY]


def test_no_secret_and_no_absolute_path_is_published(page: Page, tmp_path: Path) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    assert str(tmp_path) not in repr(page.history) + repr(page.messages)


def test_another_context_length_changes_every_badge(page: Page) -> None:
    page.ask("open_repo", repo_id=TINY)
    before = page.variant(TINY, "F16")["fit"]
    page.ask("set_n_ctx", n_ctx=2048)
    after = page.variant(TINY, "F16")["fit"]
    assert (before["n_ctx"], after["n_ctx"]) == (1024, 2048)
    assert before["needed_bytes"] < after["needed_bytes"]
    assert page.traits["view"]["n_ctx"] == 2048


def test_a_card_that_is_closed_meanwhile_stays_closed(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    reassess, is_asked, may_answer = Session.reassess, threading.Event(), threading.Event()

    async def slow_reassess(self: Session, details: RepoDetails, *, n_ctx: int, exact: bool = False) -> RepoDetails:
        outcome = await reassess(self, details, n_ctx=n_ctx, exact=exact)
        if n_ctx == 2048:
            is_asked.set()
            assert await anyio.to_thread.run_sync(may_answer.wait, PATIENCE_SECONDS)
        return outcome

    monkeypatch.setattr(Session, "reassess", slow_reassess)
    page.ask("open_repo", repo_id=TINY)
    page.ask("open_repo", repo_id=SPLIT)
    first = page.send("set_n_ctx", n_ctx=2048)
    assert is_asked.wait(PATIENCE_SECONDS)
    page.ask("set_n_ctx", n_ctx=4096)
    page.ask("close_repo", repo_id=TINY)
    may_answer.set()
    assert page.answer(first)["ok"]
    assert list(page.traits["repos"]) == [SPLIT]
    assert page.variant(SPLIT, "F16")["fit"]["n_ctx"] == 4096, "the newer wish counts"


def test_a_card_can_be_got_without_unfolding_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    begun = threading.Event()

    async def load(self: Session, model: LocalModel, **kwargs: Any) -> None:
        loaded.append(model.label)
        begun.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(Session, "load", load)
    assert page.ask("peek", repo_id="nobody/nothing")["ok"]
    assert page.ask("peek", repo_id=TINY)["ok"]
    assert list(page.traits["picks"]) == [TINY]
    assert page.traits["repos"] == {}
    pick = page.traits["picks"][TINY]
    assert pick["actions"] == ["download"]
    page.act_on(TINY, pick["variant_id"], "get")
    assert begun.wait(PATIENCE_SECONDS)
    assert loaded == [pick["label"]]
    page.until(lambda: page.traits["picks"][TINY]["actions"] == ["cancel_load"])
    for late in ({"variant_id": "another.gguf"}, {"commit_hash": "f" * 40}, {"action": "unload"}):
        about = {"repo_id": TINY, "variant_id": pick["variant_id"], "action": "cancel_load", **late}
        assert page.ask("act_on_variant", **about)["ok"]
        assert page.traits["picks"][TINY]["actions"] == ["cancel_load"]
    page.act_on(TINY, pick["variant_id"], "cancel_load")
    page.until(lambda: page.traits["picks"][TINY]["actions"] == ["load", "remove"])


@pytest.mark.llama
def test_a_download_that_was_cancelled_is_not_loaded_when_it_is_downloaded_later(
    page: Page, demo_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("nobody wished it any more")

    monkeypatch.setattr(Session, "load", load)
    page.open_and_read(TINY)
    stall = demo_hub.faults.add(Stall(0), origin="cdn")
    page.act_on(TINY, "tiny-chat-F16.gguf", "get")
    page.until(lambda: [job for job in page.jobs() if job["state"] == "downloading"])
    page.act("cancel", page.jobs()[0]["job_id"])
    page.until(lambda: page.jobs() == [])
    demo_hub.faults.remove(stall)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    assert page.ask("hello")["ok"]
    assert page.traits["load"]["state"] == "none"


@pytest.mark.llama
def test_load_gives_the_model_to_all_who_wait(page: Page, loop: LoopThread) -> None:
    page.ask("hello")
    waiting = loop.start(page.bridge.ready())
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    assert not waiting.done()
    assert page.act_on(TINY, "tiny-chat-F16.gguf", "load")["ok"]
    llm = waiting.result(PATIENCE_SECONDS)
    assert llm is page.bridge.llm
    assert page.variant(TINY, "F16")["actions"] == ["unload"]
    states = [
        (variant["state"], variant["actions"])
        for name, value in page.history
        if name == "repos"
        for variant in value.get(TINY, {}).get("variants", ())
        if variant["label"] == "F16"
    ]
    assert ("loading", ["cancel_load"]) in states, "a row whose buttons all go for a moment loses the focus"
    assert all(actions for _, actions in states)
    assert llm("Hello", max_tokens=32)["choices"][0]["text"] == " Hello from a tiny test model."
    assert loop.start(page.bridge.ready()).result(PATIENCE_SECONDS) is llm, "a load that came before counts"
    assert page.act_on(TINY, "tiny-chat-F16.gguf", "remove")["error"]["code"] == "invalid_request"
    page.act_on(TINY, "tiny-chat-F16.gguf", "unload")
    assert page.bridge.llm is None
    assert page.variant(TINY, "F16")["state"] == "downloaded"


@pytest.mark.llama
def test_a_model_that_a_cell_unloads_is_shown_as_unloaded(page: Page) -> None:
    def load(label: str) -> Any:
        page.act_on(TINY, page.variant(TINY, label)["variant_id"], "get")
        page.until(lambda: page.variant(TINY, label)["actions"] == ["unload"])
        return page.bridge.llm

    page.ask("open_repo", repo_id=TINY)
    for end in ("unload", "close"):
        llm = load("F16")
        getattr(llm, end)()
        page.until(lambda: page.traits["load"]["state"] == "none")
        page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
        page.until(lambda llm=llm: page.announced[-1] == ("llm", llm, None))
    older, newer = load("F16"), load("Q8_0")
    older.unload()
    assert page.ask("hello")["ok"]
    assert page.bridge.llm is newer
    assert page.traits["load"]["state"] == "ready"


@pytest.mark.llama
def test_a_click_that_comes_late_does_not_unload_another_model(page: Page) -> None:
    page.ask("open_repo", repo_id=TINY)
    for label in ("Q8_0", "F16"):
        variant_id = page.variant(TINY, label)["variant_id"]
        page.act_on(TINY, variant_id, "get")
        page.until(lambda label=label: page.variant(TINY, label)["actions"] == ["unload"])
    llm = page.bridge.llm
    late = {"variant_id": "tiny-chat-Q8_0.gguf"}, {"commit_hash": "f" * 40}, {"action": "cancel_load"}
    for changed in late:
        about = {"repo_id": TINY, "variant_id": "tiny-chat-F16.gguf", "action": "unload", **changed}
        assert page.ask("act_on_variant", **about)["ok"]
        assert page.bridge.llm is llm
        assert page.variant(TINY, "F16")["actions"] == ["unload"]
    commit_hash = page.traits["load"]["commit_hash"]
    page.ask("act_on_variant", **{**about, "action": "unload", "commit_hash": commit_hash})
    assert page.bridge.llm is None
    assert page.variant(TINY, "F16")["state"] == "downloaded"


@pytest.mark.llama
def test_the_free_memory_is_looked_at_again_after_a_load_and_an_unload(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_free(ram_available: int) -> None:
        known = replace(hardware, ram_available=ram_available)
        monkeypatch.setattr("modeldeck.sizing.hardware.probe_hardware", lambda: known)

    def is_shown(ram_available: int) -> bool:
        return bool(page.traits["view"]["hardware"]["ram_available"] == ram_available)

    hardware = probe_hardware()
    page.until(lambda: page.traits["view"]["hardware"])
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    set_free(2 * 10**9)
    page.act_on(TINY, "tiny-chat-F16.gguf", "load")
    page.until(lambda: is_shown(2 * 10**9))
    set_free(3 * 10**9)
    page.act_on(TINY, "tiny-chat-F16.gguf", "unload")
    page.until(lambda: is_shown(3 * 10**9))


def test_what_a_load_took_is_shown_the_next_time(page: Page, tmp_path: Path) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    assert page.variant(TINY, "F16")["measured"] is None
    (path,) = (tmp_path / "cache").rglob("tiny-chat-F16.gguf")
    taken = Measurement(load_seconds=0.5, tokens_per_second=42.0, memory_bytes=10**8, n_ctx=1024)
    directory = find_state_directory(tmp_path / "cache")
    assert directory is not None
    MeasurementStore(directory).save(path, taken)
    page.ask("act_on_library", action="refresh")
    assert page.variant(TINY, "F16")["measured"]["tokens_per_second"] == 42.0
    page.ask("set_n_ctx", n_ctx=1024)  # judges again
    page.until(lambda: page.variant(TINY, "F16")["fit"]["speed_source"] == "measured")
    assert page.variant(TINY, "F16")["fit"]["tokens_per_second"] == 42.0


def test_waiting_without_a_page_fails_with_the_headless_call(
    page: Page, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "HELLO_TIMEOUT_SECONDS", 0.2)
    page.is_deaf = True
    with pytest.raises(NoFrontEndError, match=r"modeldeck\.load"):
        loop.start(page.bridge.ready()).result(PATIENCE_SECONDS)
    assert {"kind": "modeldeck-ping"} in page.messages


def test_waiting_fails_when_the_page_cannot_be_reached_while_a_cell_runs(
    page: Page, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "ANSWER_TIMEOUT_SECONDS", 0.2)
    page.ask("hello")
    page.is_deaf = True
    for _ in range(2):
        with pytest.raises(NoFrontEndError, match="delivers no clicks"):
            loop.start(page.bridge.ready()).result(PATIENCE_SECONDS)


def test_observers_are_told_of_downloads_and_errors_in_order(page: Page) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "no-such.gguf", "download")
    page.act_on(TINY, "tiny-chat-F16.gguf", "download")
    page.until(lambda: page.jobs() and page.jobs()[0]["state"] == "ready")
    (error,) = [new for name, _, new in page.announced if name == "error"]
    assert error is page.bridge.error
    downloads = [(old, new) for name, old, new in page.announced if name == "downloads"]
    assert downloads[0][0] == ()
    assert all(new == old for (_, new), (old, _) in itertools.pairwise(downloads))
    assert downloads[-1][1] == page.bridge.downloads


def test_who_waits_is_told_when_the_widget_is_closed(page: Page, loop: LoopThread) -> None:
    page.ask("hello")
    waiting = loop.start(page.bridge.ready())
    page.close()
    with pytest.raises(NoFrontEndError, match="closed"):
        waiting.result(PATIENCE_SECONDS)
    with pytest.raises(NoFrontEndError, match="closed"):
        loop.start(page.bridge.ready()).result(PATIENCE_SECONDS)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """llama-cpp-python is being built, by what this file tells."""
    path = tmp_path / "status.json"
    Status(path).tell("building", 170.0)
    monkeypatch.setenv("MODELDECK_LLAMA_STATUS", str(path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    return path


@pytest.mark.llama
def test_a_load_waits_until_llama_is_installed_and_so_does_a_cell(
    installation: Path, page: Page, loop: LoopThread
) -> None:
    page.until(lambda: page.traits["view"]["llama"]["code"] == "llama_installing")
    assert "is being built, about 3 minutes left" in page.traits["view"]["llama"]["message"]
    assert page.traits["view"]["llama"]["remaining_seconds"] == 170
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "get")
    page.until(lambda: page.traits["load"]["stage"] == "installing")
    waiting = loop.start(page.bridge.ready())
    Status(installation).tell("building", 50.0)
    page.until(lambda: "less than a minute left" in page.traits["view"]["llama"]["message"])
    assert page.traits["load"]["state"] == "loading"
    assert page.toasts("error") == []
    installation.unlink()
    page.until(lambda: page.traits["load"]["state"] == "ready")
    assert waiting.result(PATIENCE_SECONDS) is page.bridge.llm


def test_a_load_that_waits_for_llama_can_be_cancelled_and_fails_with_the_installation(
    installation: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, "tiny-chat-F16.gguf", "get")
    page.until(lambda: page.traits["load"]["stage"] == "installing")
    page.act_on(TINY, "tiny-chat-F16.gguf", "cancel_load")
    page.until(lambda: page.variant(TINY, "F16")["state"] == "downloaded")
    page.act_on(TINY, "tiny-chat-F16.gguf", "load")
    page.until(lambda: page.traits["load"]["stage"] == "installing")
    Status(installation).tell("failed", message="There is no compiler.")
    page.until(lambda: page.traits["load"]["state"] == "failed")
    assert page.traits["load"]["error"]["code"] == "llama_missing"
    assert "There is no compiler." in page.traits["load"]["error"]["message"]
