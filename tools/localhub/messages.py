"""The messages between the routes, the faults and the sockets: a request, an answer, and the bytes of a body."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

Origin: TypeAlias = Literal["hub", "cdn"]
FileContent: TypeAlias = bytes | Path


@dataclass(frozen=True, slots=True)
class Payload:
    """The body of an answer: the bytes ``start`` to ``stop`` of a source of ``total`` bytes, with some bits flipped.

    ``flipped`` are offsets in the source: the lowest bit of each of these bytes is wrong.
    """

    source: FileContent = b""
    total: int = 0
    start: int = 0
    stop: int = 0
    flipped: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: bytes) -> Payload:
        return cls(data, len(data), 0, len(data))

    @property
    def size(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Payload:
        """Another part of the same source, clipped to it."""
        start = min(max(0, start), self.total)
        return replace(self, start=start, stop=max(start, min(stop, self.total)))

    def read(self) -> bytes:
        """Return the bytes, in memory."""
        if isinstance(self.source, bytes):
            data = self.source[self.start : self.stop]
        else:
            with self.source.open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        wrong = [offset - self.start for offset in self.flipped if self.start <= offset < self.stop]
        if not wrong:
            return data
        changed = bytearray(data)
        for index in wrong:
            changed[index] ^= 1
        return bytes(changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRequest:
    """One request as the client sent it. Header names are in lower case.

    ``concurrent`` is how many requests of its origin are being answered at this moment, itself included.
    """

    origin: Origin
    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    concurrent: int = 1

    @property
    def raw_path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def token(self) -> str | None:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None


@dataclass(frozen=True, slots=True)
class SpeedLimit:
    """The highest speed of each answer on its own, or of all answers together.

    Parameters
    ----------
    free_bytes : int
        This many bytes are sent at full speed first.
    """

    bytes_per_second: float
    is_shared: bool = False
    free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPAnswer:
    """One answer and how it is delivered. Without a fault it is delivered whole and at once.

    Parameters
    ----------
    headers : tuple of (str, str)
        ``Content-Length`` is added by the server unless it is already there or ``is_chunked``.
    delay_seconds : float
        Wait before the first byte of the head.
    cut_after, stall_after : int or None
        After this many bytes of the body the connection is closed, or nothing more is sent on it. -1 means before
        the head.
    is_reset : bool
        A cut ends with RST instead of FIN.
    raw : bytes or None
        Sent in place of head and body; then the connection is closed.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Payload = field(default_factory=Payload)
    is_chunked: bool = False
    delay_seconds: float = 0.0
    cut_after: int | None = None
    stall_after: int | None = None
    is_reset: bool = False
    speed_limit: SpeedLimit | None = None
    raw: bytes | None = None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def has_framing(self) -> bool:
        """Whether the headers already say how the body ends."""
        return self.header("Content-Length") is not None or self.header("Transfer-Encoding") is not None

    def with_headers(self, changes: Mapping[str, str | None]) -> HTTPAnswer:
        """Return the answer with some headers replaced, added, or (``None``) removed."""
        names = {name.lower() for name in changes}
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in names)
        added = tuple((name, value) for name, value in changes.items() if value is not None)
        return replace(self, headers=kept + added)


def json_answer(data: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> HTTPAnswer:
    body = Payload.of(json.dumps(data, separators=(",", ":")).encode())
    return HTTPAnswer(status=status, headers=(("Content-Type", "application/json; charset=utf-8"), *headers), body=body)


def text_answer(
    text: str, status: int = 200, headers: Iterable[tuple[str, str]] = (), *, content_type: str = "text/plain"
) -> HTTPAnswer:
    return HTTPAnswer(
        status=status,
        headers=(("Content-Type", f"{content_type}; charset=utf-8"), *headers),
        body=Payload.of(text.encode()),
    )


def redirect_answer(location: str, status: int, headers: Iterable[tuple[str, str]] = ()) -> HTTPAnswer:
    return text_answer(f"Redirecting to {location}", status, (("Location", location), *headers))


def body_answer(request: HTTPRequest, body: Payload, headers: Iterable[tuple[str, str]]) -> HTTPAnswer:
    """Answer with (a range of) a file, by RFC 9110: If-None-Match, If-Range, single ranges, 416."""
    everything = tuple(headers)
    etag = next((value for name, value in everything if name.lower() == "etag"), None)
    if etag is not None and etag in (part.strip() for part in request.headers.get("if-none-match", "").split(",")):
        return HTTPAnswer(status=304, headers=everything)
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return HTTPAnswer(status=200, headers=everything, body=body)
    span = parse_range(wanted, body.total)
    if span is None:
        return HTTPAnswer(status=200, headers=everything, body=body)
    if span[0] >= body.total:
        unsatisfied = (*everything, ("Content-Range", f"bytes */{body.total}"))
        return HTTPAnswer(status=416, headers=unsatisfied, body=body.part(0, 0))
    return HTTPAnswer(
        status=206, headers=(*everything, ("Content-Range", content_range(*span, body.total))), body=body.part(*span)
    )


def content_range(start: int, stop: int, total: int) -> str:
    return f"bytes {start}-{stop - 1}/{total}"


def parse_range(value: str, total: int) -> tuple[int, int] | None:
    """Return start and stop of a single byte range, clipped to ``total``, or ``None`` for one a server may ignore."""
    unit, _, spec = value.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdecimal():
        return None
    if not first:
        return max(0, total - int(last)) if int(last) else total, total
    start = int(first)
    stop = int(last) + 1 if last else max(total, start + 1)
    return (start, min(stop, max(total, start + 1))) if start < stop else None
