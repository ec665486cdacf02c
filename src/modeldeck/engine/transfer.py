"""Fetches the missing bytes of one file over several connections, for as long as that has a chance."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.abc
import httpx

from modeldeck._errors import ModelDeckError, ServerError, StalledError, StorageError
from modeldeck.engine.disk import error_from_write
from modeldeck.engine.limits import Bandwidth
from modeldeck.engine.network import CONNECT_TIMEOUT_SECONDS, recycle
from modeldeck.engine.partial import Buffer, OwnershipLostError, Partial, SegmentWriter
from modeldeck.engine.plan import (
    FIRST_REQUEST_BYTES,
    SMALLEST_REQUEST_BYTES,
    Lease,
    Planner,
    fair_request_bytes,
    request_bytes,
    smallest_split_bytes,
)
from modeldeck.engine.retry import Attempts, RetryPolicy
from modeldeck.engine.source import Body, DoubtfulAddressError, Source, WrongRangeError
from modeldeck.engine.threads import DiskThreads

WRITE_BYTES = 512 << 10
WRITE_SECONDS = 0.25
"""What a slow connection brings is written this often, so that its progress is seen."""
UNKNOWN_SIZE = 1 << 62
MAX_DOUBTS = 2
"""Addresses in a row that brought nothing, before a doubtful answer is believed."""
MAX_WRONG_RANGES = 2
RECOVERY_SECONDS = 15.0
"""After this long without a refusal, one more connection is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a connection may bring nothing, or next to nothing, before it is given up."""

    connect_seconds: float = CONNECT_TIMEOUT_SECONDS
    silence_seconds: float = 20.0
    drip_seconds: float = 30.0
    drip_bytes: int = 8 << 10

    @property
    def timeouts(self) -> httpx.Timeout:
        return httpx.Timeout(self.silence_seconds, connect=self.connect_seconds, pool=None)


class TransferCrew(Protocol):
    """What a transfer asks of those it shares connections with."""

    def allowance(self, transfer: Transfer) -> int: ...

    def notify(self) -> None: ...


class Transfer:
    """One run of fetching. Its attributes tell at any time how it stands.

    Parameters
    ----------
    missing
        Ranges to fetch.
    crew
        Says how many connections this transfer may have now.
    is_mending
        The bytes are there but wrong somewhere: fetch them again and replace those that differ.
    """

    def __init__(
        self,
        *,
        source: Source,
        partial: Partial,
        missing: Sequence[tuple[int, int]],
        threads: DiskThreads,
        bandwidth: Bandwidth,
        crew: TransferCrew,
        policy: RetryPolicy,
        patience: Patience,
        is_mending: bool = False,
    ) -> None:
        self._source = source
        self._partial = partial
        self._planner = Planner(missing)
        self._threads = threads
        self._bandwidth = bandwidth
        self._crew = crew
        self._policy = policy
        self._attempts = Attempts(policy)
        self._patience = patience
        self._is_mending = is_mending
        self._task_group: anyio.abc.TaskGroup | None = None
        self._failure: ModelDeckError | OwnershipLostError | None = None
        self._request_bytes = SMALLEST_REQUEST_BYTES
        self._is_measured = False
        self._first_byte_seconds = math.inf
        self._has_ranges = False
        self._wrong_ranges = 0
        self._doubts = 0
        self._fetched_at_doubt = -1
        # A Hub's storage has ranges. Of others the first answer has to show it before more connections are opened.
        self._ceiling = UNKNOWN_SIZE if source.is_storage else 1
        self._refused_at = 0.0
        self.working = 0
        self.connections = 0
        self.fetched = 0
        self.mended_bytes = 0
        self.retry_at: float | None = None
        self.advanced = anyio.Event()

    @property
    def attempt(self) -> int:
        """Failures in a row so far."""
        return self._attempts.failures

    async def run(self) -> None:
        """Fetch everything.

        Raises
        ------
        ModelDeckError
            What ended it. All bytes that came are in the partial file and in its journal.
        OwnershipLostError
        """
        try:
            async with anyio.create_task_group() as task_group:
                self._task_group = task_group
                self.adjust()
        finally:
            self._task_group = None
            self._announce()
        if self._failure is not None:
            raise self._failure

    def adjust(self) -> None:
        """Open more connections where that is allowed and useful. Call it now and then."""
        if self._task_group is None or self._failure is not None:
            return
        now = time.monotonic()
        if self._has_ranges and self._refused_at and now - self._refused_at > RECOVERY_SECONDS:
            self._ceiling += 1
            self._refused_at = now
        while self.working < self._target() and not self._planner.is_done:
            self.working += 1
            self._task_group.start_soon(self._work)
            if self._planner.waiting == 0:
                break

    def _target(self) -> int:
        return max(1, min(self._crew.allowance(self), self._ceiling))

    def _wanted(self) -> int:
        if self._source.size is None:
            return UNKNOWN_SIZE
        waiting, workers = self._planner.waiting, self._target()
        if not self._is_measured:
            return max(SMALLEST_REQUEST_BYTES, min(FIRST_REQUEST_BYTES, waiting // workers))
        return fair_request_bytes(self._request_bytes, waiting=waiting, workers=workers)

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._failure is None and self.working <= self._target():
                split_bytes = smallest_split_bytes(self._request_bytes) if self._has_ranges else None
                lease = self._planner.take(self._wanted(), split_bytes=split_bytes)
                if lease is None or not await self._attempt(lease):
                    return
        finally:
            self.working -= 1
            self._crew.notify()

    async def _attempt(self, lease: Lease) -> bool:
        """Fetch a lease as far as it goes. Whether this connection should go on with another one."""
        generation = self._source.generation
        begun_at = lease.position
        self.connections += 1
        try:
            await self._fetch(lease)
            return True
        except DoubtfulAddressError as doubt:
            error, is_doubtful = doubt.cause, True
        except WrongRangeError as wrong:
            self._wrong_ranges += 1
            error, is_doubtful = wrong.cause, False
        except OwnershipLostError as lost:
            self.fail(lost)
            return False
        except ModelDeckError as exc:
            error, is_doubtful = exc, False
        finally:
            self.connections -= 1
            brought = lease.position - begun_at
            self._planner.give_back(lease)
        if isinstance(error, StorageError):
            self.fail(error)
            return False
        if self.working > 1:
            return brought >= self._policy.progress_bytes or self._leave()
        if is_doubtful and await self._resolve_again(generation):
            return True
        return await self._back_off(error)

    def _leave(self) -> bool:
        """The others get on without this connection: the server may want fewer."""
        self._ceiling = max(1, self.working - 1)
        self._refused_at = time.monotonic()
        return False

    async def _resolve_again(self, generation: int) -> bool:
        """Get a fresh address; ``False`` when the last ones brought nothing either, so that the answer counts."""
        if self.fetched > self._fetched_at_doubt:
            self._doubts = 0
        self._doubts += 1
        self._fetched_at_doubt = self.fetched
        if self._doubts > MAX_DOUBTS:
            self._doubts = 0
            return False
        try:
            await self._source.resolve_again(generation)
        except ModelDeckError as error:
            return await self._back_off(error)
        if self._has_ranges:
            self._ceiling = UNKNOWN_SIZE
        return True

    async def _back_off(self, error: ModelDeckError) -> bool:
        wait = self._attempts.wait_after(error, self.fetched)
        if wait is None:
            self.fail(error)
            return False
        self.retry_at = time.monotonic() + wait
        try:
            await anyio.sleep(wait)
        finally:
            self.retry_at = None
        if self._has_ranges:
            self._ceiling = UNKNOWN_SIZE
        return True

    def fail(self, failure: ModelDeckError | OwnershipLostError) -> None:
        if self._failure is None:
            self._failure = failure
        if self._task_group is not None:
            self._task_group.cancel_scope.cancel()

    # --- one answer ---------------------------------------------------------------------------------------------------

    async def _fetch(self, lease: Lease) -> None:
        asks_for_ranges = self._wrong_ranges < MAX_WRONG_RANGES and lease.stop < UNKNOWN_SIZE
        started_at = time.monotonic()
        async with self._source.open(
            lease.position, lease.stop if asks_for_ranges else None, timeouts=self._patience.timeouts
        ) as body:
            if body.is_whole:
                if self.working > 1:
                    raise WrongRangeError(ServerError("The server stopped serving parts of files.", status_code=502))
                await self._receive_whole(body, lease)
                return
            waited_seconds = time.monotonic() - started_at
            if not self._has_ranges:
                self._has_ranges = True
                self._ceiling = UNKNOWN_SIZE
                self.adjust()
            before = lease.position
            await self._receive(body, lease)
            seconds = max(1e-6, time.monotonic() - started_at - waited_seconds)
            self._is_measured = True
            self._first_byte_seconds = min(self._first_byte_seconds, body.wait_seconds or waited_seconds)
            self._request_bytes = request_bytes((lease.position - before) / seconds, self._first_byte_seconds)

    async def _receive(self, body: Body, lease: Lease) -> None:
        sink = _Sink(self, lease.position, owns_buffers=True)
        watch = _DripWatch(self._patience)
        before = lease.position
        try:
            async for chunk in body.chunks():
                data: Buffer = chunk
                if len(data) > lease.remaining:
                    data = memoryview(data)[: max(0, lease.remaining)]
                lease.position += len(data)
                await self._accept(data, sink, watch)
                if lease.remaining <= 0 and body.stop != lease.position:
                    break  # another connection has taken the rest, or the server sends more than was asked for
        finally:
            await sink.finish()
        if lease.position == before:
            raise ServerError("The server sent no bytes. Try again later.", status_code=502)

    async def _receive_whole(self, body: Body, lease: Lease) -> None:
        """The server has no ranges: take what is missing out of the whole, and pass over what is there."""
        self._has_ranges = False
        self._ceiling = 1
        watch = _DripWatch(self._patience)
        position = 0
        self._planner.restart(lease)
        current: Lease | None = lease
        sink = _Sink(self, lease.position)
        try:
            async for chunk in body.chunks():
                rest = memoryview(chunk)
                while rest and current is not None:
                    skipped = rest[: current.position - position]
                    position += len(skipped)
                    rest = rest[len(skipped) :]
                    watch.saw(len(skipped))
                    data = rest[: current.remaining]
                    rest = rest[len(data) :]
                    position += len(data)
                    current.position += len(data)
                    await self._accept(data, sink, watch)
                    if current.remaining == 0:
                        await sink.finish()
                        current = self._next_lease(current, lease, position)
                        sink = _Sink(self, current.position if current else position)
                if current is None:
                    break
        finally:
            await sink.finish()
            if current is not None and current is not lease:
                self._planner.give_back(current)
        if current is None or body.stop not in (None, position):
            return
        if lease.stop < UNKNOWN_SIZE:
            raise ServerError("The file ended early. Try again later.", status_code=502)
        current.stop = current.position

    def _next_lease(self, done: Lease, first: Lease, position: int) -> Lease | None:
        """The next missing range; ``None`` when there is none behind ``position``."""
        if done is not first:
            self._planner.give_back(done)
        lease = self._planner.take(UNKNOWN_SIZE, split_bytes=None)
        if lease is not None and lease.position < position:
            self._planner.give_back(lease)
            return None
        return lease

    async def _accept(self, data: Buffer, sink: _Sink, watch: _DripWatch) -> None:
        watch.saw(len(data))
        try:
            await sink.add(data)
            if self._bandwidth.is_limited:
                await self._bandwidth.take(len(data))
        finally:
            self.fetched += len(data)

    # --- for the sink -------------------------------------------------------------------------------------------------

    def writer_at(self, position: int) -> SegmentWriter:
        return SegmentWriter(self._partial, position, is_mending=self._is_mending)

    @property
    def threads(self) -> DiskThreads:
        return self._threads

    def _announce(self) -> None:
        self.advanced.set()
        self.advanced = anyio.Event()

    def storage_error(self, exc: OSError) -> StorageError:
        size = self._source.size
        missing = None if size is None else size - self._partial.received
        return error_from_write(exc, self._partial.data_path, missing=missing)

    def wrote(self) -> None:
        self._announce()


class _Sink:
    """Collects what one connection brings and writes it on a thread, while the next bytes come.

    Parameters
    ----------
    owns_buffers
        Nobody else looks at what is added, so that its buffers can be used again.
    """

    def __init__(self, transfer: Transfer, position: int, *, owns_buffers: bool = False) -> None:
        self._transfer = transfer
        self._owns_buffers = owns_buffers
        self._in_writing: list[Buffer] = []
        self._writer = transfer.writer_at(position)
        self._buffers: list[Buffer] = []
        self._size = 0
        self._written_at = time.monotonic()
        self._writing: asyncio.Future[None] | None = None

    async def add(self, data: Buffer) -> None:
        self._buffers.append(data)
        self._size += len(data)
        if self._size >= WRITE_BYTES or time.monotonic() - self._written_at >= WRITE_SECONDS:
            await self._write()

    async def _write(self) -> None:
        await self._finish_writing()
        self._in_writing, self._buffers, self._size = self._buffers, [], 0
        self._written_at = time.monotonic()
        self._writing = self._transfer.threads.submit(self._writer.write, self._in_writing)

    async def _finish_writing(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            with self._storage_errors():
                await self._transfer.threads.finish(writing)
            if self._owns_buffers:
                for block in self._in_writing:
                    recycle(block)
            self._transfer.wrote()

    async def finish(self) -> None:
        """Write and journal all that came, also when the connection was cancelled."""
        with anyio.CancelScope(shield=True):
            if self._buffers:
                await self._write()
            await self._finish_writing()
            with self._storage_errors():
                await self._transfer.threads.run(self._writer.flush)
            self._transfer.mended_bytes += self._writer.mended_bytes
            self._writer.mended_bytes = 0

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Name the disk's errors here: further out they would be taken for the network's."""
        try:
            yield
        except OSError as exc:
            raise self._transfer.storage_error(exc) from exc


class _DripWatch:
    """Gives up a connection that is alive but brings next to nothing."""

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
            raise StalledError("The server sends next to nothing. Check the connection, or try again later.")
        self._begun_at, self._seen = now, 0
