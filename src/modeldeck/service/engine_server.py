"""Serves a shared download manager to clients over sockets."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from modeldeck._errors import EngineLostError, ModelDeckError, ProtocolError
from modeldeck._types import DownloadSnapshot, EngineStatus
from modeldeck._version import __version__
from modeldeck.service import messages
from modeldeck.service.shared_manager import ClientView, SharedManager
from modeldeck.service.sockets import is_own_peer

HELLO_SECONDS = 5.0
GOODBYE_SECONDS = 1.0
REST_SECONDS = 1.0
MAX_REQUESTS_AT_ONCE = 32
READ_BYTES = 64 * 1024

_log = logging.getLogger("modeldeck.service")


class EngineServer:
    """Serves one manager to any number of clients.

    Parameters
    ----------
    shared
        The manager.
    secret : str, optional
        What a client has to know where the socket does not prove which user connects.
    idle_seconds : float, optional
        Leave after this time without clients and work. ``None``: stay until told to leave.
    on_rest : callable, optional
        Called about a second after the last download has ended.
    """

    def __init__(
        self,
        shared: SharedManager,
        *,
        secret: str | None = None,
        idle_seconds: float | None = None,
        on_rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.shared = shared
        self.secret = secret
        self.is_stopping = False
        self._idle_seconds = idle_seconds
        self._on_rest = on_rest
        self._had_client = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._connections: set[_ClientConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._listening: asyncio.Server | None = None
        shared.on_work_change = self._work_changed

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients until it is time to leave. Closes the listener."""
        self._listening = await asyncio.start_server(self._accept, sock=listener)
        self._watch_idle()
        try:
            await self._done.wait()
        finally:
            await self.aclose()

    async def attach(self, connected: socket.socket) -> None:
        """Serve the client at the other end of a connected socket. Returns at once."""
        reader, writer = await asyncio.open_connection(sock=connected)
        self.keep(asyncio.get_running_loop().create_task(self._accept(reader, writer)))

    async def aclose(self) -> None:
        """Hang up on all clients, and wait for the requests they have made."""
        self._close_door()
        for connection in tuple(self._connections):
            connection.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GOODBYE_SECONDS)
        self.shared.close()

    def stop(self) -> None:
        """Pause all downloads, say goodbye to the clients and leave. Returns at once."""
        if not self.is_stopping:
            self._close_door()
            self.keep(asyncio.get_running_loop().create_task(self._say_goodbye()))

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a reference to a task until it ends; the loop itself holds none."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say_goodbye(self) -> None:
        await self.shared.pause_all()
        senders = [connection.say_goodbye() for connection in self._connections]
        if senders:
            await asyncio.wait(senders, timeout=GOODBYE_SECONDS)
        self._done.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _ClientConnection(self, reader, writer)
        self._connections.add(connection)
        self._had_client = True
        self._watch_idle()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._watch_idle()

    def _watch_idle(self) -> None:
        """Start or stop the idle timer, of which there is only one."""
        if self._idle_seconds is None:
            return
        if self._connections or self.shared.has_work or self.is_stopping:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
        elif self._idle_timer is None:
            patience = self._idle_seconds if self._had_client else max(self._idle_seconds, HELLO_SECONDS)
            self._idle_timer = asyncio.get_running_loop().call_later(patience, self._leave)

    def _work_changed(self) -> None:
        self._watch_idle()
        if not self.shared.has_work:
            asyncio.get_running_loop().call_later(REST_SECONDS, self._rest)

    def _rest(self) -> None:
        if not self.shared.has_work:
            self._on_rest()

    def _leave(self) -> None:
        self._close_door()
        self._done.set()

    def _close_door(self) -> None:
        """From now on new clients find no engine and start the next one, which waits for this one's lock."""
        self.is_stopping = True
        if self._listening is not None:
            self._listening.close()


