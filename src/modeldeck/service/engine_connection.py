"""One connection to an engine, from the client's side: the greeting, requests with their answers, and updates."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self, TypeVar

import msgspec

from modeldeck._errors import EngineLostError, ProtocolError, error_from_info
from modeldeck._types import DownloadSnapshot, EngineStatus
from modeldeck._version import __version__
from modeldeck.service import messages

T = TypeVar("T")

HELLO_ID = 0
HELLO_SECONDS = 15.0
GOODBYE_SECONDS = 1.0
READ_BYTES = 256 * 1024

STOP_HINT = "End it with 'modeldeck engine stop' and try again."


class ConnectionEnded(Exception):
    """The engine is gone before it answered. ``is_farewell`` tells whether it said that it was told to end."""

    def __init__(self, *, is_farewell: bool) -> None:
        super().__init__()
        self.is_farewell = is_farewell


class EngineConnection:
    """A connection on which the engine has answered the hello. All methods belong to the loop that opened it.

    Parameters
    ----------
    on_news : callable
        Called with every ``Update`` and ``Removed`` message, in order.
    on_end : callable
        Called with `ConnectionEnded` when the engine closes the connection, and not after ``aclose``.
    """

    def __init__(
        self,
        incoming: _Incoming,
        writer: asyncio.StreamWriter,
        status: EngineStatus,
        snapshots: list[DownloadSnapshot],
        on_news: Callable[[messages.Reply], None],
        on_end: Callable[[ConnectionEnded], None],
    ) -> None:
        self.status = status
        """What the engine said of itself in its answer to the hello."""
        self.snapshots = snapshots
        """The downloads that the engine knew at that moment."""
        self._incoming = incoming
        self._writer = writer
        self._on_news = on_news
        self._on_end = on_end
        self._answers: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._end: ConnectionEnded | None = None
        self._is_closed = False
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(
        cls,
        connected: socket.socket,
        secret: str | None,
        *,
        is_observer: bool = False,
        on_news: Callable[[messages.Reply], None] = lambda _: None,
        on_end: Callable[[ConnectionEnded], None] = lambda _: None,
    ) -> Self:
        """Greet the engine at the other end of a connected socket.

        Raises
        ------
        OSError, EOFError
            When the engine is gone, or about to end.
        ProtocolError
            When the engine refuses this client: it has another version, or the secret is wrong.
        EngineLostError
            When the engine does not answer.
        """
        reader, writer = await asyncio.open_connection(sock=connected)
        try:
            hello = messages.Hello(
                id=HELLO_ID,
                protocol=messages.PROTOCOL,
                version=__version__,
                secret=secret,
                is_observer=is_observer,
            )
            writer.write(messages.encode(hello))
            incoming = _Incoming(reader)
            snapshots = []
            async with asyncio.timeout(HELLO_SECONDS):
                while not isinstance(reply := await incoming.next(), messages.Answer):
                    if isinstance(reply, messages.Failure):
                        if reply.error.code == EngineLostError.code:  # it is about to end
                            raise ConnectionResetError(None, reply.error.message)
                        raise error_from_info(reply.error)
                    if isinstance(reply, messages.Update):
                        snapshots.append(reply.snapshot)
            status = msgspec.json.decode(reply.result, type=EngineStatus)
        except BaseException as error:
            writer.close()
            if isinstance(error, TimeoutError):
                raise EngineLostError(f"The engine does not answer. {STOP_HINT}") from None
            raise
        return cls(incoming, writer, status, snapshots, on_news, on_end)

    async def ask(self, request: messages.Request, kind: type[T]) -> T:
        """Send a request and wait for its answer.

        Raises
        ------
        ConnectionEnded
            When the engine ends first. Whether it has done what was asked is then unknown.
        ModelDeckError
            The engine's own answer, when it refuses.
        """
        if self._end is not None:
            raise self._end
        answer = asyncio.get_running_loop().create_future()
        self._answers[request.id] = answer
        try:
            self._writer.write(messages.encode(request))
            return msgspec.json.decode(await answer, type=kind)
        finally:
            del self._answers[request.id]

    async def aclose(self) -> None:
        """Leave the engine, and wait until it knows. It closes the connection once the client is off its list."""
        self._is_closed = True
        with suppress(OSError, RuntimeError):
            self._writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await asyncio.wait([self._reading])
        self._reading.cancel()
        self._writer.close()

    async def _read(self) -> None:
        is_farewell = False
        try:
            with suppress(OSError, EOFError, ProtocolError):
                while True:
                    reply = await self._incoming.next()
                    is_farewell = is_farewell or isinstance(reply, messages.Farewell)
                    self._take(reply)
        finally:
            self._writer.close()
            self._end = ConnectionEnded(is_farewell=is_farewell)
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(self._end)
        if not self._is_closed:
            self._on_end(self._end)

    def _take(self, reply: messages.Reply) -> None:
        match reply:
            case messages.Update() | messages.Removed():
                self._on_news(reply)
            case messages.Answer() | messages.Failure():
                answer = self._answers.get(reply.id) if reply.id is not None else None
                if answer is None or answer.done():
                    return
                if isinstance(reply, messages.Answer):
                    answer.set_result(reply.result)
                else:
                    answer.set_exception(error_from_info(reply.error))


class _Incoming:
    """The engine's messages, one at a time."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._frames = messages.FrameReader(messages.MAX_REPLY_BYTES)
        self._contents: deque[bytes] = deque()

    async def next(self) -> messages.Reply:
        while not self._contents:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError
            self._contents.extend(self._frames.feed(data))
        return messages.decode_reply(self._contents.popleft())
