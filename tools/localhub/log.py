"""What the server was asked and what it sent, for tests to look at from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tools.localhub.messages import Origin, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request. ``status`` is ``None`` until the head of the answer is sent; ``bytes_sent`` counts its body.

    ``connection_id`` is the same for the requests of one connection. Header names are in lower case.
    """

    origin: Origin
    method: str
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
    """The requests so far, oldest first, those still being answered included."""

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

    @property
    def bytes_sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(record.bytes_sent for record in self.snapshot())

    def clear(self) -> None:
        with self._changed:
            self._records.clear()

    def wait_until(
        self, condition: Callable[[tuple[RequestRecord, ...]], bool], *, timeout_seconds: float = 30.0
    ) -> tuple[RequestRecord, ...]:
        """Block until the records fulfil a condition, such as having sent so many bytes.

        Raises
        ------
        TimeoutError
            When they do not in time.
        """
        with self._changed:
            if self._changed.wait_for(lambda: condition(tuple(self._records.values())), timeout_seconds):
                return tuple(self._records.values())
        raise TimeoutError(f"the requests did not get there in {timeout_seconds} s: {self.snapshot()}")

    def begin(self, request: Request, path: str, connection_id: int) -> int:
        """Note a request; the key is for `update`."""
        record = RequestRecord(
            origin=request.origin,
            method=request.method,
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
