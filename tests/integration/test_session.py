"""The headless façade over the real engine and a real hub: what works, and what is said when it cannot."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modeldeck import (
    AmbiguousVariantError,
    DoesNotFitError,
    DownloadCancelledError,
    DownloadSnapshot,
    DownloadState,
    EngineLostError,
    GatedError,
    GGUFError,
    InvalidRequestError,
    LlamaMissingError,
    LoadFailedError,
    ModelDeckError,
    NetworkError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    Session,
    llama,
)
from modeldeck._settings import Settings
from modeldeck.service import connect
from modeldeck.service.engine_client import EngineClient
from modeldeck.sizing import ask_child, dry_run
from modeldeck.sizing.hardware import Hardware
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Reply, Throttle
from tools.localhub.tiny_models import write_chat_model

TINY = "modeldeck-demo/tiny-chat-GGUF"
SPLIT = "modeldeck-demo/tiny-split-GGUF"
VISION = "modeldeck-demo/tiny-vision-GGUF"
GATED = "modeldeck-demo/tiny-gated-GGUF"

pytestmark = pytest.mark.anyio


@pytest.fixture
async def session(demo_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    async with Session(endpoint=demo_hub.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
        yield session


async def test_search_finds_by_name_and_pages(session: Session) -> None:
    first = await session.search("tiny", limit=2)
    assert [model.repo_id for model in first.models] == [TINY, SPLIT]
    assert first.next_cursor is not None
    second = await session.search("tiny", limit=2, cursor=first.next_cursor)
    assert {model.repo_id for model in second.models}.isdisjoint({TINY, SPLIT})


@pytest.mark.llama
async def test_describe_tells_sizes_digests_fit_and_a_recommendation(session: Session, demo_hub: LocalHub) -> None:
    details = await session.describe(TINY)
    assert {variant.label for variant in details.variants} == {"F16", "Q8_0", "Q4_0"}
    assert details.model is not None
    assert details.model.has_chat_template is True
    for variant in details.variants:
        assert variant.files[0].sha256 == demo_hub.sha256(TINY, variant.variant_id)
        fit = details.fits[variant.variant_id]
        assert fit.verdict == "fits"
        assert fit.method == "native"
    assert details.recommended == "tiny-chat-F16.gguf"
    assert details.model.context_length == 2048


async def test_formula_and_llama_cpp_agree(session: Session) -> None:
    quick = await session.describe(TINY, exact=False)
    exact = await session.describe(TINY)
    for variant_id, fit in quick.fits.items():
        assert fit.method == "formula"
        assert fit.needed_bytes == pytest.approx(exact.fits[variant_id].needed_bytes, rel=0.12)


async def test_another_context_length_changes_the_fit_without_asking_the_hub(
    session: Session, demo_hub: LocalHub
) -> None:
    details = await session.describe(TINY, n_ctx=512, exact=False)
    asked = len(demo_hub.requests)
    larger = await session.reassess(details, n_ctx=2048)
    assert len(demo_hub.requests) == asked
    variant_id = details.variants[0].variant_id
    small, large = details.fits[variant_id].needed_bytes, larger.fits[variant_id].needed_bytes
    assert small is not None
    assert large is not None
    assert small < large


async def test_download_gives_the_verified_file_in_the_cache(session: Session, demo_hub: LocalHub) -> None:
    seen: list[DownloadSnapshot] = []
    model = await session.download(f"{TINY}:q8_0", progress=seen.append)
    assert model.label == "Q8_0"
    assert model.path.name == "tiny-chat-Q8_0.gguf"
    assert hashlib.sha256(model.path.read_bytes()).hexdigest() == demo_hub.sha256(TINY, model.variant_id)
    assert seen[-1].state is DownloadState.READY
    assert seen[-1].percent == 100
    assert all(snapshot.percent != 100 for snapshot in seen[:-1])
    received = [snapshot.received for snapshot in seen]
    assert received == sorted(received)

    again = await session.download(TINY, "Q8_0")
    assert again.path == model.path
    assert again.bytes_fetched == 0


async def test_huggingface_hub_finds_what_was_downloaded(session: Session, demo_hub: LocalHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    model = await session.download(TINY, "Q4_0")
    cache = tmp_path / "cache"
    assert try_to_load_from_cache(TINY, model.variant_id, cache_dir=cache) == str(model.path)
    assert hf_hub_download(TINY, model.variant_id, cache_dir=cache, local_files_only=True) == str(model.path)
    scan = scan_cache_dir(cache)
    assert scan.warnings == []
    assert [(repo.repo_id, repo.nb_files) for repo in scan.repos] == [(TINY, 1)]


async def test_shards_and_projector_are_one_download(session: Session) -> None:
    split = await session.download(SPLIT)
    assert [path.name for path in split.paths] == [f"tiny-split-F16-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    assert all(path.exists() for path in split.paths)
    vision = await session.download(VISION)
    assert [path.name for path in vision.sidecar_paths] == ["mmproj-tiny-vision-F16.gguf"]
    local = {model.repo_id: model for model in await session.local_models()}
    assert local[SPLIT].paths == split.paths
    assert local[VISION].sidecar_paths == vision.sidecar_paths


@pytest.mark.parametrize("kind", [KeyError, SystemExit])
async def test_an_exception_of_the_progress_callback_reaches_the_caller_at_once(
    session: Session, demo_hub: LocalHub, kind: type[BaseException]
) -> None:
    demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    calls: list[DownloadSnapshot] = []

    def progress(snapshot: DownloadSnapshot) -> None:
        calls.append(snapshot)
        raise kind

    with pytest.raises(kind):
        await session.download(SPLIT, progress=progress)
    assert len(calls) == 1
    (snapshot,) = await session.downloads()
    assert not snapshot.state.is_final, "it goes on"


async def test_pause_resume_and_cancel(session: Session, demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(1e6, is_shared=True), origin="cdn")
    job = await session.start(await session.request(SPLIT))
    engine = await session.engine()
    has_begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    unsubscribe = engine.subscribe(lambda news: loop.call_soon_threadsafe(has_begun.set) if news.received else None)
    await asyncio.wait_for(has_begun.wait(), PATIENCE_SECONDS)
    unsubscribe()
    assert (await job.pause()).state is DownloadState.PAUSED
    kept = job.snapshot.received
    assert kept > 0
    await job.resume()
    demo_hub.faults.clear()
    waiting = asyncio.ensure_future(job.result())
    model = await asyncio.wait_for(waiting, PATIENCE_SECONDS)
    assert model.path.exists()

    demo_hub.faults.add(Throttle(1e4, is_shared=True), origin="cdn")
    other = await session.start(await session.request(TINY, "F16"))
    result = asyncio.ensure_future(other.result())
    await engine.act(other.job_id, "cancel")
    with pytest.raises(DownloadCancelledError):
        await asyncio.wait_for(result, PATIENCE_SECONDS)
    assert not list((session.settings.cache_dir).rglob("*.part*"))


async def test_cancel_deletes_what_is_meant_and_counts_nothing_else(
    session: Session, demo_hub: LocalHub, tmp_path: Path
) -> None:
    content = write_chat_model(tmp_path / "model.gguf", quantization="Q8_0", size_bytes=12_000_000).read_bytes()
    other = content[:-8] + b"12345678"
    demo_hub.add_repo("owner/name", {"model-Q8_0.gguf": content, "model-QAD-Q4_0.gguf": other})
    demo_hub.faults.add(Throttle(2e5, is_shared=True), origin="cdn")
    running = await session.start_download("owner/name:Q8_0")
    engine = await session.engine()
    for selector in ("Q5_0", "QAD-Q4_0", "model-QAD-Q4_0"):
        with pytest.raises(RemoteFileNotFoundError, match=f"Nothing of owner/name:{selector} is unfinished"):
            await session.cancel(f"owner/name:{selector}")
    for selector in ("Q4_0", "QAD-Q4_0", "model-QAD-Q4_0", "model-QAD-Q4_0.gguf"):
        job = await session.start_download("owner/name:Q4_0")
        freed = await session.cancel(f"owner/name:{selector}")
        assert (await engine.wait(job.job_id)).state is DownloadState.CANCELLED
        assert 0 <= freed <= len(other)
    assert not running.snapshot.state.is_final
    assert await session.cancel("owner/name:Q8_0") > 0
    assert (await engine.wait(running.job_id)).state is DownloadState.CANCELLED


async def test_cancel_says_that_a_download_goes_on_for_another_program(session: Session, demo_hub: LocalHub) -> None:
    demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    here = {"endpoint": demo_hub.endpoint, "cache_dir": session.settings.cache_dir}
    async with Session(**here, token=False, inline=True) as other:
        job = await other.start_download(SPLIT)
        with pytest.raises(InvalidRequestError, match="goes on, because another program wants it too"):
            await session.cancel(SPLIT)
        assert not job.snapshot.state.is_final
        assert await session.cancel(SPLIT) >= 0
        assert (await (await other.engine()).wait(job.job_id)).state is DownloadState.CANCELLED


async def test_remove_frees_the_bytes_and_keeps_the_rest(session: Session) -> None:
    small = await session.download(TINY, "Q4_0")
    other = await session.download(TINY, "Q8_0")
    assert await session.remove(small) == small.size
    assert not small.path.exists()
    assert [model.label for model in await session.local_models()] == ["Q8_0"]
    assert other.path.exists()


async def test_several_local_variants_are_never_taken_for_one(session: Session) -> None:
    """To say that a repository is sound after looking at one of its files would be wrong, to delete any one worse."""
    for label in ("F16", "Q4_0"):
        await session.download(TINY, label)
    for work in (session.verify(TINY), session.remove(TINY)):
        error = await expect(AmbiguousVariantError, "ambiguous_variant", work)
        assert error.details["choices"] == ["tiny-chat-F16.gguf", "tiny-chat-Q4_0.gguf"]
    assert len(await session.local_models()) == 2
    await session.remove(f"{TINY}:F16")
    assert all(file.is_valid for file in await session.verify(TINY)), "the only one needs no label"


async def test_a_path_names_the_model_that_it_is_of(session: Session) -> None:
    """It is what the command prints after a download."""
    model = await session.download(SPLIT)
    assert len(await session.verify(str(model.path))) == 3
    assert await session.remove(model.paths[1]) == model.size
    await expect(RemoteFileNotFoundError, "file_not_found", session.remove(model.path))


@pytest.mark.parametrize(
    "selector", ["F16", "tiny-split-F16-00002-of-00003.gguf", "F16/tiny-split-F16-00001-of-00003.gguf", "split-F16"]
)
async def test_what_names_a_download_names_it_in_the_cache(session: Session, selector: str) -> None:
    model = await session.download(SPLIT, selector)
    assert len(await session.verify(f"{SPLIT}:{selector}")) == 3
    assert await session.remove(f"{SPLIT}:{selector}") == model.size


async def test_verify_notices_a_damaged_file_and_repairs_it(session: Session) -> None:
    model = await session.download(TINY, "F16")
    assert [file.is_valid for file in await session.verify(model)] == [True]
    content = bytearray(model.path.read_bytes())
    content[1000] ^= 1
    model.path.resolve().write_bytes(content)
    assert [file.is_valid for file in await session.verify(model)] == [False]
    (repaired,) = await session.verify(model, repair=True)
    assert repaired.is_valid
    assert repaired.repaired_bytes > 0
    assert [file.is_valid for file in await session.verify(model)] == [True]
    assert [(job.request.purpose, job.state) for job in await session.downloads()] == [
        ("download", "ready"),
        ("repair", "ready"),
    ]


async def test_a_repair_says_for_each_file_what_was_replaced(session: Session) -> None:
    model = await session.download(SPLIT)
    first, second, third = model.paths
    for path in (first, third):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.resolve().write_bytes(content)
    assert [file.is_valid for file in await session.verify(model)] == [False, True, False]
    files = await session.verify(model, repair=True)
    assert [file.path for file in files] == [first, second, third]
    assert all(file.is_valid for file in files)
    assert [file.repaired_bytes > 0 for file in files] == [True, False, True]


# --- bad input: the right error, with a next step --------------------------------------------------------------------


async def expect(kind: type[ModelDeckError], code: str, work: object) -> ModelDeckError:
    with pytest.raises(kind) as caught:
        await work  # type: ignore[misc]
    assert caught.value.code == code
    return caught.value


async def test_unknown_repo_revision_and_file(session: Session) -> None:
    await expect(RepoNotFoundError, "repo_not_found", session.download("nobody/nothing"))
    await expect(RevisionNotFoundError, "revision_not_found", session.download(TINY, revision="no-such-branch"))
    error = await expect(RemoteFileNotFoundError, "file_not_found", session.download(TINY, "Q2_K"))
    assert "Q4_0" in error.message, "says what there is"
    await expect(RemoteFileNotFoundError, "file_not_found", session.download(TINY, filename="other.gguf"))


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../etc/passwd", "a b/c", "owner/name:"])
async def test_a_malformed_repo_id(session: Session, repo_id: str) -> None:
    await expect(InvalidRequestError, "invalid_request", session.download(repo_id))


async def test_an_engine_that_comes_after_its_caller_was_cancelled_is_closed_with_the_session(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_come = threading.Event(), threading.Event()
    engines: list[EngineClient] = []

    def connect_late(settings: Settings, **options: Any) -> EngineClient:
        is_asked.set()
        may_come.wait()
        engines.append(connect.connect_engine(settings, **options))
        return engines[0]

    monkeypatch.setattr("modeldeck.service.connect.connect_engine", connect_late)
    caller = asyncio.create_task(session.engine())
    await asyncio.to_thread(is_asked.wait)
    monkeypatch.undo()
    caller.cancel()
    await asyncio.wait([caller])
    may_come.set()
    await session.aclose()
    with pytest.raises(EngineLostError, match="closed"):
        await engines[0].status()


async def test_an_engine_that_never_comes_is_nobodys_error_once_its_caller_was_cancelled(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_fail = threading.Event(), threading.Event()

    def never_connect(settings: Settings, **options: Any) -> EngineClient:
        is_asked.set()
        may_fail.wait()
        raise EngineLostError("It did not start.")

    monkeypatch.setattr("modeldeck.service.connect.connect_engine", never_connect)
    caller = asyncio.create_task(session.engine())
    await asyncio.to_thread(is_asked.wait)
    caller.cancel()
    await asyncio.wait([caller])
    may_fail.set()
    await session.aclose()


@pytest.mark.llama
@pytest.mark.parametrize(
    "address",
    [f"https://elsewhere.example/{TINY}", f"https://huggingface.co/datasets/{TINY}", "hf://spaces/o/n"],
)
async def test_an_address_of_something_else_is_refused(session: Session, demo_hub: LocalHub, address: str) -> None:
    for work in (session.download(address), session.verify(address), session.remove(address), session.load(address)):
        error = await expect(InvalidRequestError, "invalid_request", work)
        assert "OWNER/NAME" in error.message
    assert not len(demo_hub.requests)


@pytest.mark.llama
async def test_what_is_neither_a_file_nor_a_repository_is_not_loaded(session: Session) -> None:
    for text in ("smollm2", "./owner/name", "owner/nowhere.gguf", "nowhere.gguf", ""):
        error = await expect(InvalidRequestError, "invalid_request", session.load(text))
        assert "OWNER/NAME" in error.message


async def test_nothing_is_downloaded_that_cannot_be_loaded(
    session: Session, demo_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    await expect(LlamaMissingError, "llama_missing", session.load(f"{TINY}:Q4_0"))
    assert not len(demo_hub.requests)


async def test_an_ambiguous_label_lists_the_choices(session: Session, demo_hub: LocalHub, tmp_path: Path) -> None:
    first = write_chat_model(tmp_path / "alpha-Q8_0.gguf", quantization="Q8_0")
    second = write_chat_model(tmp_path / "beta-Q8_0.gguf", quantization="Q8_0")
    demo_hub.add_repo("owner/two", {"alpha-Q8_0.gguf": first, "beta-Q8_0.gguf": second})
    error = await expect(AmbiguousVariantError, "ambiguous_variant", session.download("owner/two:Q8_0"))
    assert set(error.details["choices"]) == {"alpha-Q8_0.gguf", "beta-Q8_0.gguf"}
    assert (await session.download("owner/two", filename="beta-Q8_0.gguf")).path.name == "beta-Q8_0.gguf"


async def test_a_variant_and_a_filename_are_one_too_many(session: Session) -> None:
    work = session.download(f"{TINY}:Q4_0", filename="tiny-chat-Q8_0.gguf")
    await expect(InvalidRequestError, "invalid_request", work)


@pytest.mark.parametrize("name", [{"variant": ""}, {"filename": ""}], ids=str)
async def test_an_empty_name_does_not_mean_the_recommended_variant(session: Session, name: dict[str, str]) -> None:
    """A shell's unset variable would download the largest file there is."""
    await expect(RemoteFileNotFoundError, "file_not_found", session.download(TINY, **name))


