"""The engine's process: a download manager behind a socket. Run as ``python -m modeldeck.service``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import hmac
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from modeldeck import __version__
from modeldeck._errors import EngineLostError, ModelDeckError, ProtocolError
from modeldeck._heap import trim_heap
from modeldeck._types import DownloadSnapshot, EngineStatus
from modeldeck.service import protocol
from modeldeck.service.discovery import EnginePlace, claim_directory, state_directories
from modeldeck.service.host import Host, ManagerFactory, Seat, manager_factory
from modeldeck.service.launch import READY
from modeldeck.service.transport import dial, is_own_peer, listen, remove_address

IDLE_VARIABLE = "MODELDECK_ENGINE_IDLE_SECONDS"
IDLE_SECONDS = 60.0
HELLO_SECONDS = 5.0
GOODBYE_SECONDS = 1.0
RELAX_SECONDS = 1.0
RACE_SECONDS = 10.0
RACE_STEP_SECONDS = 0.02
NICENESS = 5
MAX_REQUESTS_AT_ONCE = 32
READ_BYTES = 64 * 1024
STDOUT = 1
MAX_LOG_BYTES = 1024 * 1024

_log = logging.getLogger("modeldeck.service")


class EngineServer:
    """Serves one manager to any number of clients, and leaves when nobody needs it any more."""

    def __init__(self, host: Host, *, secret: str | None = None, idle_seconds: float = IDLE_SECONDS) -> None:
        self.host = host
        self.secret = secret
        self.is_stopping = False
        self._idle_seconds = idle_seconds
        self._had_client = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._listening: asyncio.Server | None = None
        host.on_work_change = self._work_changed

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients until it is time to leave. Closes the listener."""
        self._listening = await asyncio.start_server(self._accept, sock=listener)
        self._watch_idle()
        try:
            await self._done.wait()
        finally:
            self._close_door()
            for connection in tuple(self._connections):
                connection.abort()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=GOODBYE_SECONDS)
            self.host.close()

    def stop(self) -> None:
        """Pause what moves, say goodbye to the clients and leave. Returns at once."""
        if not self.is_stopping:
            self._close_door()
            self.keep(asyncio.get_running_loop().create_task(self._say_goodbye()))

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task until it ends; the loop itself does not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say_goodbye(self) -> None:
        await self.host.pause_all()
        senders = [connection.say_goodbye() for connection in self._connections]
        if senders:
            await asyncio.wait(senders, timeout=GOODBYE_SECONDS)
        self._done.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        self._had_client = True
        self._watch_idle()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._watch_idle()

    def _watch_idle(self) -> None:
        """Start or stop the one timer; nothing polls."""
        if self._connections or self.host.has_work or self.is_stopping:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
        elif self._idle_timer is None:
            patience = self._idle_seconds if self._had_client else max(self._idle_seconds, HELLO_SECONDS)
            self._idle_timer = asyncio.get_running_loop().call_later(patience, self._leave)

    def _work_changed(self) -> None:
        self._watch_idle()
        if not self.host.has_work:
            asyncio.get_running_loop().call_later(RELAX_SECONDS, self._relax)

    def _relax(self) -> None:
        if not self.host.has_work:
            gc.collect()
            trim_heap()  # or the C library keeps what the last download needed

    def _leave(self) -> None:
        self._close_door()
        self._done.set()

    def _close_door(self) -> None:
        """From here on new clients find nobody and start the next engine, which waits for this one's lock."""
        self.is_stopping = True
        if self._listening is not None:
            self._listening.close()


