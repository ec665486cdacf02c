"""One file, from its address to its place in the cache."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from pathlib import Path

import anyio
import httpx

from modeldeck._errors import GGUFError, IntegrityError, ModelDeckError, ServerError, StorageError
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.engine.checks import CheckStore
from modeldeck.engine.crew import Connections, Crew
from modeldeck.engine.digest import STEP_BYTES, FrontHasher
from modeldeck.engine.disk import error_from_write
from modeldeck.engine.front import Front
from modeldeck.engine.limits import Bandwidth
from modeldeck.engine.partial import (
    BLOCK_BYTES,
    Block,
    OwnershipLostError,
    Partial,
    PartialHeader,
    discard_partials,
    list_partials,
)
from modeldeck.engine.plan import SMALLEST_REQUEST_BYTES, join_near
from modeldeck.engine.retry import Attempts, RetryPolicy
from modeldeck.engine.source import Source
from modeldeck.engine.threads import DiskThreads
from modeldeck.engine.transfer import UNKNOWN_SIZE, Patience, Transfer
from modeldeck.hub import cache
from modeldeck.hub.errors import host_of

MAX_MENDINGS = 2
MAX_RESOLVE_ATTEMPTS = 3
"""Each of them is already several tries of the hub's client: who has no network shall hear it soon."""
WRITEBACK_BYTES = 16 << 20
"""Brought to the disk in the background this often, so that little is left to wait for at the end."""
WRITEBACK_SECONDS = 0.2
"""How often a file looks whether that many have come."""
WRITEBACKS_AT_ONCE = 2
"""A slow disk takes long, and shall not hold all threads."""
_GGUF_MAGIC = b"GGUF"
_TAKEN_OVER = "Another process is downloading this file too. Wait for it, or pause it there."


@dataclass(kw_only=True)
class Tools:
    """What all downloads of an engine work with."""

    transport: httpx.AsyncBaseTransport
    http: httpx.AsyncClient
    threads: DiskThreads
    bandwidth: Bandwidth
    connections: Connections
    policy: RetryPolicy
    patience: Patience
    checks: CheckStore | None = None
    blob_locks: dict[Path, anyio.Lock] = field(default_factory=dict)
    writebacks: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(WRITEBACKS_AT_ONCE))


