"""The `Llama` that modeldeck hands out: a ``llama_cpp.Llama`` whose misuse raises instead of killing the kernel."""

from __future__ import annotations

import atexit
import ctypes
import functools
import sys
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from modeldeck._errors import LoadFailedError
from modeldeck.llama import chat, hooks
from modeldeck.llama.checked import check_model, checked_llama_class
from modeldeck.llama.control import Control
from modeldeck.llama.install import import_llama_cpp
from modeldeck.llama.turn import Hold, unloaded_error

T = TypeVar("T")

_EXCLUSIVE_METHODS = (
    "__call__",
    "create_completion",
    "create_chat_completion",
    "create_chat_completion_openai_v1",
    "create_embedding",
    "embed",
    "eval",
    "generate",
    "load_state",
    "reset",
    "sample",
    "save_state",
)
"""Change or read the state of the context: one at a time, on the model's own thread."""

_LOOKUP_METHODS = (
    "n_ctx",
    "n_embd",
    "n_vocab",
    "pooling_type",
    "token_bos",
    "token_eos",
    "token_nl",
)
"""Only read what never changes: at any time, on the caller's thread."""

_NATIVE_PARTS = ("_ctx", "_model", "_batch")
_MEMORY_PARTS = ("_sampler", "_candidates", "scores", "input_ids", "cache")


class Stream(Generator[Any, Any, None]):
    """A generator of llama-cpp-python, run piece by piece on the model's thread. It has the model's turn to its end."""

    def __init__(self, llama: Guarded, iterator: Iterator[Any], hold: Hold) -> None:
        self._llama = llama
        self._iterator = iterator
        self._hold = hold
        self._is_done = False
        llama._control.turn.suspend(hold)

    def send(self, value: Any) -> Any:
        if self._is_done:
            raise StopIteration
        guard = self._llama._control
        guard.turn.resume(self._hold)
        self._is_done = True
        try:
            piece = guard.run(functools.partial(self._step, value))
            self._is_done = False
        except StopIteration:
            guard.after_use(self._llama)
            raise
        finally:
            if self._is_done:
                guard.turn.release(self._hold)
            else:
                guard.turn.suspend(self._hold)
        return piece

    def throw(self, *error: Any) -> Any:
        self._is_done = True
        self._llama._control.turn.release(self._hold)
        if isinstance(self._iterator, Generator):
            return self._iterator.throw(*error)
        raise error[0]

    def __del__(self) -> None:
        self._llama._control.turn.release(self._hold)

    def _step(self, value: Any) -> Any:
        with _Interruptible(self._llama):
            if value is not None and isinstance(self._iterator, Generator):
                return self._iterator.send(value)
            return next(self._iterator)


class _Interruptible:
    """Turns whatever an ended generation fails with into the error that says so, and makes the model usable again."""

    def __init__(self, llama: Guarded) -> None:
        self._llama = llama

    def __enter__(self) -> None:
        self._llama._control.check_going()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        guard = self._llama._control
        if error is None or isinstance(error, StopIteration) or not guard.turn.is_stopping:
            return
        if not guard.turn.is_closed:
            # llama.cpp has dropped its cache of the sequence; llama-cpp-python must not reuse what it believes is there
            self._llama.reset()
            self._llama._ctx.kv_cache_clear()
        guard.check_going()


class Guarded:
    """The visible part of the guard. The real class, a subclass of ``llama_cpp.Llama``, is made by `llama_class`.

    Calls from several threads queue. ``unload()``, leaving a ``with`` block, or dropping the last reference gives the
    memory back; every later use raises `ModelUnloadedError`. ``cancel()`` ends a running generation, and so does an
    interrupt of the kernel.
    """

    if TYPE_CHECKING:

        def __call__(self, prompt: str, **kwargs: Any) -> Any: ...
        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        model_path: str,
        *,
        on_load_progress: Callable[[float], bool] = lambda fraction: True,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        hooks.install(import_llama_cpp())
        self._control = Control()
        thread = self._control.thread
        thread.on_progress = on_load_progress
        thread.is_verbose = verbose
        with ExitStack() as on_failure:
            on_failure.callback(self.unload)
            load = functools.partial(self._load, model_path, verbose=verbose, **kwargs)
            try:
                thread.call(load, interrupt=lambda: setattr(thread, "on_progress", lambda fraction: False))
            except (ValueError, RuntimeError, MemoryError) as error:
                reason = thread.log.reason() or str(error) or "not enough memory"
                raise LoadFailedError(f"llama.cpp cannot load {Path(model_path).name}: {reason}.") from error
            on_failure.pop_all()
        thread.on_progress = lambda fraction: True  # the caller's may hold on to anything
        _live.add(self)

    def _load(self, model_path: str, **kwargs: Any) -> None:
        self._hides_templates = True
        super().__init__(model_path, **kwargs)  # type: ignore[call-arg]
        self._hides_templates = False
        llama_cpp = import_llama_cpp()
        check_model(self._model, self._control)
        self._control.stop_flag.attach(llama_cpp.llama_cpp, self._ctx.ctx)
        chat.add_template_handlers(self, llama_cpp)
        if kwargs.get("chat_format") is None and kwargs.get("chat_handler") is None:
            self.chat_format = chat.default_format(self, llama_cpp)

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata. ``llama_cpp.Llama`` must not find the chat templates in it: it would compile them."""
        if self._hides_templates:
            return {key: text for key, text in self._metadata.items() if not key.startswith(chat.TEMPLATE_KEY)}
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, str]) -> None:
        self._metadata = metadata

    @property
    def is_loaded(self) -> bool:
        """Whether the model is still in memory."""
        return not self._control.turn.is_closed and self._control.thread.crash is None

    def cancel(self) -> bool:
        """End the running generation, from any thread; its caller gets `GenerationCancelledError`.

        Returns
        -------
        bool
            Whether there was anything to end.
        """
        return self._control.turn.cancel()

    def unload(self) -> None:
        """Give the memory back, once what is running has been stopped. Safe at any time, from any thread, twice."""
        thread = self._control.thread
        if thread.is_of_other_process:
            return
        is_first = self._control.turn.close()
        if thread.crash is not None:
            self._control.renderer.close()
            _kill_parts(vars(self))
            return
        if is_first:
            thread.post(functools.partial(_free, vars(self)))
            thread.stop()
            self._control.lookups.stop()
        thread.join()
        self._control.lookups.join()

    def close(self) -> None:
        """The same as ``unload()``."""
        self.unload()

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    def __del__(self) -> None:
        if "_control" in vars(self) and not sys.is_finalizing():
            self.unload()

    def __repr__(self) -> str:
        name = Path(self.model_path).name
        return f"<Llama {name}, n_ctx={self._n_ctx}>" if self.is_loaded else f"<Llama {name}, unloaded>"

    def _exclusively(self, function: Callable[[], Any]) -> Any:
        guard = self._control
        if guard.thread.is_current:
            return function()
        hold = guard.turn.take()
        stream: Stream | None = None
        try:
            result = guard.run(functools.partial(self._interruptibly, function))
            if isinstance(result, Iterator):
                stream = Stream(self, result, hold)
            else:
                guard.after_use(self)
        finally:
            if stream is None:
                guard.turn.release(hold)
        return stream or result

    def _interruptibly(self, function: Callable[[], T]) -> T:
        with _Interruptible(self):
            return function()

    def _visiting(self, function: Callable[[], T]) -> T:
        if self._control.thread.is_current:
            return function()
        with self._control.turn.visit():
            return function()


class _Unloaded:
    """What the native parts become: whoever still has one, a tokenizer say, gets an error and no null pointer."""

    def __getattribute__(self, name: str) -> Any:
        raise unloaded_error()


_live: weakref.WeakSet[Guarded] = weakref.WeakSet()


@functools.cache
def llama_class() -> type[Guarded]:
    """The class of loaded models: ``llama_cpp.Llama`` with the guard around it."""
    base = checked_llama_class()
    methods = {name: _guarded(getattr(base, name), Guarded._exclusively) for name in _EXCLUSIVE_METHODS}
    methods |= {name: _guarded(getattr(base, name), Guarded._visiting) for name in _LOOKUP_METHODS}
    atexit.register(_unload_all)
    return type("Llama", (Guarded, base), {"__module__": "modeldeck.llama", "__doc__": Guarded.__doc__, **methods})


def _guarded(method: Callable[..., Any], way: Callable[[Guarded, Callable[[], Any]], Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: Guarded, *args: Any, **kwargs: Any) -> Any:
        return way(self, functools.partial(method, self, *args, **kwargs))

    return guarded


def _free(state: dict[str, Any]) -> None:
    """Free what belongs to the `Llama` with these attributes; runs on the model's thread, when nothing else does."""
    for name in _MEMORY_PARTS:
        state.pop(name, None)
    if "_stack" in state:
        state["_stack"].close()
    state["_control"].renderer.close()
    _kill_parts(state)
    _trim_heap()


def _kill_parts(state: dict[str, Any]) -> None:
    for name in _NATIVE_PARTS:
        if name in state:
            state[name].__class__ = _Unloaded


def _trim_heap() -> None:
    """Give freed memory back to the system; glibc keeps some hundred MB otherwise."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def _unload_all() -> None:
    """Before the interpreter goes: afterwards no thread answers any more."""
    for llama in list(_live):
        llama.unload()
