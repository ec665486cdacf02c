"""Who may have how many connections: the engine's are shared by its downloads, a download's by its files."""

from __future__ import annotations

import time
from typing import Protocol, Self

import anyio

from modeldeck._types import EngineLimits
from modeldeck.engine.plan import RequestSizer
from modeldeck.engine.tuning import ConnectionTuner


class Member(Protocol):
    """What is asked of a transfer."""

    working: int
    """Connections that it has."""
    connections: int
    """Those of them that fetch at this moment."""
    ceiling: int
    """More its server does not want."""

    @property
    def fetched(self) -> int: ...


class Connections:
    """As many connections as pay, shared evenly between the downloads that transfer bytes.

    Parameters
    ----------
    processors
        How many this process may use.
    """

    def __init__(self, limits: EngineLimits, *, processors: int) -> None:
        self._limit = limits.max_connections
        self._processors = processors
        self._tuner = ConnectionTuner(processors)
        self._crews: list[Crew] = []
        self._fetched_before = 0

    def set_limit(self, max_connections: int) -> None:
        self._limit = max_connections

    def join(self, crew: Crew) -> None:
        if not self._crews:
            self._tuner = ConnectionTuner(self._processors)
            self._fetched_before = 0
        self._crews.append(crew)
        self._tuner.interrupt()

    def leave(self, crew: Crew) -> None:
        self._crews.remove(crew)
        self._fetched_before += crew.fetched
        self._tuner.interrupt()

    @property
    def share(self) -> int:
        """Connections that each download may have now; one at least."""
        return max(1, min(self._limit, self._tuner.wanted) // max(1, len(self._crews)))

    @property
    def transfers(self) -> int:
        """How many files are being fetched."""
        return sum(crew.members for crew in self._crews)

    @property
    def is_machine_busy(self) -> bool:
        return self._tuner.is_machine_busy

    def measure(self) -> None:
        """Look at what the connections bring. Call it a few times a second."""
        self._tuner.update(
            time.monotonic(),
            fetched=self._fetched_before + sum(crew.fetched for crew in self._crews),
            cpu_seconds=time.process_time(),
            is_settled=all(crew.is_complete for crew in self._crews),
            limit=min(self._limit, sum(crew.ceiling for crew in self._crews)),
        )


class Crew:
    """The connections of one download, shared by its files: the first takes what it can use, the next what is left.

    Use it as a context manager.

    Attributes
    ----------
    sizer : RequestSizer
        What all files have learned of their server.
    """

    def __init__(self, connections: Connections) -> None:
        self.sizer = RequestSizer()
        self._connections = connections
        self._members: list[Member] = []
        self._waiting: list[Member] = []
        self._freed = anyio.Event()
        self._fetched_before = 0

    def __enter__(self) -> Self:
        self._connections.join(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._connections.leave(self)

    @property
    def members(self) -> int:
        return len(self._members)

    @property
    def fetched(self) -> int:
        return self._fetched_before + sum(member.fetched for member in self._members)

    @property
    def ceiling(self) -> int:
        return sum(member.ceiling for member in self._members)

    @property
    def is_complete(self) -> bool:
        """Whether all connections that it may have are fetching."""
        return sum(member.connections for member in self._members) == min(self._connections.share, self.ceiling)

    @property
    def is_machine_busy(self) -> bool:
        return self._connections.is_machine_busy

    @property
    def has_waiting(self) -> bool:
        """Whether a transfer has no connection yet."""
        return bool(self._waiting)

    def allowance(self, transfer: Member) -> int:
        """Connections that a transfer may have now."""
        return self._connections.share - sum(other.working for other in self._members if other is not transfer)

    async def admit(self, transfer: Member) -> None:
        """Wait until there is a connection left for one more transfer."""
        self._waiting.append(transfer)
        try:
            while self._waiting[0] is not transfer or self.allowance(transfer) < 1:
                await self._freed.wait()
            self._members.append(transfer)
        finally:
            self._waiting.remove(transfer)
            self.notify()

    def release(self, transfer: Member) -> None:
        if transfer in self._members:
            self._members.remove(transfer)
            self._fetched_before += transfer.fetched
        self.notify()

    def measure(self) -> None:
        self._connections.measure()
        self.notify()

    def notify(self) -> None:
        """There may be a connection for who waits."""
        self._freed.set()
        self._freed = anyio.Event()
