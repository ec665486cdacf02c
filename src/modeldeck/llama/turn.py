"""Who may use a model now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from modeldeck._errors import GenerationCancelledError, ModelUnloadedError


def unloaded_error() -> ModelUnloadedError:
    return ModelUnloadedError("This model has been unloaded and its memory given back. Load it again to use it.")


@dataclass(slots=True, eq=False)
class Hold:
    """The right to use the model, from one call or stream. A stream that waits for its reader is suspended."""

    thread: int
    is_suspended: bool = False


class Turn:
    """Lets one caller generate at a time, others look things up meanwhile, and closes after the last.

    A stream keeps its turn between its pieces. It loses it when it is cancelled, and when the thread that read it last
    begins something else: in a notebook, a stream left in the middle must not block the next cell for ever.

    Parameters
    ----------
    stop
        Asks the running generation to end.
    unstop
        Takes that back, for the next one.
    """

    def __init__(self, *, stop: Callable[[], None], unstop: Callable[[], None]) -> None:
        self._stop = stop
        self._unstop = unstop
        self._condition = threading.Condition()
        self._holder: Hold | None = None
        self._guests = 0
        self._is_stopping = False
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_stopping(self) -> bool:
        """Whether the running generation has been asked to end."""
        return self._is_stopping or self._is_closed

    def take(self) -> Hold:
        """Wait for the turn."""
        hold = Hold(threading.get_ident())
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._is_free_for(hold.thread))
            self._check_open()
            self._holder = hold
            self._is_stopping = False
            self._unstop()
        return hold

    def suspend(self, hold: Hold) -> None:
        """The stream has handed out a piece, or has not begun."""
        with self._condition:
            hold.is_suspended = True
            self._condition.notify_all()

    def resume(self, hold: Hold) -> None:
        """The stream is asked for its next piece."""
        with self._condition:
            self._check_open()
            if self._holder is not hold:
                raise GenerationCancelledError(
                    "This stream ended early: another call on the same model began, or it was cancelled. "
                    "Read a stream to its end, or close() it, before the next call."
                )
            hold.is_suspended = False
            hold.thread = threading.get_ident()

    def release(self, hold: Hold) -> None:
        """Give the turn back; nothing happens when it was lost before."""
        with self._condition:
            if self._holder is hold:
                self._holder = None
                self._condition.notify_all()

    def cancel(self) -> bool:
        """Ask the running generation to end. ``False`` when there is none."""
        with self._condition:
            if self._holder is None:
                return False
            self._is_stopping = True
            self._stop()
            self._condition.notify_all()
            return True

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Use what generation does not touch, such as the vocabulary; only closing waits for it."""
        with self._condition:
            self._check_open()
            self._guests += 1
        try:
            yield
        finally:
            with self._condition:
                self._guests -= 1
                self._condition.notify_all()

    def close(self) -> bool:
        """Let nobody in any more, stop what runs, and wait for the guests. ``False`` when it was closed before."""
        with self._condition:
            was_closed, self._is_closed = self._is_closed, True
            self._stop()
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._guests == 0)
            return not was_closed

    def _is_free_for(self, thread: int) -> bool:
        holder = self._holder
        return holder is None or (holder.is_suspended and (self._is_stopping or holder.thread == thread))

    def _check_open(self) -> None:
        if self._is_closed:
            raise unloaded_error()
