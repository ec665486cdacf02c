"""Take the bytes of answers to the disk and to the digest, on their connections' threads, and count them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

from modeldeck.engine.bandwidth_limit import BandwidthLimit
from modeldeck.engine.disk import error_from_write
from modeldeck.engine.front_hashing import Front
from modeldeck.engine.network import recycle
from modeldeck.engine.partial import Partial, SegmentWriter
from modeldeck.engine.patience import DripWatch, Patience
from modeldeck.engine.plan import Lease
from modeldeck.engine.threads import DiskThreads


class Receiver:
    """Where all answers of a transfer go, and how much they have brought.

    Parameters
    ----------
    partial
        The file that is written.
    front
        Hashes the file's beginning while it grows, or ``None``.
    size
        Returns the size of the whole file, or ``None`` while it is unknown.
    is_comparing
        The partial file has these bytes, but some may be wrong: replace those that differ.

    Attributes
    ----------
    replaced_bytes : int
        Bytes that differed.
    """

    def __init__(
        self,
        *,
        partial: Partial,
        front: Front | None,
        size: Callable[[], int | None],
        threads: DiskThreads,
        bandwidth: BandwidthLimit,
        patience: Patience,
        is_comparing: bool,
    ) -> None:
        self.partial = partial
        self.front = front
        self.bandwidth = bandwidth
        self.patience = patience
        self.is_comparing = is_comparing
        self.replaced_bytes = 0
        self._size = size
        self._threads = threads
        self._open: list[Reception] = []
        self._fetched_before = 0

    @property
    def fetched(self) -> int:
        """Bytes received, repeated ones included."""
        return self._fetched_before + sum(reception.received for reception in self._open)

    @asynccontextmanager
    async def reception(self, lease: Lease) -> AsyncIterator[Reception]:
        """Receive a leased range. At the end all of it is written and journalled, also after a cancellation."""
        reception = Reception(self, lease)
        self._open.append(reception)
        try:
            yield reception
        finally:
            try:
                if reception.writer.has_unflushed:
                    with anyio.CancelScope(shield=True):
                        await self._threads.run(reception.finish)
            finally:
                self._open.remove(reception)
                self._fetched_before += reception.received
                self.replaced_bytes += reception.writer.replaced_bytes

    @contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Convert the disk's errors here: further out they would be mistaken for the network's."""
        try:
            yield
        except OSError as exc:
            size = self._size()
            missing = None if size is None else size - self.partial.received
            raise error_from_write(exc, self.partial.data_path, missing=missing) from exc


class Reception:
    """Takes one answer's bytes, on its connection's thread, to the disk and to the digest."""

    def __init__(self, receiver: Receiver, lease: Lease) -> None:
        self._receiver = receiver
        self._lease = lease
        self._watch = DripWatch(receiver.patience)
        self._stopped = threading.Event()
        self.writer = SegmentWriter(receiver.partial, lease.position, is_comparing=receiver.is_comparing)
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
        with self._receiver.storage_errors():
            self.writer.write([data])
            front = self._receiver.front
            if front is None or not front.take(position, data):
                recycle(data)
        self._receiver.bandwidth.take(len(block), self._stopped)
        self.received += len(data)

    def finish(self) -> None:
        with self._receiver.storage_errors():
            self.writer.flush()

    def stop(self) -> None:
        self._stopped.set()