class Phase(Enum):
    """What is being done for a file."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    DONE = "done"


class FileDownload:
    """One file of a download. Its attributes tell at any time how it stands.

    Parameters
    ----------
    on_phase
        Called when the phase has changed.
    """

    def __init__(
        self,
        *,
        request: DownloadRequest,
        file: GGUFFile,
        source: Source,
        tools: Tools,
        crew: Crew,
        on_phase: Callable[[], None],
    ) -> None:
        self.file = file
        self.source = source
        self.phase = Phase.RESOLVING
        self._request = request
        self._tools = tools
        self._crew = crew
        self._on_phase = on_phase
        self._cache_dir = Path(request.cache_dir)
        self._transfer: Transfer | None = None
        self._partial: Partial | None = None
        self._fetched_before = 0
        self._mended_bytes = 0
        self._is_mending = False
        self._resolve_failures = 0
        self._resolve_retry_at: float | None = None
        self.received = 0

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
        return self._transfer.attempt if self._transfer else self._resolve_failures

    @property
    def retry_at(self) -> float | None:
        return self._transfer.retry_at if self._transfer else self._resolve_retry_at

    @property
    def is_transferring(self) -> bool:
        return self._transfer is not None

    def needed_bytes(self) -> int:
        """Room that the file still takes. Blocks."""
        if self.size is None:
            return 0
        digest = self.source.digest
        if digest is None:
            return self.size
        if os.path.isfile(self._blobs_dir / digest):  # Path.is_file raises what forbids to look
            return 0
        there = max((info.allocated_bytes for info in list_partials(self._blobs_dir, digest)), default=0)
        return max(0, self.size - there)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._on_phase()

    def adjust(self) -> None:
        if self._transfer is not None:
            self._transfer.adjust()
        if self._partial is not None and not self._is_mending:
            self.received = max(self.received, self._partial.received)

    # --- the way of the file ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring the file into the cache.

        Raises
        ------
        ModelDeckError
            What came is kept, unless nothing can be done with it.
        """
        self._enter(Phase.RESOLVING)
        try:
            if await self._find_at_commit(self._request.commit_hash):
                return
            await self.resolve()
            commit_hash = self.source.resolved.commit_hash
            if commit_hash != self._request.commit_hash and await self._find_at_commit(commit_hash):
                return
            async with self._only_writer():
                if not await self._link_existing_blob():
                    await self._download()
        except OSError as exc:
            raise error_from_write(exc, self._blobs_dir, missing=self._missing_bytes()) from exc

    async def resolve(self) -> None:
        """Learn the file's address and digest, with the same patience as for its bytes."""
        policy = self._tools.policy
        attempts = Attempts(replace(policy, max_attempts=min(policy.max_attempts, MAX_RESOLVE_ATTEMPTS)))
        while True:
            try:
                return await self.source.resolve()
            except ModelDeckError as error:
                wait = attempts.wait_after(error, 0)
                if wait is None:
                    raise
            self._resolve_failures = attempts.failures
            self._resolve_retry_at = time.monotonic() + wait
            try:
                await anyio.sleep(wait)
            finally:
                self._resolve_retry_at = None

    async def repair(self, damaged: Path) -> int:
        """Mend a file that is in the cache but not what the Hub has; returns the bytes that were replaced.

        The damaged file gives up its final name first, so that nobody takes it for whole while it is mended. Where its
        blocks are known, only the bad ones are fetched. If the whole is not right then, or they are not known, all of
        it is fetched and compared.
        """
        self._enter(Phase.RESOLVING)
        await self.resolve()
        known = await self._tools.threads.run(self._known_blocks)
        async with self._only_writer():
            take_over = functools.partial(Partial.take_over, self._blobs_dir, self._header(), damaged, known)
            async with self._opened(take_over) as partial:
                self._is_mending = True
                self._enter(Phase.FETCHING)
                try:
                    hasher = FrontHasher(self.source.digest, self.size)
                    await self._recheck(partial, hasher)
                    bad = partial.missing(self._whole)
                    # Each range is a request of its own: many small ones would take longer than what lies between them.
                    await self._fetch(partial, None, mending=join_near(bad, SMALLEST_REQUEST_BYTES))
                    self._enter(Phase.VERIFYING)
                    await self._finish_verified(partial, hasher)
                    return self._mended_bytes
                except OwnershipLostError as exc:
                    raise ServerError(_TAKEN_OVER) from exc
                finally:
                    self._is_mending = False

    @property
    def _blobs_dir(self) -> Path:
        return cache.repo_dir(self._cache_dir, self._repo_id) / "blobs"

    @property
    def _repo_id(self) -> str:
        return self._request.repo_id

    @property
    def partial_name(self) -> str:
        """The digest, or a name of our own for a file whose digest nobody knows."""
        if self.source.digest is not None:
            return self.source.digest
        return "unnamed-" + sha256(f"{self.source.resolved.commit_hash}/{self.file.filename}".encode()).hexdigest()

    @property
    def _whole(self) -> int:
        return UNKNOWN_SIZE if self.size is None else self.size

    def _known_blocks(self) -> Sequence[Block]:
        """What the file should be made of, as far as an earlier download or verification has kept it. Blocks."""
        checks, digest, size = self._tools.checks, self.source.digest, self.size
        return () if checks is None or digest is None or size is None else checks.load(digest, size)

    def _keep_checks(self, partial: Partial) -> None:
        """Remember the blocks of a file whose digest was found to be right. Blocks."""
        checks, digest, size = self._tools.checks, self.source.digest, self.size
        if checks is not None and digest is not None and size is not None:
            checks.save(digest, size, partial.blocks())

    def _missing_bytes(self) -> int | None:
        return None if self.size is None else max(0, self.size - self.received)

    async def _find_at_commit(self, commit_hash: str | None) -> bool:
        """Whether the file is in the cache, which counts unless its size shows that it is broken."""
        if commit_hash is None:
            return False
        size = await self._tools.threads.run(self._size_at_commit, commit_hash)
        if size is None or self.size not in (None, size):
            return False
        await self._tools.threads.run(self._discard_partials)
        self._done(size)
        return True

    def _size_at_commit(self, commit_hash: str) -> int | None:
        """Blocks."""
        path = cache.find_snapshot_file(self._cache_dir, self._repo_id, commit_hash, self.file.filename)
        return None if path is None else path.stat().st_size

    def _discard_partials(self) -> None:
        """Delete what crashed attempts left of a file that is in the cache now. Blocks."""
        if self.source.digest is not None:
            discard_partials(self._blobs_dir, self.source.digest)

    def _done(self, size: int) -> None:
        self.received = size
        self._enter(Phase.DONE)

    async def _link_existing_blob(self) -> bool:
        size = await self._tools.threads.run(self._link_blob)
        if size is None:
            return False
        self._done(size)
        return True

    def _link_blob(self) -> int | None:
        """The size of the blob, if it was there and is linked now. Blocks."""
        digest = self.source.digest
        if digest is None:
            return None
        blob = cache.blob_path(self._cache_dir, self._repo_id, digest)
        if not blob.is_file():
            return None
        size = blob.stat().st_size
        if self.size not in (None, size):
            return None
        commit_hash = self.source.resolved.commit_hash
        cache.link_blob(
            self._cache_dir,
            repo_id=self._repo_id,
            commit_hash=commit_hash,
            filename=self.file.filename,
            etag=digest,
        )
        self._discard_partials()
        return size

    @asynccontextmanager
    async def _only_writer(self) -> AsyncIterator[None]:
        """Two downloads of this engine with one file in common: the second waits and finds it done."""
        blob = self._blobs_dir / self.partial_name
        lock = self._tools.blob_locks.setdefault(blob, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().locked and not lock.statistics().tasks_waiting:
                self._tools.blob_locks.pop(blob, None)

    async def _download(self) -> None:
        for _ in range(2):
            try:
                async with self._opened(self._open_partial) as partial:
                    await self._fill(partial)
                return
            except OwnershipLostError:
                continue  # somebody took this process for dead: leave the file to them and begin another one
        raise ServerError(_TAKEN_OVER)

    @asynccontextmanager
    async def _opened(self, open_partial: Callable[[], Partial]) -> AsyncIterator[Partial]:
        """A partial file for as long as it is worked on; what is left of it is kept for whoever comes next."""
        with anyio.CancelScope(shield=True):  # what is opened must be closed
            partial = await self._tools.threads.run(open_partial)
        self._partial = partial
        try:
            yield partial
        except StorageError:
            partial.distrust_memory()
            raise
        finally:
            self._partial = None
            if partial.is_open:
                await self._tools.threads.run(partial.close)

    def _open_partial(self) -> Partial:
        """Blocks."""
        cache.prepare_repo(self._cache_dir, self._repo_id)
        return Partial.open(self._blobs_dir, self._header())

    def _header(self) -> PartialHeader:
        return PartialHeader(
            digest=self.partial_name,
            size=self.size,
            repo_id=self._repo_id,
            filename=self.file.filename,
            commit_hash=self.source.resolved.commit_hash,
            endpoint=self._request.endpoint,
        )

    async def _fill(self, partial: Partial) -> None:
        self._enter(Phase.FETCHING)
        self.received = max(self.received, partial.received)
        hasher = FrontHasher(self.source.digest, self.size)
        await self._recheck(partial, hasher)
        await self._fetch(partial, hasher)
        self._enter(Phase.VERIFYING)
        await self._finish_verified(partial, hasher)

    async def _finish_verified(self, partial: Partial, hasher: FrontHasher) -> None:
        """Hash what is not hashed yet, mend what is wrong, and publish."""
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

    async def _recheck(self, partial: Partial, hasher: FrontHasher | None) -> int:
        """Read again what the journal claims, drop what is not so, and return how many blocks that were."""
        blocks = partial.blocks()
        scratch = memoryview(bytearray(max((block.length for block in blocks), default=0)))
        bad: list[Block] = []
        for index in range(0, len(blocks), STEP_BYTES // BLOCK_BYTES):
            step = blocks[index : index + STEP_BYTES // BLOCK_BYTES]
            bad += await self._tools.threads.run(_bad_blocks, partial, step, scratch, hasher)
        if bad:
            await self._tools.threads.run(partial.drop, bad)
        return len(bad)

    async def _fetch(
        self, partial: Partial, hasher: FrontHasher | None, *, mending: Sequence[tuple[int, int]] | None = None
    ) -> int:
        """Fetch what is missing and hash behind it. Returns the bytes that were mended.

        Parameters
        ----------
        mending
            Fetch these ranges instead and replace what differs. They may be claimed by the journal.
        """
        missing = partial.missing(self._whole) if mending is None else mending
        if not missing:
            return 0
        connections, threads = self._tools.connections, self._tools.threads
        front = None if hasher is None else Front(partial, hasher, threads, sharers=lambda: connections.transfers)
        transfer = Transfer(
            source=self.source,
            partial=partial,
            front=front,
            missing=missing,
            threads=threads,
            bandwidth=self._tools.bandwidth,
            crew=self._crew,
            policy=self._tools.policy,
            patience=self._tools.patience,
            is_mending=mending is not None,
        )
        await self._crew.admit(transfer)
        self._transfer = transfer
        try:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self._write_back, partial, transfer)
                await transfer.run()
                task_group.cancel_scope.cancel()
        finally:
            self._crew.release(transfer)
            self._fetched_before += transfer.fetched
            self._mended_bytes += transfer.mended_bytes
            self._transfer = None
            self.adjust()
            if front is not None:
                with anyio.CancelScope(shield=True):
                    await front.settle()
        if transfer.failure is not None:
            raise transfer.failure
        if self.size is None:
            self.source.learn_size(partial.received)
        return transfer.mended_bytes

    async def _write_back(self, partial: Partial, transfer: Transfer) -> None:
        """Bring the bytes to the disk in steps while the transfer goes on, and show that it does when none come."""
        begun = partial.received
        while True:
            await anyio.sleep(WRITEBACK_SECONDS)
            received = partial.received
            try:
                if partial.is_beat_due:
                    await self._tools.threads.run(partial.beat)
                if received - begun >= WRITEBACK_BYTES:
                    begun = received
                    async with self._tools.writebacks:
                        await self._tools.threads.run(partial.write_back)
            except OwnershipLostError as lost:
                transfer.fail(lost)
            except OSError as exc:
                transfer.fail(error_from_write(exc, partial.data_path, missing=self._missing_bytes()))

    async def _advance(self, partial: Partial, hasher: FrontHasher, stop: int) -> None:
        def step() -> None:
            partial.beat()
            hasher.advance(partial.descriptor, stop)

        await self._tools.threads.run(step)

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
        self._is_mending = True
        self._enter(Phase.RESOLVING)
        try:
            if await self._recheck(partial, None):
                await self._fetch(partial, None)  # the disk had changed them
                return True
            return await self._fetch(partial, None, mending=[(0, self._whole)]) > 0
        finally:
            self._is_mending = False
            self._enter(Phase.VERIFYING)

    async def _publish(self, partial: Partial, digest: str) -> None:
        with anyio.CancelScope(shield=True):
            await self._tools.threads.run(self._publish_blob, partial, digest)
        assert self.size is not None
        self._done(self.size)

    def _publish_blob(self, partial: Partial, digest: str) -> None:
        """Give a verified file its final name. Blocks."""
        if self.file.filename.endswith(".gguf") and not _has_gguf_magic(partial):
            partial.discard()
            raise GGUFError(
                f"{self.file.filename} is no GGUF file: {host_of(self._request.endpoint)} has something else under "
                "that name, perhaps a web page. Choose another file, or check the endpoint."
            )
        partial.ensure_owned()
        commit_hash = self.source.resolved.commit_hash
        cache.publish_blob(
            self._cache_dir,
            repo_id=self._repo_id,
            commit_hash=commit_hash,
            filename=self.file.filename,
            etag=digest,
            verified=partial.data_path,
        )
        partial.finish()
        self._keep_checks(partial)
        self._discard_partials()


def _bad_blocks(partial: Partial, blocks: list[Block], scratch: memoryview, hasher: FrontHasher | None) -> list[Block]:
    """Those whose bytes are not what was written. The others are hashed on the way where they continue the front."""
    partial.beat()
    bad = []
    for block in blocks:
        data = partial.check(block, scratch)
        if data is None:
            bad.append(block)
        elif hasher is not None and block.start <= hasher.position < block.stop:
            hasher.feed(data[hasher.position - block.start :])
    return bad


def _has_gguf_magic(partial: Partial) -> bool:
    with partial.data_path.open("rb") as file:
        return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
