"""The engine in a process of its own, seen through its clients. All processes and signals are real."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest

from modeldeck._errors import EngineLostError, ProtocolError
from modeldeck._loop import LoopThread
from modeldeck._notices import RESTARTED_NOTICE, STOPPED_NOTICE
from modeldeck._types import DownloadRequest, DownloadState, EngineLimits
from modeldeck.service import engine_connection, engine_server, observe
from modeldeck.service.connect import connect_engine
from modeldeck.service.discovery import EnginePlace, lock_place
from modeldeck.service.engine_client import EngineClient
from modeldeck.service.engine_process import NICENESS
from modeldeck.service.launch import ProcessHome
from modeldeck.service.observe import engine_status, stop_engine
from modeldeck.service.recovery import MAX_RESTARTS
from modeldeck.service.sockets import TcpAddress
from tests.service.conftest import RequestFactory
from tests.service.engines import SIZE_BYTES, TOKEN, Engines, assert_exact, json_of, published, slow_down
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def pid_of(engines: Engines) -> int:
    """The engine's process, which the state of its lock does not tell."""
    (process,) = engines.processes()
    return process.pid


def is_gone(pid: int) -> bool:
    """Ended, even where the system's first process is slow to reap, or never does."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_free(place: EnginePlace) -> bool:
    """Whether no engine holds the lock. Of a killed one, the first thread is gone before the others let it go."""
    lock = lock_place(place)
    if lock is not None:
        lock.release()
    return lock is not None


@pytest.fixture
async def engine(engines: Engines) -> AsyncIterator[EngineClient]:
    engine = engines.connect()
    yield engine
    await engine.aclose()


# --- a download through the process


def test_a_client_that_still_connects_when_the_interpreter_ends(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loop threads are stopped at exit. A widget that waits for its engine then would print a traceback."""
    threads: list[LoopThread] = []
    is_connecting = threading.Event()

    async def begin(engine: EngineClient, limits: EngineLimits | None) -> None:
        threads.append(engine._thread)
        is_connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(EngineClient, "_begin", begin)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engines.connect)
        assert is_connecting.wait(PATIENCE_SECONDS)
        threads[0].stop()
        with pytest.raises(EngineLostError):
            waiting.result(PATIENCE_SECONDS)


# --- several clients


@pytest.mark.anyio
async def test_a_new_client_sees_running_paused_failed_and_finished(
    engines: Engines, engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    states = {}
    states["done"] = (await engine.submit(make_request())).job_id
    await engine.wait(states["done"])
    states["failed"] = (await engine.submit(make_request(repo_id="gated/name"))).job_id
    await engine.wait(states["failed"])
    slow_down(slow_hub, 1e5)
    states["paused"] = (await engine.submit(make_request("second.gguf"))).job_id
    await engine.act(states["paused"], "pause")
    states["running"] = (await engine.submit(make_request("third.gguf"))).job_id
    await engine.aclose()

    other = engines.connect()
    seen = {snapshot.job_id: snapshot.state for snapshot in other.snapshots()}
    assert seen[states["done"]] is DownloadState.READY
    assert seen[states["failed"]] is DownloadState.FAILED
    assert seen[states["paused"]] is DownloadState.PAUSED
    assert not seen[states["running"]].is_final
    slow_hub.faults.clear()
    resumed = await other.act(states["paused"], "resume")
    assert resumed is not None
    assert not resumed.state.is_final
    assert (await other.wait(states["paused"])).state is DownloadState.READY
    await other.aclose()


@pytest.mark.anyio
async def test_a_killed_client_wants_nothing_any_more(
    engines: Engines, engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    kernel = start_kernel(engines, make_request(), "time.sleep(1000)")
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots() != ())
    job = engine.snapshots()[0]
    kernel.kill()
    kernel.wait()
    while (await engine.status()).clients > 1:  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.01)
    assert (await engine.act(job.job_id, "cancel")).state is DownloadState.CANCELLED


