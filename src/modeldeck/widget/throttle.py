"""At most one call per interval, the latest state wins, and the last mark is never lost."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Throttle:
    """Call ``function`` soon after `mark`, but never twice within ``interval_seconds``. For one event loop."""

    def __init__(self, interval_seconds: float, function: Callable[[], None]) -> None:
        self._interval_seconds = interval_seconds
        self._function = function
        self._last = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def mark(self) -> None:
        """Something changed."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._last + self._interval_seconds), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._last = asyncio.get_running_loop().time()
        self._function()
