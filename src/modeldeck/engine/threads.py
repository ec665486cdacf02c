"""Threads for the disk, so that the event loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

P = ParamSpec("P")
T = TypeVar("T")

THREAD_COUNT = 8
WAITING_COUNT = 128
"""More than all connections of an engine. A thread is started when it is needed."""


class DiskThreads:
    """A pool whose calls are always awaited: a file must not be closed while a thread writes to it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREAD_COUNT, thread_name_prefix="modeldeck-disk")
        self._waiting_pool = ThreadPoolExecutor(WAITING_COUNT, thread_name_prefix="modeldeck-body")

    def start(self, function: Callable[[], object]) -> None:
        """Start a call from any thread. The caller learns about its end in another way."""
        self._pool.submit(function)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start a call that must be passed to ``finish``."""
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def submit_waiting(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start a call that may wait for long, such as for the bandwidth limit, so that the disk stays free."""
        return asyncio.get_running_loop().run_in_executor(self._waiting_pool, lambda: function(*args, **kwargs))

    @staticmethod
    async def finish(future: asyncio.Future[T]) -> T:
        """Wait for a call, also while the caller is being cancelled, and return its result."""
        with anyio.CancelScope(shield=True):
            await asyncio.wait([future])
        return future.result()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a short blocking function. A cancellation is raised once the function has returned."""
        outcome = await self.finish(self.submit(function, *args, **kwargs))
        await checkpoint_if_cancelled()
        return outcome

    def shut_down(self) -> None:
        """Wait for all calls and end the threads."""
        self._waiting_pool.shutdown(wait=True)
        self._pool.shutdown(wait=True)
