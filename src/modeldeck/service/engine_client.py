"""The client of a download engine, wherever the engine runs."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeVar

from modeldeck._errors import EngineLostError, ModelDeckError, ProtocolError
from modeldeck._loop import LoopThread, in_daemon_thread
from modeldeck._notices import LOST_NOTICE, RESTARTED_NOTICE, STOPPED_NOTICE
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, EngineStatus
from modeldeck.engine.state import is_settled
from modeldeck.service import messages
from modeldeck.service.engine_connection import STOP_HINT, ConnectionEnded, EngineConnection
from modeldeck.service.known_downloads import KnownDownloads
from modeldeck.service.recovery import Recovery, Wish

T = TypeVar("T")

CONNECT_ATTEMPTS = 3
MAX_SENDS = 2

CLOSED_MESSAGE = "This engine client was closed. Connect a new one."


class EngineHome(Protocol):
    """Where an engine runs: in a process of its own, or on a thread of this process."""

    @property
    def mode(self) -> Literal["inline", "process"]: ...

    @property
    def log_hint(self) -> str:
        """A sentence that says where to read why an engine ended."""

    def connect(self) -> tuple[socket.socket, str | None]:
        """Connect to the engine, after starting it if none runs. Blocks. Returns the secret for the hello, too."""

    def leave(self) -> None:
        """Let go of the engine. Blocks until an engine that only this client kept running has ended."""


class EngineClient:
    """Steers a download engine and follows its downloads.

    All clients of one engine see all its downloads. The coroutines may be awaited on any asyncio loop; ``snapshots``,
    ``subscribe`` and the properties may be used on any thread and never block.

    When the engine dies, the end of its socket shows it at once: the client starts another one, sends unanswered
    requests again (once), and asks for its running downloads again with their tokens, which no disk holds. A client
    does not restart an engine that was told to stop before it needs one.

    Parameters
    ----------
    home
        Where the engine runs.
    notice : str, optional
        What a person should know about this engine from the start.
    limits : EngineLimits, optional
        Limits to set once, when connected.

    Raises
    ------
    EngineLostError
        When no engine runs and none can be started.
    """

    def __init__(self, home: EngineHome, *, notice: str | None = None, limits: EngineLimits | None = None) -> None:
        self._home = home
        self._known = KnownDownloads(notice)
        self._recovery = Recovery()
        self._numbers = itertools.count(1)
        self._connection: EngineConnection | None = None
        self._connecting: asyncio.Task[ModelDeckError | None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._thread = LoopThread("modeldeck-engine-client")
        try:
            self._thread.start(self._begin(limits)).result()
        except CancelledError as error:  # the interpreter ends, and it stops loop threads first
            raise EngineLostError("This process ended before it had reached the download engine.") from error
        except BaseException:
            self._thread.stop()
            home.leave()
            raise

    @property
    def mode(self) -> Literal["inline", "process"]:
        """Where the engine runs: on a thread of this process, or in a process of its own."""
        return self._home.mode

    @property
    def notice(self) -> str | None:
        """What a person should know about the engine, for example that it was restarted."""
        return self._known.notice

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        """Return every download that the engine knows, as last reported, oldest download first."""
        return self._known.snapshots()

    def subscribe(
        self,
        callback: Callable[[DownloadSnapshot], None],
        *,
        on_removed: Callable[[str], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
    ) -> Callable[[], None]:
        """Call back for every new snapshot from now on, on the client's own thread; the callbacks must not block.

        Parameters
        ----------
        callback
            Called with each snapshot; those of one download come in the order of their ``rev``.
        on_removed
            Called with the ``job_id`` of a download that left the list.
        on_notice
            Called with each new ``notice``.

        Returns
        -------
        callable
            Ends the subscription.
        """
        return self._known.subscribe(callback, on_removed, on_notice)

    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        """Start a download, or join the one with the same key. Returns at once."""
        return await self._thread.run(self._submit(request, token))

    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None:
        """Do one of a download's ``actions``, for every client. Returns ``None`` after "dismiss".

        While another connected client wants the same file, the first "cancel" only withdraws this client's wish: the
        download goes on, and the answer's ``notice`` says why. A second "cancel" stops the download for all clients.
        """
        return await self._thread.run(self._act(job_id, action, token))

    async def wait(self, job_id: str) -> DownloadSnapshot:
        """Wait until the download is ready, failed, cancelled or paused; return at once when it already is.

        Cancelling this call does not touch the download.
        """
        return await self._known.wait(job_id)

    async def forget_removed_files(self) -> None:
        """Take finished downloads whose files were deleted off the list, for every client."""
        await self._thread.run(self._ask(messages.ForgetRemovedFiles(id=self._next_id()), type(None)))

    async def set_limits(self, limits: EngineLimits) -> None:
        """Change the engine's limits at once, for all its clients. No running download is stopped for it."""
        await self._thread.run(self._ask(messages.SetLimits(id=self._next_id(), limits=limits), type(None)))

    async def status(self) -> EngineStatus:
        """Return what the engine says of itself."""
        return await self._thread.run(self._ask(messages.Status(id=self._next_id()), EngineStatus))

    async def aclose(self) -> None:
        """Leave the engine. One in its own process goes on; the last client of an inline engine ends it."""
        await asyncio.wrap_future(in_daemon_thread(self.close))

    def close(self) -> None:
        """Do what `aclose` does, and block meanwhile."""
        if self._is_closed:
            return
        self._is_closed = True
        self._thread.start(self._close()).result()
        self._thread.stop()
        self._home.leave()

    # Everything below runs on the client's own thread.

    async def _begin(self, limits: EngineLimits | None) -> None:
        await self._connect()
        if limits is not None:
            await self._ask(messages.SetLimits(id=self._next_id(), limits=limits), type(None))

    async def _close(self) -> None:
        self._known.fail_waiters(EngineLostError(CLOSED_MESSAGE))
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    def _next_id(self) -> int:
        return next(self._numbers)

    # --- requests

    async def _submit(self, request: DownloadRequest, token: str | None) -> DownloadSnapshot:
        snapshot = await self._steer(messages.Submit(id=self._next_id(), request=request, token=token))
        self._recovery.want(snapshot.job_id, request, token)
        return snapshot

    async def _act(self, job_id: str, action: Action, token: str | None) -> DownloadSnapshot | None:
        is_wanted = action in ("resume", "retry")
        if is_wanted:
            token = token or self._recovery.token_of(job_id)
        if action == "cancel":
            self._recovery.drop(job_id)
        if action == "retry" and self._recovery.take_lost(job_id):
            known = self._known.get(job_id)  # the next engine continues it, so there is nothing to retry
            if known is not None:
                return await self._submit(known.request, token)
        message = messages.Act(id=self._next_id(), job_id=job_id, action=action, token=token)
        if action == "dismiss":
            return await self._ask(message, type(None))
        answer = await self._steer(message)
        if is_wanted:
            self._recovery.want(job_id, answer.request, token)
        return answer

    async def _steer(self, message: messages.Request) -> DownloadSnapshot:
        snapshot = self._recovery.shift(await self._ask(message, DownloadSnapshot))
        self._known.publish(snapshot)  # before the caller continues, so that it never reads an older state
        return snapshot

    async def _ask(self, message: messages.Request, kind: type[T]) -> T:
        for _ in range(MAX_SENDS):
            connection = await self._connected()
            try:
                return await connection.ask(message, kind)
            except ConnectionEnded as end:
                if self._is_closed:
                    raise EngineLostError(CLOSED_MESSAGE) from None
                if end.is_farewell:
                    raise EngineLostError(STOPPED_NOTICE) from None
        raise EngineLostError(f"The engine ended twice on this request. {self._home.log_hint}".rstrip())

    # --- the connection

    async def _connected(self) -> EngineConnection:
        """Return the connection; wait while one is being made, and make one when there is none."""
        while self._connection is None:
            if self._is_closed:
                raise EngineLostError(CLOSED_MESSAGE)
            if self._connecting is None:
                self._recovery.allow_restarts()
                self._start_connecting(None)
            assert self._connecting is not None
            error = await asyncio.shield(self._connecting)
            if error is not None:
                raise error
        return self._connection

    def _start_connecting(self, notice: str | None) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._reconnect(notice))

    async def _reconnect(self, notice: str | None) -> ModelDeckError | None:
        """Find or start an engine again; ``notice`` is what to say when it is another one."""
        before = self._recovery.engine
        try:
            if not self._recovery.may_restart(time.monotonic()):
                raise EngineLostError(f"The engine ends again and again. {self._home.log_hint}".rstrip())
            await self._connect()
        except ModelDeckError as error:
            lost = EngineLostError(f"{LOST_NOTICE} {error.message}")
            self._lose(lost)
            return lost
        else:
            if self._recovery.engine != before:
                self._known.set_notice(notice)
            return None
        finally:
            self._connecting = None

    async def _connect(self) -> None:
        for _ in range(CONNECT_ATTEMPTS):
            with suppress(OSError, EOFError):  # an engine that leaves at this very moment
                connected, secret = await asyncio.wrap_future(in_daemon_thread(self._home.connect))
                try:
                    connection = await EngineConnection.open(
                        connected, secret, on_news=self._take_news, on_end=self._connection_ended
                    )
                except ProtocolError as error:
                    message = f"The engine that already runs refuses this client: {error.message} {STOP_HINT}"
                    raise EngineLostError(message) from error
                self._connection = connection
                self._adopt(connection)
                return
        raise EngineLostError(f"The engine ends right after its start. {self._home.log_hint}".rstrip())

    def _connection_ended(self, end: ConnectionEnded) -> None:
        self._connection = None
        if self._is_closed:
            return
        if end.is_farewell:
            self._known.set_notice(STOPPED_NOTICE)
            self._known.fail_waiters(EngineLostError(STOPPED_NOTICE))
        else:
            self._start_connecting(RESTARTED_NOTICE)

    def _take_news(self, news: messages.Reply) -> None:
        match news:
            case messages.Update():
                self._take_snapshot(self._recovery.shift(news.snapshot))
            case messages.Removed():
                self._recovery.drop(news.job_id)
                self._known.remove(news.job_id)

    # --- a new engine, or none

    def _adopt(self, connection: EngineConnection) -> None:
        """Take over what the engine knows, and ask it again for what this client wants."""
        before = {snapshot.job_id: snapshot for snapshot in self._known.snapshots()}
        cut_off = self._recovery.adopt((connection.status.pid, connection.status.started_at), before)
        now = {snapshot.job_id: self._recovery.shift(snapshot) for snapshot in connection.snapshots}
        for job_id in before.keys() - now.keys():
            self._known.remove(job_id)
        for snapshot in now.values():
            self._take_snapshot(snapshot)
        for job_id, wish in cut_off.items():
            if job_id not in now or not is_settled(now[job_id].state):
                self._do_chore(self._wish_again(wish))

    def _take_snapshot(self, snapshot: DownloadSnapshot) -> None:
        """Publish it, unless it only says that a new engine does not know the token that this client remembers."""
        if self._recovery.must_give_token(snapshot):
            self._do_chore(self._give_token(snapshot))
            return
        if snapshot.state in (DownloadState.READY, DownloadState.CANCELLED):
            self._recovery.drop(snapshot.job_id)
        self._known.publish(snapshot)

    async def _wish_again(self, wish: Wish) -> None:
        with suppress(ModelDeckError):  # then the engine's own snapshot says what became of it
            await self._submit(wish.request, wish.token)

    async def _give_token(self, snapshot: DownloadSnapshot) -> None:
        try:
            await self._act(snapshot.job_id, "retry", None)
        except ModelDeckError:
            self._known.publish(snapshot)

    def _do_chore(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _lose(self, error: EngineLostError) -> None:
        """Report on every running download that it has stopped."""
        self._known.set_notice(error.message)
        for snapshot in self._known.snapshots():
            if not is_settled(snapshot.state):
                self._known.publish(self._recovery.lose(snapshot, error))
        self._known.fail_waiters(error)
