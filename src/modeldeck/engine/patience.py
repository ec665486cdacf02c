"""How long a connection may deliver nothing, or almost nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from modeldeck._errors import StalledError
from modeldeck.engine.network import CONNECT_TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a connection may deliver nothing, or almost nothing, before it is closed.

    Attributes
    ----------
    connect_seconds
        Longest time to connect.
    silence_seconds
        Longest time without a byte.
    drip_seconds, drip_bytes
        A connection that delivers less than this many bytes in this time is closed.
    """

    connect_seconds: float = CONNECT_TIMEOUT_SECONDS
    silence_seconds: float = 20.0
    drip_seconds: float = 30.0
    drip_bytes: int = 8 << 10

    @property
    def timeouts(self) -> httpx.Timeout:
        return httpx.Timeout(self.silence_seconds, connect=self.connect_seconds, pool=None)


class DripWatch:
    """Ends a connection that is alive but delivers almost nothing."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._begun_at = time.monotonic()
        self._seen = 0

    def saw(self, count: int) -> None:
        self._seen += count
        now = time.monotonic()
        if now - self._begun_at < self._patience.drip_seconds:
            return
        if self._seen < self._patience.drip_bytes:
            raise StalledError("The server sends almost nothing. Check the network connection, or try again later.")
        self._begun_at, self._seen = now, 0
