"""One file, from its address to its place in the cache."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import anyio
import httpx

from modeldeck._errors import DiskFullError, GGUFError, IntegrityError, ServerError
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.download.disk import error_from_write
from modeldeck.download.limits import Bandwidth, Connections
from modeldeck.download.partial import (
    BLOCK_BYTES,
    Block,
    OwnershipLostError,
    Partial,
    PartialHeader,
    discard_partials,
)
from modeldeck.download.retry import RetryPolicy
from modeldeck.download.source import Source
from modeldeck.download.threads import DiskThreads
from modeldeck.download.transfer import UNKNOWN_SIZE, Patience, Transfer
from modeldeck.download.verify import STEP_BYTES, FrontHasher
from modeldeck.hub import cache

MAX_MENDINGS = 2
SYNC_BYTES = 256 << 20
"""Brought to the disk in the background this often, so that little is left to wait for at the end."""
_GGUF_MAGIC = b"GGUF"


@dataclass(kw_only=True)
class Tools:
    """What all downloads of an engine work with."""

    http: httpx.AsyncClient
    threads: DiskThreads
    bandwidth: Bandwidth
    connections: Connections
    policy: RetryPolicy
    patience: Patience
    blob_locks: dict[Path, anyio.Lock] = field(default_factory=dict)


class FileDownload:
    """One file of a download. Its attributes tell at any time how it stands.

    Parameters
    ----------
    allowance
        How many connections it may have now.
    """

    def __init__(
        self, *, request: DownloadRequest, file: GGUFFile, source: Source, tools: Tools, allowance: Callable[[], int]
    ) -> None:
        self.file = file
        self.source = source
        self._request = request
        self._tools = tools
        self._allowance = allowance
        self._cache_dir = Path(request.cache_dir)
        self._transfer: Transfer | None = None
        self._partial: Partial | None = None
        self._fetched_before = 0
        self.received = 0
        self.is_fetching = False
        self.is_mending = False
        self.is_done = False
        self.checked = 0

    # --- how it stands ------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int | None:
        return self.source.size

    @property
    def fetched(self) -> int:
        """Bytes that came over the network, repeated ones included."""
        return self._fetched_before + (self._transfer.fetched if self._transfer else 0)

    @property
    def connections(self) -> int:
        return self._transfer.connections if self._transfer else 0

    @property
    def attempt(self) -> int:
        return self._transfer.attempt if self._transfer else 0

    @property
    def retry_at(self) -> float | None:
        return self._transfer.retry_at if self._transfer else None

    @property
    def leaves_room_for_others(self) -> bool:
        """Its connections cannot all be busy any more, so the next file may begin."""
        return self.is_done or not self.is_fetching or (self._transfer is not None and self._transfer.is_nearly_done)

    def adjust(self) -> None:
        if self._transfer is not None:
            self._transfer.adjust()
        if self._partial is not None and not self.is_mending:
            self.received = max(self.received, self._partial.received)

    # --- the way of the file ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring the file into the cache.

        Raises
        ------
        ModelDeckError
            What came is kept, unless nothing can be done with it.
        """
        self.is_fetching = True
        try:
            if await self._find_at_commit(self._request.commit_hash):
                return
            await self.source.resolve()
            if await self._find_at_commit(self.source.resolved.commit_hash):
                return
            async with self._only_writer():
                if not await self._link_existing_blob():
                    await self._download()
        except OSError as exc:
            raise error_from_write(exc, self._blobs_dir, missing=self._missing_bytes()) from exc
        finally:
            self.is_fetching = False

    @property
    def _blobs_dir(self) -> Path:
        return cache.repo_dir(self._cache_dir, self._repo_id) / "blobs"

    @property
    def _repo_id(self) -> str:
        return self._request.repo_id

    @property
    def _partial_name(self) -> str:
        """The digest, or a name of our own for a file whose digest nobody knows."""
        if self.source.digest is not None:
            return self.source.digest
        return "unnamed-" + sha256(f"{self.source.resolved.commit_hash}/{self.file.filename}".encode()).hexdigest()

    def _missing_bytes(self) -> int | None:
        return None if self.size is None else max(0, self.size - self.received)

    async def _find_at_commit(self, commit_hash: str | None) -> bool:
        if commit_hash is None:
            return False
        path = await self._tools.threads.run(
            cache.find_snapshot_file, self._cache_dir, self._repo_id, commit_hash, self.file.filename
        )
        return path is not None and await self._accept_existing(path)

    async def _accept_existing(self, path: Path) -> bool:
        """A file that is in the cache counts, unless its size shows that it is broken."""
        size = await self._tools.threads.run(lambda: path.stat().st_size)
        if self.size is not None and size != self.size:
            return False
        self._finish(size)
        return True

    def _finish(self, size: int) -> None:
        self.received = size
        self.is_done = True

    async def _link_existing_blob(self) -> bool:
        digest = self.source.digest
        if digest is None:
            return False
        blob = cache.blob_path(self._cache_dir, self._repo_id, digest)
        if not await self._tools.threads.run(blob.is_file):
            return False
        size = await self._tools.threads.run(lambda: blob.stat().st_size)
        if self.size is not None and size != self.size:
            return False
        commit_hash = self.source.resolved.commit_hash
        await self._tools.threads.run(
            cache.link_blob,
            self._cache_dir,
            repo_id=self._repo_id,
            revision=commit_hash,
            commit_hash=commit_hash,
            filename=self.file.filename,
            etag=digest,
        )
        self._finish(size)
        return True

    @asynccontextmanager
    async def _only_writer(self) -> AsyncIterator[None]:
        """Two downloads of this engine with one file in common: the second waits and finds it done."""
        blob = self._blobs_dir / self._partial_name
        lock = self._tools.blob_locks.setdefault(blob, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().locked and not lock.statistics().tasks_waiting:
                self._tools.blob_locks.pop(blob, None)

    async def _download(self) -> None:
        await self._tools.threads.run(cache.prepare_repo, self._cache_dir, self._repo_id)
        for _ in range(2):
            partial = await self._tools.threads.run(Partial.open, self._blobs_dir, self._header())
            self._partial = partial
            try:
                await self._fill(partial)
                return
            except OwnershipLostError:
                continue  # somebody took this process for dead: leave the file to them and begin another one
            finally:
                self._partial = None
                await self._tools.threads.run(partial.close)
        raise ServerError("Another process is downloading this file too. Wait for it, or pause it there.")

    def _header(self) -> PartialHeader:
        return PartialHeader(
            digest=self._partial_name,
            size=self.size,
            repo_id=self._repo_id,
            filename=self.file.filename,
            commit_hash=self.source.resolved.commit_hash,
            endpoint=self._request.endpoint,
        )

    async def _fill(self, partial: Partial) -> None:
        self.received = max(self.received, partial.received)
        hasher = await self._check_claims(partial)
        await self._fetch(partial, hasher)
        self.is_fetching = False
        digest = self.source.digest
        for mending in range(MAX_MENDINGS + 1):
            hasher = await self._hash_to_end(partial, hasher)
            if digest is None or hasher.hexdigest() == digest:
                break
            if mending == MAX_MENDINGS or not await self._mend(partial):
                raise IntegrityError(
                    f"{self.file.filename} does not have the sha256 that the Hub promises, and fetching it again does "
                    f"not change that: expected {digest}, got {hasher.hexdigest()}. Try again later, or tell the "
                    "repository's owner.",
                    expected=digest,
                    actual=hasher.hexdigest(),
                )
            hasher = FrontHasher(digest, self.size)
        await self._publish(partial, digest or hasher.hexdigest())

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def _check_claims(self, partial: Partial) -> FrontHasher:
        """Read again what the journal claims, and forget what is not so."""
        hasher = FrontHasher(self.source.digest, self.size)
        await self._recheck(partial, hasher)
        return hasher

    async def _recheck(self, partial: Partial, hasher: FrontHasher | None) -> int:
        """Drop the blocks whose bytes are not what was written, and return how many there were."""
        blocks = partial.blocks()
        scratch = memoryview(bytearray(max((block.length for block in blocks), default=0)))
        dropped = 0
        for index in range(0, len(blocks), STEP_BYTES // BLOCK_BYTES):
            step = blocks[index : index + STEP_BYTES // BLOCK_BYTES]
            dropped += await self._tools.threads.run(_check_blocks, partial, step, scratch, hasher)
        return dropped

    async def _fetch(self, partial: Partial, hasher: FrontHasher | None, *, is_mending: bool = False) -> int:
        """Fetch what is missing (all of it, to mend) and hash behind it. Returns the bytes that were mended."""
        whole = UNKNOWN_SIZE if self.size is None else self.size
        missing = [(0, whole)] if is_mending else await self._tools.threads.run(partial.missing, whole)
        if not missing:
            return 0
        transfer = Transfer(
            source=self.source,
            partial=partial,
            missing=missing,
            threads=self._tools.threads,
            bandwidth=self._tools.bandwidth,
            allowance=self._allowance,
            policy=self._tools.policy,
            patience=self._tools.patience,
            is_mending=is_mending,
        )
        self._transfer = transfer
        self._tools.connections.join()
        try:
            async with anyio.create_task_group() as task_group:
                follower = anyio.CancelScope()
                if hasher is not None:
                    task_group.start_soon(self._follow, partial, transfer, hasher, follower)
                failure = await _outcome(transfer)
                follower.cancel()
        finally:
            self._tools.connections.leave()
            self._fetched_before += transfer.fetched
            self._transfer = None
            self.adjust()
        if failure is not None:
            raise failure
        if self.size is None:
            self.source.learn_size(partial.received)
        return transfer.mended_bytes

    async def _follow(
        self, partial: Partial, transfer: Transfer, hasher: FrontHasher, scope: anyio.CancelScope
    ) -> None:
        """Hash the contiguous front while the transfer goes on, and bring it to the disk in steps."""
        synced = hasher.position
        with scope:
            while True:
                advanced = transfer.advanced
                front = partial.front
                if front - hasher.position < STEP_BYTES:
                    await advanced.wait()
                    continue
                await self._advance(partial, hasher, hasher.position + STEP_BYTES)
                if hasher.position - synced >= SYNC_BYTES:
                    synced = hasher.position
                    await self._tools.threads.run(partial.sync)

    async def _advance(self, partial: Partial, hasher: FrontHasher, stop: int) -> None:
        await self._tools.threads.run(hasher.advance, partial.descriptor, stop)
        self.checked = hasher.position

    async def _hash_to_end(self, partial: Partial, hasher: FrontHasher) -> FrontHasher:
        size = self.size
        assert size is not None
        if hasher.position == 0:
            hasher = FrontHasher(self.source.digest, size)
        while hasher.position < size:
            await self._advance(partial, hasher, min(size, hasher.position + STEP_BYTES))
        return hasher

    async def _mend(self, partial: Partial) -> bool:
        """The digest is wrong: find the bad bytes and replace them. ``False`` when the server's own are bad."""
        self.is_mending = True
        self.is_fetching = True
        try:
            if await self._recheck(partial, None):
                await self._fetch(partial, None)  # the disk had changed them
                return True
            return await self._fetch(partial, None, is_mending=True) > 0
        finally:
            self.is_mending = False
            self.is_fetching = False

    async def _publish(self, partial: Partial, digest: str) -> None:
        if self.source.digest is None and self.file.filename.endswith(".gguf"):
            await self._tools.threads.run(_ensure_gguf, partial, self.file.filename)
        commit_hash = self.source.resolved.commit_hash
        await self._tools.threads.run(partial.ensure_owned)
        with anyio.CancelScope(shield=True):
            await self._tools.threads.run(
                cache.publish_blob,
                self._cache_dir,
                repo_id=self._repo_id,
                revision=commit_hash,
                commit_hash=commit_hash,
                filename=self.file.filename,
                etag=digest,
                verified=partial.data_path,
            )
            await self._tools.threads.run(partial.finish)
            await self._tools.threads.run(discard_partials, self._blobs_dir, partial.header.digest)
        assert self.size is not None
        self._finish(self.size)


async def _outcome(transfer: Transfer) -> Exception | None:
    """Run the transfer; its failure as a value, because a task group would wrap it."""
    from modeldeck._errors import ModelDeckError

    try:
        await transfer.run()
    except (ModelDeckError, OwnershipLostError) as failure:
        return failure
    return None


def _check_blocks(partial: Partial, blocks: list[Block], scratch: memoryview, hasher: FrontHasher | None) -> int:
    dropped = 0
    for block in blocks:
        data = partial.check(block, scratch)
        if data is None:
            partial.drop(block.start, block.stop)
            dropped += 1
        elif hasher is not None and block.start <= hasher.position < block.stop:
            hasher.feed(data[hasher.position - block.start :])
    return dropped


def _ensure_gguf(partial: Partial, filename: str) -> None:
    """Without a digest, at least the first bytes must be right: a web page in place of a model is not rare."""
    with partial.data_path.open("rb") as file:
        if file.read(len(_GGUF_MAGIC)) != _GGUF_MAGIC:
            raise GGUFError(f"What came as {filename} is no GGUF file. Check the endpoint and the file's name.")


def is_out_of_room(error: BaseException) -> bool:
    """Whether making room is all that is needed to go on."""
    return isinstance(error, DiskFullError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )
