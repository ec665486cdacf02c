"""What a server may do wrong, scripted request by request.

An effect is a pure change of an answer. It fires when it returns a different answer::

    from tools.localhub import faults

    hub.faults.add(faults.Cut(after_bytes=1_000_000), origin="cdn", times=1)
    hub.faults.add(faults.Reply(503), path="/*/resolve/*", times=3)
    hub.faults.add(faults.Throttle(bytes_per_second=20e6), origin="cdn")
    hub.faults.script("/api/models", faults.Reply(503), faults.json_reply([]))

All faults that match apply, in the order in which they were added.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol
from urllib.parse import unquote

from tools.localhub.messages import HTTPAnswer, HTTPRequest, Origin, Payload, SpeedLimit, body_answer, content_range

_GZIP_LEVEL = 1


class Effect(Protocol):
    """A change of an answer, such as a wrong header or a cut connection."""

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer: ...


def _has_byte(request: HTTPRequest, answer: HTTPAnswer, index: int) -> bool:
    """Return whether the body that is sent has a byte with this index, so that something can happen before it."""
    return index < (0 if request.method == "HEAD" else answer.body.size)


# --- the connection ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection after this many bytes of the body; -1 closes it instead of answering.

    ``is_reset`` ends it with RST, which may also discard bytes that the client has not read yet.
    """

    after_bytes: int = 0
    is_reset: bool = False

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if not _has_byte(request, answer, self.after_bytes):
            return answer
        return replace(answer, cut_after=self.after_bytes, is_reset=self.is_reset)


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more after this many bytes of the body but keep the connection open; -1 sends no answer at all."""

    after_bytes: int = 0

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if not _has_byte(request, answer, self.after_bytes):
            return answer
        return replace(answer, stall_after=self.after_bytes)


@dataclass(frozen=True, slots=True)
class Throttle(SpeedLimit):
    """Limit the speed of each answer, or of all answers together, until the fault is removed."""

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return replace(answer, speed_limit=self) if answer.body.size else answer


@dataclass(frozen=True, slots=True)
class Latency:
    """Wait before the answer."""

    seconds: float

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return replace(answer, delay_seconds=answer.delay_seconds + self.seconds)


@dataclass(frozen=True, slots=True)
class LimitConcurrency:
    """Refuse a request while ``limit`` others of its origin are being answered."""

    limit: int
    status: int = 403
    headers: Mapping[str, str] = field(default_factory=dict)

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if request.concurrent <= self.limit:
            return answer
        return Reply(self.status, self.headers).apply(request, answer)


# --- status and headers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """Send another answer altogether: an error, a redirect, HTML, hostile JSON.

    A ``Content-Length`` among the headers replaces the true one.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return HTTPAnswer(status=self.status, headers=tuple(self.headers.items()), body=Payload.of(self.body))


@dataclass(frozen=True, slots=True)
class ReplyBy:
    """Send the reply that a function makes of the request."""

    reply_to: Callable[[HTTPRequest], Reply]

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return self.reply_to(request).apply(request, answer)


@dataclass(frozen=True, slots=True)
class RawBytes:
    """Send these bytes in place of an HTTP answer, then close the connection."""

    data: bytes

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return replace(answer, raw=self.data)


@dataclass(frozen=True, slots=True)
class ChangeHeaders:
    """Replace, add or (``None``) remove headers. A false Content-Length ends the connection after the body."""

    headers: Mapping[str, str | None]

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return answer.with_headers(self.headers)


@dataclass(frozen=True, slots=True)
class ChangeStatus:
    """Send another status with the same headers and body, such as 200 with a Location."""

    status: int

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return replace(answer, status=self.status)


@dataclass(frozen=True, slots=True)
class RedirectLoop:
    """Redirect every request to itself."""

    status: int = 302

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return Reply(self.status, {"Location": request.target}).apply(request, answer)


@dataclass(frozen=True, slots=True)
class Chunked:
    """Send the body chunked, without Content-Length."""

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        return replace(answer, is_chunked=True)


@dataclass(frozen=True, slots=True)
class MirrorHeaders:
    """Send the headers of some mirrors instead of the Hub's own.

    They have no ``X-Linked-*``, the sha256 as ETag (unquoted unless ``is_quoted``), and answer HEAD with 200 and a
    Location.
    """

    is_quoted: bool = False

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        etag = answer.header("X-Linked-Etag")
        if etag is None:
            return answer
        changed = answer.with_headers(
            {"X-Linked-Etag": None, "X-Linked-Size": None, "ETag": etag if self.is_quoted else etag.strip('"')}
        )
        return replace(changed, status=200) if request.method == "HEAD" else changed


# --- ranges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """Answer a range with 200 and the whole file, optionally with a Content-Range, or chunked without a length."""

    has_content_range: bool = False
    is_chunked: bool = False

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status not in (206, 416) and not (answer.status == 200 and answer.header("Accept-Ranges")):
            return answer
        whole = answer.body.part(0, answer.body.total)
        kept = answer.header("Content-Range") if self.has_content_range else None
        changed = answer.with_headers({"Accept-Ranges": None, "Content-Range": kept})
        return replace(changed, status=200, body=whole, is_chunked=self.is_chunked)


@dataclass(frozen=True, slots=True)
class MoveRange:
    """Answer a range with other bytes than asked for.

    The start moves by ``start``, the end by ``stop`` (clipped to the file); ``is_honest`` says so in Content-Range,
    otherwise the head claims what was asked for.
    """

    start: int = 0
    stop: int = 0
    is_honest: bool = True

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status != 206:
            return answer
        body = answer.body.part(answer.body.start + self.start, answer.body.stop + self.stop)
        if body == answer.body:
            return answer
        moved = replace(answer, body=body)
        if not self.is_honest:
            return moved
        return moved.with_headers({"Content-Range": content_range(body.start, body.stop, body.total)})


