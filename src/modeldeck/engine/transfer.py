"""Fetches the missing bytes of one file over several connections, as long as that can succeed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import anyio.abc
import httpx

from modeldeck._errors import ModelDeckError, ServerError, StalledError, StorageError
from modeldeck.engine.bandwidth_limit import BandwidthLimit
from modeldeck.engine.budget import DownloadShare
from modeldeck.engine.disk import error_from_write
from modeldeck.engine.front_hashing import Front
from modeldeck.engine.network import CONNECT_TIMEOUT_SECONDS, recycle
from modeldeck.engine.ownership import OwnershipLostError
from modeldeck.engine.partial import Partial, SegmentWriter
from modeldeck.engine.plan import Lease, Planner
from modeldeck.engine.retry import Attempts, RetryPolicy
from modeldeck.engine.source import Body, DoubtfulAddressError, Source, WrongRangeError
from modeldeck.engine.threads import DiskThreads

UNKNOWN_SIZE = 1 << 62
MAX_DOUBTS = 2
"""After this many addresses in a row without a byte, a doubtful answer is believed."""
MAX_WRONG_RANGES = 2
RECOVERY_SECONDS = 15.0
"""After this long without a refusal, one more connection is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a connection may deliver nothing, or almost nothing, before it is closed.

    Attributes
    ----------
    connect_seconds
        Longest time to connect.
    silence_seconds
        Longest time without a byte.
    drip_seconds, drip_bytes
        A connection that delivers less than this many bytes in this time is closed.
    """

    connect_seconds: float = CONNECT_TIMEOUT_SECONDS
    silence_seconds: float = 20.0
    drip_seconds: float = 30.0
    drip_bytes: int = 8 << 10

    @property
    def timeouts(self) -> httpx.Timeout:
        return httpx.Timeout(self.silence_seconds, connect=self.connect_seconds, pool=None)


class Transfer:
    """One run of fetching. Its attributes say at any time how far it is.

    Parameters
    ----------
    source
        Where the bytes come from.
    partial
        Where they go.
    front
        Hashes the file's beginning while it grows, or ``None``.
    missing
        Half-open ranges to fetch.
    share
        Says how many connections this transfer may have now, and how much to request.
    is_comparing
        The partial file has these bytes, but some may be wrong: replace those that differ.

    Attributes
    ----------
    working, connections : int
        Connections that it has, and those of them that are receiving.
    ceiling : int
        The most connections that the server accepts.
    replaced_bytes : int
        Bytes that differed.
    retry_at : float or None
        When the next attempt begins, by the monotonic clock.
    failure : ModelDeckError, OwnershipLostError or None
        What ended it, or was found after its end.
    """

    def __init__(
        self,
        *,
        source: Source,
        partial: Partial,
        front: Front | None,
        missing: Sequence[tuple[int, int]],
        threads: DiskThreads,
        bandwidth: BandwidthLimit,
        share: DownloadShare,
        policy: RetryPolicy,
        patience: Patience,
        is_comparing: bool = False,
    ) -> None:
        self.partial = partial
        self.front = front
        self.bandwidth = bandwidth
        self.patience = patience
        self.is_comparing = is_comparing
        self._source = source
        self._planner = Planner(missing)
        self._threads = threads
        self._share = share
        self._policy = policy
        self._attempts = Attempts(policy)
        self._receptions: list[_Reception] = []
        self._fetched_before = 0
        self._task_group: anyio.abc.TaskGroup | None = None
        self.failure: ModelDeckError | OwnershipLostError | None = None
        self._has_ranges = False
        self._wrong_ranges = 0
        self._doubts = 0
        self._fetched_at_doubt = -1
        # A Hub's storage serves ranges. Other servers have to show it before more connections are opened.
        self.ceiling = UNKNOWN_SIZE if source.is_storage else 1
        self._refused_at = 0.0
        self.working = 0
        self.connections = 0
        self.replaced_bytes = 0
        self.retry_at: float | None = None

    @property
    def attempt(self) -> int:
        """Failures in a row so far."""
        return self._attempts.failures

    @property
    def fetched(self) -> int:
        """Bytes received, repeated ones included."""
        return self._fetched_before + sum(reception.received for reception in self._receptions)

    async def run(self) -> None:
        """Fetch until everything is there or there is a ``failure``. What was received is written and journalled."""
        try:
            async with anyio.create_task_group() as task_group:
                self._task_group = task_group
                self.adjust()
        finally:
            self._task_group = None

    def adjust(self) -> None:
        """Open more connections where that is allowed and useful. Call it now and then."""
        if self._task_group is None or self.failure is not None:
            return
        now = time.monotonic()
        if self._has_ranges and self._refused_at and now - self._refused_at > RECOVERY_SECONDS:
            self.ceiling += 1
            self._refused_at = now
        while self.working < self._target() and not self._planner.is_done:
            self.working += 1
            self._task_group.start_soon(self._work)
            if self._planner.waiting == 0:
                break

    def _target(self) -> int:
        return max(1, min(self._share.allowance(self), self.ceiling))

    def _wanted(self) -> int:
        if self._source.size is None:
            return UNKNOWN_SIZE
        return self._share.sizer.next_bytes(
            waiting=self._planner.waiting, workers=self._target(), is_machine_busy=self._share.is_machine_busy
        )

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self.failure is None and self.working <= self._target():
                may_split = self._has_ranges and not self._share.has_waiting
                split_bytes = self._share.sizer.split_bytes if may_split else None
                lease = self._planner.take(self._wanted(), split_bytes=split_bytes)
                if lease is None or not await self._attempt(lease):
                    return
        finally:
            self.working -= 1
            self._share.notify()

    async def _attempt(self, lease: Lease) -> bool:
        """Fetch as much of a lease as possible. Returns whether this connection should go on with another one."""
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
            received = lease.position - begun_at
            self._planner.give_back(lease)
        is_file_limit = error.details.get("is_file_limit", False)
        if isinstance(error, StorageError) and not (is_file_limit and self.working > 1):
            self.fail(error)
            return False
        if self.working > 1:
            return received >= self._policy.progress_bytes or self._leave()
        if is_doubtful and await self._resolve_again(generation):
            return True
        return await self._back_off(error)

    def _leave(self) -> bool:
        """Close this connection and leave the work to the others: the server may accept fewer."""
        self.ceiling = max(1, self.working - 1)
        self._refused_at = time.monotonic()
        return False

    async def _resolve_again(self, generation: int) -> bool:
        """Get a fresh address. Returns ``False`` if the last ones delivered nothing: then the answer counts."""
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
            self.ceiling = UNKNOWN_SIZE
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
            self.ceiling = UNKNOWN_SIZE
        return True

    def fail(self, failure: ModelDeckError | OwnershipLostError) -> None:
        """End the transfer with this failure, or note after its end that its bytes were lost."""
        if self.failure is None:
            self.failure = failure
        if self._task_group is not None:
            self._task_group.cancel_scope.cancel()

    # --- one answer ---------------------------------------------------------------------------------------------------

    async def _fetch(self, lease: Lease) -> None:
        asks_for_ranges = self._wrong_ranges < MAX_WRONG_RANGES and lease.stop < UNKNOWN_SIZE
        started_at = time.monotonic()
        async with self._source.open(
            lease.position, lease.stop if asks_for_ranges else None, timeouts=self.patience.timeouts
        ) as body:
            if body.is_whole:
                if self.working > 1:
                    raise WrongRangeError(ServerError("The server stopped serving parts of files.", status_code=502))
                await self._receive_whole(body, lease)
                return
            waited_seconds = time.monotonic() - started_at
            self._share.measure()
            if not self._has_ranges:
                self._has_ranges = True
                self.ceiling = UNKNOWN_SIZE
                self.adjust()
            before = lease.position
            await self._receive(body, lease)
            seconds = max(1e-6, time.monotonic() - started_at - waited_seconds)
            self._share.sizer.learn((lease.position - before) / seconds, body.wait_seconds or waited_seconds)
            self._share.measure()

    async def _receive(self, body: Body, lease: Lease) -> None:
        before = lease.position
        reception = self._begin(lease)
        try:
            await body.receive(reception, self._threads)
        finally:
            await self._end(reception)
        if lease.position == before:
            raise ServerError("The server sent no bytes. Try again later.", status_code=502)

    async def _receive_whole(self, body: Body, lease: Lease) -> None:
        """The server ignores ranges: take what is missing out of the whole file, and skip the rest."""
        self._has_ranges = False
        self.ceiling = 1
        watch = _DripWatch(self.patience)
        position = 0
        self._planner.restart(lease)
        current: Lease | None = lease
        reception: _Reception | None = self._begin(lease)
        try:
            async for chunk in body.chunks():
                rest = memoryview(chunk)
                while rest and current is not None and reception is not None:
                    skipped = rest[: current.position - position]
                    watch.saw(len(skipped))
                    data = rest[len(skipped) :][: current.remaining]
                    rest = rest[len(skipped) + len(data) :]
                    position += len(skipped) + len(data)
                    if data:
                        await self._threads.run(reception.consume, memoryview(bytes(data)))
                    if current.remaining == 0:
                        await self._end(reception)
                        current = self._next_lease(current, lease, position)
                        reception = self._begin(current) if current else None
                if current is None:
                    break
        finally:
            if reception is not None:
                await self._end(reception)
            if current is not None and current is not lease:
                self._planner.give_back(current)
        if current is None or body.stop not in (None, position):
            return
        if lease.stop < UNKNOWN_SIZE:
            raise ServerError("The file ended early. Try again later.", status_code=502)
        current.stop = current.position

    def _next_lease(self, done: Lease, first: Lease, position: int) -> Lease | None:
        """Return the next missing range, or ``None`` if none begins at or after ``position``."""
        if done is not first:
            self._planner.give_back(done)
        lease = self._planner.take(UNKNOWN_SIZE, split_bytes=None)
        if lease is not None and lease.position < position:
            self._planner.give_back(lease)
            return None
        return lease

    def _begin(self, lease: Lease) -> _Reception:
        reception = _Reception(self, lease)
        self._receptions.append(reception)
        return reception

    async def _end(self, reception: _Reception) -> None:
        """Write and journal everything received, also when the connection was cancelled."""
        try:
            if reception.writer.has_unflushed:
                with anyio.CancelScope(shield=True):
                    await self._threads.run(reception.finish)
        finally:
            self._receptions.remove(reception)
            self._fetched_before += reception.received
            self.replaced_bytes += reception.writer.replaced_bytes

    # --- for the connections' threads ---------------------------------------------------------------------------------

    @contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Convert the disk's errors here: further out they would be mistaken for the network's."""
        try:
            yield
        except OSError as exc:
            size = self._source.size
            missing = None if size is None else size - self.partial.received
            raise error_from_write(exc, self.partial.data_path, missing=missing) from exc