class _ClientConnection:
    """One client's connection. Its outbox is bounded: it holds only the latest snapshot of each download."""

    def __init__(self, server: EngineServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._outbox: dict[object, messages.Reply] = {}
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._sender = asyncio.get_running_loop().create_task(self._send())
        self._slots = asyncio.Semaphore(MAX_REQUESTS_AT_ONCE)
        self._is_greeted = False
        self._view: ClientView | None = None

    async def run(self) -> None:
        """Serve until the client leaves, breaks the framing, or fails to say hello in time."""
        try:
            if is_own_peer(self._writer.get_extra_info("socket")):
                with suppress(TimeoutError, ConnectionError):
                    await self._receive()
        finally:
            if self._view is not None:
                self._view.close()
            self._sender.cancel()
            self.abort()

    def abort(self) -> None:
        self._writer.transport.abort()

    def say_goodbye(self) -> asyncio.Task[None]:
        """Send a farewell as the last message; the task ends when it is out."""
        self._post(messages.Farewell())
        return self._sender

    async def _receive(self) -> None:
        frames = messages.FrameReader(messages.MAX_REQUEST_BYTES)
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
            request = messages.decode_request(content)
        except ProtocolError as error:
            self._fail(error.details["id"], error)
            return
        await self._slots.acquire()
        # The task outlives the connection: what a client asked for is done even if the client dies before the answer.
        task = asyncio.get_running_loop().create_task(self._answer(request))
        task.add_done_callback(partial(self._finish, request.id))
        self._server.keep(task)
        if not self._is_greeted:
            await asyncio.wait([task])

    async def _answer(self, request: messages.Request) -> None:
        try:
            result = await self._perform(request)
        except ModelDeckError as error:
            self._fail(request.id, error)
        else:
            self._post(messages.Answer(id=request.id, result=msgspec.Raw(msgspec.json.encode(result))))

    def _finish(self, request_id: int, task: asyncio.Task[None]) -> None:
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A request failed unexpectedly.", exc_info=error)
            message = f"Internal engine error ({type(error).__name__}). Please report it with the log file."
            self._fail(request_id, ModelDeckError(message))

    async def _perform(self, request: messages.Request) -> DownloadSnapshot | EngineStatus | None:
        if self._server.is_stopping:
            raise EngineLostError("The engine is about to end. Try again in a moment.")
        if isinstance(request, messages.Hello):
            return await self._greet(request)
        if not self._is_greeted:
            raise ProtocolError("The first message must be a hello.")
        if isinstance(request, messages.Status):
            return self._server.shared.status()
        if isinstance(request, messages.ForgetRemovedFiles):
            await self._server.shared.forget_removed_files()
            return None
        if isinstance(request, messages.SetLimits):
            await self._server.shared.set_limits(request.limits)
            return None
        if isinstance(request, messages.Stop):
            self._server.stop()
            return None
        if self._view is None:
            raise ProtocolError("An observer cannot steer downloads.")
        if isinstance(request, messages.Submit):
            return await self._view.submit(request.request, request.token)
        return await self._view.act(request.job_id, request.action, request.token)

    async def _greet(self, hello: messages.Hello) -> EngineStatus:
        secret = self._server.secret
        if secret is not None and not hmac.compare_digest(secret.encode(), (hello.secret or "").encode()):
            raise ProtocolError("The secret is wrong.")
        if (hello.protocol, hello.version) != (messages.PROTOCOL, __version__):
            raise ProtocolError(
                f"This engine is of modeldeck {__version__} (protocol {messages.PROTOCOL}), "
                f"the client of {hello.version} (protocol {hello.protocol})."
            )
        if self._is_greeted:
            raise ProtocolError("This connection has said hello already.")
        self._is_greeted = True
        if not hello.is_observer:
            await self._server.shared.forget_removed_files()
            self._view = self._server.shared.attach(self._post_update, self._post_removed)
            for snapshot in self._view.snapshots():
                self._post_update(snapshot)
        return self._server.shared.status()

    def _post_update(self, snapshot: DownloadSnapshot) -> None:
        self._post(messages.Update(snapshot=snapshot), key=snapshot.job_id)

    def _post_removed(self, job_id: str) -> None:
        # In addition to the last snapshot, not in its place: a caller may still wait for how the download ended.
        self._post(messages.Removed(job_id=job_id))

    def _fail(self, request_id: int | None, error: ModelDeckError) -> None:
        self._post(messages.Failure(id=request_id, error=error.to_info()))

    def _post(self, reply: messages.Reply, key: object = None) -> None:
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
                    self._writer.write(messages.encode(reply))
                    await self._writer.drain()
                    if isinstance(reply, messages.Farewell):
                        return
