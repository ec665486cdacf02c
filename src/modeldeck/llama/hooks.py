"""What is replaced inside llama-cpp-python, once for the process, and only felt on our own native threads.

llama-cpp-python 0.3.36 has no load progress, hides errors, and with ``verbose=False`` swaps stdout and stderr of the
whole process while it loads: a print of another thread is lost, and two loads at once leave stdout on ``/dev/null``.
Each replacement here looks at the thread it runs on and behaves as before on a thread that is not ours. A version that
lacks what is replaced is left alone.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from modeldeck.llama.native import current_thread
from modeldeck.llama.parking import install_parking

_lock = threading.Lock()
_kept: list[object] = []
"""What native code may still call."""

_log_hooks: list[Any] = []
"""Our log callbacks, the one in use last."""


def install(llama_cpp: ModuleType) -> None:
    """Put the hooks in place; again when somebody has replaced the log callback since."""
    with _lock:
        if not _kept:
            _hook_default_params(llama_cpp.llama_cpp)
            _hook_stdout_swap(llama_cpp)
            library = _libggml_base(llama_cpp)
            if library is not None:
                install_parking(library)
        _hook_log(llama_cpp.llama_cpp)


def _libggml_base(llama_cpp: ModuleType) -> ctypes.CDLL | None:
    """The library that has ``ggml_abort``. Asked for its symbols, libllama answers for those it depends on as well."""
    if sys.platform != "win32":
        return getattr(llama_cpp.llama_cpp, "_lib", None)
    try:
        return ctypes.CDLL("ggml-base.dll")  # loaded already, and found by name
    except OSError:
        return None


def _hook_default_params(bindings: Any) -> None:
    """Load progress: ``Llama`` takes its parameters from this function and knows no way to set the callback."""
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


def _hook_log(bindings: ModuleType) -> None:
    """Take over the log, and hand on what other threads cause to whoever had it before."""
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


def install_projector_log(mtmd: ModuleType) -> None:
    """The projector's library has a log of its own, on stderr unless it is told otherwise."""
    for name in ("mtmd_log_set", "mtmd_helper_log_set"):
        if hasattr(mtmd, name):
            getattr(mtmd, name)(_log_hooks[-1], None)