class _Reception:
    """Takes one answer's bytes, on its connection's thread, to the disk and to the digest."""

    def __init__(self, transfer: Transfer, lease: Lease) -> None:
        self._transfer = transfer
        self._lease = lease
        self._watch = _DripWatch(transfer.patience)
        self._stopped = threading.Event()
        self.writer = SegmentWriter(transfer.partial, lease.position, is_comparing=transfer.is_comparing)
        self.received = 0

    @property
    def wanted(self) -> int:
        """Bytes still wanted: less than was requested if another connection has taken over the rest."""
        return self._lease.remaining

    def consume(self, block: memoryview) -> None:
        self._watch.saw(len(block))
        position = self._lease.position
        data = block[: max(0, self._lease.remaining)]
        self._lease.position = position + len(data)
        with self._transfer.storage_errors():
            self.writer.write([data])
            front = self._transfer.front
            if front is None or not front.take(position, data):
                recycle(data)
        self._transfer.bandwidth.take(len(block), self._stopped)
        self.received += len(data)

    def finish(self) -> None:
        with self._transfer.storage_errors():
            self.writer.flush()

    def stop(self) -> None:
        self._stopped.set()


class _DripWatch:
    """Ends a connection that is alive but delivers almost nothing."""

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
            raise StalledError("The server sends almost nothing. Check the network connection, or try again later.")
        self._begun_at, self._seen = now, 0
