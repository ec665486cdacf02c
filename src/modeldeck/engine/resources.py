"""What all downloads of one engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx

from modeldeck._types import DownloadRequest
from modeldeck.engine.bandwidth_limit import BandwidthLimit
from modeldeck.engine.block_digests import BlockDigestStore
from modeldeck.engine.budget import ConnectionBudget
from modeldeck.engine.partial import Partial
from modeldeck.engine.patience import Patience
from modeldeck.engine.peer_source import Peers
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.threads import DiskThreads
from modeldeck.engine.verification_store import VerificationStore
from modeldeck.hub.sending import Sender

MAX_WRITEBACKS = 2
"""A slow disk takes long, and must not hold all threads."""


@dataclass(kw_only=True)
class EngineResources:
    """The connections, threads and limits of one engine.

    Attributes
    ----------
    transport, http
        For the Hub's API and for the bytes of files.
    block_digests
        Where the block digests of finished files are kept, or ``None``.
    verifications
        Where it is kept which files were verified, or ``None``.
    writebacks
        Taken by whoever waits for the disk.
    find_peers
        Returns the hosts to take the files of a request from, or ``None`` to take them from the Hub.
    open_partials
        The partial files that are being completed, by digest, for other hosts to read. Nothing in them is unchecked.
    """

    transport: httpx.AsyncBaseTransport
    http: Sender
    threads: DiskThreads
    bandwidth: BandwidthLimit
    budget: ConnectionBudget
    policy: RetryPolicy
    patience: Patience
    block_digests: BlockDigestStore | None = None
    verifications: VerificationStore | None = None
    writebacks: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(MAX_WRITEBACKS))
    find_peers: Callable[[DownloadRequest], Peers | None] = lambda request: None
    open_partials: dict[str, Partial] = field(default_factory=dict)
    _writers: dict[Path, anyio.Lock] = field(default_factory=dict)

    @asynccontextmanager
    async def only_writer(self, blob: Path) -> AsyncIterator[None]:
        """Wait until no other download of this engine writes the same blob, and keep it to oneself."""
        lock = self._writers.setdefault(blob, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().locked and not lock.statistics().tasks_waiting:
                self._writers.pop(blob, None)