def test_a_race_of_starters_ends_with_one_engine(engines: Engines) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from modeldeck._settings import Settings
from modeldeck.service.connect import connect_engine
settings = Settings(endpoint="https://hub.invalid", cache_dir=Path({str(engines.cache_dir)!r}))
sys.stdin.readline()
engine = connect_engine(settings, inline=False)
assert engine.mode == "process", engine.notice
print(asyncio.run(engine.status()).pid, flush=True)
sys.stdin.readline()
"""
    starters = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    pids = {int(starter.stdout.readline()) for starter in starters}
    engines.wait_until(lambda: len(engines.processes()) == 1)
    assert {process.pid for process in engines.processes()} == pids
    for starter in starters:
        starter.communicate("end\n")
        assert starter.returncode == 0


# --- the engine dies


@pytest.mark.anyio
async def test_a_killed_engine_is_started_again_and_the_download_ends_exact(
    engines: Engines, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 2e5)
    started_at = time.monotonic()
    engine = engines.connect()
    start_seconds = time.monotonic() - started_at
    notices: list[tuple[float, str | None]] = []
    revs: list[int] = []
    engine.subscribe(
        lambda snapshot: revs.append(snapshot.rev),
        on_notice=lambda notice: notices.append((time.monotonic(), notice)),
    )
    request = make_request()
    job = await engine.submit(request)
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots()[0].received > SIZE_BYTES // 6)
    old = (await engine.status()).pid
    killed_at = time.monotonic()
    os.kill(old, signal.SIGKILL)
    await asyncio.to_thread(engines.wait_until, lambda: bool(notices))
    slow_hub.faults.clear()
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.READY
    assert_exact(request)
    assert (await engine.status()).pid != old
    assert engine.notice == RESTARTED_NOTICE
    assert [notice for _, notice in notices] == [RESTARTED_NOTICE]
    assert notices[0][0] - killed_at < 2.0 + start_seconds, "the end of the socket tells at once"
    assert revs == sorted(set(revs))
    await engine.aclose()


@pytest.mark.anyio
async def test_a_new_engine_keeps_the_limits(engine: EngineClient) -> None:
    limits = EngineLimits(max_active_jobs=1, bandwidth_bytes_per_second=12345)
    await engine.set_limits(limits)
    os.kill((await engine.status()).pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await engine.status()).limits != limits:  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_a_killed_engine_gets_the_token_again(
    engines: Engines, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    engine = engines.connect()
    job = await engine.submit(make_request(repo_id="gated/name"), token=TOKEN)
    states: list[DownloadState] = []
    engine.subscribe(lambda snapshot: states.append(snapshot.state))
    os.kill((await engine.status()).pid, signal.SIGKILL)
    await asyncio.to_thread(engines.wait_until, lambda: engine.notice == RESTARTED_NOTICE)
    slow_hub.faults.clear()
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    assert DownloadState.FAILED not in states
    await engine.aclose()


@pytest.mark.anyio
async def test_without_the_token_a_new_engine_asks_for_it(
    engines: Engines, engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    job = await engine.submit(make_request(repo_id="gated/name"), token=TOKEN)
    pid = (await engine.status()).pid
    await engine.aclose()
    os.kill(pid, signal.SIGKILL)
    other = engines.connect()
    failed = await other.wait(job.job_id)
    assert failed.state is DownloadState.FAILED
    assert failed.error is not None
    assert failed.error.code in ("unauthorized", "gated")
    assert "retry" in failed.actions
    slow_hub.faults.clear()
    await other.act(job.job_id, "retry", TOKEN)
    assert (await other.wait(job.job_id)).state is DownloadState.READY
    await other.aclose()


@pytest.mark.anyio
async def test_an_engine_that_ends_again_and_again_is_left_alone_until_somebody_needs_it(
    engines: Engines, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e4)
    engine = engines.connect()
    job = await engine.submit(make_request())
    for _ in range(MAX_RESTARTS + 1):
        os.kill((await engine.status()).pid, signal.SIGKILL)
    last = await engine.wait(job.job_id)
    assert (last.state, last.actions) == (DownloadState.FAILED, ("retry",))
    assert "again and again" in (engine.notice or "")
    engines.wait_until(lambda: not engines.processes())
    assert not (await engine.act(job.job_id, "retry")).state.is_final
    assert len(engines.processes()) == 1
    await engine.aclose()


@pytest.mark.anyio
async def test_an_engine_that_cannot_be_started_again_is_reported_on_every_running_download(
    engines: Engines,
    engine: EngineClient,
    make_request: RequestFactory,
    slow_hub: LocalHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_down(slow_hub, 1e5)
    job = await engine.submit(make_request())
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    os.kill((await engine.status()).pid, signal.SIGKILL)
    last = await engine.wait(job.job_id)
    assert last.state is DownloadState.FAILED
    assert last.error is not None
    assert last.error.code == "engine_lost"
    assert last.actions == ("retry",)
    assert "could not be started" in (engine.notice or "")
    with pytest.raises(EngineLostError):
        await engine.status()
    monkeypatch.setattr(sys, "executable", python)
    slow_hub.faults.clear()
    await engine.act(job.job_id, "retry")
    assert (await engine.wait(job.job_id)).state is DownloadState.READY


# --- the kernel dies


def start_kernel(engines: Engines, request: DownloadRequest, rest: str, **options: bool) -> "subprocess.Popen[str]":
    """A process like a notebook's kernel: it starts a download, says so, and then runs ``rest``."""
    program = f"""
import asyncio, os, sys, time
from pathlib import Path
import msgspec
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest
from modeldeck.service.connect import connect_engine
settings = Settings(endpoint="https://hub.invalid", cache_dir=Path({str(engines.cache_dir)!r}))
engine = connect_engine(settings, inline=False)
assert engine.mode == "process", engine.notice
request = msgspec.json.decode({json_of(request)!r}, type=DownloadRequest)
asyncio.run(engine.submit(request))
print("started", flush=True)
{rest}
"""
    kernel = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, **options)
    engines.kernels.append(kernel)
    with kernel.stdout as output:
        assert output.readline() == "started\n"
    return kernel


