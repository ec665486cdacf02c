"""The contiguous front of a partial file: written and hashed on a thread of its own while connections go on."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import NamedTuple

from modeldeck.engine.digest import FrontHasher
from modeldeck.engine.network import recycle
from modeldeck.engine.partial import Partial, SegmentWriter
from modeldeck.engine.threads import DiskThreads

MAX_WAITING_BLOCKS = 8
"""Blocks that wait to be written and hashed; the connection that brings the next one waits, too."""


class _Block(NamedTuple):
    writer: SegmentWriter
    data: memoryview


class Front:
    """Writes and hashes the blocks that continue the front, so that their connection only has to receive.

    What came ahead of its turn was written by its own connection, and is read back from the disk when the front reaches
    it: reading back costs nearly as much as the digest itself. It works on a disk thread while there is something to
    do. `take` may be called on any thread.
    """

    def __init__(self, partial: Partial, hasher: FrontHasher, threads: DiskThreads) -> None:
        self._partial = partial
        self._hasher = hasher
        self._threads = threads
        self._changed = threading.Condition()
        self._waiting: deque[_Block | int] = deque()
        """Blocks, and offsets up to which the file is read back."""
        self._next = hasher.position
        self._added = 0
        self._done = 0
        self._is_reading_back = False
        self._is_busy = False
        self._error: Exception | None = None
        self._watchers: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    def take(self, writer: SegmentWriter, position: int, data: memoryview) -> bool:
        """Take over a block of one connection, and its buffer, if it continues the front.

        From its first block that was taken, all blocks of a connection's answer are, so that its writer is used by one
        thread at a time.

        Raises
        ------
        OSError, StorageError, OwnershipLostError
            When an earlier block could not be written, or the file not be read back.
        """
        with self._changed:
            self.raise_error()
            if position != self._next:
                if position < self._next or self._is_reading_back or self._partial.front < position:
                    return False
                self._is_reading_back = True
                self._add(position)
                self._next = position
            while len(self._waiting) >= MAX_WAITING_BLOCKS:
                self._changed.wait()
            self.raise_error()
            self._add(_Block(writer, data))
            self._next += len(data)  # not before it has its place: the next block may come from another connection
            return True

    async def settle(self) -> None:
        """Wait until all that was taken so far is written and hashed, or has failed."""
        done = asyncio.Event()
        with self._changed:
            if self._done < self._added:
                self._watchers.append((self._added, asyncio.get_running_loop(), done))
            else:
                done.set()
        await done.wait()

    def raise_error(self) -> None:
        """Raise what went wrong, if something did: see ``take``."""
        if self._error is not None:
            raise self._error

    def _add(self, work: _Block | int) -> None:
        self._waiting.append(work)
        self._added += 1
        if not self._is_busy:
            self._is_busy = True
            self._threads.start(self._work)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_busy = False
                    return
                work = self._waiting.popleft()
                self._changed.notify_all()
            if self._error is None:
                try:
                    self._process(work)
                except Exception as exc:  # noqa: BLE001 - the next to call `take` raises it
                    self._error = exc
            with self._changed:
                self._done += 1
                self._tell_watchers()

    def _process(self, work: _Block | int) -> None:
        if isinstance(work, int):
            self._hasher.advance(self._partial.descriptor, work)
            with self._changed:
                self._is_reading_back = False
        else:
            work.writer.write([work.data])
            self._hasher.feed(work.data)
            recycle(work.data)

    def _tell_watchers(self) -> None:
        for watcher in [watcher for watcher in self._watchers if watcher[0] <= self._done]:
            self._watchers.remove(watcher)
            _, loop, event = watcher
            loop.call_soon_threadsafe(event.set)
