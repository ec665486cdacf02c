"""HTTP/1.1 connections that pass bodies on in the buffers in which they were received.

httpcore's own connection passes every byte of a body through h11, which copies it three times. Here h11 reads the
heads, and bodies of a known length are read from the socket in large blocks: by iterating over the answer, or, with its
extension `DIRECT_BODY`, by a consumer on the connection's own thread. The pool, keep-alive and the exceptions are
httpcore's.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from enum import Enum

import h11
import httpcore
import httpx

from modeldeck.engine.network import Consumer, SocketStream

MAX_HEAD_BYTES = 100 << 10
FRESH_SECONDS = 1.0
"""A connection that was used or examined this recently is considered alive."""
WAIT_SECONDS = "modeldeck.wait_seconds"
"""A response's extension: seconds from the request to the head of the answer, without the time to connect."""
DIRECT_BODY = "modeldeck.direct_body"
"""A response's extension: its `DirectBody`, if the length of the body is known."""


class _State(Enum):
    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    CLOSED = "closed"


class DirectPool(httpcore.AsyncConnectionPool):
    """httpcore's pool with the connections of this module."""

    def __init__(
        self,
        ssl_context: ssl.SSLContext,
        backend: httpcore.AsyncNetworkBackend,
        *,
        max_idle: int,
        keep_alive_seconds: float,
    ) -> None:
        super().__init__(ssl_context, max_connections=None, max_keepalive_connections=max_idle)
        self._tls = ssl_context
        self._backend = backend
        self._keep_alive_seconds = keep_alive_seconds

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        return _DirectConnection(origin, self._backend, self._tls, self._keep_alive_seconds)


