"""One thread for each model, on which all of its native code runs, and the log of llama.cpp on that thread.

The thread is worth its cost:

* Calls from several threads queue, and OpenMP keeps one team of workers for the model instead of one per caller.
* The caller waits in Python, so that an interrupt of the kernel arrives at once, even in the middle of a long prompt.
* Whatever llama.cpp logs or reports on this thread belongs to this model, so no process-wide state is needed.
* When llama.cpp is about to abort, this thread can be blocked and its caller told (see `modeldeck.llama.hooks`).
* When it does not end a call that was interrupted, the caller goes on without it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from modeldeck._errors import LlamaCrashedError, ModelUnloadedError

logger = logging.getLogger("modeldeck.llama")
logger.addHandler(logging.NullHandler())  # otherwise Python prints warnings that nobody handles

T = TypeVar("T")

STACK_BYTES = 16 << 20
"""Stack of a native thread. llama.cpp works by recursion, and the systems' defaults are between 0.5 and 16 MiB."""

STOP_SECONDS = 60.0
"""How long a call that was asked to end may still take. An image, for example, is encoded in one piece."""

_NO_ANSWER = "it does not end, although it was asked to"
_WAIT_SECONDS = 0.5  # on Windows an interrupt is only seen between two waits

_ERROR_LEVEL = 4
_CONTINUED_LEVEL = 5
_LOGGING_LEVELS = {2: logging.DEBUG, 3: logging.INFO, _ERROR_LEVEL: logging.WARNING}
_MAX_LOG_LINES = 200
_MAX_REASON_LINES = 3
_PREFIX = re.compile(r"^(?:[\w:~]+: )+(?:error loading model: )?(?:error loading model \w+: )?")
_EMPTY_PHRASES = ("failed to load model", "failed to create context", "failed to load model from")


class NativeLog:
    """The last lines that llama.cpp logged, each with its ``ggml_log_level``.

    llama-cpp-python 0.3.36 is off by one with these levels and takes errors for debug text.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_MAX_LOG_LINES)

    def add(self, level: int, text: str) -> None:
        """Add one message, which may continue the last one."""
        if level == _CONTINUED_LEVEL and self._lines:
            level, start = self._lines.pop()
            text = start + text
        self._lines.append((level, text))
        if text.endswith("\n"):
            logger.log(_LOGGING_LEVELS.get(level, logging.DEBUG), "%s", text.rstrip())

    def clear(self) -> None:
        self._lines.clear()

    def reason(self) -> str | None:
        """Return the errors in the log, without the names of llama.cpp's functions, or ``None``."""
        reasons: list[str] = []
        for level, text in self._lines:
            reason = _PREFIX.sub("", text.strip())
            if level == _ERROR_LEVEL and reason and not reason.startswith(_EMPTY_PHRASES) and reason not in reasons:
                reasons.append(reason)
        return "; ".join(reasons[:_MAX_REASON_LINES]) or None


class _Call(Generic[T]):
    """A function on its way to the thread, and its result on the way back."""

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
        """Wait at most this long, and return whether the call has ended."""
        return self._done.wait(seconds)

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # otherwise the traceback keeps itself, and the model with it, alive
        result: T = self._result
        return result


class _TimeLimit:
    """``STOP_SECONDS`` from the first question on."""

    def __init__(self) -> None:
        self._end: float | None = None

    def is_over(self) -> bool:
        if self._end is None:
            self._end = time.monotonic() + STOP_SECONDS
        return time.monotonic() > self._end


