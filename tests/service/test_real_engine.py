"""The engine's process with the real download manager, against the local hub."""

import asyncio
import hashlib
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from modeldeck._errors import InvalidRequestError
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, GGUFFile
from modeldeck.engine.store import MAX_FINISHED, JobStore, StoredJob
from modeldeck.library import local_model_of
from modeldeck.service.connect import connect_engine
from modeldeck.service.discovery import find_state_directory
from modeldeck.service.engine_client import EngineClient
from modeldeck.service.observe import engine_status, stop_engine
from modeldeck.session import Session
from tests.service.engines import Engines
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Latency, Throttle

TOKEN = "hf_testtesttest"
FILENAME = "model-Q4_K_M.gguf"
CONTENT = b"GGUF" + random.Random(1).randbytes(24_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub(tokens={TOKEN: {"owner/gated"}}) as hub:
        hub.add_repo("owner/name", {FILENAME: CONTENT})
        hub.add_repo("other/name", {FILENAME: CONTENT})
        hub.add_repo("owner/gated", {FILENAME: CONTENT}, gated="manual")
        yield hub


def request_for(hub: LocalHub, cache_dir: Path, repo_id: str = "owner/name") -> DownloadRequest:
    return DownloadRequest(
        repo_id=repo_id,
        revision="main",
        commit_hash=None,
        variant_id=FILENAME,
        label="Q4_K_M",
        files=(GGUFFile(filename=FILENAME, size=len(CONTENT), sha256=SHA256),),
        endpoint=hub.endpoint,
        cache_dir=str(cache_dir),
    )


def blob_of(request: DownloadRequest) -> Path:
    return Path(request.cache_dir) / f"models--{request.repo_id.replace('/', '--')}" / "blobs" / SHA256


def content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.anyio
async def test_the_engine_starts_while_the_hub_is_asked(engines: Engines, hub: LocalHub, cache_dir: Path) -> None:
    hub.faults.add(Latency(seconds=3600), path="/api/*")
    async with Session(endpoint=hub.endpoint, cache_dir=cache_dir, token=False) as session:
        starting = asyncio.ensure_future(session.start_download("owner/name", "Q4_K_M"))
        await asyncio.to_thread(engines.wait_until, lambda: bool(engines.processes()))
        assert not starting.done()
        starting.cancel()
        await asyncio.wait([starting])


def test_a_download_imports_only_what_it_needs(engines: Engines, demo_hub: LocalHub, cache_dir: Path) -> None:
    script = """if True:
        import sys
        import modeldeck
        modeldeck.download("modeldeck-demo/tiny-chat-GGUF:Q8_0", token=False, progress=False)
        for name in ("modeldeck.sizing", "modeldeck.engine.manager", "modeldeck.widget", "modeldeck.llama",
                     "huggingface_hub.errors", "httpx2", "tqdm", "psutil", "filelock",
                     "importlib.metadata", "llama_cpp", "anywidget", "IPython"):
            if name in sys.modules:
                print(name)
    """
    environment = {**os.environ, "HF_ENDPOINT": demo_hub.endpoint, "HF_HUB_CACHE": str(cache_dir)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == ""


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [False, True])
async def test_download(engines: Engines, hub: LocalHub, cache_dir: Path, inline: bool) -> None:
    engine = connect_engine(engines.settings, inline=inline)
    assert engine.mode == ("inline" if inline else "process")
    assert engine.notice is None
    request = request_for(hub, cache_dir)
    job = await engine.submit(request)
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY, last.error
    assert content(blob_of(request)) == CONTENT
    assert last.bytes_fetched == len(CONTENT)
    again = await engine.submit(request)  # looked at again: a new entry takes the old one's place
    assert (await engine.wait(again.job_id)).state is DownloadState.READY
    assert [snapshot.job_id for snapshot in engine.snapshots()] == [again.job_id]
    await engine.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("which", ["process", "inline", "beside another version's"])
async def test_what_an_engine_downloaded_is_repaired_by_fetching_what_is_bad(
    engines: Engines, hub: LocalHub, cache_dir: Path, which: str
) -> None:
    """An engine leaves the checks, wherever it keeps its list, and the command of another process finds them."""
    state_dir = find_state_directory(cache_dir)
    assert state_dir is not None
    lock = FileLock(state_dir / "engine.lock")
    if which == "beside another version's":
        lock.acquire()
    engine = connect_engine(engines.settings, inline=which == "inline")
    request = request_for(hub, cache_dir)
    job = await engine.submit(request)
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    await engine.aclose()
    lock.release()
    with blob_of(request).open("r+b") as file:
        file.seek(17_000_000)
        file.write(bytes([CONTENT[17_000_000] ^ 1]))
    hub.requests.clear()
    command = [sys.executable, "-m", "modeldeck", "verify", "owner/name", "--json", "--repair"]
    result = await asyncio.to_thread(
        subprocess.run,
        [*command, "--endpoint", hub.endpoint, "--cache-dir", str(cache_dir)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    *progress, file_after = (msgspec.json.decode(line, type=dict[str, object]) for line in result.stdout.splitlines())
    assert all(event["event"] == "progress" for event in progress)
    assert file_after["is_valid"] is True
    assert file_after["repaired_bytes"]
    assert content(blob_of(request)) == CONTENT
    assert 0 < sum(record.bytes_sent for record in hub.requests.to("cdn")) <= 2 << 20


@pytest.mark.anyio
async def test_variable_makes_it_inline(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDECK_INLINE", "1")
    engine = connect_engine(engines.settings)
    assert engine.mode == "inline"
    await engine.aclose()
    monkeypatch.setenv("MODELDECK_INLINE", "0")
    engine = connect_engine(engines.settings)
    assert engine.mode == "process"
    await engine.aclose()


@pytest.mark.anyio
async def test_a_killed_engine_resumes_by_the_journal(engines: Engines, hub: LocalHub, cache_dir: Path) -> None:
    hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=9_000_000), origin="cdn")
    engine = connect_engine(engines.settings)
    request = request_for(hub, cache_dir, "owner/gated")
    job = await engine.submit(request, token=TOKEN)
    states: list[DownloadState] = []
    engine.subscribe(lambda snapshot: states.append(snapshot.state))
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots()[0].received > 12_000_000)
    os.kill((await engine.status()).pid, signal.SIGKILL)
    hub.faults.clear()
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY, last.error
    assert last.job_id == job.job_id
    assert content(blob_of(request)) == CONTENT
    assert last.bytes_fetched < len(CONTENT)  # the second engine did not start from the beginning
    assert DownloadState.FAILED not in states  # the token was given again before anybody saw that it was missing
    assert "started again" in (engine.notice or "")
    await engine.aclose()


@pytest.mark.anyio
async def test_the_gated_download_of_a_dead_kernel_asks_for_its_token(
    engines: Engines, hub: LocalHub, cache_dir: Path
) -> None:
    hub.faults.add(Throttle(1e6, is_shared=True), origin="cdn")
    engine = connect_engine(engines.settings)
    job = await engine.submit(request_for(hub, cache_dir, "owner/gated"), token=TOKEN)
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots()[0].received > 500_000)
    pid = (await engine.status()).pid
    await engine.aclose()
    os.kill(pid, signal.SIGKILL)

    other = connect_engine(engines.settings)
    failed = await other.wait(job.job_id)
    assert failed.state is DownloadState.FAILED
    assert failed.error is not None
    assert failed.error.code in ("unauthorized", "gated")
    hub.faults.clear()
    await other.act(job.job_id, "retry", TOKEN)
    assert (await other.wait(job.job_id)).state is DownloadState.READY
    await other.aclose()


