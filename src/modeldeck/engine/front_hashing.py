"""Hashes the contiguous front of a partial file on a thread of its own while connections receive more."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from modeldeck.engine.digest import FrontHasher
from modeldeck.engine.network import recycle
from modeldeck.engine.partial import Partial
from modeldeck.engine.threads import DiskThreads

MAX_WAITING_BLOCKS = 32
"""Blocks of all files together that may wait to be hashed. A connection with one more waits too. About this many
arrive while a range that was received ahead of its turn is read back."""
BLOCKS_AT_ONCE = 4
"""The thread is woken for this many at once, because each wake-up costs time."""


class Front:
    """Hashes the blocks that continue the front while they are in memory.

    A block that was received ahead of its turn is read back from the disk when the front reaches it, which costs a
    third of the digest itself. The work is done on a disk thread. `take` may be called on any thread.

    Parameters
    ----------
    partial
        The file.
    hasher
        The digest of the front so far.
    sharers
        Returns how many files share the memory at this moment.
    """

    def __init__(
        self, partial: Partial, hasher: FrontHasher, threads: DiskThreads, *, sharers: Callable[[], int] = lambda: 1
    ) -> None:
        self._partial = partial
        self._hasher = hasher
        self._threads = threads
        self._sharers = sharers
        self._changed = threading.Condition()
        self._waiting: deque[memoryview | int] = deque()
        """Blocks, and offsets up to which the file is read back."""
        self._next = hasher.position
        self._added = 0
        self._done = 0
        self._is_reading_back = False
        self._has_next = False
        self._is_busy = False
        self._error: Exception | None = None
        self._watchers: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    def take(self, position: int, data: memoryview) -> bool:
        """Take over a block that was written, with its buffer, if it continues the front.

        Returns
        -------
        bool
            Whether it was taken. If not, the buffer is still the caller's.

        Raises
        ------
        OSError, StorageError
            If the file could not be read back.
        """
        with self._changed:
            self.raise_error()
            if position != self._next:
                if position < self._next or self._is_catching_up or self._partial.front < position:
                    return False
                self._is_reading_back = True
                self._add(position)
                self._next = position
            self._has_next = True
            while len(self._waiting) >= self._most_waiting():
                self._start()  # the thread may be waiting for more of them
                self._changed.wait()
            self._has_next = False
            self.raise_error()
            self._add(data)
            self._next += len(data)
            return True

    @property
    def _is_catching_up(self) -> bool:
        """Whether the gap before this block is being closed already: by reading back, or by a thread that waits."""
        return self._is_reading_back or self._has_next

    async def settle(self) -> None:
        """Wait until everything taken so far is hashed, or has failed."""
        done = asyncio.Event()
        with self._changed:
            if self._done < self._added:
                self._watchers.append((self._added, asyncio.get_running_loop(), done))
                self._start()
            else:
                done.set()
        await done.wait()

    def raise_error(self) -> None:
        """Raise the error of the hashing thread, if there was one."""
        if self._error is not None:
            raise self._error

    def _add(self, work: memoryview | int) -> None:
        self._waiting.append(work)
        self._added += 1
        if self._is_reading_back or len(self._waiting) >= min(BLOCKS_AT_ONCE, self._most_waiting()):
            self._start()

    def _most_waiting(self) -> int:
        return max(1, MAX_WAITING_BLOCKS // max(1, self._sharers()))

    def _start(self) -> None:
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

    def _process(self, work: memoryview | int) -> None:
        if isinstance(work, int):
            self._hasher.advance(self._partial.descriptor, work)
            with self._changed:
                self._is_reading_back = False
        else:
            self._hasher.feed(work)
            recycle(work)

    def _tell_watchers(self) -> None:
        for watcher in [watcher for watcher in self._watchers if watcher[0] <= self._done]:
            self._watchers.remove(watcher)
            _, loop, event = watcher
            loop.call_soon_threadsafe(event.set)