class NativeThread:
    """Runs calls one after the other on its own daemon thread, which starts with the first call.

    Attributes
    ----------
    log
        What llama.cpp logged on this thread.
    on_progress
        Called by llama.cpp while it loads, with a fraction. ``False`` stops the load.
    check
        Raises when the running call has been asked to end.
    is_verbose
        Whether llama.cpp's log is printed too.
    crash
        The reason why llama.cpp would have ended the process, or was given up, once that has happened.
    notices
        What the caller should be warned of when its call has ended.
    """

    def __init__(self) -> None:
        self.log = NativeLog()
        self.on_progress: Callable[[float], bool] = lambda fraction: True
        self.check: Callable[[], object] = lambda: None
        self.is_verbose = False
        self.crash: str | None = None
        self.notices: list[str] = []
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._current: _Call[Any] | None = None
        self._last: _Call[Any] | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="modeldeck-llama", daemon=True)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return current_thread() is self

    @property
    def is_of_other_process(self) -> bool:
        """Whether this is the copy in a forked child, where the thread itself does not exist."""
        return os.getpid() != self._process

    @property
    def is_busy(self) -> bool:
        """Whether a call runs on the thread now."""
        return self._current is not None and self.crash is None

    def call(
        self,
        function: Callable[[], T],
        *,
        interrupt: Callable[[], object] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> T:
        """Run ``function`` on the thread and wait for its result.

        Parameters
        ----------
        interrupt
            Called when the wait is interrupted (Ctrl-C, the kernel's interrupt button), to make ``function`` end soon.
        is_stopping
            Whether ``function`` has been asked to end. When it does not end within ``STOP_SECONDS``, it is given up.
        """
        if self.is_current:
            return function()
        call = self._put(function)
        try:
            self._wait_for(call, is_stopping)
        except BaseException:
            if interrupt is not None:
                interrupt()
                self._wait_for(call, is_stopping)
            raise
        return call.result()

    def post(self, function: Callable[[], object]) -> None:
        """Run ``function`` after the calls that are queued already, as the last one, without waiting."""
        self._last = self._put(function)

    def stop(self) -> None:
        """End the thread after the calls that are queued."""
        self._calls.put(None)

    def join(self) -> None:
        """Wait until the thread has ended. Returns at once on the thread itself and after a crash.

        A call that does not end within ``STOP_SECONDS`` is given up, but not the one that was posted to be the last.
        """
        limit = _TimeLimit()
        while not self.is_current and self.crash is None and self._thread.is_alive():
            self._thread.join(_WAIT_SECONDS)
            current = self._current
            if current is not None and current is not self._last and limit.is_over():
                self.give_up(_NO_ANSWER)

    def give_up(self, reason: str) -> None:
        """Fail the waiting caller and every later call: llama.cpp is about to end the process, or does not answer."""
        self.crash = reason
        if self._current is not None:
            self._current.fail(self._crash_error())

    def _wait_for(self, call: _Call[Any], is_stopping: Callable[[], bool]) -> None:
        limit = _TimeLimit()
        while not call.wait(_WAIT_SECONDS):
            if self.crash is not None:
                raise self._crash_error()
            if is_stopping() and limit.is_over():
                self.give_up(_NO_ANSWER)

    def _put(self, function: Callable[[], T]) -> _Call[T]:
        if self.crash is not None:
            raise self._crash_error()
        if self.is_of_other_process:
            raise ModelUnloadedError("This model lives in the parent process. Load it again in this one to use it.")
        call = _Call(function)
        self._calls.put(call)
        with _starting:
            if self._thread.ident is None:
                default = threading.stack_size(STACK_BYTES)
                try:
                    self._thread.start()
                finally:
                    threading.stack_size(default)
        return call

    def _crash_error(self) -> LlamaCrashedError:
        return LlamaCrashedError(
            f"llama.cpp failed: {self.crash}. Your notebook continues, but this model is lost. "
            "Its memory is returned only when the kernel restarts. Load the model again to use it.",
            reason=self.crash,
        )

    def _work(self) -> None:
        _threads[threading.get_ident()] = self
        try:
            while (call := self._calls.get()) is not None:
                self._current = call
                call.run()
                self._current = call = None
        finally:
            del _threads[threading.get_ident()]


_threads: dict[int, NativeThread] = {}

_starting = threading.Lock()
"""Held while a thread starts: two first callers would both find it unstarted, and the stack size is the process's."""


def current_thread() -> NativeThread | None:
    """Return the native thread the caller runs on, if any. Safe on threads that Python does not know."""
    return _threads.get(threading.get_ident())


def busy_threads() -> list[NativeThread]:
    """Return the native threads on which a call runs."""
    return [thread for thread in list(_threads.values()) if thread.is_busy]
