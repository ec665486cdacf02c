"""httpx over asyncio's own transports: the engine's way to the network.

httpx's stock backend reads a TLS connection in records of 16 KiB, each through several layers, and spends a core at
190 MB/s. Here asyncio's transport decrypts straight into one buffer of this module, as much as has arrived, and stops
reading while the buffer is full.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

READ_BUFFER_BYTES = 256 << 10
KEEP_ALIVE_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 15.0
HAPPY_EYEBALLS_SECONDS = 0.25
"""The next address of a name is tried when one is silent for so long (RFC 8305)."""

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class _Receiver(asyncio.BufferedProtocol):
    """Collects what arrives in one buffer, for one reader at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray(READ_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._is_at_end = False
        self._error: Exception | None = None
        self.transport: asyncio.Transport | None = None

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == READ_BUFFER_BYTES and self.transport is not None:
            self._is_reading_paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._is_at_end = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_at_end = True
        self._error = exc
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # the stream calls these

    @property
    def has_something_to_read(self) -> bool:
        return self._filled > 0 or self._is_at_end

    async def read(self, timeout: float | None) -> bytes:
        """All that has arrived; empty at the end of the connection."""
        if not self.has_something_to_read:
            self._reader = asyncio.get_running_loop().create_future()
            await _wait(self._reader, timeout)
        if self._filled == 0:
            if self._error is not None:
                raise self._error
            return b""
        data = bytes(self._view[: self._filled])
        self._filled = 0
        if self._is_reading_paused and self.transport is not None and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()
        return data

    async def flush(self, timeout: float | None) -> None:
        if self._is_writing_paused:
            self._writer = asyncio.get_running_loop().create_future()
            await _wait(self._writer, timeout)


async def _wait(future: asyncio.Future[None], timeout: float | None) -> None:
    """Wait with a plain timer: a cancel scope for each read would cost more than the read."""
    if timeout is None:
        return await future
    timer = asyncio.get_running_loop().call_later(timeout, _expire, future)
    try:
        await future
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, transport: asyncio.Transport, receiver: _Receiver) -> None:
        self._transport = transport
        self._receiver = receiver

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has arrived, also when it is more than ``max_bytes``: h11 takes any amount."""
        try:
            return await self._receiver.read(timeout)
        except TimeoutError as exc:
            raise httpcore.ReadTimeout(exc) from exc
        except (OSError, ssl.SSLError) as exc:
            raise httpcore.ReadError(exc) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        if self._transport.is_closing():
            raise httpcore.WriteError("the connection is closed")
        try:
            self._transport.write(buffer)
            await self._receiver.flush(timeout)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(exc) from exc
        except OSError as exc:
            raise httpcore.WriteError(exc) from exc

    async def aclose(self) -> None:
        self._transport.abort()  # nothing is owed to the other side, and a farewell could block

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        loop = asyncio.get_running_loop()
        receiver = _Receiver()
        try:
            transport = await loop.start_tls(
                self._transport,
                receiver,
                ssl_context,
                server_hostname=server_hostname,
                ssl_handshake_timeout=timeout or CONNECT_TIMEOUT_SECONDS,
            )
        except TimeoutError as exc:
            self._transport.abort()
            raise httpcore.ConnectTimeout(exc) from exc
        except (OSError, ssl.SSLError) as exc:
            self._transport.abort()
            raise httpcore.ConnectError(exc) from exc
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        assert transport is not None
        receiver.transport = transport
        return _Stream(transport, receiver)

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "is_readable":
                return self._receiver.has_something_to_read or self._transport.is_closing()
            case "client_addr":
                return self._transport.get_extra_info("sockname")
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case _:
                return self._transport.get_extra_info(info)


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """Connections as asyncio makes them."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> _Stream:
        loop = asyncio.get_running_loop()
        local = (local_address, 0) if local_address else None
        # A cancelled race between addresses can leave a socket to the garbage collector: race only where there is one.
        delay = None if _is_address(host) else HAPPY_EYEBALLS_SECONDS
        try:
            async with asyncio.timeout(timeout):
                transport, receiver = await loop.create_connection(
                    _Receiver, host, port, local_addr=local, happy_eyeballs_delay=delay
                )
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(exc) from exc
        except OSError as exc:
            raise httpcore.ConnectError(exc) from exc
        sock = transport.get_extra_info("socket")
        for option in socket_options or ():
            sock.setsockopt(*option)
        return _Stream(transport, receiver)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class EngineTransport(httpx.AsyncBaseTransport):
    """Sends each request directly or through the proxy that the environment names for its address.

    It is shared by all clients of one engine, so closing a client leaves it open; `shut_down` closes it.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport_to(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        """Leave the connections to the other clients."""

    async def shut_down(self) -> None:
        transports = list(self._transports.values())
        self._transports.clear()
        for transport in transports:
            await transport.aclose()

    def _transport_to(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        proxy = _proxy_for(url)
        if proxy not in self._transports:
            if self._ssl_context is None:
                self._ssl_context = httpx.create_ssl_context()
            self._transports[proxy] = _transport(self._ssl_context, proxy)
        return self._transports[proxy]


def _transport(ssl_context: ssl.SSLContext, proxy: str | None) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=KEEP_ALIVE_SECONDS)
    transport = httpx.AsyncHTTPTransport(verify=ssl_context, limits=limits, proxy=proxy)
    # httpx has no argument for httpcore's public `network_backend`, and maps httpcore's exceptions for us.
    transport._pool._network_backend = AsyncioBackend()
    return transport


def _proxy_for(url: httpx.URL) -> str | None:
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.netloc.decode("ascii")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
