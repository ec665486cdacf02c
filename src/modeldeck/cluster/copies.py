"""The copies of models on a worker's host: receives them with the engine, and gives blocks of them to other hosts."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import xxhash

from modeldeck._settings import Settings, resolve_settings
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot
from modeldeck.cluster.peer_chain import PeerChain
from modeldeck.service.shared_manager import open_manager

if TYPE_CHECKING:
    from modeldeck.engine.manager import DownloadManager

ANSWER_SECONDS = 5.0
"""The answer that a block is not there yet is sent after this long, which shows that this host lives."""
LOOK_SECONDS = 0.005
START_SECONDS = 60.0
"""How long a host that was told to expect a file is believed to begin with it."""


class HostCopies:
    """The engine of a worker. It runs on the worker's event loop and begins with the first pull."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._managers: dict[str, DownloadManager] = {}
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._chains: dict[tuple[str, ...], PeerChain] = {}
        self._expected: dict[str, float] = {}
        self._running: list[DownloadRequest] = []
        self._stopped: dict[str, Action] = {}
        self._digests: dict[tuple[str, int, int], int] = {}

    async def aclose(self) -> None:
        self._managers.clear()
        await self._stack.aclose()

    # --- receiving ------------------------------------------------------------------------------------------------

    async def find(self, request: dict[str, Any], cache_dir: str) -> dict[str, Any]:
        """Say whether this host has the files, and how many bytes of them it has. Nothing is verified."""
        wanted = request_from(request, cache_dir)
        return await asyncio.to_thread(_found, wanted)

    async def expect(self, request: dict[str, Any], cache_dir: str) -> None:
        """Expect a pull, so that hosts that ask for a block before it has begun are told to wait."""
        for file in request_from(request, cache_dir).files:
            self._expected.setdefault(file.sha256 or "", time.monotonic() + START_SECONDS)

    async def pull(
        self,
        request: dict[str, Any],
        cache_dir: str,
        peers: list[tuple[str, str, str]] | None,
        topic: str,
        interval: float,
        settings: Settings | None = None,
    ) -> dict[str, Any]:
        """Bring the files into the cache of this host, verified, and say how that ended.

        Pulls of one model at the same time share one download of the engine. The last of them to end takes it off the
        list.

        Parameters
        ----------
        request
            The request as plain data.
        peers
            Address, name and cache of the hosts to take the files from, nearest first; ``None`` for the Hub.
        topic, interval
            Where to report the progress, and how many seconds lie between two reports.
        settings
            The token for the Hub.
        """
        wanted = request_from(request, cache_dir)
        manager = await self._manager(cache_dir)
        chain = None
        if peers is not None:
            chain = PeerChain(self._worker, peers, request=wanted, note_digest=self._note_digest)
            self._chains[wanted.key] = chain
        self._running.append(wanted)
        self._expected.update(dict.fromkeys(_names(wanted), float("inf")))
        unsubscribe = manager.subscribe(_Reports(self._worker, topic, interval, wanted).take)
        try:
            job = await manager.submit(wanted, token=None if settings is None else settings.token)
            if topic in self._stopped and self._stopped[topic] in job.actions:
                await manager.act(job.job_id, self._stopped[topic])
            snapshot = await manager.wait(job.job_id)
        finally:
            unsubscribe()
            is_last = self._end(wanted)
        if is_last and "dismiss" in snapshot.actions:
            await manager.act(snapshot.job_id, "dismiss")
        return {
            "snapshot": msgspec.to_builtins(snapshot),
            "peers": [] if chain is None else chain.used,
            "left_out": [] if chain is None else chain.left_out,
        }

    def _end(self, request: DownloadRequest) -> bool:
        """Forget a pull, except for what others of the same files still need, and return whether it was the last."""
        self._running.remove(request)
        is_last = all(other.key != request.key for other in self._running)
        if is_last:
            self._chains.pop(request.key, None)
        names = _names(request).difference(*map(_names, self._running))
        for name in names:
            self._expected.pop(name, None)
        self._digests = {key: digest for key, digest in self._digests.items() if key[0] not in names}
        return is_last

    async def stop(self, request: dict[str, Any], cache_dir: str, topic: str, action: Action) -> None:
        """Pause or cancel a pull, also one that arrives later. Its caller is told in the answer that it waits for."""
        self._stopped[topic] = action
        manager = await self._manager(cache_dir)
        key = request_from(request, cache_dir).key
        for snapshot in manager.snapshots():
            if snapshot.request.key == key and action in snapshot.actions:
                await manager.act(snapshot.job_id, action)

    async def _manager(self, cache_dir: str) -> DownloadManager:
        async with self._lock:
            if cache_dir not in self._managers:
                opening = open_manager(Path(cache_dir), find_peers=lambda request: self._chains.get(request.key))
                self._managers[cache_dir] = await self._stack.enter_async_context(opening)
            return self._managers[cache_dir]

    def _note_digest(self, sha256: str, start: int, stop: int, digest: int) -> None:
        """Keep the digest of a block as its origin computed it, for the next host in the chain."""
        self._digests[sha256, start, stop] = digest

    # --- giving -------------------------------------------------------------------------------------------------------

    async def chunk(
        self, repo_id: str, commit_hash: str, filename: str, sha256: str, cache_dir: str, start: int, stop: int
    ) -> dict[str, Any]:
        """Give a block of a file: ``data`` with its digest, or whether it is to be asked for again.

        ``later`` means that this host is receiving the file, ``gone`` that it will not have the block.
        """
        from distributed.protocol import to_serialize

        def read() -> bytes | None:
            return self._read(Path(cache_dir), repo_id, commit_hash, filename, sha256, start, stop)

        until = time.monotonic() + ANSWER_SECONDS
        while True:
            data = await asyncio.to_thread(read)
            if data is not None:
                digest = self._digests.get((sha256, start, stop))
                if digest is None:
                    digest = xxhash.xxh3_64_intdigest(data)
                return {"state": "here", "xxh3": digest, "data": to_serialize(memoryview(data))}
            if self._expected.get(sha256, 0.0) < time.monotonic():
                return {"state": "gone"}
            if time.monotonic() > until:
                return {"state": "later"}
            await asyncio.sleep(LOOK_SECONDS)

    def _read(
        self, cache_dir: Path, repo_id: str, commit_hash: str, filename: str, sha256: str, start: int, stop: int
    ) -> bytes | None:
        manager = self._managers.get(str(cache_dir))
        partial = None if manager is None else manager.open_partials.get(sha256)
        if partial is not None and partial.covers(start, stop):
            path: Path | None = partial.data_path
        else:
            path = _complete_file(cache_dir, repo_id, commit_hash, filename, sha256)
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # it was just published, or removed
            return None
        try:
            data = os.pread(descriptor, stop - start, start)
        finally:
            os.close(descriptor)
        return data if len(data) == stop - start else None


