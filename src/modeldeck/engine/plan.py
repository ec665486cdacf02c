"""Which bytes are missing, and which connection fetches which of them next. Pure: no clock, no disk, no network."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

SMALLEST_REQUEST_BYTES = 4 << 20
FIRST_REQUEST_BYTES = 16 << 20
"""The size before anything was measured: small, so that the front, and its sha256, are close to the newest bytes."""
LARGEST_REQUEST_BYTES = 64 << 20
OVERHEAD_RATIO = 50
"""A request should last this many times the wait for its first byte, so that the wait costs 2 %."""
FAIRNESS_RATIO = 3
"""Near the end, requests shrink to the size that the wait justifies divided by this, so that the wait costs 6 %."""
SMALLEST_SPLIT_BYTES = 1 << 20
SPLIT_SECONDS = 0.1
"""A part taken from a running request must be worth a connection: the old one is closed with its unread rest."""


class RangeSet:
    """Disjoint half-open byte ranges, kept sorted and merged.

    Parameters
    ----------
    ranges
        Pairs of start and stop.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    __hash__ = None  # type: ignore[assignment]

    def add(self, start: int, stop: int) -> None:
        """Add a range, which may overlap others."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Remove a range, or what there is of it."""
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        left, right = self._starts[first], self._stops[last - 1]
        kept = [(a, b) for a, b in ((left, start), (stop, right)) if a < b]
        self._starts[first:last] = [a for a, _ in kept]
        self._stops[first:last] = [b for _, b in kept]

    def overlaps(self, start: int, stop: int) -> bool:
        """Return whether any byte of a range is in the set."""
        index = bisect_right(self._stops, start)
        return start < stop and index < len(self._starts) and self._starts[index] < stop

    @property
    def total(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def front(self) -> int:
        """Where the run of bytes that begins at 0 ends."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def missing(self, size: int) -> list[tuple[int, int]]:
        """Return the ranges below ``size`` that are not in the set."""
        gaps = []
        position = 0
        for start, stop in self:
            if position < start:
                gaps.append((position, min(start, size)))
            position = stop
        if position < size:
            gaps.append((position, size))
        return gaps


def join_near(ranges: Iterable[tuple[int, int]], gap_bytes: int) -> list[tuple[int, int]]:
    """Join sorted disjoint ranges that are less than ``gap_bytes`` apart, together with the bytes between them."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start - joined[-1][1] < gap_bytes:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


class Lease:
    """A range that one connection is fetching. ``position`` moves up. ``stop`` moves down if another one helps."""

    __slots__ = ("position", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.position = start
        self.stop = stop

    @property
    def remaining(self) -> int:
        return self.stop - self.position

    def __repr__(self) -> str:
        return f"Lease({self.position}, {self.stop})"


class Planner:
    """Hands out the missing ranges, lowest first, and splits the longest running one if nothing else is left.

    Lowest first keeps the end of the contiguous front, and so the sha256 that follows it, close to the newest bytes.

    Parameters
    ----------
    missing
        Half-open ranges to fetch.
    """

    def __init__(self, missing: Iterable[tuple[int, int]]) -> None:
        self._waiting = RangeSet(missing)
        self._leases: list[Lease] = []

    @property
    def is_done(self) -> bool:
        return not self._waiting and not self._leases

    @property
    def waiting(self) -> int:
        """Bytes that are not leased yet."""
        return self._waiting.total

    @property
    def remaining(self) -> int:
        """Bytes still to fetch, leased ones included."""
        return self.waiting + sum(lease.remaining for lease in self._leases)

    def take(self, request_bytes: int, *, split_bytes: int | None = SMALLEST_SPLIT_BYTES) -> Lease | None:
        """Lease the next range, or return ``None`` if other connections have everything that is left.

        Parameters
        ----------
        request_bytes
            The longest range to lease.
        split_bytes
            Take half of another connection's range if that half is at least this long. ``None`` never does that.
        """
        for start, stop in self._waiting:
            lease = Lease(start, min(stop, start + request_bytes))
            self._waiting.remove(lease.position, lease.stop)
            self._leases.append(lease)
            return lease
        return None if split_bytes is None else self._split(split_bytes)

    def _split(self, split_bytes: int) -> Lease | None:
        longest = max(self._leases, key=lambda lease: lease.remaining, default=None)
        if longest is None or longest.remaining < 2 * max(1, split_bytes):
            return None
        middle = longest.position + longest.remaining // 2
        lease = Lease(middle, longest.stop)
        longest.stop = middle
        self._leases.append(lease)
        return lease

    def restart(self, lease: Lease) -> None:
        """Move a lease to the lowest range that is not leased: the server begins at the start of the file."""
        self.give_back(lease)
        start, stop = next(iter(self._waiting), (lease.position, lease.position))
        self._waiting.remove(start, stop)
        lease.position, lease.stop = start, stop
        self._leases.append(lease)

    def give_back(self, lease: Lease) -> None:
        """End a lease. What it has not fetched can be leased again."""
        self._leases.remove(lease)
        self._waiting.add(lease.position, lease.stop)


class RequestSizer:
    """Chooses the size of requests by what was learned about one server."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._wait_seconds: float | None = None

    def learn(self, rate: float, wait_seconds: float) -> None:
        """Note an answer: seconds until its first byte, then bytes per second."""
        self._rate = rate
        last = self._wait_seconds
        self._wait_seconds = wait_seconds if last is None else (last + wait_seconds) / 2

    def next_bytes(self, *, waiting: int, workers: int, is_machine_busy: bool = False) -> int:
        """Return the size in bytes of the next request.

        Parameters
        ----------
        waiting
            Bytes that are not requested yet.
        workers
            Connections that share them.
        is_machine_busy
            The link is faster than this machine, so requests should be as large as possible.
        """
        if self._wait_seconds is None:
            return max(SMALLEST_REQUEST_BYTES, min(FIRST_REQUEST_BYTES, waiting // max(1, workers)))
        needed = request_bytes(self._rate, self._wait_seconds)
        wanted = LARGEST_REQUEST_BYTES if is_machine_busy else needed
        return fair_request_bytes(wanted, waiting=waiting, workers=workers, smallest=needed // FAIRNESS_RATIO)

    @property
    def split_bytes(self) -> int:
        """The smallest half of a running request, in bytes, that is worth taking over."""
        return max(SMALLEST_SPLIT_BYTES, int(self._rate * SPLIT_SECONDS))


def request_bytes(rate: float, wait_seconds: float) -> int:
    """Return the request size in bytes for a connection with this rate, in bytes per second, and wait."""
    wanted = int(rate * wait_seconds * OVERHEAD_RATIO)
    return max(SMALLEST_REQUEST_BYTES, min(wanted, LARGEST_REQUEST_BYTES))


def fair_request_bytes(wanted: int, *, waiting: int, workers: int, smallest: int) -> int:
    """Return the request size with which all connections end together: it shrinks with what is left, down to a limit.

    This is guided self-scheduling: each takes its share of what remains (Polychronopoulos and Kuck, 1987).
    """
    return max(SMALLEST_REQUEST_BYTES, min(wanted, max(smallest, waiting // max(1, workers))))
