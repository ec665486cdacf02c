"""How fast a download is, and when it will be done. Pure: the time is an argument."""

from __future__ import annotations

import math

SMOOTHING_SECONDS = 4.0
WARM_UP_SECONDS = 1.0
STALL_SECONDS = 5.0
LONGEST_ETA_SECONDS = 7 * 86_400.0


class RateMeter:
    """An exponentially weighted mean of the speed, weighted by time and corrected for the short time at the beginning.

    The weight of a measurement that is ``t`` seconds old is ``exp(-t / SMOOTHING_SECONDS)``, whatever the distance
    between measurements. Dividing by the sum of the weights so far makes the first seconds right too, where a mean that
    starts at 0 would creep up (the bias correction of Kingma and Ba, "Adam", 2015, section 3).
    """

    def __init__(self) -> None:
        self._weighted_rate = 0.0
        self._weight = 0.0
        self._elapsed = 0.0
        self._last_time: float | None = None
        self._last_bytes = 0
        self._last_progress: float | None = None

    def update(self, now: float, transferred: int) -> None:
        """Report how many bytes were received over the network until ``now``, in seconds of any clock."""
        if self._last_time is None:
            self._last_time, self._last_bytes, self._last_progress = now, transferred, now
            return
        seconds = now - self._last_time
        if seconds <= 0:
            return
        gained = transferred - self._last_bytes
        decay = math.exp(-seconds / SMOOTHING_SECONDS)
        self._weighted_rate = self._weighted_rate * decay + gained / seconds * (1 - decay)
        self._weight = self._weight * decay + (1 - decay)
        self._elapsed += seconds
        if gained > 0:
            self._last_progress = now
        self._last_time, self._last_bytes = now, transferred

    @property
    def rate(self) -> float | None:
        """Bytes per second, or ``None`` while it is too early to say."""
        if self._elapsed < WARM_UP_SECONDS:
            return None
        return self._weighted_rate / self._weight

    @property
    def is_stalled(self) -> bool:
        """Whether nothing was received for `STALL_SECONDS`."""
        if self._last_time is None or self._last_progress is None:
            return False
        return self._last_time - self._last_progress >= STALL_SECONDS

    def eta_seconds(self, remaining: int | None) -> float | None:
        """Return the seconds until ``remaining`` bytes are received, or ``None`` if any number would be a guess."""
        rate = self.rate
        if remaining is None or rate is None or rate < 1 or self.is_stalled:
            return None
        seconds = remaining / rate
        return seconds if seconds <= LONGEST_ETA_SECONDS else None
