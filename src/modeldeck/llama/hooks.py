"""Everything that is replaced inside llama-cpp-python and llama.cpp, once for the process.

llama-cpp-python 0.3.36 has no load progress, hides errors, and with ``verbose=False`` swaps stdout and stderr of the
whole process while it loads: a print of another thread is lost, and two loads at once leave stdout on ``/dev/null``.
llama.cpp ends the process, and a kernel with it, on ``GGML_ASSERT`` and on an exception that nobody catches in C++.

Each replacement here looks at the thread it runs on, and behaves as before on a thread that is not ours. A version
without the replaced function is left alone.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from modeldeck._children import without_folder
from modeldeck.llama.grammars import convert_schema
from modeldeck.llama.native_thread import busy_threads, current_thread

_STDERR = 2
_REPEAT_SECONDS = 10.0

_lock = threading.Lock()
_kept: list[object] = []
"""Callbacks that native code may still call, kept alive."""

_log_hooks: list[Any] = []
"""Our log callbacks, the one in use last."""

_abort_times: dict[str, float] = {}
"""When each reason for an abort was last given."""


def install(llama_cpp: ModuleType) -> None:
    """Put the hooks in place; the log callback again when somebody has replaced it since."""
    with _lock:
        if not _kept:
            _hook_default_params(llama_cpp.llama_cpp)
            _hook_stdout_swap(llama_cpp)
            _hook_schema_converter(llama_cpp)
            library = _libggml_base(llama_cpp)
            if library is not None:
                _hook_abort(library)
            if sys.platform.startswith("linux"):
                _hook_terminate()
        _hook_log(llama_cpp.llama_cpp)


def install_projector_log(mtmd: ModuleType) -> None:
    """Take over the log of the projector's library, which writes to stderr otherwise."""
    for name in ("mtmd_log_set", "mtmd_helper_log_set"):
        if hasattr(mtmd, name):
            getattr(mtmd, name)(_log_hooks[-1], None)


def _hook_default_params(bindings: Any) -> None:
    """Report load progress: ``Llama`` takes its parameters from this function and cannot set the callback itself."""
    original = bindings.llama_model_default_params

    @bindings.llama_progress_callback  # type: ignore[untyped-decorator]
    def on_progress(fraction: float, _user_data: object) -> bool:
        thread = current_thread()
        return thread is None or thread.on_progress(fraction)

    def llama_model_default_params() -> Any:
        params = original()
        if current_thread() is not None:
            params.progress_callback = on_progress
        return params

    bindings.llama_model_default_params = llama_model_default_params
    _kept.append(on_progress)


def _hook_stdout_swap(llama_cpp: ModuleType) -> None:
    original: Callable[..., AbstractContextManager[object]] | None = None

    def suppress_stdout_stderr(disable: bool = True) -> AbstractContextManager[object]:
        return original(disable=disable) if original and current_thread() is None else nullcontext()

    for name in ("llama", "_internals", "llama_chat_format"):
        module = getattr(llama_cpp, name, None)
        if module is not None and hasattr(module, "suppress_stdout_stderr"):
            original = original or module.suppress_stdout_stderr
            module.suppress_stdout_stderr = suppress_stdout_stderr


def _hook_schema_converter(llama_cpp: ModuleType) -> None:
    """Convert JSON schemas in a child process: a small schema can become gigabytes of grammar."""
    module = llama_cpp.llama_grammar
    original = module.json_schema_to_gbnf

    def json_schema_to_gbnf(schema: str, prop_order: list[str] | None = None) -> str:
        thread = current_thread()
        if thread is None:
            text: str = original(schema, prop_order)
            return text
        try:
            return convert_schema(schema, prop_order, thread.check)
        except ValueError as error:
            thread.notices.append(
                f"llama-cpp-python cannot convert the JSON schema ({error}), so any JSON is allowed. Correct the "
                "schema, or check the answer against it yourself."
            )
            raise

    module.json_schema_to_gbnf = json_schema_to_gbnf


def _hook_log(bindings: ModuleType) -> None:
    """Take over the log, and pass on what other threads log to the callback that was there before."""
    previous, user_data = bindings.llama_log_callback(), ctypes.c_void_p()
    bindings.llama_log_get(ctypes.byref(previous), ctypes.byref(user_data))
    if _address(previous) in [_address(hook) for hook in _log_hooks]:
        return

    @bindings.llama_log_callback  # type: ignore[untyped-decorator]
    def on_log(level: int, text: bytes, _user_data: object) -> None:
        thread = current_thread()
        if thread is not None:
            thread.log.add(level, text.decode(errors="replace"))
        if previous and (thread is None or thread.is_verbose):
            previous(level, text, user_data)

    bindings.llama_log_set(on_log, None)
    _log_hooks.append(on_log)


def _address(callback: Any) -> int | None:
    return ctypes.cast(callback, ctypes.c_void_p).value


# --- instead of ending the process ------------------------------------------------------------------------------------


def _libggml_base(llama_cpp: ModuleType) -> ctypes.CDLL | None:
    """Find the library with ``ggml_abort``. On Unix, libllama also answers for the symbols of its dependencies."""
    if sys.platform != "win32":
        return getattr(llama_cpp.llama_cpp, "_lib", None)
    try:
        return ctypes.CDLL("ggml-base.dll")  # loaded already, and found by name
    except OSError:
        return None


def _hook_abort(libggml_base: ctypes.CDLL) -> None:
    """Make llama.cpp call us before it ends the process. The callback may do anything except return."""
    if not hasattr(libggml_base, "ggml_set_abort_callback"):
        return
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_char_p)

    def abort(message: bytes) -> None:
        _block_if_ours(message.decode(errors="replace"))
        os.write(_STDERR, message + b"\n")

    on_abort = prototype(abort)
    libggml_base.ggml_set_abort_callback(on_abort)
    _kept.append(on_abort)


def _hook_terminate() -> None:
    """Do the same for an exception that leaves llama.cpp: it ends in ``std::terminate``; this is ``set_terminate``."""
    try:
        set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]
    except (OSError, AttributeError):
        return
    prototype = ctypes.CFUNCTYPE(None)
    set_terminate.restype = ctypes.c_void_p
    set_terminate.argtypes = [prototype]

    def on_terminate() -> None:
        _block_if_ours("an uncaught C++ exception")
        previous()

    handler = prototype(on_terminate)
    previous = prototype(set_terminate(handler))
    _kept.extend([handler, previous])


def _block_if_ours(reason: str) -> None:
    """Block the calling thread forever when it works for one of our models; return when it does not.

    The model's memory is lost, its caller gets an exception, and the kernel lives.
    """
    reason = without_folder(reason)
    thread = current_thread()
    if thread is not None:
        victims = [thread]
    elif time.monotonic() - _abort_times.get(reason, -math.inf) < _REPEAT_SECONDS:
        victims = []  # another thread of the same OpenMP team has just aborted for the same reason
    else:
        victims = busy_threads()  # Python does not know a worker of llama.cpp: it can belong to any model
        if not victims:
            return
    _abort_times[reason] = time.monotonic()
    for victim in victims:
        victim.give_up(reason)
    threading.Event().wait()
