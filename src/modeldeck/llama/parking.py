"""What happens when llama.cpp gives up: ``GGML_ASSERT``, or an exception that nobody catches in C++.

It ends the process then, and a kernel with it. But it asks first, through a callback that may do anything except
return. So the thread is parked for good: the model's memory is lost, its caller gets an exception, the kernel lives.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from functools import cache

from modeldeck.llama.native import busy_threads, current_thread

_STDERR = 2
_ECHO_SECONDS = 10.0

_crashes: dict[str, float] = {}
"""When each reason was last given."""


@cache
def install_parking(libggml_base: ctypes.CDLL) -> tuple[object, ...]:
    """Make llama.cpp ask us before it ends the process. Returns what must be kept alive.

    Threads that are not ours, and models loaded without modeldeck, end the process as before.
    """
    kept: list[object] = []
    if hasattr(libggml_base, "ggml_set_abort_callback"):
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_char_p)

        def abort(message: bytes) -> None:
            _park_if_ours(message.decode(errors="replace"))
            os.write(_STDERR, message + b"\n")

        on_abort = prototype(abort)
        libggml_base.ggml_set_abort_callback(on_abort)
        kept.append(on_abort)
    if sys.platform.startswith("linux"):
        kept += _install_terminate_handler()
    return tuple(kept)


def _install_terminate_handler() -> list[object]:
    """An exception that leaves llama.cpp ends in ``std::terminate``; this is ``std::set_terminate``."""
    try:
        set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]
    except (OSError, AttributeError):
        return []
    prototype = ctypes.CFUNCTYPE(None)
    set_terminate.restype = ctypes.c_void_p
    set_terminate.argtypes = [prototype]
    kept: list[object] = []

    def on_terminate() -> None:
        _park_if_ours("an uncaught C++ exception")
        previous()

    handler = prototype(on_terminate)
    previous = prototype(set_terminate(handler))
    kept += [handler, previous]
    return kept


def _park_if_ours(reason: str) -> None:
    """Park the calling thread when it works for one of our models; return when it does not."""
    reason = _shortened(reason)
    thread = current_thread()
    if thread is not None:
        victims = [thread]
    elif _is_echo(reason):
        victims = []
    else:
        victims = busy_threads()  # a worker of llama.cpp is not known to Python: any model can be its own
        if not victims:
            return
    _crashes[reason] = time.monotonic()
    for victim in victims:
        victim.give_up(reason)
    threading.Event().wait()


def _is_echo(reason: str) -> bool:
    """Whether this is what another thread of the same team has just run into."""
    return time.monotonic() - _crashes.get(reason, -math.inf) < _ECHO_SECONDS


def _shortened(reason: str) -> str:
    """``/long/build/path/llama-vocab.cpp:12: GGML_ASSERT(x) failed`` without the path."""
    place, separator, text = reason.partition(": ")
    return f"{place.replace(chr(92), '/').rpartition('/')[2]}{separator}{text}".strip()
