"""The public functions, as a script without ``await`` uses them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeldeck
from modeldeck import _errors
from modeldeck._settings import resolve_settings
from modeldeck.service.observe import stop_engine
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Throttle

TINY = "modeldeck-demo/tiny-chat-GGUF"
SPLIT = "modeldeck-demo/tiny-split-GGUF"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELDECK_INLINE", "1")
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "cache"


def test_every_public_name_is_there() -> None:
    package = Path(modeldeck.__file__).parent
    for name in modeldeck.__all__:
        assert getattr(modeldeck, name) is not None
        assert not (package / name / "__init__.py").exists(), (
            "a module of that name would take the name's place once it is imported"
        )
        assert not (package / f"{name}.py").exists()
    for name in dir(modeldeck):
        assert getattr(modeldeck, name) is not None
    assert {"download", "search", "ModelBrowser", "ModelDeckError"} < set(dir(modeldeck))
    assert len(dir(modeldeck)) <= 20, "completion shows what users write"
    with pytest.raises(AttributeError):
        modeldeck.no_such_name  # noqa: B018


def test_every_error_can_be_caught_by_its_public_name() -> None:
    errors = {name for name, value in vars(_errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert errors <= set(modeldeck.__all__)


def test_search_describe_download_verify_remove(demo_hub: LocalHub, cache: Path) -> None:
    page = modeldeck.search("tiny", limit=1, endpoint=demo_hub.endpoint)
    assert [model.repo_id for model in page.models] == [TINY]
    repo = modeldeck.describe(TINY, endpoint=demo_hub.endpoint, exact=False)
    assert repo.recommended is not None
    states: list[str] = []
    model = modeldeck.download(
        TINY,
        repo.recommended,
        endpoint=demo_hub.endpoint,
        cache_dir=cache,
        progress=lambda snapshot: states.append(snapshot.state),
    )
    assert model.path.is_file()
    assert states[-1] == "ready"
    assert states.count("ready") == 1
    assert [local.path for local in modeldeck.local_models(cache_dir=cache)] == [model.path]
    assert [file.is_valid for file in modeldeck.verify(model, cache_dir=cache)] == [True]
    assert modeldeck.remove(model, cache_dir=cache) == model.size
    assert modeldeck.local_models(cache_dir=cache) == ()


def test_a_job_is_steered_and_awaited(demo_hub: LocalHub, cache: Path) -> None:
    throttle = demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    job = modeldeck.start_download(SPLIT, endpoint=demo_hub.endpoint, cache_dir=cache)
    with pytest.raises(TimeoutError, match=r"after 0\.2 s"):
        job.result(timeout=0.2)
    assert job.pause().state == "paused"
    assert job.snapshot.state == "paused"
    assert "paused" in repr(job)
    demo_hub.faults.remove(throttle)
    assert job.resume().state != "paused"

    async def wait() -> modeldeck.LocalModel:
        return await job

    model = asyncio.run(asyncio.wait_for(wait(), PATIENCE_SECONDS))
    assert all(path.is_file() for path in model.paths)
    assert job.result(PATIENCE_SECONDS) == model


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also in a run in the background, which a shell starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_is_one_also_when_there_is_nothing_left_to_pause(demo_hub: LocalHub, cache: Path) -> None:
    demo_hub.faults.add(Throttle(1e5, is_shared=True), origin="cdn")
    job = modeldeck.start_download(SPLIT, endpoint=demo_hub.endpoint, cache_dir=cache)
    main_thread, is_followed, is_paused = threading.get_ident(), threading.Event(), threading.Event()

    def follow(snapshot: modeldeck.DownloadSnapshot) -> None:
        is_followed.set()
        if snapshot.state == "paused":
            is_paused.set()

    def pause_and_interrupt() -> None:
        assert is_followed.wait(PATIENCE_SECONDS)
        job.pause()  # as somebody may in a widget
        assert is_paused.wait(PATIENCE_SECONDS)
        signal.pthread_kill(main_thread, signal.SIGINT)

    other = threading.Thread(target=pause_and_interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        modeldeck.download(SPLIT, endpoint=demo_hub.endpoint, cache_dir=cache, progress=follow)
    other.join(PATIENCE_SECONDS)
    assert job.cancel().state == "cancelled"


def test_two_threads_that_want_one_file_share_one_download(demo_hub: LocalHub, cache: Path) -> None:
    demo_hub.faults.add(Throttle(4e6, is_shared=True), origin="cdn")
    found: list[modeldeck.LocalModel] = []

    def work() -> None:
        found.append(modeldeck.download(SPLIT, endpoint=demo_hub.endpoint, cache_dir=cache))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert [model.path for model in found] == [found[0].path] * 3
    fetched = sum(
        record.bytes_sent for record in demo_hub.requests if record.origin == "cdn" and record.method == "GET"
    )
    assert fetched < 1.5 * found[0].size


FORK = """
import os, sys, modeldeck
endpoint, cache_dir, repo_id = sys.argv[1:]
modeldeck.search("tiny", endpoint=endpoint)
modeldeck.download(repo_id, "Q8_0", endpoint=endpoint, cache_dir=cache_dir)
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
modeldeck.search("tiny", endpoint=endpoint)
modeldeck.download(repo_id, "F16", endpoint=endpoint, cache_dir=cache_dir)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("inline", ["0", "1"], ids=["process", "inline"])
def test_a_forked_process_has_sessions_of_its_own(
    demo_hub: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: str
) -> None:
    """As the workers of a `multiprocessing.Pool` are on Linux, whatever their parent has done before."""
    monkeypatch.setenv("MODELDECK_INLINE", inline)
    monkeypatch.setenv("MODELDECK_RUNTIME_DIR", str(tmp_path / "run"))
    command = [sys.executable, "-c", FORK, demo_hub.endpoint, str(cache), TINY]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    asyncio.run(stop_engine(resolve_settings(endpoint=demo_hub.endpoint, cache_dir=cache)))
    assert run.returncode == 0, run.stderr
    assert len(modeldeck.local_models(cache_dir=cache)) == 2