def kill(kernel: "subprocess.Popen[str]") -> None:
    kernel.kill()


def interrupt_group(kernel: "subprocess.Popen[str]") -> None:
    os.killpg(kernel.pid, signal.SIGINT)


def kill_group(kernel: "subprocess.Popen[str]") -> None:
    os.killpg(kernel.pid, signal.SIGKILL)


def kill_tree(kernel: "subprocess.Popen[str]") -> None:
    for member in [*psutil.Process(kernel.pid).children(recursive=True), kernel]:
        member.kill()


def hang_up(kernel: "subprocess.Popen[str]") -> None:
    os.killpg(kernel.pid, signal.SIGHUP)


def nothing(kernel: "subprocess.Popen[str]") -> None:
    pass


@pytest.mark.parametrize(
    ("rest", "end"),
    [
        ("time.sleep(1000)", kill),
        ("time.sleep(1000)", interrupt_group),
        ("time.sleep(1000)", kill_group),
        ("time.sleep(1000)", kill_tree),
        ("time.sleep(1000)", hang_up),
        ("while True: pass", kill_group),
        ("os._exit(1)", nothing),
        ("os.abort()", nothing),
        ("", nothing),
    ],
)
def test_the_download_outlives_the_kernel(
    engines: Engines,
    make_request: RequestFactory,
    slow_hub: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
    rest: str,
    end: Callable[["subprocess.Popen[str]"], None],
) -> None:
    slow_down(slow_hub, 1e5)
    monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "0.1")
    request = make_request()
    kernel = start_kernel(engines, request, rest, start_new_session=True)
    end(kernel)
    kernel.wait(timeout=PATIENCE_SECONDS)
    assert not published(request)
    slow_hub.faults.clear()
    engines.wait_until(lambda: bool(published(request)))
    assert_exact(request)
    engines.wait_until(lambda: engines.processes() == [])  # and the engine leaves by itself


# --- the engine leaves


@pytest.mark.anyio
async def test_an_idle_engine_leaves_only_without_clients_and_work(
    engines: Engines, make_request: RequestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "0.1")
    engine = engines.connect()
    await asyncio.sleep(0.4)  # longer than the idle time
    assert len(engines.processes()) == 1
    await engine.aclose()
    await asyncio.to_thread(engines.wait_until, lambda: engines.processes() == [])
    assert list(engines.runtime_dir.iterdir()) == [], "it takes its files with it"