@dataclass(frozen=True, slots=True)
class EmptyRange:
    """Answer a range with a 206 that announces it and has an empty body, with Content-Length: 0."""

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status != 206:
            return answer
        return replace(answer, body=answer.body.part(answer.body.start, answer.body.start))


@dataclass(frozen=True, slots=True)
class WrongTotal:
    """Give a wrong size of the file in the Content-Range of a 206."""

    by: int

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status != 206:
            return answer
        body = answer.body
        return answer.with_headers({"Content-Range": content_range(body.start, body.stop, body.total + self.by)})


# --- content ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlipBit:
    """Flip one bit at an offset of the file, in every answer that covers it."""

    offset: int

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        body = answer.body
        if request.method == "HEAD" or not body.start <= self.offset < body.stop:
            return answer
        return replace(answer, body=replace(body, flipped=(*body.flipped, self.offset)))


@dataclass(frozen=True, slots=True)
class Content:
    """Serve other bytes under the same address, ranges included; by default with another ETag."""

    data: bytes
    etag: str | None = '"other-content"'

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status not in (200, 206, 416):
            return answer
        headers = answer.with_headers({"Content-Range": None, "ETag": self.etag or answer.header("ETag")}).headers
        return body_answer(request, Payload.of(self.data), headers)


@dataclass(frozen=True, slots=True)
class Resize:
    """Send a body that is longer (by zeros at its end) or shorter than the Hub said, by this many bytes.

    ``is_promised``: Content-Length still tells the true size, so that a shorter body is a cut connection and a longer
    one runs over.
    """

    by: int
    is_promised: bool = False

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status not in (200, 206) or not answer.body.size:
            return answer
        data = answer.body.read()
        data = data + bytes(self.by) if self.by > 0 else data[: self.by]
        headers = {"Content-Length": str(answer.body.size)} if self.is_promised else {}
        return replace(answer, body=Payload.of(data)).with_headers(headers)


@dataclass(frozen=True, slots=True)
class WrongLinkedSize:
    """Give a wrong size of the file in X-Linked-Size."""

    by: int

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        size = answer.header("X-Linked-Size")
        return answer if size is None else answer.with_headers({"X-Linked-Size": str(int(size) + self.by)})


@dataclass(frozen=True, slots=True)
class EditJSON:
    """Replace an answer's JSON by what ``edit`` makes of it: wrong types, missing fields, hostile values."""

    edit: Callable[[Any], Any]

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if answer.status != 200 or "json" not in (answer.header("Content-Type") or ""):
            return answer
        edited = self.edit(json.loads(answer.body.read()))
        return replace(answer, body=Payload.of(json.dumps(edited).encode()))


@dataclass(frozen=True, slots=True)
class Gzip:
    """Compress for a client that accepts gzip, and ignore its range, as CloudFront does."""

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        if "gzip" not in request.headers.get("accept-encoding", "") or answer.status not in (200, 206):
            return answer
        whole = answer.body.part(0, answer.body.total).read()
        changed = answer.with_headers({"Content-Range": None, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"})
        return replace(changed, status=200, body=Payload.of(gzip.compress(whole, _GZIP_LEVEL)))


def json_reply(value: object, *, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


# --- the script -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """An effect and the requests that it applies to.

    Parameters
    ----------
    origin, method : str or None
        ``None`` matches any.
    path : str
        A glob for the unquoted path without the query; ``*`` crosses slashes.
    times : int or None
        How often it fires; ``None`` means every time.
    skip : int
        How many requests it leaves alone before that.
    """

    effect: Effect
    origin: Origin | None = None
    method: str | None = None
    path: str = "*"
    times: int | None = None
    skip: int = 0

    def matches(self, request: HTTPRequest) -> bool:
        return (
            self.origin in (None, request.origin)
            and self.method in (None, request.method)
            and fnmatchcase(unquote(request.raw_path), self.path)
        )


class Faults:
    """The faults of a hub, which any thread may change while the hub runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._struck: dict[Fault, int] = {}

    def add(
        self,
        effect: Effect,
        *,
        origin: Origin | None = None,
        method: str | None = None,
        path: str = "*",
        times: int | None = None,
        skip: int = 0,
    ) -> Fault:
        """Add a fault to the script; see `Fault` for the parameters."""
        fault = Fault(effect, origin, method, path, times, skip)
        with self._lock:
            self._struck[fault] = 0
        return fault

    def script(self, path: str, *effects: Effect) -> None:
        """Apply one effect to each request of a path: each in turn, then the last one to all further requests."""
        last = len(effects) - 1
        for index, effect in enumerate(effects):
            self.add(effect, path=path, skip=index, times=None if index == last else 1)

    def remove(self, fault: Fault) -> None:
        with self._lock:
            self._struck.pop(fault, None)

    def clear(self) -> None:
        with self._lock:
            self._struck.clear()

    def has(self, effect: object) -> bool:
        """Return whether an effect is part of the script."""
        with self._lock:
            return any(fault.effect == effect for fault in self._struck)

    def fired(self, fault: Fault) -> int:
        """Return how often a fault has changed an answer."""
        with self._lock:
            return max(0, self._struck.get(fault, 0) - fault.skip)

    def apply(self, request: HTTPRequest, answer: HTTPAnswer) -> HTTPAnswer:
        """Return the answer with every fault that matches."""
        with self._lock:
            for fault, struck in self._struck.items():
                if not fault.matches(request) or (fault.times is not None and struck >= fault.skip + fault.times):
                    continue
                changed = fault.effect.apply(request, answer)
                if changed is answer:
                    continue
                self._struck[fault] = struck + 1
                if struck >= fault.skip:
                    answer = changed
        return answer
