"""The client of an engine in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from modeldeck import __version__
from modeldeck._errors import EngineLostError, ModelDeckError, ProtocolError, error_from_info
from modeldeck._loop import LoopThread, in_daemon_thread
from modeldeck._types import (
    Action,
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    EngineLimits,
    EngineStatus,
    ErrorInfo,
)
from modeldeck.service import protocol
from modeldeck.service.client import Engine
from modeldeck.service.discovery import EnginePlace
from modeldeck.service.host import is_moving
from modeldeck.service.launch import start_engine
from modeldeck.service.transport import dial

T = TypeVar("T")

CONNECT_ATTEMPTS = 3
HELLO_ID = 0
HELLO_SECONDS = 15.0
MAX_SENDS = 2
MAX_RESTARTS = 3
RESTART_WINDOW_SECONDS = 60.0
READ_BYTES = 256 * 1024

RESTARTED_NOTICE = "The download engine ended unexpectedly and was started again. Downloads go on where they stopped."
STOPPED_NOTICE = "The download engine was stopped. It starts again with your next request."
STOP_HINT = "End it with 'modeldeck engine stop' and try again."
LOST_NOTICE = "The download engine ended and could not be started again."


@dataclass(slots=True, eq=False)
class _Pending:
    """A request without its answer."""

    message: protocol.Request
    answer: asyncio.Future[msgspec.Raw]
    sends: int = 0


@dataclass(frozen=True, slots=True)
class _Wish:
    """What this client wants downloaded; enough to ask a new engine for it. Lives in memory only."""

    request: DownloadRequest
    token: str | None = field(repr=False)


class ProcessEngine(Engine):
    """Speaks with the engine at ``place``, which it starts when none runs there.

    When the engine dies, the end of its socket tells so at once: another one is started, the requests on their way are
    sent again (once), and this client's running downloads are asked for again with their tokens, which no disk knows.
    An engine that was told to stop is not started again before somebody needs it.

    Raises
    ------
    EngineLostError
        When there is no engine and none can be started.
    """

    mode = "process"

    def __init__(self, place: EnginePlace, cache_dir: Path, *, command: Sequence[str] | None = None) -> None:
        super().__init__()
        self._place = place
        self._cache_dir = cache_dir
        self._command = command
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._wishes: dict[str, _Wish] = {}
        self._lost: set[str] = set()
        self._owed: set[str] = set()
        self._limits: EngineLimits | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_connecting = False
        self._is_closed = False
        self._engine: tuple[int, float] | None = None
        self._rev_base = 0
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._thread = LoopThread("modeldeck-engine-client")
        try:
            self._thread.start(self._connect()).result()
        except CancelledError as error:  # the interpreter ends, and its loop threads before everything else
            raise EngineLostError("This process ended before it had reached the download engine.") from error
        except BaseException:
            self._thread.stop()
            raise

    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        return await self._thread.run(self._submit(request, token))

    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None:
        return await self._thread.run(self._act(job_id, action, token))

    async def look_again(self) -> None:
        await self._thread.run(self._ask(protocol.LookAgain(id=self._next_id()), type(None)))

    async def set_limits(self, limits: EngineLimits) -> None:
        await self._thread.run(self._set_limits(limits))

    async def status(self) -> EngineStatus:
        return await self._thread.run(self._ask(protocol.Status(id=self._next_id()), EngineStatus))

    async def aclose(self) -> None:
        if self._is_closed:
            return
        await self._thread.run(self._close())
        await asyncio.wrap_future(in_daemon_thread(self._thread.stop))

    # Everything below runs on the client's own thread.

    async def _close(self) -> None:
        self._is_closed = True
        if self._writer is not None:
            self._writer.close()
        self._fail_pending(EngineLostError("This engine was closed. Connect a new one."))

    def _next_id(self) -> int:
        return next(self._numbers)

    # --- requests

    async def _submit(self, request: DownloadRequest, token: str | None) -> DownloadSnapshot:
        snapshot = await self._steer(protocol.Submit(id=self._next_id(), request=request, token=token))
        self._wishes[snapshot.job_id] = _Wish(request, token)
        return snapshot

    async def _act(self, job_id: str, action: Action, token: str | None) -> DownloadSnapshot | None:
        is_wanted = action in ("resume", "retry")
        if is_wanted:
            token = token or self._token_of(job_id)
        if action == "cancel":
            self._wishes.pop(job_id, None)
        if action == "retry" and job_id in self._lost:  # it failed with its engine; the next one goes on by itself
            self._lost.discard(job_id)
            for snapshot in self.snapshots():
                if snapshot.job_id == job_id:
                    return await self._submit(snapshot.request, token)
        message = protocol.Act(id=self._next_id(), job_id=job_id, action=action, token=token)
        if action == "dismiss":
            return await self._ask(message, type(None))
        answer = await self._steer(message)
        if is_wanted:
            self._wishes[job_id] = _Wish(answer.request, token)
        return answer

    async def _set_limits(self, limits: EngineLimits) -> None:
        await self._ask(protocol.SetLimits(id=self._next_id(), limits=limits), type(None))
        self._limits = limits

    def _token_of(self, job_id: str) -> str | None:
        wish = self._wishes.get(job_id)
        return wish.token if wish else None

    async def _steer(self, message: protocol.Request) -> DownloadSnapshot:
        snapshot = self._shift(await self._ask(message, DownloadSnapshot))
        self._publish(snapshot)  # before the caller goes on: what it reads next is not older than its answer
        return snapshot

    async def _ask(self, message: protocol.Request, kind: type[T]) -> T:
        if self._is_closed:
            raise EngineLostError("This engine was closed. Connect a new one.")
        pending = _Pending(message, asyncio.get_running_loop().create_future())
        self._pending[message.id] = pending
        try:
            if self._writer is not None:
                self._send(pending)
            elif not self._is_connecting:
                self._restarts.clear()
                self._is_connecting = True  # already now: the next request may come before the task runs
                self._spawn(self._reconnect(None))
            return msgspec.json.decode(await pending.answer, type=kind)
        finally:
            del self._pending[message.id]

    def _send(self, pending: _Pending) -> None:
        assert self._writer is not None
        if pending.answer.done():
            return
        if pending.sends >= MAX_SENDS:
            pending.answer.set_exception(EngineLostError("The engine ended twice on this request. See its log file."))
            return
        pending.sends += 1
        self._writer.write(protocol.encode(pending.message))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the connection

    async def _connect(self) -> None:
        self._is_connecting = True
        try:
            for _ in range(CONNECT_ATTEMPTS):
                with suppress(OSError, EOFError):  # an engine that leaves at this very moment
                    connection, secret = await asyncio.wrap_future(in_daemon_thread(self._dial_or_start))
                    await self._greet(connection, secret)
                    return
        finally:
            self._is_connecting = False
        raise EngineLostError(f"The engine ends right after its start. See {self._place.log_path}.")

    def _dial_or_start(self) -> tuple[socket.socket, str | None]:
        with suppress(OSError):
            return dial(self._place)
        start_engine(self._place, self._cache_dir, self._command)
        return dial(self._place)

    async def _greet(self, connection: socket.socket, secret: str | None) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            hello = protocol.Hello(id=HELLO_ID, protocol=protocol.PROTOCOL, version=__version__, secret=secret)
            writer.write(protocol.encode(hello))
            incoming = _Incoming(reader)
            snapshots = []
            async with asyncio.timeout(HELLO_SECONDS):
                while not isinstance(reply := await incoming.next(), protocol.Answer):
                    if isinstance(reply, protocol.Failure):
                        raise _refusal(reply.error)
                    if isinstance(reply, protocol.Update):
                        snapshots.append(reply.snapshot)
            status = msgspec.json.decode(reply.result, type=EngineStatus)
        except BaseException as error:
            writer.close()
            if isinstance(error, TimeoutError):
                raise EngineLostError(f"The engine does not answer. {STOP_HINT}") from None
            raise
        self._writer = writer
        self._spawn(self._read(incoming, writer))
        self._adopt((status.pid, status.started_at), snapshots)

    async def _read(self, incoming: _Incoming, writer: asyncio.StreamWriter) -> None:
        is_stopped = False
        try:
            with suppress(OSError, EOFError, ProtocolError):
                while True:
                    reply = await incoming.next()
                    is_stopped = is_stopped or isinstance(reply, protocol.Farewell)
                    self._take(reply)
        finally:
            writer.close()
            self._writer = None
        if self._is_closed:
            return
        if is_stopped:
            self._set_notice(STOPPED_NOTICE)
            self._fail_pending(EngineLostError(STOPPED_NOTICE))
        else:
            await self._reconnect(RESTARTED_NOTICE)

    async def _reconnect(self, notice: str | None) -> None:
        """Find or start an engine again; ``notice`` is what to say when it is another one."""
        now = time.monotonic()
        before = self._engine
        try:
            if len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_WINDOW_SECONDS:
                raise EngineLostError(f"The engine ends again and again. See {self._place.log_path}.")
            self._restarts.append(now)
            await self._connect()
        except ModelDeckError as error:
            self._lose(EngineLostError(f"{LOST_NOTICE} {error.message}"))
        else:
            if self._engine != before:
                self._set_notice(notice)

    def _take(self, reply: protocol.Reply) -> None:
        match reply:
            case protocol.Update():
                self._take_snapshot(self._shift(reply.snapshot))
            case protocol.Removed():
                self._wishes.pop(reply.job_id, None)
                self._remove(reply.job_id)
            case protocol.Answer() | protocol.Failure():
                pending = self._pending.get(reply.id) if reply.id is not None else None
                if pending is None or pending.answer.done():
                    return
                if isinstance(reply, protocol.Answer):
                    pending.answer.set_result(reply.result)
                else:
                    pending.answer.set_exception(error_from_info(reply.error))

    # --- a new engine, or none

    def _adopt(self, engine: tuple[int, float], snapshots: list[DownloadSnapshot]) -> None:
        """Take over what the engine knows, and ask it again for what this client wants."""
        before = {snapshot.job_id: snapshot for snapshot in self.snapshots()}
        if engine != self._engine:
            self._engine = engine
            self._rev_base = max((snapshot.rev for snapshot in before.values()), default=0)
            if self._limits is not None:
                self._spawn(self._quietly(self._set_limits(self._limits)))
        for pending in tuple(self._pending.values()):
            self._send(pending)
        now = {snapshot.job_id: self._shift(snapshot) for snapshot in snapshots}
        for job_id in before.keys() - now.keys():
            self._remove(job_id)
        cut_off = [
            job_id
            for job_id in self._wishes
            if job_id in self._lost or (job_id in before and is_moving(before[job_id]))
        ]
        self._lost.clear()
        self._owed = {job_id for job_id in cut_off if self._token_of(job_id) is not None}
        for snapshot in now.values():
            self._take_snapshot(snapshot)
        for job_id in cut_off:
            if job_id not in now or is_moving(now[job_id]):
                wish = self._wishes[job_id]
                self._spawn(self._quietly(self._submit(wish.request, wish.token)))

    def _take_snapshot(self, snapshot: DownloadSnapshot) -> None:
        """Publish it, unless it only says that a new engine does not know the token this client remembers."""
        job_id = snapshot.job_id
        if job_id in self._owed and lacks_token(snapshot):
            self._owed.discard(job_id)
            self._spawn(self._quietly(self._act(job_id, "retry", None), instead=snapshot))
            return
        if snapshot.state in (DownloadState.READY, DownloadState.CANCELLED):
            self._wishes.pop(job_id, None)
        self._publish(snapshot)

    async def _quietly(self, request: Coroutine[Any, Any, object], instead: DownloadSnapshot | None = None) -> None:
        """Make a request that nobody waits for; when it fails, what is known is the truth."""
        try:
            await request
        except ModelDeckError:
            if instead is not None:
                self._publish(instead)

    def _shift(self, snapshot: DownloadSnapshot) -> DownloadSnapshot:
        """Make ``rev`` grow on over the engines this client has seen; each of them counts from the start."""
        return replace(snapshot, rev=snapshot.rev + self._rev_base) if self._rev_base else snapshot

    def _lose(self, error: EngineLostError) -> None:
        """Say on every running download that nothing moves any more."""
        self._set_notice(error.message)
        for snapshot in self.snapshots():
            if is_moving(snapshot):
                self._lost.add(snapshot.job_id)
                self._publish(
                    replace(
                        snapshot,
                        state=DownloadState.FAILED,
                        error=error.to_info(),
                        rate=None,
                        eta_seconds=None,
                        connections=0,
                        actions=("retry",),
                        rev=snapshot.rev + 1,
                    )
                )
        self._fail_pending(error)

    def _fail_pending(self, error: ModelDeckError) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)
        self._fail_waiters(error)


class _Incoming:
    """The engine's messages, one after the other."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._frames = protocol.FrameReader(protocol.MAX_REPLY_BYTES)
        self._contents: deque[bytes] = deque()

    async def next(self) -> protocol.Reply:
        while not self._contents:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError
            self._contents.extend(self._frames.feed(data))
        return protocol.decode_reply(self._contents.popleft())


def _refusal(error: ErrorInfo) -> Exception:
    """What to make of an engine that does not answer the hello: one that is about to end is as good as gone."""
    if error.code == EngineLostError.code:
        return ConnectionResetError(None, error.message)
    return EngineLostError(f"The engine that runs already refuses this client: {error.message} {STOP_HINT}")


def lacks_token(snapshot: DownloadSnapshot) -> bool:
    """Whether the download failed for want of a token, as all that need one do in an engine that was just started."""
    error = snapshot.error
    return snapshot.state is DownloadState.FAILED and error is not None and error.code in ("unauthorized", "gated")
