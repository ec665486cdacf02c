"""The library, the queue and the limits, as the page sees and steers them."""

import os
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from modeldeck import LlamaMissingError, Session, StorageError
from tests.widget.pages import SPLIT, TINY, VISION, Page
from tools.localhub import LocalHub
from tools.localhub.faults import Stall

FILENAME = "tiny-chat-F16.gguf"
DAY_SECONDS = 86_400.0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(hub: LocalHub, cache: Path, filename: str = FILENAME) -> None:
    """Another program puts a model into the cache."""
    hf_hub_download(TINY, filename, endpoint=hub.endpoint, cache_dir=cache, token=False)


def rows(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.traits["library"]["models"]
    return found


def row(page: Page, label: str = "F16") -> dict[str, Any]:
    return next(row for row in rows(page) if row["label"] == label)


def key(page: Page, label: str = "F16") -> dict[str, str]:
    return {name: row(page, label)[name] for name in ("repo_id", "variant_id", "commit_hash")}


def act(page: Page, action: str, label: str = "F16") -> dict[str, Any]:
    return page.ask("act_on_variant", action=action, **key(page, label))


def test_what_another_program_fetched_is_shown_as_unverified_until_it_is_verified(
    page: Page, demo_hub: LocalHub, cache: Path
) -> None:
    fetch(demo_hub, cache)
    assert page.ask("act_on_library", action="refresh")["ok"]
    assert row(page)["proof"] is None
    assert row(page)["actions"] == ["load", "verify", "remove"]
    assert row(page)["last_used"] is not None
    assert page.traits["library"]["free_bytes"] > 0
    assert act(page, "verify")["ok"]
    page.until(lambda: row(page)["proof"])
    assert (row(page)["proof"]["by"], row(page)["proof"]["is_valid"]) == ("verify", True)
    assert "exactly what the Hub has" in page.toasts("success")[-1]


def test_models_verified_together_are_told_of_once_and_are_not_used_by_it(
    page: Page, demo_hub: LocalHub, cache: Path
) -> None:
    fetch(demo_hub, cache)
    fetch(demo_hub, cache, "tiny-chat-Q8_0.gguf")
    now = time.time()
    for blob in cache.glob("models--*/blobs/*"):
        os.utime(blob, (now - 2 * DAY_SECONDS, now - 3 * DAY_SECONDS))
    page.ask("act_on_library", action="refresh")
    used = [each["last_used"] for each in rows(page)]
    assert page.ask("act_on_library", action="verify", models=[key(page, "F16"), key(page, "Q8_0")])["ok"]
    page.until(lambda: page.toasts("success"))
    assert page.toasts("success") == ["2 models are exactly what the Hub has."]
    assert [each["last_used"] for each in rows(page)] == used


def test_damage_is_found_and_repaired(page: Page, demo_hub: LocalHub, cache: Path) -> None:
    page.ask("open_repo", repo_id=TINY)
    page.act_on(TINY, FILENAME, "download")
    page.until(lambda: rows(page) and row(page)["proof"])
    assert row(page)["proof"]["by"] == "download"
    (blob,) = cache.glob("models--*/blobs/*")
    with blob.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"damage")
    page.ask("act_on_library", action="refresh")
    assert row(page)["proof"] is None, "it was written since"
    act(page, "verify")
    page.until(lambda: "repair" in row(page)["actions"])
    assert row(page)["proof"]["is_valid"] is False
    act(page, "repair")
    page.until(lambda: row(page)["proof"] and row(page)["proof"]["by"] == "repair")
    page.until(lambda: [job["purpose"] for job in page.jobs() if job["state"] == "ready"] == ["download", "repair"])
    page.until(lambda: row(page)["check"] is None)


def test_a_verification_of_what_is_gone_is_told_and_the_next_download_has_no_error(
    page: Page, demo_hub: LocalHub, cache: Path
) -> None:
    fetch(demo_hub, cache)
    page.ask("act_on_library", action="refresh")
    (blob,) = cache.glob("models--*/blobs/*")
    blob.unlink()
    assert page.ask("act_on_library", action="verify", models=[key(page)])["ok"]
    page.until(lambda: page.toasts("error"))
    assert "was deleted" in page.toasts("error")[-1]
    page.until(lambda: not rows(page))
    page.ask("open_repo", repo_id=TINY)
    assert page.act_on(TINY, FILENAME, "download")["ok"]
    page.until(lambda: rows(page) and row(page)["proof"])
    assert row(page)["error"] is None


def test_an_error_of_a_verification_ends_with_the_next_proof(
    page: Page, demo_hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_options: object) -> None:
        raise StorageError("The disk cannot be read.")

    fetch(demo_hub, cache)
    page.ask("act_on_library", action="refresh")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "verify", fail)
        assert act(page, "verify")["ok"]
        page.until(lambda: row(page)["error"])
    assert row(page)["error"]["message"] == "The disk cannot be read."
    page.ask("open_repo", repo_id=TINY)
    assert page.act_on(TINY, FILENAME, "download")["ok"]  # which compares what is there
    page.until(lambda: row(page)["proof"])
    assert row(page)["error"] is None