async def test_where_nothing_fits_the_variant_must_be_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Hardware(ram_total=1 << 20, ram_available=1 << 20, cpu_count=1)
    monkeypatch.setattr("modeldeck.sizing.hardware.probe_hardware", lambda: tiny)
    error = await expect(DoesNotFitError, "does_not_fit", session.download(TINY))
    assert "F16, Q8_0, Q4_0" in error.message
    assert (await session.download(TINY, "Q4_0")).path.is_file()


async def test_numbers_that_make_no_sense_are_refused(session: Session, demo_hub: LocalHub) -> None:
    for work in (session.describe(TINY, n_ctx=0), session.search("tiny", limit=0), session.search("tiny", limit=101)):
        await expect(InvalidRequestError, "invalid_request", work)
    assert not len(demo_hub.requests)


async def test_a_gated_repo_names_its_licence_page(session: Session, demo_hub: LocalHub) -> None:
    error = await expect(GatedError, "gated", session.download(GATED))
    assert error.details["url"] == f"{demo_hub.endpoint}/{GATED}"


async def test_no_network(session: Session, demo_hub: LocalHub) -> None:
    demo_hub.stop()
    await expect(NetworkError, "offline", session.search("tiny"))


async def test_a_wrong_endpoint_is_told_from_a_hub(session: Session, demo_hub: LocalHub) -> None:
    page = b"<!doctype html><title>Welcome</title>"
    demo_hub.faults.add(Reply(200, {"content-type": "text/html"}, page), path="/api/*")
    error = await expect(ServerError, "server_error", session.search("tiny"))
    assert demo_hub.endpoint.removeprefix("http://") in error.message


