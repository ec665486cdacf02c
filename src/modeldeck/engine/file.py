"""One file of a download, from its address to its place in the cache."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import anyio

from modeldeck._errors import GGUFError, IntegrityError, ModelDeckError, ServerError, StorageError
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.engine.budget import DownloadShare
from modeldeck.engine.completion import Completion, Phase
from modeldeck.engine.disk import error_from_write
from modeldeck.engine.journal import PartialHeader
from modeldeck.engine.leftovers import discard_partials, list_partials
from modeldeck.engine.ownership import OwnershipLostError
from modeldeck.engine.partial import Partial
from modeldeck.engine.resources import EngineResources
from modeldeck.engine.retry import Attempts
from modeldeck.engine.source import Source
from modeldeck.engine.transfer import Transfer
from modeldeck.engine.verification import Verification, may_be_mended
from modeldeck.hub import cache
from modeldeck.hub.errors import host_of

MAX_RESOLVE_ATTEMPTS = 3
"""Each attempt already includes the Hub client's own retries, so a few are enough to report a missing network soon."""
_GGUF_MAGIC = b"GGUF"
_TAKEN_OVER = "Another process is downloading this file too. Wait for it, or pause it there."


class FileDownload:
    """One file of a download or repair. Its attributes say at any time how far it is.

    A file that is already in the cache is read and its digest compared, unless that was done since it was last
    written. A repair always reads it. If the file is damaged it becomes a partial file, so that nobody takes it for
    whole while it is mended. Where its blocks are known, only the bad ones are fetched. If they are not known, or the
    whole is still wrong then, all of it is fetched and compared.

    Parameters
    ----------
    on_phase
        Called when the phase has changed.

    Attributes
    ----------
    phase : Phase
        What is being done.
    is_mending : bool
        Whether bytes of a damaged file are replaced.
    replaced_bytes : int
        Bytes that were in the cache but wrong.
    """

    def __init__(
        self,
        *,
        request: DownloadRequest,
        file: GGUFFile,
        source: Source,
        resources: EngineResources,
        share: DownloadShare,
        on_phase: Callable[[], None],
    ) -> None:
        self.file = file
        self.source = source
        self.phase = Phase.RESOLVING
        self.replaced_bytes = 0
        self._request = request
        self.is_mending = request.purpose == "repair"
        self._resources = resources
        self._threads = resources.threads
        self._share = share
        self._on_phase = on_phase
        self._cache_dir = Path(request.cache_dir)
        self._completion: Completion | None = None
        self._damaged: Path | None = None
        self._verification = Verification(source, resources, always_reads=self.is_mending, enter=self._enter)
        self._received = 0
        self._fetched_before = 0
        self._resolve_failures = 0
        self._resolve_retry_at: float | None = None

    # --- how far it is ------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int | None:
        return self.source.size

    @property
    def received(self) -> int:
        """Bytes on the disk. While a file of the cache is verified: bytes read."""
        is_reading = self.phase is Phase.VERIFYING and self._completion is None
        return self._verification.position if is_reading else self._received

    @property
    def fetched(self) -> int:
        """Bytes received over the network, repeated ones included."""
        return self._fetched_before + (self._completion.fetched if self._completion else 0)

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

    @property
    def partial_name(self) -> str:
        """The digest, or a name of our own for a file whose digest nobody knows."""
        if self.source.digest is not None:
            return self.source.digest
        return "unnamed-" + sha256(f"{self.source.resolved.commit_hash}/{self.file.filename}".encode()).hexdigest()

    def needed_bytes(self) -> int:
        """Return the room that the file still takes on the disk. This blocks."""
        if self.size is None:
            return 0
        digest = self.source.digest
        if digest is None:
            return self.size
        if os.path.isfile(self._blob(digest)):  # Path.is_file raises an error for what may not be looked at
            return 0
        present = max((info.allocated_bytes for info in list_partials(self._blobs_dir, digest)), default=0)
        return max(0, self.size - present)

    def adjust(self) -> None:
        """Open more connections where that is useful, and count the bytes. Call it a few times a second."""
        if self._completion is not None:
            if self._completion.transfer is not None:
                self._completion.transfer.adjust()
            self._received = max(self._received, self._completion.received)

    # --- the file's way -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring the file into the cache.

        Raises
        ------
        ModelDeckError
            What was received is kept, unless it is useless.
        """
        self._enter(Phase.RESOLVING)
        try:
            try:
                await self._bring()
            except FileNotFoundError:  # another job for the same file took it away to mend it
                await self._bring()
        except OSError as exc:
            missing = None if self.size is None else max(0, self.size - self._received)
            raise error_from_write(exc, self._blobs_dir, missing=missing) from exc

    async def _bring(self) -> None:
        if await self._is_in_snapshot(self._request.commit_hash):
            return
        try:
            await self.resolve()
        except ModelDeckError as error:
            if not self._verification.has_found_damage:
                raise
            raise IntegrityError(
                f"{self.file.filename} in the cache is damaged, and cannot be repaired now: {error.message} "
                "Then run `modeldeck verify --repair`.",
                expected=self.source.digest,
                actual=self._verification.actual,
            ) from error
        if await self._is_in_snapshot(self.source.resolved.commit_hash):
            return
        async with self._resources.only_writer(self._blob(self.partial_name)):
            # While this one waited, another download may have mended the file.
            if self._damaged is not None and await self._is_in_snapshot(self.source.resolved.commit_hash):
                return
            if not await self._link_existing_blob():
                await self._complete()

    async def resolve(self) -> None:
        """Get the file's address and digest, with the same patience as for its bytes."""
        policy = self._resources.policy
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

    @property
    def _transfer(self) -> Transfer | None:
        return None if self._completion is None else self._completion.transfer

    @property
    def _blobs_dir(self) -> Path:
        return cache.repo_dir(self._cache_dir, self._request.repo_id) / "blobs"

    def _blob(self, name: str) -> Path:
        return self._blobs_dir / name

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._on_phase()

    def _done(self, size: int) -> None:
        self._received = size
        self._enter(Phase.DONE)

    # --- what the cache has -------------------------------------------------------------------------------------------

    async def _is_in_snapshot(self, commit_hash: str | None) -> bool:
        """Return whether the file is in the cache and can be believed; note the path of a damaged one."""
        self._damaged = None
        if commit_hash is None:
            return False
        path = await self._threads.run(self._find_in_snapshot, commit_hash)
        if path is None or not await self._is_sound(path):
            return False
        await self._threads.run(self._discard_partials)
        self._done((await self._threads.run(path.stat)).st_size)
        return True

    def _find_in_snapshot(self, commit_hash: str) -> Path | None:
        return cache.find_snapshot_file(self._cache_dir, self._request.repo_id, commit_hash, self.file.filename)

    async def _is_sound(self, path: Path) -> bool:
        """Return whether a file of the cache is what the Hub has. If not, and the Hub was asked, it is to be mended."""
        if await self._verification.is_sound(path):
            return True
        if self.source.is_resolved and await self._threads.run(may_be_mended, path, self.source.digest):
            self._damaged, self.is_mending = path, True
        return False

    async def _link_existing_blob(self) -> bool:
        """Link a blob that another revision has already brought into the cache, if there is one."""
        digest = self.source.digest
        if digest is None or self._damaged is not None:
            return False
        blob = cache.blob_path(self._cache_dir, self._request.repo_id, digest)
        if not await self._threads.run(blob.is_file) or not await self._is_sound(blob):
            return False
        self._done(await self._threads.run(self._link, blob, digest))
        return True

    def _link(self, blob: Path, digest: str) -> int:
        cache.link_blob(
            self._cache_dir,
            repo_id=self._request.repo_id,
            commit_hash=self.source.resolved.commit_hash,
            filename=self.file.filename,
            etag=digest,
        )
        self._discard_partials()
        return blob.stat().st_size

    def _discard_partials(self) -> None:
        """Delete what crashed attempts left of a file that is now in the cache."""
        if self.source.digest is not None:
            discard_partials(self._blobs_dir, self.source.digest)

    # --- the partial file ---------------------------------------------------------------------------------------------

    async def _complete(self) -> None:
        for _ in range(2):
            try:
                async with self._opened() as partial:
                    digest = await self._completed(partial)
                    with anyio.CancelScope(shield=True):
                        await self._threads.run(self._publish, partial, digest)
                assert self.size is not None
                return self._done(self.size)
            except OwnershipLostError:
                # Another process thought that this one was dead. Leave the file to it and begin another, unless it has
                # taken a damaged file with it, of which everything would have to be fetched.
                if self.is_mending:
                    break
        raise ServerError(_TAKEN_OVER)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Partial]:
        """Open the partial file, and close it afterwards so that somebody else can continue it."""
        with anyio.CancelScope(shield=True):  # what is opened must be closed
            partial = await self._threads.run(self._open)
        try:
            yield partial
        except StorageError:
            partial.distrust_memory()
            raise
        finally:
            if partial.is_open:
                await self._threads.run(partial.close)

    def _open(self) -> Partial:
        cache.prepare_repo(self._cache_dir, self._request.repo_id)
        header = PartialHeader(
            digest=self.partial_name,
            size=self.size,
            repo_id=self._request.repo_id,
            filename=self.file.filename,
            commit_hash=self.source.resolved.commit_hash,
            endpoint=self._request.endpoint,
        )
        damaged, self._damaged = self._damaged, None
        if damaged is None:
            return Partial.open(self._blobs_dir, header)
        store, digest, size = self._resources.block_digests, self.source.digest, self.size
        known = () if store is None or digest is None or size is None else store.load(digest, size)
        return Partial.take_over(self._blobs_dir, header, damaged, known)

    async def _completed(self, partial: Partial) -> str:
        """Fetch what the partial file lacks and return its digest, which is proven."""
        completion = Completion(
            partial,
            source=self.source,
            share=self._share,
            resources=self._resources,
            is_repair=self.is_mending,
            enter=self._enter,
        )
        self._completion = completion
        self.adjust()
        try:
            return await completion.run()
        finally:
            self.adjust()
            self._fetched_before += completion.fetched
            self.replaced_bytes += completion.replaced_bytes
            self._completion = None

    def _publish(self, partial: Partial, digest: str) -> None:
        """Give a file whose digest was proven its final name. This blocks."""
        if self.file.filename.endswith(".gguf") and not _has_gguf_magic(partial.data_path):
            partial.discard()
            raise GGUFError(
                f"{self.file.filename} is not a GGUF file: {host_of(self._request.endpoint)} has something else under "
                "that name, perhaps a web page. Choose another file, or check the endpoint."
            )
        partial.ensure_owned()
        path = cache.publish_blob(
            self._cache_dir,
            repo_id=self._request.repo_id,
            commit_hash=self.source.resolved.commit_hash,
            filename=self.file.filename,
            etag=digest,
            verified=partial.data_path,
        )
        partial.finish()
        store, expected, size = self._resources.block_digests, self.source.digest, self.size
        if store is not None and expected is not None and size is not None:
            store.save(expected, size, partial.blocks())
        if self._resources.verifications is not None:
            self._resources.verifications.save(path, by=self._request.purpose, is_valid=True)
        self._discard_partials()


def _has_gguf_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
