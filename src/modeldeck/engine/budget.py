"""How many connections each file may have: downloads share the engine's evenly, a download's files in their order."""

from __future__ import annotations

import time
from typing import Protocol, Self

import anyio

from modeldeck._types import EngineLimits
from modeldeck.engine.plan import RequestSizer
from modeldeck.engine.tuning import ConnectionTuner


class ConnectionUser(Protocol):
    """What the budget needs to know of a file's transfer."""

    working: int
    """Connections that it has."""
    connections: int
    """Those of them that are receiving at this moment."""

    @property
    def ceiling(self) -> int:
        """The most that its server accepts."""

    @property
    def fetched(self) -> int:
        """Bytes that it has received."""


class ConnectionBudget:
    """The connections of one engine: as many as pay, shared evenly between the downloads that transfer bytes.

    Parameters
    ----------
    limits
        What the engine may use.
    processors
        How many processors this process may use.
    """

    def __init__(self, limits: EngineLimits, *, processors: int) -> None:
        self._limit = limits.max_connections
        self._processors = processors
        self._tuner = ConnectionTuner(processors)
        self._shares: list[DownloadShare] = []
        self._fetched_before = 0

    def set_limit(self, max_connections: int) -> None:
        self._limit = max_connections

    def join(self, share: DownloadShare) -> None:
        if not self._shares:
            self._tuner = ConnectionTuner(self._processors)
            self._fetched_before = 0
        self._shares.append(share)
        self._tuner.interrupt()

    def leave(self, share: DownloadShare) -> None:
        self._shares.remove(share)
        self._fetched_before += share.fetched
        self._tuner.interrupt()

    @property
    def connections_per_download(self) -> int:
        """Connections that each download may have now, at least 1."""
        return max(1, min(self._limit, self._tuner.wanted) // max(1, len(self._shares)))

    @property
    def transfers(self) -> int:
        """Files that are being fetched."""
        return sum(share.transfers for share in self._shares)

    @property
    def is_machine_busy(self) -> bool:
        return self._tuner.is_machine_busy

    def measure(self) -> None:
        """Measure how fast the connections are. Call it a few times a second."""
        self._tuner.update(
            time.monotonic(),
            fetched=self._fetched_before + sum(share.fetched for share in self._shares),
            cpu_seconds=time.process_time(),
            is_settled=all(share.is_complete for share in self._shares),
            limit=min(self._limit, sum(share.ceiling for share in self._shares)),
        )


class DownloadShare:
    """One download's share of the budget: the first file takes what it can use, the next what is left.

    Use it as a context manager.

    Attributes
    ----------
    sizer : RequestSizer
        What all files have learned about their server.
    """

    def __init__(self, budget: ConnectionBudget, *, is_frugal: bool = False) -> None:
        self.sizer = RequestSizer()
        self._is_frugal = is_frugal
        self._budget = budget
        self._users: list[ConnectionUser] = []
        self._waiting: list[ConnectionUser] = []
        self._freed = anyio.Event()
        self._fetched_before = 0

    def __enter__(self) -> Self:
        self._budget.join(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._budget.leave(self)

    @property
    def transfers(self) -> int:
        """Files that are being fetched."""
        return len(self._users)

    @property
    def fetched(self) -> int:
        return self._fetched_before + sum(user.fetched for user in self._users)

    @property
    def ceiling(self) -> int:
        return sum(user.ceiling for user in self._users)

    @property
    def is_complete(self) -> bool:
        """Whether all connections that it may have are receiving."""
        allowed = min(self._budget.connections_per_download, self.ceiling)
        return sum(user.connections for user in self._users) == allowed

    @property
    def is_machine_busy(self) -> bool:
        return self._budget.is_machine_busy

    @property
    def may_split(self) -> bool:
        """Whether a connection may take over part of a request: not while a file has none, and not if frugal."""
        return not self._waiting and not self._is_frugal

    def allowance(self, user: ConnectionUser) -> int:
        """Return how many connections a file may have now."""
        others = sum(other.working for other in self._users if other is not user)
        return self._budget.connections_per_download - others

    async def admit(self, user: ConnectionUser) -> None:
        """Wait until a connection is left for one more file."""
        self._waiting.append(user)
        try:
            while self._waiting[0] is not user or self.allowance(user) < 1:
                await self._freed.wait()
            self._users.append(user)
        finally:
            self._waiting.remove(user)
            self.notify()

    def release(self, user: ConnectionUser) -> None:
        """Take a file's connections back."""
        if user in self._users:
            self._users.remove(user)
            self._fetched_before += user.fetched
        self.notify()

    def measure(self) -> None:
        """Measure how fast the engine's connections are. Call it a few times a second."""
        self._budget.measure()
        self.notify()

    def notify(self) -> None:
        """Wake the files that are waiting for a connection."""
        self._freed.set()
        self._freed = anyio.Event()