def test_an_engine_removes_what_killed_engines_have_left(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also those of other caches and versions, but nothing of an engine that lives, and no fresh log."""
    with_log = engines.runtime_dir / "0.0.1-dead.log"
    with_log.write_text("why it died")
    old_log = engines.runtime_dir / "0.0.2-dead.log"
    old_log.write_text("why it died")
    os.utime(old_log, (0, 0))
    for name in ("0.0.1-dead", "0.0.2-dead", "0.0.3-dead"):
        (engines.runtime_dir / f"{name}.lock").touch()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(engines.runtime_dir / f"{name}.sock"))
    living = EnginePlace(directory=engines.runtime_dir, name="0.0.4-alive")
    lock = lock_place(living)
    assert lock is not None
    living.socket_path.touch()

    asyncio.run(engines.connect().aclose())
    os.kill(pid_of(engines), signal.SIGKILL)  # leaves its own files
    engines.wait_until(lambda: not engines.processes())
    assert engines.place.socket_path.exists()
    monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "0")
    other_cache = tmp_path / "other"
    other_cache.mkdir()
    asyncio.run(Engines(engines.runtime_dir, other_cache).connect().aclose())
    engines.wait_until(lambda: not engines.processes())
    assert {path.name for path in engines.runtime_dir.iterdir()} == {
        with_log.name,
        living.lock_path.name,
        living.socket_path.name,
    }
    lock.release()


def test_no_client_meets_an_engine_that_leaves(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine leaves at once with its last client, at the moment when the next one comes."""
    monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "0")

    async def use() -> int:
        engine = await asyncio.to_thread(engines.connect)
        try:
            return (await engine.status()).pid
        finally:
            await engine.aclose()

    async def use_repeatedly() -> list[int]:
        return [await use() for _ in range(8)]

    async def main() -> list[list[int]]:
        return await asyncio.gather(use_repeatedly(), use_repeatedly())

    assert len(asyncio.run(main())) == 2
    engines.wait_until(lambda: engines.processes() == [])


