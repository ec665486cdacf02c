"""HTTP/1.1 on accepted connections: it reads requests and sends answers, with every fault that is scripted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import h11

from tools.localhub.faults import Faults
from tools.localhub.log import RequestLog
from tools.localhub.messages import HTTPAnswer, HTTPRequest, Origin, Payload, SpeedLimit, text_answer
from tools.localhub.routes import Site

_READ_BYTES = 1 << 16
_SENDFILE_BYTES = 1 << 22
_WRITE_BYTES = 1 << 19
_PACE_SECONDS = 0.05
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class _Cut(Exception):
    """Ends the connection at once."""


@dataclass(slots=True)
class _Pace:
    """Schedules the bytes of one speed limit, for as long as the limit is scripted."""

    limit: SpeedLimit
    faults: Faults
    free_at: float = 0.0
    sent_free: int = 0

    async def take(self, most: int, end: asyncio.Event) -> int:
        """Wait until some bytes may be sent, and return how many. A client that hangs up gives its turn back."""
        if not self.faults.has(self.limit):
            return most
        if (free := min(most, self.limit.free_bytes - self.sent_free)) > 0:
            self.sent_free += free
            return free
        rate = self.limit.bytes_per_second
        size = min(most, max(1, int(rate * _PACE_SECONDS)))
        now = time.monotonic()
        self.free_at = max(now, self.free_at) + size / rate
        try:
            async with asyncio.timeout(self.free_at - now):
                await end.wait()
        except TimeoutError:
            return size
        self.free_at -= size / rate
        raise ConnectionResetError


class HubReader(asyncio.StreamReader):
    """A stream reader whose ``end`` is set when the client hangs up, even while nothing reads from it."""

    def __init__(self) -> None:
        super().__init__()
        self.end = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.end.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.end.set()


class ConnectionServer:
    """Answers requests on accepted connections."""

    def __init__(self, site: Site, faults: Faults, log: RequestLog, *, is_plain: bool) -> None:
        self._site = site
        self._faults = faults
        self._log = log
        self._is_plain = is_plain
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: Counter[Origin] = Counter()
        self._shared_paces: dict[SpeedLimit, _Pace] = {}

    def accept(self, origin: Origin, reader: HubReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(origin, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every connection of this loop, including those that asyncio has accepted but not yet handed over."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0)  # a task that is cancelled before its first step closes nothing
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _converse(self, origin: Origin, reader: HubReader, writer: asyncio.StreamWriter) -> None:
        connection_id = next(self._ids)
        # With no room in the transport's own buffer, what drain() has let through has left this process.
        # asyncio's TLS transport pauses at the limit itself, so 0 would pause it for ever.
        writer.transport.set_write_buffer_limits(high=0 if self._is_plain else 1, low=0)
        pending = b""
        try:
            while True:
                event, body, pending = await _read_request(reader, pending)
                if event is None:
                    break
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
                self._answering[origin] += 1
                try:
                    request = HTTPRequest(
                        origin=origin,
                        method=event.method.decode(),
                        target=event.target.decode("latin-1"),
                        headers=headers,
                        body=body,
                        concurrent=self._answering[origin],
                    )
                    is_reusable = await self._exchange(request, connection_id, reader, writer)
                finally:
                    self._answering[origin] -= 1
                if not is_reusable or headers.get("connection", "").lower() == "close" or event.http_version < b"1.1":
                    break
        except h11.RemoteProtocolError as error:
            refusal = text_answer(f"Bad request: {error}", 400)
            writer.write(_head(refusal, is_last=True) + refusal.body.read())
        except _Cut:
            pass
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _exchange(
        self, request: HTTPRequest, connection_id: int, reader: HubReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request, and return whether the connection can take another."""
        key = self._log.begin(request, unquote(request.raw_path), connection_id)
        try:
            answer = self._faults.apply(request, self._site.answer(request))
            if answer.delay_seconds:
                await asyncio.sleep(answer.delay_seconds)
            await self._interrupt(answer, -1, reader, writer)
            if answer.raw is not None:
                await _write(writer, answer.raw)
                return False
            is_reusable = answer.header("Content-Length") in (None, str(answer.body.size))
            await _write(writer, _head(answer, is_last=not is_reusable))
            self._log.update(key, status=answer.status)
            if request.method != "HEAD" and answer.status not in (204, 304):
                await self._send_body(answer, key, reader.end, writer)
                await self._interrupt(answer, answer.body.size, reader, writer)
                if answer.is_chunked:
                    await _write(writer, b"0\r\n\r\n")
            return is_reusable
        finally:
            self._log.update(key, is_finished=True)

    async def _interrupt(
        self, answer: HTTPAnswer, sent: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """End or freeze the connection if that is due after ``sent`` bytes of the body; -1 means before the head."""
        if answer.cut_after is not None and answer.cut_after <= sent:
            if answer.is_reset:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionAbortedError
            raise _Cut
        if answer.stall_after is not None and answer.stall_after <= sent:
            while await reader.read(_READ_BYTES):
                pass
            raise ConnectionAbortedError

    async def _send_body(self, answer: HTTPAnswer, key: int, end: asyncio.Event, writer: asyncio.StreamWriter) -> None:
        limits = (answer.body.size, answer.cut_after, answer.stall_after)
        body = answer.body.part(answer.body.start, answer.body.start + min(n for n in limits if n is not None))
        pace = self._pace(answer.speed_limit)
        is_as_stored = self._is_plain and not answer.is_chunked and not body.flipped
        file_source = body.source if isinstance(body.source, Path) and is_as_stored else None
        block = _WRITE_BYTES if file_source is None else _SENDFILE_BYTES
        start = body.start
        with contextlib.nullcontext() if file_source is None else file_source.open("rb") as file:
            while start < body.stop:
                size = min(block, body.stop - start)
                if pace is not None:
                    size = await pace.take(size, end)
                part = body.part(start, start + size)
                start = part.stop
                if file is None:
                    data = part.read()
                    if len(data) < part.size:  # the file on disk has become shorter
                        raise _Cut
                    await _write(writer, b"%x\r\n%b\r\n" % (len(data), data) if answer.is_chunked else data)
                    self._log.update(key, sent=part.size)
                else:
                    try:
                        await _send_file(writer, file, part)
                    finally:
                        self._log.update(key, sent=file.tell() - part.start)

    def _pace(self, limit: SpeedLimit | None) -> _Pace | None:
        if limit is None:
            return None
        pace = _Pace(limit, self._faults)
        return self._shared_paces.setdefault(limit, pace) if limit.is_shared else pace


async def _read_request(reader: asyncio.StreamReader, pending: bytes) -> tuple[h11.Request | None, bytes, bytes]:
    """Read the next request (``None`` at the end of the connection), its body, and the bytes that follow it.

    h11 reads only. Answers are written by hand, because a fault must be able to break its rules.
    """
    parser = h11.Connection(h11.SERVER)
    if pending:
        parser.receive_data(pending)
    request, body = None, bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body), parser.trailing_data[0]
        else:
            return None, b"", b""


def _head(answer: HTTPAnswer, *, is_last: bool) -> bytes:
    phrase = _PHRASES.get(answer.status, "Unknown")
    headers = list(answer.headers)
    if answer.is_chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif not answer.has_framing and answer.status not in (204, 304):
        headers.append(("Content-Length", str(answer.body.size)))
    if is_last:
        headers.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _send_file(writer: asyncio.StreamWriter, file: BinaryIO, part: Payload) -> None:
    file.seek(part.start)
    if writer.transport.is_closing():
        raise ConnectionResetError
    sent = await asyncio.get_running_loop().sendfile(writer.transport, file, part.start, part.size)
    if sent < part.size:  # the file on disk has become shorter
        raise _Cut
