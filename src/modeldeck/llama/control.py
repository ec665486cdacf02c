"""The handles on one model: its threads, whose turn it is, and how to stop it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from modeldeck._errors import GenerationCancelledError
from modeldeck.llama.measured import Recorder
from modeldeck.llama.native import NativeThread
from modeldeck.llama.templates import TemplateRenderer
from modeldeck.llama.turn import Turn, unloaded_error

if TYPE_CHECKING:
    from modeldeck.llama.guard import Guarded

T = TypeVar("T")


class StopFlag:
    """Stops a running ``llama_decode`` from any thread, within one operation of the graph.

    llama.cpp asks a callback before each of some thousand operations a token. A Python callback would take the GIL each
    time: measured, generation falls from 24 to 4 tokens/s beside a busy cell. So the callback is ``strlen`` of the C
    library, on two bytes of ours: it returns 0 (go on) while the first is zero, and 1 (stop) when it is not.
    """

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(2)

    def set(self) -> None:
        self._bytes[0] = b"\x01"

    def clear(self) -> None:
        self._bytes[0] = b"\x00"

    def attach(self, bindings: Any, context: object) -> None:
        libc = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        strlen = ctypes.cast(libc.strlen, bindings.ggml_abort_callback)
        bindings.llama_set_abort_callback(context, strlen, ctypes.cast(self._bytes, ctypes.c_void_p))


class Control:
    """What a `Llama` needs besides llama.cpp.

    Attributes
    ----------
    thread
        Where the model is loaded, generates and is freed.
    lookups
        Where its vocabulary is looked up meanwhile.
    """

    def __init__(self) -> None:
        self.thread = NativeThread()
        self.lookups = NativeThread()
        self.stop_flag = StopFlag()
        self.renderer = TemplateRenderer()
        self.turn = Turn(stop=self._stop, unstop=self.stop_flag.clear)
        self.recorder: Recorder | None = None

    def run(self, function: Callable[[], T]) -> T:
        """Run on the model's thread; interrupting the wait ends the generation."""
        return self.thread.call(function, interrupt=self.turn.cancel)

    def look_up(self, function: Callable[[], T]) -> T:
        """Run what only reads the vocabulary, beside a generation if there is one."""
        if self.thread.is_current or self.lookups.is_current:
            return function()
        with self.turn.visit():
            return self.lookups.call(function)

    def after_use(self, llama: Guarded) -> None:
        """A generation has ended well, and the turn is still ours."""
        if self.recorder is not None and self.recorder.record(llama):
            self.recorder = None

    def _stop(self) -> None:
        self.stop_flag.set()
        self.renderer.stop()

    def check_going(self) -> None:
        """Raise when the running generation has been asked to end."""
        if self.turn.is_closed:
            raise unloaded_error()
        if self.turn.is_stopping:
            raise GenerationCancelledError("The generation was cancelled. The model can be used again at once.")
