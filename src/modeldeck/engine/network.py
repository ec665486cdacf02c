"""asyncio's own transports behind httpcore's network interface.

httpx's stock backend reads a TLS connection in records of 16 KiB, each through several layers, and spends a core at
190 MB/s. Here asyncio's transport decrypts straight into large buffers of this module, which are handed on as they are
and come back when they were written to the disk. It stops reading while a buffer is full.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import httpcore

BLOCK_BYTES = 512 << 10
"""What is handed on at once, and the size of a buffer."""
FLUSH_SECONDS = 0.25
"""A slow connection hands on what has come after this long."""
MAX_SPARE_BUFFERS = 32
CONNECT_TIMEOUT_SECONDS = 15.0
HAPPY_EYEBALLS_SECONDS = 0.25
"""The next address of a name is tried when one is silent for so long (RFC 8305)."""

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

_spare_buffers: list[bytearray] = []


def recycle(block: object) -> None:
    """Give the buffer of a block back for the next one. Nobody may look at the block afterwards.

    Fresh memory costs more than the copy that it saves: the kernel clears each page first.
    """
    buffer = block.obj if isinstance(block, memoryview) else None
    if isinstance(buffer, bytearray) and len(buffer) == BLOCK_BYTES and len(_spare_buffers) < MAX_SPARE_BUFFERS:
        _spare_buffers.append(buffer)


def _new_buffer() -> memoryview:
    return memoryview(_spare_buffers.pop() if _spare_buffers else bytearray(BLOCK_BYTES))


class _Receiver(asyncio.BufferedProtocol):
    """Collects what arrives in a buffer, for one reader at a time. Unread bytes are ``_start`` to ``_stop``."""

    def __init__(self) -> None:
        self._view = memoryview(b"")
        self._start = 0
        self._stop = 0
        self._wanted = 1
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
        if not self._view:
            self._view = _new_buffer()
        return self._view[self._stop :]

    def buffer_updated(self, nbytes: int) -> None:
        self._stop += nbytes
        if self._stop == BLOCK_BYTES and self.transport is not None:
            self._is_reading_paused = True
            self.transport.pause_reading()
        if self._unread >= self._wanted or self._is_reading_paused:
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
    def _unread(self) -> int:
        return self._stop - self._start

    @property
    def has_something_to_read(self) -> bool:
        return self._unread > 0 or self._is_at_end

    async def read(self, timeout: float | None) -> memoryview:
        """All that has arrived, to be looked at before the next await only; empty at the end of the connection."""
        await self._wait_for(1, timeout)
        data = self._view[self._start : self._stop]
        self._start = self._stop = 0
        self._go_on()
        return data

    async def read_block(self, size: int, timeout: float | None) -> memoryview:
        """``size`` bytes or a full buffer, fewer from a slow connection; the caller owns it and may recycle it."""
        await self._wait_for(min(size, BLOCK_BYTES - self._start), timeout)
        stop = min(self._stop, self._start + size)
        data = self._view[self._start : stop]
        rest = self._view[stop : self._stop]
        self._view = memoryview(b"")
        if rest:
            self._view = _new_buffer()
            self._view[: len(rest)] = rest
        self._start, self._stop = 0, len(rest)
        self._go_on()
        return data

    def _go_on(self) -> None:
        if self._is_reading_paused and self.transport is not None and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()

    async def _wait_for(self, wanted: int, timeout: float | None) -> None:
        """Wait until so much is there, or anything after a while, or the end."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        self._wanted = wanted
        while self._unread < wanted and not self._is_at_end and not self._is_reading_paused:
            waited = loop.time() - begun_at
            if waited >= FLUSH_SECONDS and self._unread:
                return
            if timeout is not None and waited >= timeout:
                raise TimeoutError
            # What is there after a while wakes nobody by itself, so the wait is cut; what comes later does.
            self._wanted = wanted if waited < FLUSH_SECONDS else 1
            limit = FLUSH_SECONDS if waited < FLUSH_SECONDS else timeout
            self._reader = loop.create_future()
            await _wait(self._reader, None if limit is None else max(0.0, limit - waited))
        if not self._unread and self._error is not None:
            raise self._error

    async def flush(self, timeout: float | None) -> None:
        if self._is_writing_paused:
            self._writer = asyncio.get_running_loop().create_future()
            await _wait(self._writer, timeout)
            if self._is_writing_paused:
                raise TimeoutError


async def _wait(future: asyncio.Future[None], seconds: float | None) -> None:
    """Wait with a plain timer, no longer than so long: a cancel scope for each read would cost more than the read."""
    if seconds is None:
        return await future
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, future)
    try:
        await future
    finally:
        timer.cancel()


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Stream(httpcore.AsyncNetworkStream):
    def __init__(self, transport: asyncio.Transport, receiver: _Receiver) -> None:
        self._transport = transport
        self._receiver = receiver

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has arrived, also when it is more than ``max_bytes``: h11 takes any amount, and copies it at once."""
        with _read_errors():
            return await self._receiver.read(timeout)  # type: ignore[return-value]

    async def read_block(self, size: int, timeout: float | None = None) -> memoryview:
        """See there; of at most ``size`` bytes."""
        with _read_errors():
            return await self._receiver.read_block(size, timeout)

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
    ) -> Stream:
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
        return Stream(transport, receiver)

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
    ) -> Stream:
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
        return Stream(transport, receiver)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore.ReadTimeout(exc) from exc
    except (OSError, ssl.SSLError) as exc:
        raise httpcore.ReadError(exc) from exc
