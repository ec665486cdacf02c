"""What a transfer has learned about its server: ranges, connections, and addresses that may be out of date. Pure."""

from __future__ import annotations

UNLIMITED = 1 << 62
MAX_DOUBTS = 2
"""After this many addresses in a row without a byte, a doubtful answer is believed."""
MAX_WRONG_RANGES = 2
RECOVERY_SECONDS = 15.0
"""After this long without a refusal, one more connection is tried."""


class ServerMemory:
    """Remembers what one server accepted and refused.

    Parameters
    ----------
    is_storage
        The server is a Hub's storage, which serves ranges. Other servers have to show that first, before there is more
        than one connection.

    Attributes
    ----------
    ceiling : int
        The most connections that the server accepts, as far as is known.
    serves_ranges : bool
        Whether its last answer was a range.
    """

    def __init__(self, *, is_storage: bool) -> None:
        self.ceiling = UNLIMITED if is_storage else 1
        self.serves_ranges = False
        self._wrong_ranges = 0
        self._refused_at: float | None = None
        self._doubts = 0
        self._fetched_at_doubt = -1

    @property
    def is_asked_for_ranges(self) -> bool:
        """Whether it makes sense to request a range: not if other bytes came too often."""
        return self._wrong_ranges < MAX_WRONG_RANGES

    def note_range(self) -> bool:
        """Note that a range was served. Returns ``True`` the first time, when more connections become possible."""
        is_news, self.serves_ranges = not self.serves_ranges, True
        if is_news:
            self.ceiling = UNLIMITED
        return is_news

    def note_wrong_range(self) -> None:
        """Note that a request for a range was answered with other bytes."""
        self._wrong_ranges += 1

    def note_whole(self) -> None:
        """Note that the server sent the whole file instead of a range."""
        self.serves_ranges = False
        self.ceiling = 1

    def note_refusal(self, connections: int, now: float) -> None:
        """Note that one of ``connections`` was refused at ``now``: the server may accept fewer."""
        self.ceiling = max(1, connections - 1)
        self._refused_at = now

    def note_fresh_start(self) -> None:
        """Note a new address, or the end of a wait: earlier refusals do not count any more."""
        if self.serves_ranges:
            self.ceiling = UNLIMITED

    def recover(self, now: float) -> None:
        """Accept one more connection if the last refusal is long ago. Call it now and then."""
        if self.serves_ranges and self._refused_at is not None and now - self._refused_at > RECOVERY_SECONDS:
            self.ceiling += 1
            self._refused_at = now

    def doubts_address(self, fetched: int) -> bool:
        """Return whether a doubtful answer is blamed on an old address, with ``fetched`` bytes received so far.

        If the last addresses delivered nothing, the answer is believed instead.
        """
        if fetched > self._fetched_at_doubt:
            self._doubts = 0
        self._doubts += 1
        self._fetched_at_doubt = fetched
        if self._doubts > MAX_DOUBTS:
            self._doubts = 0
            return False
        return True
