"""Connections that are read and written on threads, behind httpcore's network interface.

asyncio's TLS goes over memory buffers: it copies each byte three times and wakes the loop for every piece. Here OpenSSL
reads the socket itself, on a thread for each connection, straight into buffers of this module. `SocketStream.receive`
gives them to their consumer on that same thread: from the socket to the disk without a switch, while the loop is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import aiohappyeyeballs
import anyio
import httpcore

from modeldeck._loop import in_daemon_thread

BUFFER_BYTES = 512 << 10
"""The size of a buffer, which is given to the consumer as a whole."""
FLUSH_SECONDS = 0.25
"""A slow connection gives what it has to its consumer after this long."""
LOW_WATER_BYTES = 64 << 10
"""A thread is not woken for fewer bytes, so that a slow link costs less. Twice this fits into every socket's buffer."""
MAX_SPARE_BUFFERS = 48
MAX_THREADS = 128
"""More than all connections of an engine. A thread is started when it is needed."""
CONNECT_TIMEOUT_SECONDS = 15.0
HAPPY_EYEBALLS_SECONDS = 0.25
"""The next address of a name is tried if one is silent for this long (RFC 8305)."""
T = TypeVar("T")
_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

_spare_buffers: list[bytearray] = []


def recycle(block: object) -> None:
    """Return a block's buffer for reuse. The block must not be read afterwards.

    New memory costs more than the copy that it saves, because the kernel clears each page first.
    """
    buffer = block.obj if isinstance(block, memoryview) else None
    if isinstance(buffer, bytearray) and len(buffer) == BUFFER_BYTES and len(_spare_buffers) < MAX_SPARE_BUFFERS:
        _spare_buffers.append(buffer)


def drop_spare_buffers() -> None:
    """Free the memory of unused buffers. Call it while nothing is received."""
    _spare_buffers.clear()


def _new_buffer() -> memoryview:
    try:
        return memoryview(_spare_buffers.pop())
    except IndexError:
        return memoryview(bytearray(BUFFER_BYTES))


class Consumer(Protocol):
    """Takes what a connection receives."""

    @property
    def wanted(self) -> int:
        """Bytes still wanted. Read on the connection's thread before each block. 0 ends the body."""

    def consume(self, block: memoryview) -> None:
        """Take over a block with its buffer. Called on the connection's thread."""

    def finish(self) -> None:
        """End, without another block. Called on the connection's thread, unless the connection failed."""

    def stop(self) -> None:
        """Make a ``consume`` that waits return soon, because its connection is being closed. Called on the loop."""


