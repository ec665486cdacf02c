"""A limit on calls per second, for state of which only the latest matters. The last mark is never lost."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

CALLS_PER_PERIOD = 4
PERIOD_SECONDS = 1.0


class Pacer:
    """Call ``function`` soon after `mark`, at most `CALLS_PER_PERIOD` times in any period. For one event loop.

    Marks that can wait are served evenly spaced, and leave one call of each period for those that cannot. So what a
    person is waiting for is shown at once, even while progress is published all the time.

    Parameters
    ----------
    function : callable
        What to call.
    period_seconds : float
        The length of the period.
    """

    def __init__(self, function: Callable[[], None], *, period_seconds: float = PERIOD_SECONDS) -> None:
        self._function = function
        self._period_seconds = period_seconds
        self._calls: deque[float] = deque([-math.inf] * CALLS_PER_PERIOD, maxlen=CALLS_PER_PERIOD)
        self._timer: asyncio.TimerHandle | None = None

    def mark(self, *, patience_seconds: float | None = None) -> None:
        """Something changed.

        Parameters
        ----------
        patience_seconds : float, optional
            How long this change may wait so that a newer one can be published with it. The limit may make it wait
            longer. ``None``: it can wait for the next regular turn.
        """
        loop = asyncio.get_running_loop()
        at = self._turn_at() if patience_seconds is None else max(loop.time() + patience_seconds, self._free_at())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._fire)

    def _free_at(self) -> float:
        """The earliest time at which one more call is within the limit."""
        return self._calls[0] + self._period_seconds

    def _turn_at(self) -> float:
        """The earliest time for a mark that can wait."""
        next_slot = self._calls[-1] + self._period_seconds / (CALLS_PER_PERIOD - 1)
        return max(self._calls[1] + self._period_seconds, next_slot)

    def _fire(self) -> None:
        self._timer = None
        self._calls.append(asyncio.get_running_loop().time())
        self._function()