async def test_an_html_page_where_a_gguf_should_be(session: Session, demo_hub: LocalHub, tmp_path: Path) -> None:
    demo_hub.add_repo("owner/page", {"model-Q8_0.gguf": b"<!doctype html><title>Sorry</title>" + b" " * 5000})
    await expect(GGUFError, "not_gguf", session.download("owner/page"))
    assert not list((tmp_path / "cache").rglob("snapshots/*/*.gguf"))


@pytest.mark.llama
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(401), RepoNotFoundError),
        (Reply(403, {"x-error-code": "GatedRepo"}), GatedError),
        (Reply(404, {"x-error-code": "RepoNotFound"}), RepoNotFoundError),
        (Reply(200, {"content-type": "text/html"}, b"<!doctype html><title>Welcome</title>"), ServerError),
    ],
    ids=["private meanwhile", "gated meanwhile", "deleted", "a captive portal"],
)
async def test_a_model_of_the_cache_loads_although_the_hub_refuses(
    session: Session, demo_hub: LocalHub, monkeypatch: pytest.MonkeyPatch, reply: Reply, kind: type[ModelDeckError]
) -> None:
    model = await session.download(TINY, "Q4_0")
    loaded: list[Path] = []
    monkeypatch.setattr(llama, "load", lambda path, **_: loaded.append(path))
    demo_hub.faults.add(reply, path="/api/*")
    notices: list[str] = []
    await session.load(f"{TINY}:Q4_0", on_notice=notices.append)
    assert loaded == [model.path]
    (notice,) = notices
    assert "is taken from the cache" in notice
    with pytest.raises(kind) as caught:
        await session.load(f"{TINY}:Q8_0", on_notice=notices.append)
    assert caught.value.message in notice, "it says why"
    assert len(notices) == 1