@pytest.mark.anyio
async def test_stop_pauses_what_runs_and_nothing_is_left(
    engines: Engines, engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    request = make_request()
    job = await engine.submit(request)
    pid = pid_of(engines)
    assert await stop_engine(engines.settings)
    await asyncio.to_thread(engines.wait_until, lambda: is_gone(pid))
    assert engines.processes() == []
    assert await engine_status(engines.settings) is None
    assert not await stop_engine(engines.settings)
    assert (await engine.wait(job.job_id)).state is DownloadState.PAUSED
    await asyncio.to_thread(engines.wait_until, lambda: engine.notice == STOPPED_NOTICE)

    slow_hub.faults.clear()
    await engine.act(job.job_id, "resume")  # the next request starts an engine, which knows the paused download
    assert engine.notice is None
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    assert_exact(request)


@pytest.mark.anyio
async def test_requests_that_come_at_once_after_a_stop_start_one_engine(engines: Engines, engine: EngineClient) -> None:
    assert await stop_engine(engines.settings)
    await asyncio.to_thread(engines.wait_until, lambda: engine.notice == STOPPED_NOTICE and not engines.processes())
    is_released = threading.Event()
    engine._thread.post(is_released.wait)  # the client's thread is busy when they come
    requests = asyncio.gather(*(engine.status() for _ in range(5)))
    await asyncio.sleep(0)
    is_released.set()
    assert {status.pid for status in await requests} == {pid_of(engines)}
    assert engine.notice is None
    assert (await engine.status()).clients == 1, "more than one connection"


@pytest.mark.anyio
async def test_sigterm_is_a_stop(
    engines: Engines, engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    job = await engine.submit(make_request())
    os.kill(pid_of(engines), signal.SIGTERM)
    assert (await engine.wait(job.job_id)).state is DownloadState.PAUSED
    await asyncio.to_thread(engines.wait_until, lambda: engines.processes() == [])
    assert engine.notice == STOPPED_NOTICE


HANGING_LOOKUP = """
import socket, time
from pathlib import Path

real = socket.getaddrinfo

def getaddrinfo(host, *rest, **options):
    if host in ("hanging.invalid", b"hanging.invalid"):
        Path({begun!r}).touch()
        time.sleep(10_000)
    return real(host, *rest, **options)

socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.anyio
async def test_a_stop_does_not_wait_for_the_lookup_of_a_name(
    engines: Engines, make_request: RequestFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, programs = tmp_path / "begun", tmp_path / "programs"
    programs.mkdir()
    (programs / "sitecustomize.py").write_text(HANGING_LOOKUP.format(begun=str(begun)))
    monkeypatch.setenv("PYTHONPATH", str(programs), prepend=os.pathsep)
    engine = engines.connect()
    job = await engine.submit(replace(make_request(), endpoint="http://hanging.invalid"))
    await asyncio.to_thread(engines.wait_until, begun.exists)
    assert await stop_engine(engines.settings)
    assert (await engine.wait(job.job_id)).state is DownloadState.PAUSED
    await asyncio.to_thread(engines.wait_until, lambda: engines.processes() == [])
    await engine.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("inline", [False, True])
async def test_an_engine_with_old_settings_says_how_to_give_it_new_ones(
    engines: Engines, make_request: RequestFactory, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "unheard-of://127.0.0.1:9")
    engine = engines.connect(inline=inline)
    failed = await engine.wait((await engine.submit(make_request())).job_id)
    assert failed.error is not None
    assert failed.error.code == "proxy"
    assert ("modeldeck engine stop" in failed.error.message) is not inline
    await engine.aclose()


def test_a_client_does_not_keep_its_process_alive(engines: Engines, make_request: RequestFactory) -> None:
    kernel = start_kernel(engines, make_request(), "")
    assert kernel.wait(timeout=PATIENCE_SECONDS) == 0


# --- what nobody else may see or do


PASSWORD = "sesamesesamesesame"


@pytest.mark.anyio
async def test_the_token_is_nowhere_but_in_memory(
    engines: Engines, make_request: RequestFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", f"https://someone:{PASSWORD}@hub.invalid")
    engine = engines.connect()
    job = await engine.submit(make_request(repo_id="gated/name"), token=TOKEN)
    process = psutil.Process((await engine.status()).pid)
    assert TOKEN not in " ".join(process.cmdline())
    for secret in (TOKEN, PASSWORD):
        assert secret not in " ".join(process.environ().values())
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    await engine.aclose()
    assert_nowhere(TOKEN, engines.runtime_dir, tmp_path)


def assert_nowhere(secret: str, *roots: Path) -> None:
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert secret.encode() not in path.read_bytes(), path


def test_the_socket_is_its_owners_alone(engines: Engines) -> None:
    with_engine = engines.connect()
    place = engines.place
    assert stat.S_IMODE(place.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.log_path.stat().st_mode) == 0o600
    asyncio.run(with_engine.aclose())


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to become somebody else")
def test_another_user_gets_nothing(engines: Engines) -> None:
    """Even with the directory open to all, the engine hangs up on another user."""
    engine = engines.connect()
    place = engines.place
    place.directory.chmod(0o755)
    place.socket_path.chmod(0o666)
    program = f"""
import os, socket
os.setuid(12345)
connection = socket.socket(socket.AF_UNIX)
connection.connect({str(place.socket_path)!r})
connection.settimeout(30)
try:
    print(connection.recv(100))
except ConnectionResetError:
    print(b"")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.stdout == "b''\n", result.stderr
    asyncio.run(engine.aclose())


@pytest.mark.anyio
async def test_the_engine_is_detached(engines: Engines, engine: EngineClient) -> None:
    process = psutil.Process((await engine.status()).pid)
    assert process.cwd() == "/"
    assert os.getsid(process.pid) != os.getsid(0)
    assert process.parent() is None or process.parent().pid != os.getpid()
    targets = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)]
    assert targets == [os.devnull, os.devnull, str(engines.place.log_path)]


def test_the_engine_gives_way_and_its_client_does_not(engines: Engines) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    engine = engines.connect()
    pid = pid_of(engines)
    assert os.getpriority(os.PRIO_PROCESS, pid) == own + NICENESS
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists():  # where Linux weighs sessions
        assert Path(f"/proc/{pid}/autogroup").read_text().endswith(f" nice {NICENESS}\n")
        assert not autogroup.read_text().endswith(f" nice {NICENESS}\n")
    asyncio.run(engine.aclose())


@pytest.mark.anyio
async def test_a_stale_socket_is_replaced(engines: Engines) -> None:
    place = engines.place
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(place.socket_path))
    dead.close()
    engine = engines.connect()
    assert (await engine.status()).clients == 1
    await engine.aclose()