class _Reports:
    """Tells the client how a pull goes on: each change of state, and the progress now and then."""

    def __init__(self, worker: Any, topic: str, interval: float, request: DownloadRequest) -> None:
        self._worker = worker
        self._topic = topic
        self._interval = interval
        self._key = request.key
        self._state: str | None = None
        self._told_at = 0.0

    def take(self, snapshot: DownloadSnapshot) -> None:
        if snapshot.request.key != self._key:
            return
        now = time.monotonic()
        if snapshot.state == self._state and now - self._told_at < self._interval:
            return
        self._state, self._told_at = snapshot.state, now
        self._worker.log_event(
            self._topic,
            {
                "worker": self._worker.address,
                "state": snapshot.state.value,
                "received": snapshot.received,
                "total": snapshot.total,
                "rate": snapshot.rate,
            },
        )


def request_from(message: dict[str, Any], cache_dir: str) -> DownloadRequest:
    """Return a request that arrived as plain data, for the cache of this host."""
    return msgspec.convert({**message, "cache_dir": cache_dir, "is_frugal": True}, DownloadRequest)


def _names(request: DownloadRequest) -> set[str]:
    """Return the digests by which other hosts ask for the files of a request."""
    return {file.sha256 or "" for file in request.files}


def worker_cache_dir(cache_dir: str | None) -> Path:
    """Return the cache that a worker uses when the client says no other."""
    return resolve_settings(cache_dir=cache_dir, token=False).cache_dir


def _complete_file(cache_dir: Path, repo_id: str, commit_hash: str, filename: str, sha256: str) -> Path | None:
    from modeldeck.hub.cache import blob_path, find_snapshot_file

    blob = blob_path(cache_dir, repo_id, sha256)
    return blob if blob.is_file() else find_snapshot_file(cache_dir, repo_id, commit_hash, filename)


def _found(request: DownloadRequest) -> dict[str, Any]:
    from modeldeck.engine.leftovers import list_partials
    from modeldeck.hub.cache import repo_dir

    cache_dir = Path(request.cache_dir)
    received, has_all = 0, True
    for file in request.files:
        digest = file.sha256 or ""
        path = _complete_file(cache_dir, request.repo_id, request.commit_hash or "", file.filename, digest)
        if path is not None:
            received += path.stat().st_size
        else:
            has_all = False
            partials = list_partials(repo_dir(cache_dir, request.repo_id) / "blobs", digest)
            received += max((info.received for info in partials), default=0)
    return {"has_all": has_all, "received": received}
