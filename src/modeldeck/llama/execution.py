"""Runs the calls of one model: one generation at a time, each call on the right thread, and all of them stoppable."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from modeldeck._errors import GenerationCancelledError, ModelUnloadedError
from modeldeck.llama.native_thread import NativeThread
from modeldeck.llama.templates import TemplateRenderer

T = TypeVar("T")

UNREAD_SECONDS = 10.0
_WAIT_SECONDS = 0.5


def unloaded_error() -> ModelUnloadedError:
    return ModelUnloadedError("This model has been unloaded and its memory returned. Load it again to use it.")


@dataclass(slots=True, eq=False)
class LockHold:
    """The lock as held by one call or stream. A stream that waits for its reader is suspended."""

    thread: int
    is_suspended: bool = False
    suspended_at: float = 0.0


class ModelLock:
    """Lets one caller generate at a time and others read what never changes meanwhile. Closing it is final.

    A stream keeps the lock between its pieces. It loses it when it is cancelled, and when the thread that last read
    from it begins another call: in a notebook, a stream left half-read must not block the next cell forever. This
    happens at once on the main thread, which runs the cells. The threads of a server work for many clients in turn, so
    there the stream must also have been unread for ``UNREAD_SECONDS``.

    Parameters
    ----------
    stop
        Asks the running generation to end.
    allow
        Takes that back for the next generation.
    """

    def __init__(self, *, stop: Callable[[], None], allow: Callable[[], None]) -> None:
        self._stop = stop
        self._allow = allow
        self._condition = threading.Condition()
        self._hold: LockHold | None = None
        self._readers = 0
        self._is_stopping = False
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether the model has been unloaded."""
        return self._is_closed

    @property
    def is_stopping(self) -> bool:
        """Whether the running generation has been asked to end."""
        return self._is_stopping or self._is_closed

    def acquire(self) -> LockHold:
        """Wait until the caller may generate."""
        hold = LockHold(threading.get_ident())
        with self._condition:
            while not self._condition.wait_for(
                lambda: self._is_closed or self._is_free_for(hold.thread), _WAIT_SECONDS
            ):
                pass  # nobody tells when a stream has been unread long enough
            self._check_open()
            self._hold = hold
            self._is_stopping = False
            self._allow()
        return hold

    def suspend(self, hold: LockHold) -> None:
        """Mark the holder as a stream that has not begun, or has just yielded a piece."""
        with self._condition:
            hold.is_suspended = True
            hold.suspended_at = time.monotonic()
            self._condition.notify_all()

    def resume(self, hold: LockHold) -> None:
        """Mark the holder as a stream that computes its next piece.

        Raises
        ------
        GenerationCancelledError
            When another call has taken the lock meanwhile.
        """
        with self._condition:
            self._check_open()
            if self._hold is not hold:
                raise GenerationCancelledError(
                    "This stream ended early: another call on the same model began, or it was cancelled. "
                    "Read a stream to its end, or close() it, before the next call."
                )
            hold.is_suspended = False
            hold.thread = threading.get_ident()

    def release(self, hold: LockHold) -> None:
        """Release the lock, if this hold still has it."""
        with self._condition:
            if self._hold is hold:
                self._hold = None
                self._condition.notify_all()

    def cancel(self) -> bool:
        """Ask the running generation to end. Returns ``False`` when there is none."""
        with self._condition:
            if self._hold is None:
                return False
            self._is_stopping = True
            self._stop()
            self._condition.notify_all()
            return True

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Read what a generation does not change, such as the vocabulary. Only closing waits for it."""
        with self._condition:
            self._check_open()
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    def close(self) -> bool:
        """Refuse all later calls, stop the running one, and wait for the readers. ``False`` when closed before."""
        with self._condition:
            was_closed, self._is_closed = self._is_closed, True
            self._stop()
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._readers == 0)
            return not was_closed

    def _is_free_for(self, thread: int) -> bool:
        hold = self._hold
        if hold is None or (hold.is_suspended and self._is_stopping):
            return True
        if not hold.is_suspended or hold.thread != thread:
            return False
        return thread == threading.main_thread().ident or time.monotonic() - hold.suspended_at >= UNREAD_SECONDS

    def _check_open(self) -> None:
        if self._is_closed:
            raise unloaded_error()


class StopFlag:
    """Stops a running ``llama_decode`` from any thread, within one operation of the graph.

    llama.cpp asks a callback before each of some thousand operations a token. A Python callback would take the GIL each
    time: measured, generation falls from 24 to 4 tokens/s beside a busy cell. So the callback is ``strlen`` of the C
    library, on two bytes of ours: it returns 0 (continue) while the first is zero, and 1 (stop) when it is not.
    """

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(2)

    def set(self) -> None:
        self._bytes[0] = b"\x01"

    def clear(self) -> None:
        self._bytes[0] = b"\x00"

    def attach(self, bindings: Any, context: object) -> None:
        """Make llama.cpp ask this flag while it computes with ``context``."""
        libc = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        strlen = ctypes.cast(libc.strlen, bindings.ggml_abort_callback)
        bindings.llama_set_abort_callback(context, strlen, ctypes.cast(self._bytes, ctypes.c_void_p))


class Execution:
    """The threads, the lock and the stop flag of one model.

    Attributes
    ----------
    thread
        Where the model is loaded, generates and is freed.
    lookup_thread
        Where its vocabulary is read meanwhile.
    renderer
        Renders its chat templates.
    on_unload
        Called once the model has been unloaded, on any thread.
    """

    def __init__(self) -> None:
        self.thread = NativeThread()
        self.lookup_thread = NativeThread()
        self.stop_flag = StopFlag()
        self.lock = ModelLock(stop=self.stop_flag.set, allow=self.stop_flag.clear)
        self.thread.check = self.raise_if_stopped
        self.renderer = TemplateRenderer(check=self.raise_if_stopped)
        self.on_unload: Callable[[], object] = lambda: None

    def run(self, function: Callable[[], T]) -> T:
        """Run on the model's thread. Interrupting the wait ends the generation."""
        return self.thread.call(function, interrupt=self.lock.cancel, is_stopping=lambda: self.lock.is_stopping)

    def look_up(self, function: Callable[[], T]) -> T:
        """Run a function that only reads the vocabulary, beside a generation if there is one."""
        if self.thread.is_current or self.lookup_thread.is_current:
            return function()
        with self.lock.shared():
            return self.lookup_thread.call(function)

    def raise_if_stopped(self) -> None:
        """Raise when the running generation has been asked to end.

        Raises
        ------
        ModelUnloadedError, GenerationCancelledError
            After ``unload()`` or ``cancel()``.
        """
        if self.lock.is_closed:
            raise unloaded_error()
        if self.lock.is_stopping:
            raise GenerationCancelledError("The generation was cancelled. The model can be used again at once.")
