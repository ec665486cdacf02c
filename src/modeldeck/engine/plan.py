"""Which bytes are there, which are missing, and who fetches what next. Pure: no clock, no disk, no network."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

SMALLEST_REQUEST_BYTES = 4 << 20
FIRST_REQUEST_BYTES = 16 << 20
"""Before anything was measured. Small, so that the contiguous front, and its sha256, stay close to the newest bytes."""
LARGEST_REQUEST_BYTES = 64 << 20
OVERHEAD_RATIO = 50
"""A request should last this many times the wait for its first byte, so that the wait costs 2 %."""
FAIRNESS_RATIO = 3
"""Requests shrink to this part of the wanted size at most, so that towards the end the wait costs 6 %."""
SMALLEST_SPLIT_BYTES = 1 << 20
SPLIT_SECONDS = 0.1
"""What is taken from a running request must be worth a connection: the old one, with its unread rest, is closed."""


class RangeSet:
    """Disjoint half-open byte ranges, kept sorted and merged."""

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
        index = bisect_right(self._stops, start)
        return start < stop and index < len(self._starts) and self._starts[index] < stop

    @property
    def total(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def front(self) -> int:
        """Where the run of bytes from 0 ends."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def missing(self, size: int) -> list[tuple[int, int]]:
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
    """Sorted disjoint ranges with those made one that are less than ``gap_bytes`` apart, and what is between them."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start - joined[-1][1] < gap_bytes:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


class Lease:
    """A range that one connection is fetching. ``position`` moves up; ``stop`` may move down when others help."""

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
    """Hands out the missing ranges, lowest first, and splits the longest running one when nothing else is left.

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
        """Bytes that nobody fetches yet."""
        return self._waiting.total

    @property
    def remaining(self) -> int:
        return self.waiting + sum(lease.remaining for lease in self._leases)

    def take(self, request_bytes: int, *, split_bytes: int | None = SMALLEST_SPLIT_BYTES) -> Lease | None:
        """The next range to fetch, at most ``request_bytes`` long, or ``None`` when others have all that is left.

        Parameters
        ----------
        split_bytes
            Take half of what another one still has to fetch if that is at least so much; ``None`` never does.
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
        """Let a lease hold the lowest range that nobody fetches: the server begins at the start of the file."""
        self.give_back(lease)
        start, stop = next(iter(self._waiting), (lease.position, lease.position))
        self._waiting.remove(start, stop)
        lease.position, lease.stop = start, stop
        self._leases.append(lease)

    def give_back(self, lease: Lease) -> None:
        """End a lease; what it has not fetched waits again."""
        self._leases.remove(lease)
        self._waiting.add(lease.position, lease.stop)


class RequestSizer:
    """How much to ask for at once, by what was learned of one server."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._wait_seconds: float | None = None

    def learn(self, rate: float, wait_seconds: float) -> None:
        """An answer came after such a wait, and then with so many bytes per second."""
        self._rate = rate
        last = self._wait_seconds
        self._wait_seconds = wait_seconds if last is None else (last + wait_seconds) / 2

    def next_bytes(self, *, waiting: int, workers: int, is_machine_busy: bool = False) -> int:
        """The size of the next request, of one of so many workers, when ``waiting`` bytes are to be asked for yet."""
        if self._wait_seconds is None:
            return max(SMALLEST_REQUEST_BYTES, min(FIRST_REQUEST_BYTES, waiting // max(1, workers)))
        wanted = LARGEST_REQUEST_BYTES if is_machine_busy else request_bytes(self._rate, self._wait_seconds)
        return fair_request_bytes(wanted, waiting=waiting, workers=workers)

    @property
    def split_bytes(self) -> int:
        """What is left of a running request for others to take half of."""
        return max(SMALLEST_SPLIT_BYTES, int(self._rate * SPLIT_SECONDS))


def request_bytes(rate: float, wait_seconds: float) -> int:
    """How much to ask for at once on a connection that brings ``rate`` bytes per second after such a wait."""
    wanted = int(rate * wait_seconds * OVERHEAD_RATIO)
    return max(SMALLEST_REQUEST_BYTES, min(wanted, LARGEST_REQUEST_BYTES))


def fair_request_bytes(wanted: int, *, waiting: int, workers: int) -> int:
    """The request size that lets all connections end together: shrinking with what is left, but not to crumbs.

    Guided self-scheduling: each takes its share of what remains (Polychronopoulos and Kuck, 1987).
    """
    smallest = max(SMALLEST_REQUEST_BYTES, wanted // FAIRNESS_RATIO)
    return min(max(wanted, SMALLEST_REQUEST_BYTES), max(smallest, waiting // max(1, workers)))