@pytest.mark.anyio
async def test_stop_keeps_the_bytes_and_the_next_engine_shows_it_paused(
    engines: Engines, hub: LocalHub, cache_dir: Path
) -> None:
    hub.faults.add(Throttle(1e6, is_shared=True, free_bytes=9_000_000), origin="cdn")
    engine = connect_engine(engines.settings)
    request = request_for(hub, cache_dir)
    job = await engine.submit(request)
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots()[0].received > 12_000_000)
    assert await stop_engine(engines.settings)
    assert await engine_status(engines.settings) is None
    await engine.aclose()

    hub.faults.clear()
    other = connect_engine(engines.settings)
    (paused,) = other.snapshots()
    assert (paused.job_id, paused.state) == (job.job_id, DownloadState.PAUSED)
    assert paused.received > 0
    await other.act(job.job_id, "resume")
    last = await other.wait(job.job_id)
    assert last.state is DownloadState.READY, last.error
    assert last.bytes_fetched < len(CONTENT)
    assert content(blob_of(request)) == CONTENT
    await other.aclose()


# --- history of the finished


async def finish_one(engine: EngineClient, request: DownloadRequest) -> DownloadSnapshot:
    job = await engine.submit(request)
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY, last.error
    return last


async def end(engine: EngineClient, engines: Engines, how: str) -> None:
    """Let the engine's process end, and its client know that nothing is wanted any more."""
    pid = (await engine.status()).pid
    await engine.aclose()
    if how == "stopped":
        assert await stop_engine(engines.settings)
    else:
        os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(engines.wait_until, lambda: not engines.processes())


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_the_next_engine_shows_what_was_finished(
    engines: Engines, hub: LocalHub, cache_dir: Path, how: str
) -> None:
    engine = connect_engine(engines.settings)
    before = await finish_one(engine, request_for(hub, cache_dir))
    stored = Path(os.environ["MODELDECK_STATE_DIR"])
    await asyncio.to_thread(engines.wait_until, lambda: any(b'"finish":{' in p.read_bytes() for p in entries(stored)))
    await end(engine, engines, how)
    hub.requests.clear()

    other = connect_engine(engines.settings)
    (after,) = other.snapshots()
    assert after.state is DownloadState.READY
    assert (after.job_id, after.request, after.created_at) == (before.job_id, before.request, before.created_at)
    assert after.received == after.total == len(CONTENT)
    assert after.percent == 100
    assert before.commit_hash is not None
    assert (after.commit_hash, after.bytes_fetched) == (before.commit_hash, before.bytes_fetched)
    assert (after.rate, after.connections, after.error, after.actions) == (None, 0, None, ("dismiss",))
    assert local_model_of(after).path.read_bytes() == CONTENT
    assert await other.wait(after.job_id) == after
    status = await other.status()
    assert (status.active, status.waiting) == (0, 0)
    assert len(hub.requests) == 0

    await other.act(after.job_id, "dismiss")
    assert other.snapshots() == ()
    assert entries(stored) == []
    await end(other, engines, "killed")
    last = connect_engine(engines.settings)
    assert last.snapshots() == ()
    await last.aclose()