@pytest.mark.llama
async def test_a_cancelled_load_ends_and_gives_back_what_it_had_loaded(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, unloaded = threading.Event(), threading.Event()

    def load(path: Path, *, cancel: threading.Event, **_: object) -> object:
        begun.set()
        assert cancel.wait(PATIENCE_SECONDS)
        return SimpleNamespace(unload=unloaded.set)  # it was loaded just before it looked

    monkeypatch.setattr(llama, "load", load)
    loading = asyncio.create_task(session.load(tmp_path / "model.gguf"))
    assert await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert unloaded.is_set()


@pytest.mark.llama
async def test_a_projector_that_cannot_be_loaded_costs_the_images_and_not_the_model(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await session.download(VISION)
    tried: list[Path | None] = []

    def load(path: Path, *, mmproj: Path | None, **_: object) -> str:
        tried.append(mmproj)
        if mmproj is not None:
            raise LoadFailedError("It is damaged.")
        return "loaded"

    monkeypatch.setattr(llama, "load", load)
    notices: list[str] = []
    loaded: object = await session.load(model, on_notice=notices.append)
    assert loaded == "loaded"
    assert tried == [model.sidecar_paths[0], None]
    assert notices == ["Loaded without its vision projector, for text only. It is damaged."]


@pytest.mark.llama
async def test_a_projector_is_left_out_and_brought_later_alone(
    session: Session, demo_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await session.download(VISION, projector=False)
    assert model.sidecar_paths == ()
    assert not any("mmproj" in record.target for record in demo_hub.requests.to("cdn"))
    assert (await session.download(VISION, projector=False)).bytes_fetched == 0
    tried: list[Path | None] = []
    monkeypatch.setattr(llama, "load", lambda path, *, mmproj, **_: tried.append(mmproj))
    await session.load(f"{VISION}:Q8_0", mmproj=False)
    assert (await session.local_models())[0].sidecar_paths == ()

    whole = await session.download(VISION)
    (projector,) = whole.sidecar_paths
    assert whole.bytes_fetched == projector.stat().st_size
    await session.load(whole, mmproj=False)
    await session.load(whole)
    assert tried == [None, None, projector]


async def test_a_paused_download_goes_on_without_its_projector(session: Session, demo_hub: LocalHub) -> None:
    slow = demo_hub.faults.add(Throttle(2e5, is_shared=True), origin="cdn")
    download = await session.start(await session.request(VISION))
    seen = asyncio.Event()
    unsubscribe = await session.subscribe(lambda job: job.received > 0 and loop.call_soon_threadsafe(seen.set))
    loop = asyncio.get_running_loop()
    if download.snapshot.received == 0:
        await seen.wait()
    paused = await download.pause()
    unsubscribe()
    demo_hub.faults.remove(slow)
    model = await session.download(VISION, projector=False)
    assert model.sidecar_paths == ()
    assert (model.bytes_fetched or 0) <= model.size
    jobs = await session.downloads()
    assert paused.job_id not in {job.job_id for job in jobs}, "it goes on as the new one"
    assert [job.state for job in jobs] == [DownloadState.READY]
    assert len((await session.download(VISION)).sidecar_paths) == 1


async def test_what_llama_cpp_refuses_is_not_said_to_fit(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = dry_run.DryRun(status="would_abort", reason="GGML_ASSERT(n_expert > 0) failed")
    monkeypatch.setattr(ask_child, "is_llama_cpp_installed", lambda: True)
    monkeypatch.setattr(dry_run, "dry_run_header", lambda parts: refusal)
    details = await session.describe(TINY)
    for fit in details.fits.values():
        assert fit.verdict == "unusable"
        assert "llama.cpp cannot load this model here: GGML_ASSERT" in (fit.reason or "")
