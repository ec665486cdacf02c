"""A file that other hosts have: its bytes come from them, and not from the Hub."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import httpx

from modeldeck._types import GGUFFile
from modeldeck.engine.network import Consumer
from modeldeck.engine.source import Body, Source, feed
from modeldeck.engine.threads import DiskThreads
from modeldeck.hub.client import ResolvedFile


class Peers(Protocol):
    """Hosts that have a file, or are receiving it."""

    def blocks(self, file: GGUFFile, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a range in order, each as soon as a host has it.

        Raises
        ------
        ModelDeckError
            If no host is left that could send them.
        """


class PeerSource(Source):
    """A file of a pinned commit, from peers. Its size and SHA-256 must be listed, because no server tells them.

    Gaps are fetched one after the other and in order, so that the next host in a chain can follow closely.
    """

    is_sequential = True

    def __init__(self, peers: Peers, *, repo_id: str, commit_hash: str, listed: GGUFFile) -> None:
        super().__init__(listed, commit_hash)
        self._peers = peers
        self._repo_id = repo_id

    @property
    def where(self) -> str:
        return "the other hosts"

    async def _locate(self, revision: str) -> ResolvedFile:
        return ResolvedFile(
            repo_id=self._repo_id,
            commit_hash=revision,
            filename=self.filename,
            size=self._listed.size,
            sha256=self._listed.sha256,
            etag=self._listed.sha256,
            is_linked=False,
            url="",
            is_signed_elsewhere=False,
        )

    @asynccontextmanager
    async def open(self, start: int, stop: int | None, *, timeouts: httpx.Timeout) -> AsyncIterator[Body]:
        assert self.size is not None
        stop = self.size if stop is None else stop
        async with aclosing(self._peers.blocks(self._listed, start, stop)) as blocks:
            yield _PeerBody(start, stop, blocks)


class _PeerBody:
    is_whole = False
    wait_seconds: float | None = None

    def __init__(self, start: int, stop: int, blocks: AsyncGenerator[bytes, None]) -> None:
        self.start = start
        self.stop: int | None = stop
        self._blocks = blocks

    def chunks(self) -> AsyncIterator[bytes]:
        return self._blocks

    async def receive(self, consumer: Consumer, threads: DiskThreads) -> None:
        await feed(self._blocks, consumer, threads)
