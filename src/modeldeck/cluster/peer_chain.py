"""Receives a file from other workers, block by block, over Dask's own connections between workers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import xxhash

from modeldeck._errors import PeersLostError
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.cluster.addressing import HANDLER

BLOCK_BYTES = 4 << 20
WINDOW_BLOCKS = 4
"""Blocks that are requested at once: few enough for the memory, and enough to keep each link busy."""
SILENCE_SECONDS = 60.0
"""A host that does not answer for this long is left. One that waits for a block itself answers much sooner."""
CONNECT_SECONDS = 3.0


class PeerChain:
    """The hosts that a host takes a file from: the nearest in the chain, and after its loss the next one.

    A host whose block does not have the digest that the block's origin computed is left out.

    Parameters
    ----------
    worker
        The ``distributed.Worker`` that receives.
    peers
        Address, name and cache of each host, nearest first.
    note_digest
        Called with each block that was received: the sha256 of its file, start, stop and digest.

    Attributes
    ----------
    used : list of str
        The names of the hosts that blocks came from.
    left_out : list of str
        The names of those that sent wrong bytes.
    """

    def __init__(
        self,
        worker: Any,
        peers: list[tuple[str, str, str]],
        *,
        request: DownloadRequest,
        note_digest: Callable[[str, int, int, int], None],
    ) -> None:
        self._worker = worker
        self._peers = deque(tuple(peer) for peer in peers)
        self._request = request
        self._note_digest = note_digest
        self._asks: dict[tuple[str, ...], set[asyncio.Task[dict[str, Any]]]] = {}
        self._reached: set[tuple[str, ...]] = set()
        self.used: list[str] = []
        self.left_out: list[str] = []

    async def blocks(self, file: GGUFFile, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a range in order.

        Raises
        ------
        PeersLostError
            If no host is left that could send them.
        """
        pending: deque[asyncio.Task[bytes]] = deque()
        position = start
        try:
            while position < stop or pending:
                while position < stop and len(pending) < WINDOW_BLOCKS:
                    end = min(stop, (position // BLOCK_BYTES + 1) * BLOCK_BYTES)
                    pending.append(asyncio.create_task(self._block(file, position, end)))
                    position = end
                block = await pending[0]
                pending.popleft()
                yield block
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _block(self, file: GGUFFile, start: int, stop: int) -> bytes:
        while self._peers:
            peer = self._peers[0]
            answer = await self._ask(peer, file, start, stop)
            if answer["state"] == "later":
                continue
            if answer["state"] == "here":
                data: bytes = answer["data"]
                if len(data) == stop - start and xxhash.xxh3_64_intdigest(data) == answer["xxh3"]:
                    self._note_digest(file.sha256 or "", start, stop, answer["xxh3"])
                    if peer[1] not in self.used:
                        self.used.append(peer[1])
                    return data
                if peer[1] not in self.left_out:
                    self.left_out.append(peer[1])
            self._leave(peer)
        raise PeersLostError(
            f"No other host can send {file.filename} any more. Pull the model again: what was received is kept."
        )

    def _leave(self, peer: tuple[str, ...]) -> None:
        """Ask this host no more. What was asked of it is not waited for: Dask tries to connect for half a minute."""
        if peer in self._peers:  # another block may have found out first
            self._peers.remove(peer)
        for ask in self._asks.pop(peer, ()):
            ask.cancel()

    async def _ask(self, peer: tuple[str, ...], file: GGUFFile, start: int, stop: int) -> dict[str, Any]:
        ask = asyncio.create_task(self._chunk(peer, file, start, stop))
        asks = self._asks.setdefault(peer, set())
        asks.add(ask)
        try:
            await asyncio.wait([ask])
            return {"state": "gone"} if ask.cancelled() else ask.result()
        finally:
            ask.cancel()
            asks.discard(ask)

    async def _chunk(self, peer: tuple[str, ...], file: GGUFFile, start: int, stop: int) -> dict[str, Any]:
        address, _, cache_dir = peer
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                if peer not in self._reached:
                    await self._reach(address)
                    self._reached.add(peer)
                reply = await getattr(self._worker.rpc(address), HANDLER)(
                    method="chunk",
                    repo_id=self._request.repo_id,
                    commit_hash=self._request.commit_hash,
                    filename=file.filename,
                    sha256=file.sha256,
                    cache_dir=cache_dir,
                    start=start,
                    stop=stop,
                )
        except OSError:  # also a timeout, and Dask's CommClosedError
            return {"state": "gone"}
        answer: dict[str, Any] = reply.get("answer") or {"state": "gone"}
        return answer

    async def _reach(self, address: str) -> None:
        """Connect once, with less patience than Dask's pool of connections has."""
        from distributed.comm import connect

        comm = await connect(address, timeout=CONNECT_SECONDS, **self._worker.security.get_connection_args("worker"))
        await comm.close()