def entries(state_dir: Path) -> list[Path]:
    return list(state_dir.glob("*/*.download.json"))


@pytest.mark.anyio
@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("damage", ["deleted", "cut off"])
async def test_a_finished_download_whose_file_is_gone_is_not_shown(
    engines: Engines, hub: LocalHub, cache_dir: Path, is_restarted: bool, damage: str
) -> None:
    """Neither by the next engine, nor to the next client of this one; and a client that saw it is told."""
    engine = connect_engine(engines.settings)
    request = request_for(hub, cache_dir)
    gone = await finish_one(engine, request)
    kept = await finish_one(engine, request_for(hub, cache_dir, "other/name"))
    if damage == "deleted":
        local_model_of(gone).path.unlink()
    else:
        os.truncate(blob_of(request), 1000)
    if is_restarted:
        await end(engine, engines, "stopped")
    other = connect_engine(engines.settings)
    assert [snapshot.job_id for snapshot in other.snapshots()] == [kept.job_id]
    if not is_restarted:
        await asyncio.to_thread(engines.wait_until, lambda: len(engine.snapshots()) == 1)
        await engine.aclose()

    again = await finish_one(other, request)
    assert local_model_of(again).path.read_bytes() == CONTENT
    assert again.job_id != gone.job_id
    assert {snapshot.job_id for snapshot in other.snapshots()} == {kept.job_id, again.job_id}
    await other.aclose()


@pytest.mark.anyio
async def test_removing_a_model_takes_its_download_off_every_list(
    engines: Engines, hub: LocalHub, cache_dir: Path
) -> None:
    """Also when who removes it has no engine, and none is started for that."""
    engine = connect_engine(engines.settings)
    model = local_model_of(await finish_one(engine, request_for(hub, cache_dir)))
    kept = await finish_one(engine, request_for(hub, cache_dir, "other/name"))
    async with Session(endpoint=hub.endpoint, cache_dir=cache_dir, token=False) as session:
        await session.remove(model)
        await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots() == (kept,))
        await end(engine, engines, "stopped")
        await session.remove(local_model_of(kept))
    assert engines.processes() == []


