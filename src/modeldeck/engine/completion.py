"""The work on one open partial file, until its digest is proven: read again, fetch, hash, mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import anyio

from modeldeck._errors import IntegrityError
from modeldeck.engine.budget import DownloadShare
from modeldeck.engine.digest import STEP_BYTES, FrontHasher
from modeldeck.engine.disk import error_from_write, write_back
from modeldeck.engine.front_hashing import Front
from modeldeck.engine.journal import Block
from modeldeck.engine.ownership import OwnershipLostError
from modeldeck.engine.partial import JOURNAL_BLOCK_BYTES, Partial
from modeldeck.engine.plan import SMALLEST_REQUEST_BYTES, join_near
from modeldeck.engine.resources import EngineResources
from modeldeck.engine.source import Source
from modeldeck.engine.transfer import UNKNOWN_SIZE, Transfer

MAX_MENDINGS = 2
WRITEBACK_BYTES = 16 << 20
"""Written back to the disk in the background this often, so that little is left to wait for at the end."""
WRITEBACK_SECONDS = 0.05
"""How often the file's progress is compared with that."""


class Phase(Enum):
    """What is being done for a file."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    DONE = "done"


class Completion:
    """Completes one partial file. Its attributes say at any time how far it is.

    Parameters
    ----------
    partial
        The open file. It stays open.
    source
        Where its bytes come from; already resolved.
    share
        The download's connections.
    is_repair
        The file has bytes that no block claims: fetch those blocks and replace what differs.
    enter
        Called with each phase.

    Attributes
    ----------
    replaced_bytes : int
        Bytes that were in the file but wrong.
    """

    def __init__(
        self,
        partial: Partial,
        *,
        source: Source,
        share: DownloadShare,
        resources: EngineResources,
        is_repair: bool,
        enter: Callable[[Phase], None],
    ) -> None:
        self.replaced_bytes = 0
        self.transfer: Transfer | None = None
        self._partial = partial
        self._source = source
        self._share = share
        self._resources = resources
        self._threads = resources.threads
        self._is_repair = is_repair
        self._enter = enter
        self._has_read_again = False
        self._fetched_before = 0

    @property
    def fetched(self) -> int:
        """Bytes received over the network, repeated ones included."""
        return self._fetched_before + (self.transfer.fetched if self.transfer else 0)

    @property
    def received(self) -> int:
        """Bytes that are in the partial file. Of a damaged file nothing counts before it was read."""
        return self._partial.received if self._has_read_again or not self._is_repair else 0

    async def run(self) -> str:
        """Fetch what is missing, and again what is wrong.

        Returns
        -------
        str
            The file's digest, which is the one that the Hub promises if it promises any.

        Raises
        ------
        IntegrityError
            If the file has another digest whatever is fetched.
        OwnershipLostError
            If another process has taken the partial file over.
        ModelDeckError
            For everything else. What was received is kept.
        """
        hasher = self._new_hasher()
        self._enter(Phase.FETCHING)
        await self._read_again(hasher)
        self._has_read_again = True
        with self._open_to_others():
            return await self._complete(hasher)

    @contextmanager
    def _open_to_others(self) -> Iterator[None]:
        """Let other hosts read the partial file, now that everything in it was read again."""
        partials, digest = self._resources.open_partials, self._partial.header.digest
        partials[digest] = self._partial
        try:
            yield
        finally:
            if partials.get(digest) is self._partial:  # the same file can come from two repositories at once
                del partials[digest]

    async def _complete(self, hasher: FrontHasher) -> str:
        missing = self._partial.missing(self._size)
        if self._is_repair:
            # Each range is a request of its own: many small ones would take longer than the bytes between them.
            await self._fetch(join_near(missing, SMALLEST_REQUEST_BYTES), is_comparing=True)
        else:
            await self._fetch(missing, hasher)
        self._enter(Phase.VERIFYING)
        if hasher.position == self._source.size:
            return await self._prove(hasher)
        flushing = self._threads.submit(self._flush)  # while the rest is hashed
        try:
            return await self._prove(hasher)
        finally:
            await self._threads.finish(flushing)

    def _flush(self) -> None:
        try:
            write_back(self._partial.descriptor)
        except OSError as exc:
            raise error_from_write(exc, self._partial.data_path, missing=0) from exc

    @property
    def _size(self) -> int:
        return UNKNOWN_SIZE if self._source.size is None else self._source.size

    def _new_hasher(self) -> FrontHasher:
        return FrontHasher(self._source.digest, self._source.size)

    async def _prove(self, hasher: FrontHasher) -> str:
        """Hash what is not hashed yet, and mend the file until the digest is right."""
        digest = self._source.digest
        mendings = 0
        while True:
            hasher = await self._hash_to_end(hasher)
            actual = hasher.hexdigest()
            if digest is None or actual == digest:
                return actual
            if mendings == MAX_MENDINGS or not await self._mend():
                raise IntegrityError(
                    f"{self._source.filename} does not have the sha256 that the Hub promises, and fetching it again "
                    f"does not change that: expected {digest}, got {actual}. Try again later, or report it to the "
                    "repository's owner.",
                    expected=digest,
                    actual=actual,
                )
            mendings += 1
            hasher = self._new_hasher()

    async def _hash_to_end(self, hasher: FrontHasher) -> FrontHasher:
        size = self._source.size
        assert size is not None
        if hasher.position == 0:
            hasher = self._new_hasher()  # the size, with which git's digest begins, may have been unknown
        while hasher.position < size:
            await self._threads.run(self._advance, hasher, min(size, hasher.position + STEP_BYTES))
        return hasher

    def _advance(self, hasher: FrontHasher, stop: int) -> None:
        self._partial.beat()
        hasher.advance(self._partial.descriptor, stop)

    async def _mend(self) -> bool:
        """The digest is wrong: replace the bad bytes. Returns ``False`` if the server's own bytes are bad."""
        self._enter(Phase.RESOLVING)
        try:
            if await self._read_again(None):
                await self._fetch(self._partial.missing(self._size))  # the disk had changed them
                return True
            return await self._fetch([(0, self._size)], is_comparing=True) > 0
        finally:
            self._enter(Phase.VERIFYING)

    async def _read_again(self, hasher: FrontHasher | None) -> int:
        """Read what the journal claims, withdraw what is not so, and return the number of bad blocks."""
        blocks = self._partial.blocks()
        scratch = memoryview(bytearray(max((block.length for block in blocks), default=0)))
        bad: list[Block] = []
        for index in range(0, len(blocks), STEP_BYTES // JOURNAL_BLOCK_BYTES):
            step = blocks[index : index + STEP_BYTES // JOURNAL_BLOCK_BYTES]
            bad += await self._threads.run(self._bad_blocks, step, scratch, hasher)
        if bad:
            await self._threads.run(self._partial.drop, bad)
        return len(bad)

    def _bad_blocks(self, blocks: list[Block], scratch: memoryview, hasher: FrontHasher | None) -> list[Block]:
        """Return the blocks whose bytes are not what was written, and hash the others that continue the front."""
        self._partial.beat()
        bad = []
        for block in blocks:
            data = self._partial.read_block(block, scratch)
            if data is None:
                bad.append(block)
            elif hasher is not None and block.start <= hasher.position < block.stop:
                hasher.feed(data[hasher.position - block.start :])
        return bad

    async def _fetch(
        self, ranges: Sequence[tuple[int, int]], hasher: FrontHasher | None = None, *, is_comparing: bool = False
    ) -> int:
        """Fetch ranges, hash the front behind them, and return the number of bytes that were replaced."""
        if not ranges:
            return 0
        front = None
        if hasher is not None:
            front = Front(self._partial, hasher, self._threads, sharers=lambda: self._resources.budget.transfers)
        transfer = Transfer(
            source=self._source,
            partial=self._partial,
            front=front,
            missing=ranges,
            threads=self._threads,
            bandwidth=self._resources.bandwidth,
            share=self._share,
            policy=self._resources.policy,
            patience=self._resources.patience,
            is_comparing=is_comparing,
        )
        await self._share.admit(transfer)
        self.transfer = transfer
        try:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self._write_back, transfer)
                await transfer.run()
                task_group.cancel_scope.cancel()
        finally:
            self._share.release(transfer)
            self._fetched_before += transfer.fetched
            self.replaced_bytes += transfer.replaced_bytes
            self.transfer = None
            if front is not None:
                with anyio.CancelScope(shield=True):
                    await front.settle()
        if transfer.failure is not None:
            raise transfer.failure
        if self._source.size is None:
            self._source.learn_size(self._partial.received)
        return transfer.replaced_bytes

    async def _write_back(self, transfer: Transfer) -> None:
        """Bring the bytes to the disk in steps while the transfer runs, and show that the owner is alive."""
        partial = self._partial
        begun = partial.received
        while True:
            await anyio.sleep(WRITEBACK_SECONDS)
            received = partial.received
            try:
                if partial.is_beat_due:
                    await self._threads.run(partial.beat)
                if received - begun >= WRITEBACK_BYTES:
                    begun = received
                    async with self._resources.writebacks:
                        await self._threads.run(partial.write_back)
            except OwnershipLostError as lost:
                transfer.fail(lost)
            except OSError as exc:
                size = self._source.size
                missing = None if size is None else max(0, size - received)
                transfer.fail(error_from_write(exc, partial.data_path, missing=missing))