class _DirectConnection(httpcore.AsyncConnectionInterface):
    def __init__(
        self,
        origin: httpcore.Origin,
        backend: httpcore.AsyncNetworkBackend,
        ssl_context: ssl.SSLContext,
        keep_alive_seconds: float,
    ) -> None:
        self._origin = origin
        self._backend = backend
        self._ssl_context = ssl_context
        self._keep_alive_seconds = keep_alive_seconds
        self._stream: SocketStream | None = None
        self._state = _State.NEW
        self._alive_at = 0.0
        self._expires_at: float | None = None
        self._request_count = 0

    # --- for the pool -------------------------------------------------------------------------------------------

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return origin == self._origin

    def is_available(self) -> bool:
        return self._state is _State.IDLE

    def is_idle(self) -> bool:
        return self._state is _State.IDLE

    def is_closed(self) -> bool:
        return self._state is _State.CLOSED

    def has_expired(self) -> bool:
        if self._state is not _State.IDLE or self._stream is None:
            return False
        now = time.monotonic()
        if self._expires_at is not None and now > self._expires_at:
            return True
        if now - self._alive_at < FRESH_SECONDS:  # the pool asks all its connections at every request
            return False
        self._alive_at = now
        return bool(self._stream.get_extra_info("is_readable"))

    def info(self) -> str:
        return f"{str(self._origin)!r}, HTTP/1.1, {self._state.name}, Request Count: {self._request_count}"

    async def aclose(self) -> None:
        self._state = _State.CLOSED
        if self._stream is not None:
            await self._stream.aclose()

    # --- a request ----------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        if self._state in (_State.ACTIVE, _State.CLOSED):
            raise httpcore.ConnectionNotAvailable
        is_new = self._state is _State.NEW
        self._state = _State.ACTIVE
        self._request_count += 1
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        try:
            if is_new:
                self._stream = await self._connect(timeouts.get("connect"))
            return await self._exchange(request, timeouts)
        except BaseException:
            await self.aclose()
            raise

    async def _connect(self, timeout: float | None) -> SocketStream:
        stream = await self._backend.connect_tcp(self._origin.host.decode("ascii"), self._origin.port, timeout=timeout)
        assert isinstance(stream, SocketStream)
        if self._origin.scheme != b"https":
            return stream
        return await stream.start_tls(
            self._ssl_context,
            server_hostname=self._origin.host.decode("ascii"),
            timeout=timeout,
        )

    async def _exchange(self, request: httpcore.Request, timeouts: dict[str, float | None]) -> httpcore.Response:
        stream = self._stream
        assert stream is not None
        begun_at = time.monotonic()
        protocol = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        outgoing = []
        try:
            head = h11.Request(method=request.method, target=request.url.target, headers=request.headers)
            outgoing.append(protocol.send(head) or b"")
            assert not isinstance(request.stream, bytes)
            async for data in request.stream:  # type: ignore[union-attr]
                outgoing.append(protocol.send(h11.Data(data=data)) or b"")
            outgoing.append(protocol.send(h11.EndOfMessage()) or b"")
        except h11.LocalProtocolError as exc:
            raise httpcore.LocalProtocolError(exc) from exc
        read_timeout = timeouts.get("read")
        answer = await stream.ask(
            b"".join(outgoing), MAX_HEAD_BYTES, write_timeout=timeouts.get("write"), timeout=read_timeout
        )
        _receive(protocol, answer)
        while not isinstance(event := await _next_event(protocol, stream, read_timeout), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise httpcore.RemoteProtocolError("The server did not send a response.")
        length = _body_length(request.method, event)
        extensions: dict[str, object] = {
            "http_version": b"HTTP/" + event.http_version,
            "reason_phrase": event.reason,
            WAIT_SECONDS: time.monotonic() - begun_at,
        }
        if length is None:
            body = self._any_body(protocol, stream, read_timeout)
        else:
            direct = DirectBody(self, protocol, stream, length, read_timeout, is_last=_is_last(event))
            extensions[DIRECT_BODY] = direct
            body = direct.blocks()
        if length == 0 or request.method == b"HEAD":
            self.done(is_reusable=not _is_last(event))  # an empty body may never be read
        return httpcore.Response(
            status=event.status_code,
            headers=event.headers.raw_items(),
            content=_BodyStream(self, self._request_count, body),
            extensions=extensions,
        )

    async def _any_body(
        self, protocol: h11.Connection, stream: SocketStream, timeout: float | None
    ) -> AsyncGenerator[bytes | memoryview, None]:
        while isinstance(event := await _next_event(protocol, stream, timeout), h11.Data):
            yield event.data
        self.done(is_reusable=protocol.our_state is h11.DONE and protocol.their_state is h11.DONE)

    def done(self, *, is_reusable: bool) -> None:
        if is_reusable and self._state is _State.ACTIVE:
            self._state = _State.IDLE
            self._alive_at = time.monotonic()
            self._expires_at = self._alive_at + self._keep_alive_seconds

    async def finish(self, number: int) -> None:
        """End a request. If part of its answer was not read, the connection cannot be used again."""
        if self._request_count == number and self._state is not _State.IDLE:
            await self.aclose()


class DirectBody:
    """A body of known length, to be read once: by iterating, or by a consumer."""

    def __init__(
        self,
        connection: _DirectConnection,
        protocol: h11.Connection,
        stream: SocketStream,
        length: int,
        timeout: float | None,
        *,
        is_last: bool,
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self._stream = stream
        self._length = length
        self._remaining = length
        self._timeout = timeout
        self._is_last = is_last

    async def blocks(self) -> AsyncGenerator[bytes | memoryview, None]:
        for early in self._early_blocks():
            yield early
        while self._remaining:
            block = await self._stream.read_block(self._remaining, self._timeout)
            if not block:
                raise httpcore.RemoteProtocolError(self._cut_short())
            self._remaining -= len(block)
            yield block
        self._finish()

    async def receive(self, consumer: Consumer) -> None:
        """Give the body to a consumer, until it wants no more.

        Raises
        ------
        httpx.TransportError
            As for a body that httpx reads.
        """
        early = b"".join(self._early_blocks())
        try:
            self._remaining -= await self._stream.receive(self._remaining, consumer, self._timeout, early=early)
        except httpcore.ReadTimeout as exc:
            raise httpx.ReadTimeout(str(exc)) from exc
        except httpcore.ReadError as exc:
            raise httpx.ReadError(str(exc)) from exc
        if self._remaining and consumer.wanted > 0:
            raise httpx.RemoteProtocolError(self._cut_short())
        self._finish()

    def _early_blocks(self) -> Iterator[bytes]:
        """Yield what was received together with the head."""
        while self._remaining and isinstance(event := self._protocol.next_event(), h11.Data):
            self._remaining -= len(event.data)
            yield event.data

    def _cut_short(self) -> str:
        return (
            "peer closed connection without sending complete message body "
            f"(received {self._length - self._remaining} bytes, expected {self._length})"
        )

    def _finish(self) -> None:
        if self._remaining == 0:
            self._connection.done(is_reusable=not self._is_last)


class _BodyStream:
    def __init__(
        self, connection: _DirectConnection, number: int, body: AsyncGenerator[bytes | memoryview, None]
    ) -> None:
        self._connection = connection
        self._number = number
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body  # type: ignore[return-value]

    async def aclose(self) -> None:
        await self._body.aclose()
        await self._connection.finish(self._number)


async def _next_event(protocol: h11.Connection, stream: SocketStream, timeout: float | None) -> object:
    try:
        while (event := protocol.next_event()) is h11.NEED_DATA:
            _receive(protocol, await stream.read(MAX_HEAD_BYTES, timeout))
    except h11.RemoteProtocolError as exc:
        raise httpcore.RemoteProtocolError(exc) from exc
    return event


def _receive(protocol: h11.Connection, data: bytes) -> None:
    if not data and protocol.their_state is h11.SEND_RESPONSE:
        raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
    protocol.receive_data(data)


def _body_length(method: bytes, head: h11.Response) -> int | None:
    """Return the length of a body that is sent unchanged, or ``None`` if h11 must find its end."""
    if method == b"HEAD" or head.status_code in (204, 304):
        return None
    fields = dict(head.headers)
    if b"transfer-encoding" in fields or b"content-length" not in fields:
        return None
    return int(fields[b"content-length"])


def _is_last(head: h11.Response) -> bool:
    """Return whether the server closes the connection after this answer."""
    wishes = b",".join(value for name, value in head.headers if name == b"connection").lower().split(b",")
    return head.http_version != b"1.1" or b"close" in (wish.strip() for wish in wishes)