def test_a_bug_of_a_verification_leaves_no_model_waiting(
    page: Page, demo_hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("unknown keyword")

    fetch(demo_hub, cache)
    fetch(demo_hub, cache, "tiny-chat-Q8_0.gguf")
    page.ask("act_on_library", action="refresh")
    monkeypatch.setattr(Session, "verify", fail)
    assert page.ask("act_on_library", action="verify", models=[key(page, "F16"), key(page, "Q8_0")])["ok"]
    page.until(lambda: all(each["error"] and not each["check"] for each in rows(page)))
    assert "unknown keyword" in row(page)["error"]["message"]


def test_several_models_are_removed_and_free_what_was_said(page: Page, demo_hub: LocalHub, cache: Path) -> None:
    fetch(demo_hub, cache)
    fetch(demo_hub, cache, "tiny-chat-Q8_0.gguf")
    (snapshot,) = cache.glob("models--*/snapshots/*")
    other = snapshot.with_name("f" * 40)  # another commit with one of the same files
    other.mkdir()
    (other / FILENAME).symlink_to((snapshot / FILENAME).readlink())
    page.ask("act_on_library", action="refresh")
    assert len(rows(page)) == 3
    shared = [blob for row in rows(page) for blob in row["blobs"] if row["label"] == "F16"]
    assert [blob["users"] for blob in shared] == [2, 2]
    assert row(page, "Q8_0")["blobs"][0]["users"] == 1
    doomed = [{name: each[name] for name in ("repo_id", "variant_id", "commit_hash")} for each in rows(page)]
    assert page.ask("act_on_library", action="remove", models=doomed)["ok"]
    assert rows(page) == []
    assert not list(cache.glob("models--*/blobs/*"))
    assert page.ask("act_on_library", action="verify", models=doomed)["error"]["code"] == "invalid_request"


def test_leftovers_are_listed_and_removed_but_not_what_is_in_use(page: Page, demo_hub: LocalHub, cache: Path) -> None:
    fetch(demo_hub, cache)
    (blobs,) = cache.glob("models--*/blobs")
    stale, fresh, orphan = (blobs / name for name in ("a" * 64 + ".incomplete", "b" * 64 + ".incomplete", "c" * 64))
    for path, age in ((stale, DAY_SECONDS), (fresh, 0), (orphan, DAY_SECONDS)):
        path.write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - age,) * 2)
    page.ask("act_on_library", action="refresh")
    found = {leftover["name"]: leftover for leftover in page.traits["library"]["leftovers"]}
    assert {name: (each["kind"], each["is_in_use"]) for name, each in found.items()} == {
        stale.name: ("incomplete", False),
        fresh.name: ("incomplete", True),
        orphan.name: ("unlinked", False),
    }
    ids = [leftover["leftover_id"] for leftover in found.values()]
    assert page.ask("act_on_library", action="remove_leftovers", leftovers=[*ids, "../../etc/passwd"])["ok"]
    assert [leftover["name"] for leftover in page.traits["library"]["leftovers"]] == [fresh.name]
    assert (stale.exists(), fresh.exists(), orphan.exists()) == (False, True, False)


@pytest.mark.llama
def test_the_queue_can_be_ordered_paused_and_resumed_as_a_whole(page: Page, demo_hub: LocalHub) -> None:
    page.open_and_read(TINY)
    page.open_and_read(SPLIT)
    stall = demo_hub.faults.add(Stall(0), origin="cdn")
    page.until(lambda: page.traits["view"]["engine"]["limits"])
    assert page.ask("set_limits", max_active_jobs=1, bandwidth_bytes_per_second=10**9)["ok"]
    page.until(lambda: page.traits["view"]["engine"]["limits"]["max_active_jobs"] == 1)
    assert page.traits["view"]["engine"]["limits"]["bandwidth_bytes_per_second"] == 10**9
    assert page.ask("set_limits", max_active_jobs=0)["error"]["code"] == "invalid_request"
    page.act_on(TINY, FILENAME, "download")
    page.act_on(TINY, "tiny-chat-Q8_0.gguf", "download")
    page.act_on(SPLIT, page.variant(SPLIT, "F16")["variant_id"], "download")
    page.until(lambda: [job["queue_position"] for job in page.jobs()] == [None, 0, 1])
    last = page.jobs()[2]["job_id"]
    assert page.act("move_up", last)["ok"]
    page.until(lambda: [job["queue_position"] for job in page.jobs()] == [None, 1, 0])
    assert page.ask("act_on_downloads", action="pause")["ok"]
    page.until(lambda: {job["state"] for job in page.jobs()} == {"paused"})
    demo_hub.faults.remove(stall)
    assert page.ask("act_on_downloads", action="resume")["ok"]
    page.until(lambda: {job["state"] for job in page.jobs()} == {"ready"})
    assert all(job["finished_at"] for job in page.jobs())
    assert page.ask("act_on_downloads", action="dismiss")["ok"]
    page.until(lambda: page.jobs() == [])