class SocketStream(httpcore.AsyncNetworkStream):
    """One connection, plain or TLS. Make one call at a time. A cancelled call closes the connection."""

    def __init__(self, sock: socket.socket, threads: ThreadPoolExecutor) -> None:
        self._sock = sock
        self._threads = threads
        self._call: asyncio.Future[Any] | None = None
        self._low_water = 1
        self._is_interrupted = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._on_thread(lambda: self._read(max_bytes, timeout))

    def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        with _read_errors():
            self._sock.settimeout(timeout)
            return self._sock.recv(max_bytes)

    async def read_block(self, size: int, timeout: float | None = None) -> memoryview:
        """Return ``size`` bytes or a full buffer, less from a slow connection, nothing at its end."""
        return await self._on_thread(lambda: self._read_block(size, timeout))

    def _read_block(self, size: int, timeout: float | None) -> memoryview:
        with _read_errors():
            return self._fill(size, timeout)

    def _fill(self, size: int, timeout: float | None) -> memoryview:
        """Fill a buffer, but return what there is after a while."""
        self._sock.settimeout(FLUSH_SECONDS if timeout is None else min(FLUSH_SECONDS, timeout))
        wanted = min(size, BUFFER_BYTES)
        view = _new_buffer()[:wanted]
        filled = 0
        begun_at = time.monotonic()
        while filled < wanted and not self._is_interrupted:
            try:
                # Called for each TLS record of 16 KiB. Without the number SSLSocket would make a view to measure it.
                count = self._sock.recv_into(view[filled:], wanted - filled)
                if count == 0:
                    break
                filled += count
            except TimeoutError:
                self._set_low_water(1)  # fewer bytes than that may be waiting
                if not filled and timeout is not None and time.monotonic() - begun_at >= timeout:
                    raise
            if filled and time.monotonic() - begun_at >= FLUSH_SECONDS:
                break
        return view[:filled]

    async def receive(self, size: int, consumer: Consumer, timeout: float | None, *, early: bytes = b"") -> int:
        """Give the ``early`` bytes and ``size`` more to a consumer, fewer if it has enough or at the end.

        Returns
        -------
        int
            Bytes received, without the early ones.
        """
        return await self._on_thread(lambda: self._receive(size, consumer, timeout, early), on_cancel=consumer.stop)

    def _receive(self, size: int, consumer: Consumer, timeout: float | None, early: bytes) -> int:
        received = 0
        if early:
            consumer.consume(memoryview(early))
        while received < size and (wanted := min(size - received, consumer.wanted)) > 0:
            is_far_from_end = size - received > 2 * BUFFER_BYTES
            self._set_low_water(LOW_WATER_BYTES if is_far_from_end else 1)
            block = self._read_block(wanted, timeout)
            if not block:
                break
            received += len(block)
            consumer.consume(block)
        consumer.finish()
        return received

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water:
            self._low_water = count
            with contextlib.suppress(OSError):  # Windows does not have it
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            await self._on_thread(lambda: self._write(buffer, timeout))

    def _write(self, buffer: bytes, timeout: float | None) -> None:
        try:
            self._sock.settimeout(timeout)
            self._sock.sendall(buffer)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(exc) from exc
        except OSError as exc:
            raise httpcore.WriteError(exc) from exc

    async def ask(self, request: bytes, max_bytes: int, *, write_timeout: float | None, timeout: float | None) -> bytes:
        """Write a request and read the first bytes of the answer, in one call."""

        def write_and_read() -> bytes:
            self._write(request, write_timeout)
            return self._read(max_bytes, timeout)

        return await self._on_thread(write_and_read)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> SocketStream:
        if isinstance(self._sock, ssl.SSLSocket):
            raise httpcore.ConnectError("TLS inside of TLS")
        secure = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname, do_handshake_on_connect=False)
        stream = SocketStream(secure, self._threads)
        try:
            secure.settimeout(timeout or CONNECT_TIMEOUT_SECONDS)
            await stream._on_thread(secure.do_handshake)
        except BaseException as exc:
            await stream.aclose()
            if isinstance(exc, TimeoutError):
                raise httpcore.ConnectTimeout(exc) from exc
            if isinstance(exc, OSError):
                raise httpcore.ConnectError(exc) from exc
            raise
        return stream

    async def aclose(self) -> None:
        """Close at once. A TLS goodbye could block, and the server does not need one."""
        self._interrupt()
        await self._wait()
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "is_readable":
                return self._is_interrupted or _is_readable(self._sock)
            case "ssl_object":
                return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
            case "socket":
                return self._sock
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case _:
                return None

    async def _on_thread(self, function: Callable[[], T], *, on_cancel: Callable[[], None] | None = None) -> T:
        """Call a blocking function. A cancellation breaks the connection, so that it returns, and waits for that."""
        call = asyncio.get_running_loop().run_in_executor(self._threads, function)
        self._call = call
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel()
            self._interrupt()
            await self._wait()
            raise

    def _interrupt(self) -> None:
        """Wake the thread that is waiting for this socket."""
        self._is_interrupted = True
        with contextlib.suppress(OSError):
            # SSLSocket's own shutdown would have the thread read on without TLS.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    async def _wait(self) -> None:
        """Wait until the thread has returned. Its error about the broken connection does not matter."""
        if self._call is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.gather(self._call, return_exceptions=True)


class ThreadedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections whose calls run on these threads."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> SocketStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await _addresses(host, port)
                local = await _addresses(local_address, 0) if local_address else None
                sock = await aiohappyeyeballs.start_connection(
                    addresses, local_addr_infos=local, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS
                )
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(exc) from exc
        except OSError as exc:
            raise httpcore.ConnectError(exc) from exc
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in socket_options or ():
            sock.setsockopt(*option)
        return SocketStream(sock, self._threads)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _addresses(host: str, port: int) -> list[Any]:
    """Look a name up. This may hang for minutes, and the end of the process must not wait for it."""
    return await asyncio.wrap_future(in_daemon_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)))


def _is_readable(sock: socket.socket) -> bool:
    """Return whether bytes, or the end, have arrived. An idle connection with either cannot be used again."""
    if sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpcore.ReadTimeout(exc) from exc
    except OSError as exc:  # ssl.SSLError is one
        raise httpcore.ReadError(exc) from exc
