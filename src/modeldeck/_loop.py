"""Bridges between threads and asyncio loops: a loop on a thread of its own, and blocking work that can be cancelled."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from typing import Any, TypeVar

import anyio

from modeldeck._errors import EngineLostError

T = TypeVar("T")

STOP_SECONDS = 5.0
"""How long ``stop`` waits for the thread. It is a daemon, so it never keeps the process alive."""
LEAVE_SECONDS = 2.0
"""How long a task that was cancelled before ``stop`` may take to leave."""
MEANWHILE_SECONDS = 0.25
"""How long ``wait`` is deaf at most, to signals and to ``meanwhile``."""


def _next_wait(deadline: float) -> float:
    return max(0.0, min(MEANWHILE_SECONDS, deadline - time.monotonic()))


def wait_for_future(
    future: Future[T], timeout: float | None = None, *, meanwhile: Callable[[], object] | None = None
) -> T:
    """Block until a future is done, and return its result; an interrupt cancels it.

    ``meanwhile`` is called four times a second on the caller's thread.

    Raises
    ------
    TimeoutError
        When ``timeout`` seconds have passed; the future is cancelled.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    try:
        # A signal that arrives just before a wait begins is only noticed when that wait ends, so waits are short.
        while not wait_for_futures([future], timeout=_next_wait(deadline)).done:
            if meanwhile is not None:
                meanwhile()
            if time.monotonic() >= deadline and future.cancel():
                message = f"Timed out after {timeout:g} s. Nothing was stopped. Wait again, or give more time."
                raise TimeoutError(message)
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def _cancel_others(*, again: bool) -> None:
    """Cancel the other tasks of this loop, and wait for them.

    One that was cancelled before is leaving, and may be closing connections: it has `LEAVE_SECONDS` for that, unless it
    is to be cancelled again.
    """
    # A task group of anyio wraps the coroutines that it starts. A wrapper that is cancelled before its first step would
    # leave a coroutine that was never awaited.
    tasks = [task for task in asyncio.all_tasks() - {asyncio.current_task()} if _has_started(task)]
    for task in tasks:
        if again or not task.cancelling():
            task.cancel()
    await asyncio.sleep(0)
    if tasks:
        done, _ = await asyncio.wait(tasks, timeout=None if again else LEAVE_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()  # who waits for it hears of it; asyncio need not complain that nobody does


def _has_started(task: asyncio.Task[Any]) -> bool:
    coroutine = task.get_coro()
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


class LoopThread:
    """Runs coroutines on an asyncio loop of its own, for callers on other threads and loops.

    Everything runs in an empty ``contextvars.Context``. A copied one would tie a long download to the notebook cell
    that happened to start it, and everything published later would go to that cell.

    Notes
    -----
    ``anyio.from_thread.start_blocking_portal`` cannot take its place. A portal copies the caller's context; a
    ``SystemExit`` or ``KeyboardInterrupt`` of one callback, for example a user's ``progress``, ends it for all others;
    and it has no ordered ``post`` that never blocks or raises, as a finalizer and the end of the interpreter need.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._lock = threading.RLock()  # a finalizer that posts may run while this very thread holds it
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopped

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Call ``callback`` soon on the loop's thread, but not once it was stopped. Calls keep their order."""
        with self._lock:
            if not self._is_stopped:
                self.loop.call_soon_threadsafe(callback, *args, context=contextvars.Context())

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` on the loop; the future can be waited for on any thread, and cancels what it stands for.

        Raises
        ------
        EngineLostError
            When the thread was stopped.
        """
        with self._lock:
            if self.is_alive:
                return contextvars.Context().run(asyncio.run_coroutine_threadsafe, coroutine, self.loop)
        coroutine.close()
        raise EngineLostError("This engine was closed. Connect a new one.")

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await ``coroutine``, which runs on this thread, from any other loop."""
        return await asyncio.wrap_future(self.start(coroutine))

    def wait(
        self,
        coroutine: Coroutine[Any, Any, T],
        timeout: float | None = None,
        *,
        meanwhile: Callable[[], object] | None = None,
    ) -> T:
        """Run ``coroutine`` on this thread and block until it is done; an interrupt of the caller cancels it.

        ``meanwhile`` is called four times a second on the caller's thread.

        Raises
        ------
        RuntimeError
            When called on the loop's own thread, where it could only wait for itself.
        TimeoutError
            When ``timeout`` seconds have passed; the coroutine is cancelled.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("This call would wait for itself. Use the async form here.")
        return wait_for_future(self.start(coroutine), timeout, meanwhile=meanwhile)

    def stop(self) -> None:
        """Cancel what still runs and end the thread. Must not be called on the thread itself."""
        atexit.unregister(self.stop)
        with self._lock:
            self.post(self.loop.stop)  # after all that was started: its future is done when the thread ends
            self._is_stopped = True
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._run_until_stopped()
        finally:
            again = False
            while asyncio.all_tasks(self.loop):
                self.loop.run_until_complete(_cancel_others(again=again))
                again = True
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _run_until_stopped(self) -> None:
        while True:
            try:
                self.loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt):
                # asyncio ends the loop when a task raises one of these, for example a user's progress callback. The
                # caller gets it from the task; the other tasks continue.
                if self._is_stopped:
                    return


_shared: LoopThread | None = None
_shared_lock = threading.Lock()


def shared_loop() -> LoopThread:
    """The one loop thread of this process that the sync calls and the widgets share."""
    global _shared
    with _shared_lock:
        if _shared is None or not _shared.is_alive:
            _shared = LoopThread("modeldeck")
        return _shared


def in_daemon_thread(function: Callable[[], T]) -> Future[T]:
    """Run a blocking function on a thread that does not keep the process alive, as an executor's would.

    Python 3.12 and later start no thread once the interpreter is leaving. The future is cancelled then.
    """
    future: Future[T] = Future()

    def run() -> None:
        # From here on the future cannot be cancelled. A result that has no waiter left is dropped.
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the waiting side gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        threading.Thread(target=run, name="modeldeck-wait", daemon=True).start()
    except RuntimeError as error:
        if "interpreter shutdown" not in str(error):  # Python 3.12 has no class for it
            raise
        future.cancel()
    return future


async def run_cancellable(run: Callable[[], T], cancel: threading.Event, discard: Callable[[T], object]) -> T:
    """Run a blocking function on a worker thread, and wait for its end even when the caller is cancelled.

    Parameters
    ----------
    run
        The function. It looks at ``cancel`` and ends soon after that was set.
    cancel
        Set when the caller is cancelled.
    discard
        Gets a result that came too late for the cancelled caller.
    """
    future = asyncio.get_running_loop().run_in_executor(None, run)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([future])
        if future.exception() is None:
            discard(future.result())
        raise
