"""How many connections pay. Pure: time and measurements come in as arguments."""

from __future__ import annotations

from dataclasses import dataclass

START_CONNECTIONS = 8
STEP_CONNECTIONS = 4
FEWEST_CONNECTIONS = 2
SETTLE_SECONDS = 0.25
"""Connections are made, and find their speed, before they are judged."""
WINDOW_SECONDS = 0.75
FIRST_BUSY_WINDOW_SECONDS = 0.1
BUSY_WINDOW_SECONDS = 0.25
"""Later on connections may begin their next requests together, which is a rush of work."""
FIRST_HOLD_SECONDS = 15.0
LONGEST_HOLD_SECONDS = 240.0
"""After a step that did not pay there is rest for so long, at first and at the longest."""
PAYING_RATIO = 0.5
"""More connections pay when they bring at least this part of what they would bring on an ideal link."""
KEPT_RATIO = 0.8
"""Fewer connections pay when they bring at least this part of what more of them brought."""
BUSY_RATIO = 0.5
"""With this part of all processors at work for a download, the machine is the limit: the rest is for others."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was measured at one moment."""

    at: float
    fetched: int
    cpu_seconds: float

    def rate_since(self, earlier: _Look) -> float:
        return (self.fetched - earlier.fetched) / (self.at - earlier.at)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What there was before the step that is being judged."""

    connections: int
    rate: float


class ConnectionTuner:
    """Chooses the number of connections by what was measured.

    It begins with `START_CONNECTIONS`, and climbs as long as a step brings at least half of its share of speed: that is
    so where each connection is limited by its server or by the round trip, not where the line is full. Where the link
    is faster than this machine, connections beyond the processors only take turns, and cost; there it comes down to one
    for each processor but that of the digest, and stays there if that brings as much. Every step that does not pay is
    taken back.

    Parameters
    ----------
    processors
        How many this process may use.

    Attributes
    ----------
    wanted : int
        The number of connections.
    is_machine_busy : bool
        The link is faster than this machine.
    """

    def __init__(self, processors: int) -> None:
        self._processors = max(1, processors)
        self._floor = min(START_CONNECTIONS, max(FEWEST_CONNECTIONS, processors - 1))
        self._begun: _Look | None = None
        self._watched: _Look | None = None
        self._busy_window_seconds = FIRST_BUSY_WINDOW_SECONDS
        self._trial: _Trial | None = None
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._not_before = 0.0
        self.wanted = START_CONNECTIONS
        self.is_machine_busy = False

    def interrupt(self) -> None:
        """What runs has changed: the connections are measured anew."""
        self._begun = None

    def update(self, now: float, *, fetched: int, cpu_seconds: float, is_settled: bool, limit: int) -> None:
        """Tell how it stands, a few times a second.

        Parameters
        ----------
        fetched
            Bytes that have come until ``now``.
        cpu_seconds
            The processors' time that this process has used until ``now``.
        is_settled
            All connections that may be at work are.
        limit
            How many there may be.
        """
        look = _Look(now, fetched, cpu_seconds)
        self._watch_machine(look)
        if not is_settled:
            self._begun = None
        elif self._begun is None:
            self._begun = _Look(now + SETTLE_SECONDS, fetched, cpu_seconds)
        elif now <= self._begun.at:
            self._begun = _Look(self._begun.at, fetched, cpu_seconds)
        elif now - self._begun.at >= WINDOW_SECONDS:
            self._judge(now, look.rate_since(self._begun), limit)

    def _watch_machine(self, look: _Look) -> None:
        """See whether the machine is the limit, from the first bytes on, and come down at once."""
        if self._watched is None or self._watched.fetched == 0:
            self._watched = look
        elif look.at - self._watched.at >= self._busy_window_seconds:
            busy = (look.cpu_seconds - self._watched.cpu_seconds) / (look.at - self._watched.at) / self._processors
            self.is_machine_busy = busy >= BUSY_RATIO
            self._busy_window_seconds = BUSY_WINDOW_SECONDS
            if self.is_machine_busy and self.wanted > self._floor and self._may_step(look.at):
                self._step(self._floor, look.rate_since(self._watched))
            self._watched = look

    def _may_step(self, now: float) -> bool:
        return self._trial is None and now >= self._not_before

    def _step(self, connections: int, rate: float) -> None:
        self._trial = _Trial(self.wanted, rate)
        self.wanted = connections
        self._begun = None

    def _judge(self, now: float, rate: float, limit: int) -> None:
        self._begun = None
        trial, self._trial = self._trial, None
        if trial is not None and not _pays(trial, self.wanted, rate):
            self.wanted = trial.connections
            self._not_before = now + self._hold_seconds
            self._hold_seconds = min(2 * self._hold_seconds, LONGEST_HOLD_SECONDS)
        elif self._may_step(now) and not self.is_machine_busy and self.wanted < limit:
            self._step(max(START_CONNECTIONS, self.wanted + STEP_CONNECTIONS), rate)


def _pays(before: _Trial, connections: int, rate: float) -> bool:
    if connections < before.connections:
        return rate >= KEPT_RATIO * before.rate
    return rate >= before.rate * (1 + PAYING_RATIO * (connections / before.connections - 1))
