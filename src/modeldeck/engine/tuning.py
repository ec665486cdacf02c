"""How many connections are worth having. Pure: times and measurements are arguments."""

from __future__ import annotations

from dataclasses import dataclass

START_CONNECTIONS = 8
STEP_CONNECTIONS = 4
FEWEST_CONNECTIONS = 2
SETTLE_SECONDS = 0.2
"""Connections are opened, and reach their speed, before they are judged."""
WINDOW_SECONDS = 0.75
FAST_WINDOW_SECONDS = 0.25
FAST_BYTES = 4 << 20
"""More connections are judged after the shorter window if each has brought this much and they pay already."""
FIRST_BUSY_WINDOW_SECONDS = 0.1
BUSY_WINDOW_SECONDS = 0.25
"""Longer later on, when connections may begin their next requests together, which is a burst of work."""
FIRST_HOLD_SECONDS = 15.0
LONGEST_HOLD_SECONDS = 240.0
"""After a step that did not pay there is no other for this long, at first and at most."""
PAYING_RATIO = 0.5
"""More connections pay if they gain at least this part of what they would gain on an ideal link."""
KEPT_RATIO = 0.8
"""Fewer connections pay if they are at least this fast, compared with more of them."""
BUSY_RATIO = 0.5
"""If downloads use this part of all processors, the machine is the limit. The rest is for other programs."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was measured at one time."""

    at: float
    fetched: int
    cpu_seconds: float

    def rate_since(self, earlier: _Look) -> float:
        return (self.fetched - earlier.fetched) / (self.at - earlier.at)


@dataclass(frozen=True, slots=True)
class _Trial:
    """The state before the step that is being judged."""

    connections: int
    rate: float


class ConnectionTuner:
    """Chooses the number of connections by what was measured.

    It begins with `START_CONNECTIONS`, and adds more as long as a step gains at least half of its share of speed. That
    happens if each connection is limited by its server or by the round trip, and not if the line is full. If the link
    is faster than this machine, connections beyond the processors only take turns, and cost time: then it goes down to
    one for each processor except that of the digest, and stays there if that is as fast. Every step that does not pay
    is undone.

    Parameters
    ----------
    processors
        How many processors this process may use.

    Attributes
    ----------
    wanted : int
        The number of connections.
    is_machine_busy : bool
        Whether the link is faster than this machine.
    """

    def __init__(self, processors: int) -> None:
        self._processors = max(1, processors)
        self._floor = min(START_CONNECTIONS, max(FEWEST_CONNECTIONS, processors - 1))
        self._settled_at: float | None = None
        self._begun: _Look | None = None
        self._watched: _Look | None = None
        self._busy_window_seconds = FIRST_BUSY_WINDOW_SECONDS
        self._trial: _Trial | None = None
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._not_before = 0.0
        self.wanted = START_CONNECTIONS
        self.is_machine_busy = False

    def interrupt(self) -> None:
        """Begin a new measurement, for example because other downloads run now."""
        self._settled_at = None
        self._begun = None

    def update(self, now: float, *, fetched: int, cpu_seconds: float, is_settled: bool, limit: int) -> None:
        """Report a measurement, a few times a second.

        Parameters
        ----------
        now
            Seconds of a monotonic clock.
        fetched
            Bytes received until ``now``.
        cpu_seconds
            CPU time that this process has used until ``now``.
        is_settled
            Whether all connections that may receive do.
        limit
            How many connections there may be.
        """
        look = _Look(now, fetched, cpu_seconds)
        self._watch_machine(look)
        if not is_settled:
            self.interrupt()
        elif self._settled_at is None:
            self._settled_at = now
        elif self._begun is None:
            if now - self._settled_at >= SETTLE_SECONDS:
                self._begun = look
        elif self._is_clear(look, self._begun):
            self._judge(now, look.rate_since(self._begun), limit)

    def _is_clear(self, look: _Look, begun: _Look) -> bool:
        """Return whether enough was measured to judge. A step up that pays is clear sooner than one that does not."""
        seconds = look.at - begun.at
        if seconds >= WINDOW_SECONDS:
            return True
        if seconds < FAST_WINDOW_SECONDS or look.fetched - begun.fetched < FAST_BYTES * self.wanted:
            return False
        trial = self._trial
        return trial is None or (self.wanted > trial.connections and _pays(trial, self.wanted, look.rate_since(begun)))

    def _watch_machine(self, look: _Look) -> None:
        """Notice from the first bytes on if the machine is the limit, and go down at once."""
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
        self.interrupt()

    def _judge(self, now: float, rate: float, limit: int) -> None:
        self.interrupt()
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
