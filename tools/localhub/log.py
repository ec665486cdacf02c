"""The requests that a server received and the bytes it sent, for tests to read from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tools.localhub.messages import HTTPRequest, Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. ``status`` is ``None`` until the head of the answer is sent; ``bytes_sent`` counts its body.

    ``target`` is the request line's own text; ``path`` and ``query`` are its parts, ``path`` unquoted.

    ``connection_id`` is the same for the requests of one connection. Header names are in lower case.
    """

    origin: Origin
    method: str
    target: str
    path: str
    query: str
    headers: Mapping[str, str]
    connection_id: int
    started_at: float
    status: int | None = None
    bytes_sent: int = 0
    is_finished: bool = False

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class RequestLog:
    """The requests so far, oldest first, including those that are still being answered."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: dict[int, RequestRecord] = {}
        self._next_key = 0

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self.snapshot())

    def __getitem__(self, index: int) -> RequestRecord:
        return self.snapshot()[index]

    def snapshot(self) -> tuple[RequestRecord, ...]:
        with self._changed:
            return tuple(self._records.values())

    def to(self, origin: Origin) -> tuple[RequestRecord, ...]:
        return tuple(record for record in self.snapshot() if record.origin == origin)

    def to_path(self, path: str) -> tuple[RequestRecord, ...]:
        return tuple(record for record in self.snapshot() if record.path == path)

    @property
    def bytes_sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(record.bytes_sent for record in self.snapshot())

    def clear(self) -> None:
        with self._changed:
            self._records.clear()

    def wait_until(
        self, condition: Callable[[tuple[RequestRecord, ...]], bool], *, timeout_seconds: float = 300.0
    ) -> tuple[RequestRecord, ...]:
        """Block until the records fulfil a condition, such as a number of bytes sent.

        Raises
        ------
        TimeoutError
            When the condition does not hold in time.
        """
        with self._changed:
            if self._changed.wait_for(lambda: condition(tuple(self._records.values())), timeout_seconds):
                return tuple(self._records.values())
        raise TimeoutError(f"the condition did not hold within {timeout_seconds} s: {self.snapshot()}")

    def begin(self, request: HTTPRequest, path: str, connection_id: int) -> int:
        """Record a request and return its key for `update`."""
        record = RequestRecord(
            origin=request.origin,
            method=request.method,
            target=request.target,
            path=path,
            query=request.query,
            headers=request.headers,
            connection_id=connection_id,
            started_at=time.time(),
        )
        with self._changed:
            self._next_key += 1
            self._records[self._next_key] = record
            self._changed.notify_all()
            return self._next_key

    def update(self, key: int, *, status: int | None = None, sent: int = 0, is_finished: bool = False) -> None:
        with self._changed:
            record = self._records.get(key)
            if record is None:
                return
            self._records[key] = replace(
                record,
                status=record.status if status is None else status,
                bytes_sent=record.bytes_sent + sent,
                is_finished=record.is_finished or is_finished,
            )
            self._changed.notify_all()
