"""What the downloads of one engine share: connections and bandwidth, both changeable while they run."""

from __future__ import annotations

import threading
import time

import anyio

from modeldeck._types import EngineLimits

BURST_SECONDS = 0.25


class Bandwidth:
    """Spreads bytes over time, for any number of threads. ``None`` means no limit."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self._lock = threading.Lock()
        self._limit = bytes_per_second
        self._free_at = 0.0

    def set_limit(self, bytes_per_second: int | None) -> None:
        with self._lock:
            self._limit = bytes_per_second
            self._free_at = 0.0

    def take(self, count: int, stopped: threading.Event) -> None:
        """Block until ``count`` bytes may have passed, the limit has changed, or the bytes are of no more use."""
        with self._lock:
            limit = self._limit
            if limit is None:
                return
            self._free_at = max(self._free_at, time.monotonic() - BURST_SECONDS) + count / limit
            free_at = self._free_at
        while self._limit == limit and (wait := free_at - time.monotonic()) > 0:
            if stopped.wait(min(wait, BURST_SECONDS)):
                return


class Connections:
    """Shares the engine's connections evenly between the downloads that transfer bytes."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limit = limits.max_connections
        self._users = 0
        self._changed = anyio.Event()

    def set_limit(self, max_connections: int) -> None:
        self._limit = max_connections
        self._notify()

    def join(self) -> None:
        self._users += 1
        self._notify()

    def leave(self) -> None:
        self._users -= 1
        self._notify()

    @property
    def share(self) -> int:
        """Connections that each download may have now; one at least."""
        return max(1, self._limit // max(1, self._users))

    @property
    def changed(self) -> anyio.Event:
        """Set when the share changes; a new event stands here afterwards."""
        return self._changed

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
