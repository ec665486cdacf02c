"""So many calls in any second at most, the latest state wins, and the last mark is never lost."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

CALLS_PER_PERIOD = 4
PERIOD_SECONDS = 1.0


class Throttle:
    """Call ``function`` soon after `mark`, at most `CALLS_PER_PERIOD` times in any period. For one event loop.

    Marks that have time are served evenly spaced and leave one call of each period to those that have none: what a
    person waits for is shown at once, also while progress is told all the time.

    Parameters
    ----------
    function
        What to call.
    period_seconds
        The period's length.
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
        patience_seconds
            So long it waits for something newer to be told together with, and no longer if the limit lets it. Without
            it there is time until its turn.
        """
        loop = asyncio.get_running_loop()
        at = self._turn_at() if patience_seconds is None else max(loop.time() + patience_seconds, self._free_at())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._fire)

    def _free_at(self) -> float:
        """From when on one more call is within the limit."""
        return self._calls[0] + self._period_seconds

    def _turn_at(self) -> float:
        """From when on a mark with time may be served."""
        next_slot = self._calls[-1] + self._period_seconds / (CALLS_PER_PERIOD - 1)
        return max(self._calls[1] + self._period_seconds, next_slot)

    def _fire(self) -> None:
        self._timer = None
        self._calls.append(asyncio.get_running_loop().time())
        self._function()