@pytest.mark.llama
def test_load_downloads_what_is_not_there(demo_hub: LocalHub, cache: Path) -> None:
    stages: list[str] = []
    with modeldeck.load(
        f"{TINY}:Q8_0",
        n_ctx=512,
        endpoint=demo_hub.endpoint,
        cache_dir=cache,
        progress=lambda progress: stages.append(progress.stage),
    ) as llm:
        assert llm("Hi", max_tokens=32)["choices"][0]["text"] == " Hello from a tiny test model."
    assert stages[-1] == "ready"
    demo_hub.stop()
    with pytest.warns(UserWarning, match="is taken from the cache; the Hub was not followed") as warned:
        llm = modeldeck.load(f"{TINY}:Q8_0", n_ctx=512, endpoint=demo_hub.endpoint, cache_dir=cache)
    assert warned[0].filename == __file__, "the warning points at the line of the caller"
    assert llm.n_ctx() == 512
    llm.unload()
    with pytest.raises(modeldeck.OfflineError):
        modeldeck.load(f"{TINY}:F16", endpoint=demo_hub.endpoint, cache_dir=cache)


@pytest.mark.llama
def test_a_projector_on_disk_is_handed_to_the_loader(demo_hub: LocalHub, cache: Path) -> None:
    model = modeldeck.download("modeldeck-demo/tiny-vision-GGUF", endpoint=demo_hub.endpoint, cache_dir=cache)
    assert model.sidecar_paths[0].is_file()
    with modeldeck.load(model, n_ctx=512) as llm:
        assert llm("Hi", max_tokens=32)["choices"][0]["text"]
    path, (projector,) = model.path, model.sidecar_paths
    with pytest.raises(modeldeck.LoadFailedError, match=f"mmproj={projector.name!r}"):
        modeldeck.load(projector, n_ctx=512)
    with modeldeck.load(path, mmproj=projector, n_ctx=512) as llm:
        assert llm.chat_handler is not None
    with pytest.raises(modeldeck.LoadFailedError, match="not a vision projector"):
        modeldeck.load(path, mmproj=path, n_ctx=512)