@pytest.mark.anyio
async def test_tcp_needs_the_secret(
    engines: Engines, make_request: RequestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELDECK_ENGINE_TRANSPORT", "tcp")
    engine = engines.connect()
    place = engines.place
    assert not place.socket_path.exists()
    assert stat.S_IMODE(place.address_path.stat().st_mode) == 0o600
    request = make_request()
    job = await engine.submit(request)
    assert (await engine.wait(job.job_id)).state is DownloadState.READY
    assert_exact(request)

    original = place.address_path.read_text()
    secret = original.split('"secret":"')[1].split('"')[0]
    place.address_path.write_text(original.replace(secret, "guessed"))
    with pytest.raises(ProtocolError, match="secret is wrong"):
        await engine_status(engines.settings)
    for damage in (b"", b"{", b'{"port": 1, "secret": "\xff"}'):
        place.address_path.write_bytes(damage)
        assert await engine_status(engines.settings) is None
    place.address_path.write_text(original)
    assert await stop_engine(engines.settings)
    assert not place.address_path.exists()
    await engine.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("does_answer", [True, False])
async def test_another_program_on_the_port_of_a_killed_engine_is_not_taken_for_it(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, does_answer: bool
) -> None:
    monkeypatch.setenv("MODELDECK_ENGINE_TRANSPORT", "tcp")
    place = engines.place

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if does_answer:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        engine = await asyncio.to_thread(engines.connect)
        address = msgspec.json.decode(place.address_path.read_bytes(), type=TcpAddress)
        await engine.aclose()
        pid = pid_of(engines)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(engines.wait_until, lambda: is_free(place))
        left = msgspec.json.encode(msgspec.structs.replace(address, port=other.sockets[0].getsockname()[1]))

        place.address_path.write_bytes(left)
        assert not await stop_engine(engines.settings)
        assert not place.address_path.exists()
        place.address_path.write_bytes(left)
        assert await engine_status(engines.settings) is None
        place.address_path.write_bytes(left)
        engine = await asyncio.to_thread(engines.connect)
        assert (await engine.status()).pid != pid
        await engine.aclose()


@pytest.mark.anyio
async def test_an_engine_of_another_version_is_refused_with_a_way_out(
    engines: Engines, engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions have sockets of their own, so this is a development tree that changed under a running engine."""
    for module in (engine_connection, engine_server):  # this process is the newer one
        monkeypatch.setattr(module, "__version__", "9.9.9")
    with pytest.raises(EngineLostError, match=r"of modeldeck .* the client of 9\.9\.9.*modeldeck engine stop"):
        await asyncio.to_thread(EngineClient, ProcessHome(engines.place, engines.cache_dir))
    other = await asyncio.to_thread(connect_engine, engines.settings)
    assert other.mode == "inline"
    assert "9.9.9" in (other.notice or "")
    await other.aclose()
    assert await stop_engine(engines.settings)
    await asyncio.to_thread(engines.wait_until, lambda: engine.notice == STOPPED_NOTICE and not engines.processes())


@pytest.mark.anyio
async def test_a_frozen_engine_is_not_waited_for_and_can_be_stopped(
    engines: Engines, engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_connection, "HELLO_SECONDS", 0.3)
    monkeypatch.setattr(observe, "ANSWER_SECONDS", 0.3)
    pid = pid_of(engines)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineLostError, match="modeldeck engine stop"):
        await asyncio.to_thread(EngineClient, ProcessHome(engines.place, engines.cache_dir))
    with pytest.raises(EngineLostError, match="modeldeck engine stop"):
        await engine_status(engines.settings)
    assert await stop_engine(engines.settings)
    assert is_gone(pid)
    assert (await engine.status()).pid != pid  # the client that was there finds the next one


@pytest.mark.anyio
async def test_a_client_that_comes_while_the_engine_stops_gets_the_next_one(
    engines: Engines, engine: EngineClient, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    job = await engine.submit(make_request())
    old = pid_of(engines)
    os.kill(old, signal.SIGTERM)
    others = [await asyncio.to_thread(engines.connect) for _ in range(5)]
    pids = {(await other.status()).pid for other in others}
    assert len(pids - {old}) == 1
    assert (await others[-1].wait(job.job_id)).state is DownloadState.PAUSED
    for other in others:
        await other.aclose()