def test_without_the_hub_what_is_here_is_shown(page: Page, demo_hub: LocalHub, cache: Path) -> None:
    fetch(demo_hub, cache)
    demo_hub.stop()
    assert page.ask("search", text="x")["error"]["code"] == "offline"
    assert page.ask("act_on_library", action="refresh")["ok"]
    assert row(page)["actions"] == ["load", "verify", "remove"]
    assert act(page, "verify")["ok"]
    page.until(lambda: row(page)["proof"])


def test_what_cannot_be_loaded_can_be_copied(
    page: Page, demo_hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise LlamaMissingError("There is no llama.cpp.")

    monkeypatch.setattr(Session, "plan", refuse)
    fetch(demo_hub, cache)
    page.ask("act_on_library", action="refresh")
    assert page.ask("plan_load", **key(page))["ok"]
    plan = page.traits["plan"]
    assert (plan["error"]["code"], plan["taken"]) == ("llama_missing", None)
    [entry] = tomllib.loads(plan["code"]["lock_entry"])["model"]
    assert (entry["repo"], entry["commit"]) == (TINY, key(page)["commit_hash"])
    assert key(page)["commit_hash"] in plan["code"]["modeldeck"]
    assert "n_gpu_layers" not in plan["code"]["llama_cpp"]


@pytest.mark.llama
def test_a_load_without_the_projector_is_copied_without_it(page: Page, demo_hub: LocalHub, cache: Path) -> None:
    def copied() -> tuple[bool, int]:
        assert page.ask("plan_load", repo_id=VISION, variant_id=variant_id)["ok"]
        code = page.traits["plan"]["code"]
        [entry] = tomllib.loads(code["lock_entry"])["model"]
        return "projector=False" in code["modeldeck"], len(entry["files"])

    page.ask("open_repo", repo_id=VISION)
    variant_id = page.variant(VISION, "Q8_0")["variant_id"]
    page.act_on(VISION, variant_id, "download")
    page.until(lambda: page.traits["library"]["models"])
    assert copied() == (False, 2)
    page.ask("set_projector", repo_id=VISION, is_wanted=False)
    assert copied() == (True, 1)


@pytest.mark.llama
def test_a_load_is_planned_before_it_is_made(page: Page, demo_hub: LocalHub, cache: Path) -> None:
    fetch(demo_hub, cache)
    page.ask("act_on_library", action="refresh")
    assert page.ask("plan_load", **key(page))["ok"]
    plain = page.traits["plan"]
    assert (plain["taken"]["n_ctx"], plain["taken"]["kv_type"], plain["taken"]["flash_attn"]) == (1024, "f16", True)
    assert plain["fit"]["verdict"] == "fits"
    assert "n_ctx=1024" in plain["code"]["modeldeck"]
    assert "n_ctx=1024" in plain["code"]["llama_cpp"]
    [entry] = tomllib.loads(plain["code"]["lock_entry"])["model"]
    assert (entry["repo"], entry["n_ctx"]) == (key(page)["repo_id"], 1024)
    choices = {"n_ctx": 2048, "n_threads": 1, "kv_type": "q8_0"}
    page.ask("plan_load", **key(page), choices=choices)
    chosen = page.traits["plan"]
    assert {name: chosen["taken"][name] for name in choices} == choices
    assert chosen["fit"]["needed_bytes"] != plain["fit"]["needed_bytes"]
    page.ask("plan_load", **key(page), choices={"n_threads": 10_000})
    assert "n_threads" in page.traits["plan"]["error"]["message"]
    assert page.traits["plan"]["taken"] is None

    page.ask("plan_load", **key(page), choices={"kv_type": "q8_0", "flash_attn": False})
    assert "only with flash attention" in page.traits["plan"]["error"]["message"]

    assert page.ask("set_n_ctx", n_ctx=4096)["ok"]
    page.ask("plan_load", **key(page))
    assert page.traits["plan"]["taken"]["n_ctx"] == 2048, "what the model was trained for"
    page.ask("plan_load", **key(page), choices={"n_ctx": 4096})
    assert page.traits["plan"]["taken"]["n_ctx"] == 4096

    choices = {"n_ctx": 700, "n_threads": 1, "kv_type": "f16"}
    page.ask("plan_load", **key(page), choices=choices)
    plan = page.traits["plan"]
    assert (plan["taken"]["n_ctx"], plan["fit"]["n_ctx"]) == (768, 768), "what llama.cpp makes of it"
    assert page.ask("act_on_variant", action="load", choices=choices, **key(page))["ok"]
    page.until(lambda: page.traits["load"]["state"] == "ready")
    assert page.traits["load"]["n_ctx"] == 768
    code = page.traits["load"]["code"]
    assert code == plan["code"]
    assert "(model, n_ctx=700, n_threads=1, n_threads_batch=1, type_k=1, type_v=1)" in code["modeldeck"]
    assert "n_ctx=700, flash_attn=True, n_threads=1, n_threads_batch=1, type_k=1, type_v=1)" in code["llama_cpp"]
    assert page.bridge.llm is not None
    assert page.bridge.llm.n_threads == 1
    assert row(page)["state"] == "loaded"
    assert page.ask("act_on_library", action="remove", models=[key(page)])["error"]["code"] == "invalid_request"