@pytest.mark.anyio
async def test_a_finished_download_that_is_asked_for_again_is_looked_at_again(
    engines: Engines, hub: LocalHub, cache_dir: Path
) -> None:
    engine = connect_engine(engines.settings)
    request = request_for(hub, cache_dir)
    before = await finish_one(engine, request)
    await end(engine, engines, "stopped")

    other = connect_engine(engines.settings)
    after = await finish_one(other, request)
    assert after.job_id != before.job_id
    assert after.bytes_fetched == 0
    assert other.snapshots() == (after,)
    local_model_of(after).path.unlink()
    blob_of(request).unlink()
    last = await finish_one(other, request)
    assert last.bytes_fetched == len(CONTENT)
    assert local_model_of(last).path.read_bytes() == CONTENT
    assert other.snapshots() == (last,)
    assert len(entries(Path(os.environ["MODELDECK_STATE_DIR"]))) == 1
    await other.aclose()


@pytest.mark.anyio
async def test_a_long_history_is_cut_and_keeps_no_engine(
    engines: Engines, hub: LocalHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect_engine(engines.settings)
    last = await finish_one(engine, request_for(hub, cache_dir))
    await end(engine, engines, "stopped")
    (entry,) = entries(Path(os.environ["MODELDECK_STATE_DIR"]))
    job = msgspec.json.decode(entry.read_bytes(), type=StoredJob)
    store = JobStore(entry.parent)
    for number in range(1000):
        request = replace(job.request, variant_id=f"{number}.gguf")
        store.save(msgspec.structs.replace(job, job_id=f"{number:032x}", request=request))

    monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "0")
    other = connect_engine(engines.settings)
    assert len(other.snapshots()) == MAX_FINISHED
    assert all(snapshot.received == last.received for snapshot in other.snapshots())
    assert len(entries(Path(os.environ["MODELDECK_STATE_DIR"]))) == MAX_FINISHED
    await other.aclose()
    await asyncio.to_thread(engines.wait_until, lambda: not engines.processes())  # by itself


# --- requests that are wrong


@pytest.mark.anyio
async def test_a_wrong_request_is_answered_and_nothing_breaks(engines: Engines, hub: LocalHub, cache_dir: Path) -> None:
    engine = connect_engine(engines.settings)
    good = request_for(hub, cache_dir)
    for changes in [{"repo_id": "../../etc"}, {"files": (GGUFFile(filename="../../x"),)}, {"files": ()}]:
        with pytest.raises(InvalidRequestError):
            await engine.submit(replace(good, **changes))
    with pytest.raises(InvalidRequestError):
        await engine.set_limits(EngineLimits(max_active_jobs=-1))
    job = await engine.submit(good)
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    await engine.aclose()


# --- places that make it hard


def run_client(settings: Settings, *, prelude: str = "", **environ: str | None) -> dict[str, object]:
    """Connect in a process of its own with a changed environment; tell the mode, the notice and the engine's pid."""
    program = f"""
{prelude}
import asyncio, json
from pathlib import Path
from modeldeck._settings import Settings
from modeldeck.service.connect import connect_engine
engine = connect_engine(Settings(endpoint={settings.endpoint!r}, cache_dir=Path({str(settings.cache_dir)!r})))
status = asyncio.run(engine.status())
print(json.dumps({{"mode": engine.mode, "notice": engine.notice, "pid": status.pid}}))
"""
    environment = {**os.environ, **{key: value for key, value in environ.items() if value is not None}}
    for key in [key for key, value in environ.items() if value is None]:
        environment.pop(key, None)
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.stderr == ""
    return msgspec.json.decode(result.stdout, type=dict[str, object])


def test_without_home_and_tmpdir(engines: Engines) -> None:
    """And the list of downloads is kept all the same."""
    seen = run_client(engines.settings, HOME="/nonexistent/home", TMPDIR=None, MODELDECK_STATE_DIR=None)
    assert (seen["mode"], seen["notice"]) == ("process", None)
    assert list(engines.runtime_dir.glob("*.state/engine.lock"))


def test_without_any_home_at_all(engines: Engines) -> None:
    seen = run_client(
        engines.settings, HOME=None, XDG_RUNTIME_DIR=None, XDG_STATE_HOME=None, TMPDIR=None, MODELDECK_STATE_DIR=None
    )
    assert (seen["mode"], seen["notice"]) == ("process", None)


