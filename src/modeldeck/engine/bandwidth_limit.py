"""The bandwidth limit that all downloads of one engine share. It may change while they run."""

from __future__ import annotations

import threading
import time

BURST_SECONDS = 0.25


class BandwidthLimit:
    """Spreads bytes over time, for any number of threads.

    Parameters
    ----------
    bytes_per_second
        The limit, or ``None`` for no limit.
    """

    def __init__(self, bytes_per_second: int | None) -> None:
        self._lock = threading.Lock()
        self._limit = bytes_per_second
        self._free_at = 0.0

    def set_limit(self, bytes_per_second: int | None) -> None:
        """Change the limit at once, for threads that wait too."""
        with self._lock:
            self._limit = bytes_per_second
            self._free_at = 0.0

    def take(self, count: int, stopped: threading.Event) -> None:
        """Block until ``count`` bytes may pass, the limit has changed, or ``stopped`` is set."""
        with self._lock:
            limit = self._limit
            if limit is None:
                return
            self._free_at = max(self._free_at, time.monotonic() - BURST_SECONDS) + count / limit
            free_at = self._free_at
        while self._limit == limit and (wait := free_at - time.monotonic()) > 0:
            if stopped.wait(min(wait, BURST_SECONDS)):
                return
