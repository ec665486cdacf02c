"""One thread for each model, on which all of its native code runs.

What the thread is good for:

* calls from several threads queue, and OpenMP keeps one team of workers for the model instead of one per caller;
* the caller waits in Python, so that an interrupt of the kernel arrives at once, also in the middle of a long prompt;
* what llama.cpp logs or reports on this thread belongs to this model, so that no process-wide state is needed;
* when llama.cpp gives up, this thread can be parked and its caller told (see :mod:`modeldeck.llama.parking`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from modeldeck._errors import LlamaCrashedError, ModelUnloadedError
from modeldeck.llama.log import LogBook

T = TypeVar("T")

_WAIT_SECONDS = 0.5  # on Windows an interrupt is only seen between two waits


class _Job(Generic[T]):
    """A call on its way to the thread and back."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._context = copy_context()
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001 - every exception is the caller's
            self._error = error
        self._done.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Whether it is done, after at most this long."""
        return self._done.wait(seconds)

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the traceback keeps itself, and the model with it, alive
        result: T = self._result
        return result


class NativeThread:
    """Runs calls one after the other on a daemon thread of its own, which starts with the first call.

    Attributes
    ----------
    log
        What llama.cpp said on this thread.
    on_progress
        Asked by llama.cpp while it loads, with a fraction; ``False`` stops the load.
    is_verbose
        Whether what llama.cpp says is printed too.
    crash
        Why llama.cpp would have ended the process, once it has happened.
    """

    def __init__(self) -> None:
        self.log = LogBook()
        self.on_progress: Callable[[float], bool] = lambda fraction: True
        self.is_verbose = False
        self.crash: str | None = None
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._current: _Job[Any] | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="modeldeck-llama", daemon=True)
        self._starting = threading.Lock()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return current_thread() is self

    @property
    def is_of_other_process(self) -> bool:
        """Whether this is the copy in a forked child, where the thread itself does not exist."""
        return os.getpid() != self._process

    @property
    def is_busy(self) -> bool:
        return self._current is not None and self.crash is None

    def call(self, function: Callable[[], T], *, interrupt: Callable[[], object] | None = None) -> T:
        """Run ``function`` on the thread and wait for its result.

        Parameters
        ----------
        interrupt
            Called when the wait is interrupted (Ctrl-C, the kernel's interrupt button), to make ``function`` end soon.
        """
        if self.is_current:
            return function()
        job = self._put(function)
        try:
            self._wait_for(job)
        except BaseException:
            if interrupt is not None:
                interrupt()
                self._wait_for(job)
            raise
        return job.result()

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` after what is running now, without waiting."""
        self._put(function)

    def stop(self) -> None:
        """Let the thread end after what it was given."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the end, which never comes after a crash; not on the thread itself."""
        while not self.is_current and self.crash is None and self._thread.is_alive():
            self._thread.join(_WAIT_SECONDS)

    def give_up(self, reason: str) -> None:
        """llama.cpp is about to end the process: whoever waits gets an error, and nothing runs here any more."""
        self.crash = reason
        if self._current is not None:
            self._current.fail(self._crash_error())

    def _wait_for(self, job: _Job[Any]) -> None:
        while not job.wait(_WAIT_SECONDS):
            if self.crash is not None:
                raise self._crash_error()

    def _put(self, function: Callable[[], T]) -> _Job[T]:
        if self.crash is not None:
            raise self._crash_error()
        if self.is_of_other_process:
            raise ModelUnloadedError("This model lives in the parent process. Load it again in this one to use it.")
        job = _Job(function)
        self._jobs.put(job)
        # Two callers at once would both find it unstarted, and `start` does not keep them apart.
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()
        return job

    def _crash_error(self) -> LlamaCrashedError:
        return LlamaCrashedError(
            f"llama.cpp gave up: {self.crash}. Your notebook goes on, but this model is lost, and the memory it had "
            "comes back only with a restart of the kernel.",
            reason=self.crash,
        )

    def _work(self) -> None:
        _threads[threading.get_ident()] = self
        try:
            while (job := self._jobs.get()) is not None:
                self._current = job
                job.run()
                self._current = job = None
        finally:
            del _threads[threading.get_ident()]


_threads: dict[int, NativeThread] = {}


def current_thread() -> NativeThread | None:
    """The native thread the caller is on, if any. Safe on threads that Python does not know."""
    return _threads.get(threading.get_ident())


def busy_threads() -> list[NativeThread]:
    """The native threads on which something runs."""
    return [thread for thread in list(_threads.values()) if thread.is_busy]