class _Connection:
    """One client. What waits to be sent is bounded: of each download only the latest snapshot."""

    def __init__(self, server: EngineServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._outbox: dict[object, protocol.Reply] = {}
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._sender = asyncio.get_running_loop().create_task(self._send())
        self._slots = asyncio.Semaphore(MAX_REQUESTS_AT_ONCE)
        self._is_greeted = False
        self._seat: Seat | None = None

    async def run(self) -> None:
        """Serve until the client leaves, breaks the framing, or does not say hello in time."""
        try:
            if is_own_peer(self._writer.get_extra_info("socket")):
                with suppress(TimeoutError, ConnectionError):
                    await self._receive()
        finally:
            if self._seat is not None:
                self._seat.close()
            self._sender.cancel()
            self.abort()

    def abort(self) -> None:
        self._writer.transport.abort()

    def say_goodbye(self) -> asyncio.Task[None]:
        """Send a farewell as the last message; the task ends when it is out."""
        self._post(protocol.Farewell())
        return self._sender

    async def _receive(self) -> None:
        frames = protocol.FrameReader(protocol.MAX_REQUEST_BYTES)
        async with asyncio.timeout(HELLO_SECONDS) as patience:
            while data := await self._reader.read(READ_BYTES):
                try:
                    contents = frames.feed(data)
                except ProtocolError as error:
                    self._fail(None, error)
                    await asyncio.wait([self.say_goodbye()], timeout=GOODBYE_SECONDS)
                    return
                for content in contents:
                    await self._take(content)
                if self._is_greeted:
                    patience.reschedule(None)

    async def _take(self, content: bytes) -> None:
        try:
            request = protocol.decode_request(content)
        except ProtocolError as error:
            self._fail(error.details["id"], error)
            return
        await self._slots.acquire()
        # In a task of its own, which outlives the connection: a client that dies after asking has asked.
        task = asyncio.get_running_loop().create_task(self._answer(request))
        task.add_done_callback(partial(self._finish, request.id))
        self._server.keep(task)
        if not self._is_greeted:
            await asyncio.wait([task])

    async def _answer(self, request: protocol.Request) -> None:
        try:
            result = await self._perform(request)
        except ModelDeckError as error:
            self._fail(request.id, error)
        else:
            self._post(protocol.Answer(id=request.id, result=msgspec.Raw(msgspec.json.encode(result))))

    def _finish(self, request_id: int, task: asyncio.Task[None]) -> None:
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A request failed unexpectedly.", exc_info=error)
            message = f"The engine made a mistake ({type(error).__name__}). Please report it, with its log file."
            self._fail(request_id, ModelDeckError(message))

    async def _perform(self, request: protocol.Request) -> DownloadSnapshot | EngineStatus | None:
        if self._server.is_stopping:
            raise EngineLostError("The engine is about to end. Try again.")
        if isinstance(request, protocol.Hello):
            return await self._greet(request)
        if not self._is_greeted:
            raise ProtocolError("The first message must be a hello.")
        if isinstance(request, protocol.Status):
            return await self._server.host.status()
        if isinstance(request, protocol.LookAgain):
            await self._server.host.look_again()
            return None
        if isinstance(request, protocol.Stop):
            self._server.stop()
            return None
        return await self._steer(request)

    async def _steer(self, request: protocol.Request) -> DownloadSnapshot | None:
        seat = self._seat
        if seat is None:
            raise ProtocolError("An observer cannot steer downloads.")
        match request:
            case protocol.Submit():
                return await seat.submit(request.request, request.token)
            case protocol.Act():
                return await seat.act(request.job_id, request.action, request.token)
            case protocol.SetLimits():
                await self._server.host.set_limits(request.limits)
        return None

    async def _greet(self, hello: protocol.Hello) -> EngineStatus:
        secret = self._server.secret
        if secret is not None and not hmac.compare_digest(secret.encode(), (hello.secret or "").encode()):
            raise ProtocolError("The secret is wrong.")
        if (hello.protocol, hello.version) != (protocol.PROTOCOL, __version__):
            raise ProtocolError(
                f"This engine is of modeldeck {__version__} (protocol {protocol.PROTOCOL}), "
                f"the client of {hello.version} (protocol {hello.protocol})."
            )
        if self._is_greeted:
            raise ProtocolError("There was a hello already.")
        self._is_greeted = True
        if not hello.is_observer:
            await self._server.host.look_again()
            self._seat = self._server.host.attach(self._post_update, self._post_removed)
            for snapshot in self._seat.snapshots():
                self._post_update(snapshot)
        return await self._server.host.status()

    def _post_update(self, snapshot: DownloadSnapshot) -> None:
        self._post(protocol.Update(snapshot=snapshot), key=snapshot.job_id)

    def _post_removed(self, job_id: str) -> None:
        # Beside the last snapshot, not instead of it: somebody may still wait for how it ended.
        self._post(protocol.Removed(job_id=job_id))

    def _fail(self, request_id: int | None, error: ModelDeckError) -> None:
        self._post(protocol.Failure(id=request_id, error=error.to_info()))

    def _post(self, reply: protocol.Reply, key: object = None) -> None:
        self._outbox[next(self._numbers) if key is None else key] = reply
        self._wake.set()

    async def _send(self) -> None:
        """Write what is in the outbox, in order, no faster than the client reads."""
        with suppress(ConnectionError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    reply = self._outbox.pop(next(iter(self._outbox)))
                    self._writer.write(protocol.encode(reply))
                    await self._writer.drain()
                    if isinstance(reply, protocol.Farewell):
                        return


# --- the process ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None, *, create_manager: ManagerFactory | None = None) -> None:
    """Run an engine until it is not needed any more; return at once when another one already runs at this place."""
    options = _parse(argv)
    place = EnginePlace(directory=options.runtime_dir, name=options.name, transport=options.transport)
    if options.detach:
        _detach()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    lock = FileLock(place.lock_path)
    try:
        claim_directory(place.directory)
        if not _wins_race(place, lock):
            _report(READY)
            return
        if place.log_path.exists() and place.log_path.stat().st_size > MAX_LOG_BYTES:
            os.truncate(place.log_path, 0)
        listener, secret = listen(place)
        try:
            asyncio.run(_run(place, options, listener, secret, create_manager or manager_factory(options.cache_dir)))
        finally:
            remove_address(place)
    except (OSError, ModelDeckError) as error:
        _report(str(error).encode())
        sys.exit(1)
    finally:
        lock.release()


async def _run(
    place: EnginePlace,
    options: argparse.Namespace,
    listener: socket.socket,
    secret: str | None,
    create_manager: ManagerFactory,
) -> None:
    state_dir, state_lock = _take_state_directory(place, options.cache_dir)
    try:
        async with create_manager(state_dir) as manager:
            server = EngineServer(Host(manager, "process"), secret=secret, idle_seconds=idle_seconds(os.environ))
            loop = asyncio.get_running_loop()
            with suppress(NotImplementedError):  # Windows
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, server.stop)
            _report(READY)
            if options.detach:
                _give_way()
            await server.serve(listener)
    finally:
        if state_lock is not None:
            state_lock.release()


def idle_seconds(environ: Mapping[str, str]) -> float:
    """How long an engine without clients and work stays."""
    try:
        return max(0.0, float(environ[IDLE_VARIABLE]))
    except (KeyError, ValueError):
        return IDLE_SECONDS


def _take_state_directory(place: EnginePlace, cache_dir: Path) -> tuple[Path | None, FileLock | None]:
    """A directory for the list of downloads that no other engine (of another version) writes to."""
    for directory in state_directories(os.environ, place, cache_dir, sys.platform):
        try:
            claim_directory(directory)
            lock = FileLock(directory / "engine.lock")
            lock.acquire(timeout=0)
        except (OSError, Timeout) as error:
            _log.warning("The list of downloads cannot be kept in %s: %s", directory, error)
        else:
            return directory, lock
    return None, None


def _wins_race(place: EnginePlace, lock: FileLock) -> bool:
    """Whether this process is to be the engine. When not, the one that is listens already."""
    deadline = time.monotonic() + RACE_SECONDS
    while time.monotonic() < deadline:
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return True
        with suppress(OSError):
            dial(place)[0].close()
            return False
        time.sleep(RACE_STEP_SECONDS)
    raise EngineLostError("Another engine holds the lock but does not listen")


def _detach() -> None:
    """Leave the caller's family: it need not reap the engine, and ending its process tree does not find it.

    The caller has already started this process in a session of its own, with nothing of its terminal or pipes but the
    one for ``_report``.
    """
    if sys.platform != "win32":
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _give_way() -> None:
    """Let the user's computation have its core when there are not enough for both; on free ones nothing changes.

    Threads have their niceness from the one that starts them, so this comes before the disk threads. Linux may weigh
    sessions instead of processes (autogroups of sched(7)), and then only the niceness of the session counts.
    """
    with suppress(AttributeError, OSError):  # Windows
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def _report(word: bytes) -> None:
    """Tell the starter, once, and let go of its pipe."""
    with suppress(BrokenPipeError):
        os.write(STDOUT, word + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modeldeck.service", description="modeldeck's download engine.")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--runtime-dir", type=Path, required=True, help="a private directory for socket, lock and log")
    parser.add_argument("--name", required=True, help="stem of the engine's files there")
    parser.add_argument("--transport", choices=("unix", "tcp"), default="unix")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    return parser.parse_args(argv)
