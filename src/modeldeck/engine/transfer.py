"""Fetches the missing bytes of one file over several connections, as long as that can succeed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio
import anyio.abc

from modeldeck._errors import ModelDeckError, ServerError, StorageError
from modeldeck.engine.bandwidth_limit import BandwidthLimit
from modeldeck.engine.budget import DownloadShare
from modeldeck.engine.front_hashing import Front
from modeldeck.engine.ownership import OwnershipLostError
from modeldeck.engine.partial import Partial
from modeldeck.engine.patience import DripWatch, Patience
from modeldeck.engine.plan import Lease, Planner
from modeldeck.engine.reception import Receiver
from modeldeck.engine.retry import Attempts, RetryPolicy
from modeldeck.engine.server_memory import ServerMemory
from modeldeck.engine.source import Body, DoubtfulAddressError, Source, WrongRangeError, give
from modeldeck.engine.threads import DiskThreads

UNKNOWN_SIZE = 1 << 62


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
        self._source = source
        self._planner = Planner(missing)
        self._receiver = Receiver(
            partial=partial,
            front=front,
            size=lambda: source.size,
            threads=threads,
            bandwidth=bandwidth,
            patience=patience,
            is_comparing=is_comparing,
        )
        self._threads = threads
        self._share = share
        self._policy = policy
        self._patience = patience
        self._attempts = Attempts(policy)
        self._server = ServerMemory(is_storage=source.is_storage)
        self._task_group: anyio.abc.TaskGroup | None = None
        self.failure: ModelDeckError | OwnershipLostError | None = None
        self.working = 0
        self.connections = 0
        self.retry_at: float | None = None

    @property
    def attempt(self) -> int:
        """Failures in a row so far."""
        return self._attempts.failures

    @property
    def fetched(self) -> int:
        """Bytes received, repeated ones included."""
        return self._receiver.fetched

    @property
    def replaced_bytes(self) -> int:
        """Bytes of the partial file that were wrong."""
        return self._receiver.replaced_bytes

    @property
    def ceiling(self) -> int:
        """The most connections that the server accepts."""
        return self._server.ceiling

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
        self._server.recover(time.monotonic())
        while self.working < self._target() and not self._planner.is_done:
            self.working += 1
            self._task_group.start_soon(self._work)
            if self._planner.waiting == 0:
                break

    def _target(self) -> int:
        return 1 if self._source.is_sequential else max(1, min(self._share.allowance(self), self.ceiling))

    def _wanted(self) -> int:
        if self._source.size is None or self._source.is_sequential:
            return UNKNOWN_SIZE
        return self._share.sizer.next_bytes(
            waiting=self._planner.waiting, workers=self._target(), is_machine_busy=self._share.is_machine_busy
        )

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self.failure is None and self.working <= self._target():
                may_split = self._server.serves_ranges and self._share.may_split
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
            self._server.note_wrong_range()
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
        self._server.note_refusal(self.working, time.monotonic())
        return False

    async def _resolve_again(self, generation: int) -> bool:
        """Get a fresh address. Returns ``False`` if the last ones delivered nothing: then the answer counts."""
        if not self._server.doubts_address(self.fetched):
            return False
        try:
            await self._source.resolve_again(generation)
        except ModelDeckError as error:
            return await self._back_off(error)
        self._server.note_fresh_start()
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
        self._server.note_fresh_start()
        return True

    def fail(self, failure: ModelDeckError | OwnershipLostError) -> None:
        """End the transfer with this failure, or note after its end that its bytes were lost."""
        if self.failure is None:
            self.failure = failure
        if self._task_group is not None:
            self._task_group.cancel_scope.cancel()

    # --- one answer ---------------------------------------------------------------------------------------------------

    async def _fetch(self, lease: Lease) -> None:
        asks_for_ranges = self._server.is_asked_for_ranges and lease.stop < UNKNOWN_SIZE
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
            self._share.measure()
            if self._server.note_range():
                self.adjust()
            before = lease.position
            await self._receive(body, lease)
            seconds = max(1e-6, time.monotonic() - started_at - waited_seconds)
            self._share.sizer.learn((lease.position - before) / seconds, body.wait_seconds or waited_seconds)
            self._share.measure()

    async def _receive(self, body: Body, lease: Lease) -> None:
        before = lease.position
        async with self._receiver.reception(lease) as reception:
            await body.receive(reception, self._threads)
        if lease.position == before:
            raise ServerError("The server sent no bytes. Try again later.", status_code=502)

    async def _receive_whole(self, body: Body, lease: Lease) -> None:
        """The server ignores ranges: take what is missing out of the whole file, and skip the rest."""
        self._server.note_whole()
        self._planner.restart(lease)
        whole = _WholeBody(body, DripWatch(self._patience))
        current: Lease | None = lease
        try:
            while current is not None:
                async with self._receiver.reception(current) as reception:
                    while current.remaining and (data := await whole.take(current.position, current.remaining)):
                        await give(memoryview(bytes(data)), reception, self._threads)
                if current.remaining:
                    break  # the body has ended
                current = self._next_lease(current, lease, whole.position)
        finally:
            if current is not None and current is not lease:
                self._planner.give_back(current)
        if current is None:
            return
        if lease.stop < UNKNOWN_SIZE or body.stop not in (None, whole.position):
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


class _WholeBody:
    """Reads the body of a whole file from its beginning, and skips what is not wanted."""

    def __init__(self, body: Body, watch: DripWatch) -> None:
        self.position = 0
        self._chunks = body.chunks()
        self._rest = memoryview(b"")
        self._watch = watch

    async def take(self, start: int, count: int) -> memoryview:
        """Return at least one byte and at most ``count`` from ``start`` on, or none at the end of the body."""
        while True:
            self._watch.saw(len(self._advance(start - self.position)))
            if data := self._advance(count if self.position == start else 0):
                return data
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return memoryview(b"")
            self._rest = memoryview(chunk)

    def _advance(self, count: int) -> memoryview:
        data, self._rest = self._rest[:count], self._rest[count:]
        self.position += len(data)
        return data