def test_a_runtime_directory_that_cannot_be(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    seen = run_client(engines.settings, MODELDECK_RUNTIME_DIR=str(tmp_path / "file" / "run"))
    assert seen["mode"] == "inline"
    assert "Set MODELDECK_RUNTIME_DIR" in str(seen["notice"])


def test_a_socket_path_over_107_bytes(engines: Engines, tmp_path: Path) -> None:
    seen = run_client(engines.settings, MODELDECK_RUNTIME_DIR=str(tmp_path / ("d" * 108)))
    assert seen["mode"] == "inline"
    assert "too long for a socket" in str(seen["notice"])
    assert "inside this process" in str(seen["notice"])


def test_no_process_can_be_started(engines: Engines) -> None:
    prelude = """
import subprocess
def refuse(*_, **__):
    raise PermissionError(1, "Operation not permitted")
subprocess.Popen.__init__ = refuse
subprocess.Popen.__del__ = lambda self: None
"""
    seen = run_client(engines.settings, prelude=prelude)
    assert seen["mode"] == "inline"
    assert "cannot be started: Operation not permitted" in str(seen["notice"])


def test_no_interpreter(engines: Engines) -> None:
    seen = run_client(engines.settings, prelude="import sys; sys.executable = ''")
    assert seen["mode"] == "inline"
    assert "no Python interpreter" in str(seen["notice"])


def test_an_engine_that_breaks_at_its_start_says_why(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('broken on purpose')\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    seen = run_client(engines.settings, prelude=f"import os, msgspec; os.environ['PYTHONPATH'] = {paths!r}")
    assert seen["mode"] == "inline"
    assert "broken on purpose" in str(seen["notice"])


def test_a_relative_import_path_holds_in_the_engine(engines: Engines) -> None:
    source = Path(os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] or ".")
    seen = run_client(engines.settings, PYTHONPATH=os.path.relpath(source))
    assert (seen["mode"], seen["notice"]) == ("process", None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mount namespaces")
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to mount")
@pytest.mark.skipif(Path(sys.prefix).is_relative_to("/tmp"), reason="this environment itself is in /tmp")
def test_a_noexec_tmp_and_a_read_only_home() -> None:
    """In a mount namespace of its own: the client, and the engine it starts, see a /tmp where nothing may be executed
    and a home where nothing may be written."""
    program = """
import asyncio
from pathlib import Path
from modeldeck._settings import Settings
from modeldeck.service.connect import connect_engine
from modeldeck.service.observe import stop_engine
from modeldeck.service.discovery import find_place
settings = Settings(endpoint="https://hub.invalid", cache_dir=Path("/tmp/hub"))
engine = connect_engine(settings)
print(engine.mode, engine.notice, asyncio.run(engine.status()).clients)
print(find_place(settings.cache_dir).directory)
asyncio.run(engine.aclose())
print(asyncio.run(stop_engine(settings)))
"""
    script = f"""
set -e
mount -t tmpfs -o noexec,mode=1777 none /tmp
mkdir /tmp/home
mount --bind /tmp/home /tmp/home
mount -o remount,bind,ro /tmp/home
exec {shlex.quote(sys.executable)} -c {shlex.quote(program)}
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MODELDECK_", "XDG_"))}
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**environment, "HOME": "/tmp/home"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["process None 1", f"/tmp/modeldeck-{os.getuid()}", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process namespaces")
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root for a process namespace")
def test_a_container_whose_first_process_reaps_nobody(engines: Engines, hub: LocalHub, cache_dir: Path) -> None:
    """A killed engine stays as a zombie there. The next one takes over its work all the same, and can be stopped."""
    hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=8_000_000), origin="cdn")
    request = msgspec.json.encode(request_for(hub, cache_dir))
    program = f"""
import asyncio, os, signal, time
from pathlib import Path
import msgspec, psutil
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest
from modeldeck.service.connect import connect_engine
from modeldeck.service.observe import stop_engine
assert os.getpid() == 1
settings = Settings(endpoint="https://hub.invalid", cache_dir=Path({str(cache_dir)!r}))

async def run():
    engine = connect_engine(settings)
    job = await engine.submit(msgspec.json.decode({request!r}, type=DownloadRequest))
    while engine.snapshots()[0].received < 12_000_000:
        await asyncio.sleep(0.01)
    pid = (await engine.status()).pid
    os.kill(pid, signal.SIGKILL)
    last = await engine.wait(job.job_id)
    print(last.state, last.bytes_fetched < last.total, psutil.Process(pid).status())
    await engine.aclose()

asyncio.run(run())
print(asyncio.run(stop_engine(settings)), asyncio.run(stop_engine(settings)))
"""
    result = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["ready True zombie", "True False"]
