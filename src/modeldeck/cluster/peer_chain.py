"""Receives a file from other workers, block by block, over Dask's own kind of connection between workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import xxhash

from modeldeck._errors import PeersLostError
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.cluster.addressing import HANDLER

BLOCK_BYTES = 1 << 20
WINDOW_BLOCKS = 8
"""A host sends this many blocks ahead of those that were taken."""
SILENCE_SECONDS = 60.0
"""A host that does not answer for this long is left. One that waits for a block itself answers much sooner."""
CONNECT_SECONDS = 10.0
"""Dask tries for this long, also where nobody listens any more. A host whose processors are busy may take seconds, and
leaving it costs the bytes of the Hub."""


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
        self._peers = [(address, name, cache_dir) for address, name, cache_dir in peers]
        self._request = request
        self._note_digest = note_digest
        self.used: list[str] = []
        self.left_out: list[str] = []

    async def blocks(self, file: GGUFFile, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a range in order.

        Raises
        ------
        PeersLostError
            If no host is left that could send them.
        """
        position = start
        while position < stop:
            if not self._peers:
                raise PeersLostError(
                    f"No other host can send {file.filename} any more. Pull the model again: what was received is kept."
                )
            peer = self._peers[0]
            async with aclosing(self._from(peer, file, position, stop)) as blocks:
                async for block in blocks:
                    yield block
                    position += len(block)
            if position < stop and peer in self._peers:  # another file may have found out first
                self._peers.remove(peer)

    async def _from(
        self, peer: tuple[str, str, str], file: GGUFFile, start: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield blocks from one host, as far as it has them."""
        address, name, cache_dir = peer
        try:
            comm = await self._connect(address)
        except OSError:  # also a timeout, and Dask's CommClosedError
            return
        position = start
        reading = asyncio.ensure_future(self._ask(comm, file, cache_dir, start, stop))
        try:
            while position < stop:
                answer = await reading
                if answer is None or answer["state"] == "gone":
                    return
                end = min(stop, (position // BLOCK_BYTES + 1) * BLOCK_BYTES)
                is_here = answer["state"] == "here"
                if not is_here or end < stop:  # the next block comes while this one is checked and written
                    reading = asyncio.ensure_future(self._read(comm))
                if not is_here:
                    continue
                data: bytes = answer["data"]
                if len(data) != end - position or xxhash.xxh3_64_intdigest(data) != answer["xxh3"]:
                    if name not in self.left_out:
                        self.left_out.append(name)
                    return
                self._note_digest(file.sha256 or "", position, end, answer["xxh3"])
                if name not in self.used:
                    self.used.append(name)
                position = end
                yield data
                if not await self._confirm(comm):
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            comm.abort()

    async def _connect(self, address: str) -> Any:
        """Connect, with less patience than Dask's pool of connections has."""
        from distributed.comm import connect

        return await connect(address, timeout=CONNECT_SECONDS, **self._worker.security.get_connection_args("worker"))

    async def _ask(self, comm: Any, file: GGUFFile, cache_dir: str, start: int, stop: int) -> dict[str, Any] | None:
        """Ask for a range, and return the first answer."""
        try:
            await comm.write(
                {
                    "op": HANDLER,
                    "method": "stream",
                    "repo_id": self._request.repo_id,
                    "commit_hash": self._request.commit_hash,
                    "filename": file.filename,
                    "sha256": file.sha256,
                    "cache_dir": cache_dir,
                    "start": start,
                    "stop": stop,
                    "block_bytes": BLOCK_BYTES,
                    "window_blocks": WINDOW_BLOCKS,
                }
            )
        except OSError:
            return None
        return await self._read(comm)

    async def _confirm(self, comm: Any) -> bool:
        """Let the host send one more block, and return whether it is still there."""
        try:
            await comm.write("taken")
        except OSError:  # Dask's CommClosedError
            return False
        return True

    async def _read(self, comm: Any) -> dict[str, Any] | None:
        """Return the next answer; ``None`` if the host is gone."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                answer: dict[str, Any] = await comm.read()
        except OSError:  # also a timeout, and Dask's CommClosedError
            return None
        return answer if "state" in answer else None
