"""The `Llama` that modeldeck returns: a ``llama_cpp.Llama`` whose misuse raises instead of ending the process.

llama-cpp-python is optional and slow to import, so the classes here are mixins: `llama_class` imports it and puts them
in front of its classes.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from modeldeck._errors import InvalidRequestError, LoadFailedError
from modeldeck._heap import trim_heap
from modeldeck._types import DEFAULT_N_CTX
from modeldeck.llama import chat, hooks, sampling
from modeldeck.llama.execution import Execution, LockHold, unloaded_error
from modeldeck.llama.grammars import UnusableSchema, check_grammar
from modeldeck.llama.install import import_llama_cpp
from modeldeck.llama.measurements import Recorder
from modeldeck.sizing.cache_shape import padded_cells

T = TypeVar("T")

_Mixin: Any = object  # so that the attributes of llama-cpp-python's classes are accepted

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
"""Methods that change or read the state of the context: one at a time, on the model's own thread."""

_SHARED_METHODS = (
    "n_ctx",
    "n_embd",
    "n_vocab",
    "pooling_type",
    "token_bos",
    "token_eos",
    "token_nl",
)
"""Methods that only read what never changes: at any time, on the caller's thread."""

_NATIVE_PARTS = ("_ctx", "_model", "_batch")
_MEMORY_PARTS = ("_sampler", "_candidates", "scores", "input_ids", "cache")

_loaded: weakref.WeakSet[Llama] = weakref.WeakSet()


# --- refusing arguments that would end the process --------------------------------------------------------------------


class _CheckedLlama(_Mixin):  # type: ignore[misc]
    """Makes ``llama_cpp.Llama`` refuse such arguments."""

    _execution: Execution
    _sampler: Any

    def eval(self, tokens: Sequence[int]) -> None:
        self._execution.raise_if_stopped()
        if self._ctx.memory is None:
            raise InvalidRequestError(
                "This model cannot generate text: it makes embeddings, or was loaded with vocab_only=True. Use embed()."
            )
        super().eval(tokens)

    def create_chat_completion(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        original = super().create_chat_completion
        given = inspect.signature(original).bind(messages, *args, **kwargs)
        options = given.arguments
        if self.chat_handler is None or hasattr(self.chat_handler, "get_image_urls"):
            options["response_format"] = chat.check_response_format(options.get("response_format"))
            chat.check_tool_choice(options.get("tool_choice"), options.get("tools") or options.get("functions"))
        if self.chat_handler is not None:
            # Of a handler that the caller made, it is not known which parts it understands.
            kinds = chat.TEXT_AND_IMAGES if hasattr(self.chat_handler, "get_image_urls") else None
            messages = chat.check_messages(messages, kinds)
        elif self.chat_format in self._chat_handlers:
            messages = chat.check_messages(messages)
        else:
            messages = chat.with_text_contents(messages)
        options["messages"] = messages
        return original(*given.args, **given.kwargs)

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        original = super().embed
        options = inspect.signature(original).bind(*args, **kwargs).arguments
        texts = options["input"]
        if isinstance(texts, list | tuple) and not texts and self.context_params.embeddings:
            return ([], 0) if options.get("return_count") else []
        return original(*args, **kwargs)

    def sample(self, *args: Any, **kwargs: Any) -> int:
        if self.n_tokens == 0:
            raise InvalidRequestError("There is nothing to go on from. Call eval() with some tokens first.")
        idx = inspect.signature(super().sample).bind(*args, **kwargs).arguments.get("idx")
        if idx is not None:
            self._check_position(idx)
        sampler = self._sampler
        try:
            return super().sample(*args, **kwargs)  # type: ignore[no-any-return]
        except BaseException:
            self._sampler = sampler  # otherwise the next call would use the sampler of this one
            raise

    def _check_position(self, idx: object) -> None:
        """Refuse a position for which llama.cpp has no logits: it has those of the last batch, or of its last token."""
        batch = self._batch.batch
        n_outputs = max(1, sum(bool(batch.logits[position]) for position in range(batch.n_tokens)))
        first = self.n_tokens - min(n_outputs, self.n_tokens)
        if type(idx) is not int or not first <= idx < self.n_tokens:
            advice = "" if self._logits_all else " Load the model with logits_all=True for more."
            raise InvalidRequestError(
                f"idx must be a position from {first} to {self.n_tokens - 1}, of which llama.cpp has the logits, not "
                f"{idx!r}.{advice}"
            )

    def _create_completion(
        self, *args: Any, logit_bias: Any = None, logits_processor: Any = None, **kwargs: Any
    ) -> Any:
        """Turn ``logit_bias`` into a logits processor, which llama-cpp-python loses when there is another one."""
        if logit_bias is not None:
            bias = sampling.bias_processor(logit_bias, self._model.n_vocab())
            logits_processor = [*sampling.check_processors(logits_processor or []), bias]
        return super()._create_completion(*args, logits_processor=logits_processor, **kwargs)

    def _init_sampler(self, *args: Any, grammar: Any = None, logits_processor: Any = None, **kwargs: Any) -> Any:
        if grammar is not None:
            check_grammar(grammar, self.model_path, self._execution.raise_if_stopped)
        guarded = None
        if logits_processor is not None:
            guarded = sampling.GuardedProcessors(sampling.check_processors(logits_processor))
        sampler = super()._init_sampler(*args, grammar=grammar, logits_processor=guarded, **kwargs)
        if grammar is not None or guarded is not None:
            sampler.__class__ = _checked_sampler_class()
            sampler.has_grammar = grammar is not None
            sampler.processors = guarded
        return sampler


class _CheckedSampler(_Mixin):  # type: ignore[misc]
    """Makes ``LlamaSampler`` refuse what would end the process or be lost.

    llama.cpp ends the process when it gets a token that the grammar forbids. An exception of a logits processor cannot
    pass through native code, so it is raised here.
    """

    has_grammar: bool
    processors: sampling.GuardedProcessors | None

    def sample(self, ctx: Any, idx: int = -1) -> int:
        try:
            return self._sample(ctx, idx) if self.has_grammar else super().sample(ctx, idx)
        finally:
            if self.processors is not None:
                self.processors.raise_failure()

    def _sample(self, ctx: Any, idx: int) -> int:
        import numpy as np

        bindings = import_llama_cpp().llama_cpp
        n_vocab = bindings.llama_vocab_n_tokens(bindings.llama_model_get_vocab(bindings.llama_get_model(ctx.ctx)))
        tokens = np.zeros(n_vocab, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        tokens["id"] = np.arange(n_vocab)
        tokens["logit"] = np.ctypeslib.as_array(bindings.llama_get_logits_ith(ctx.ctx, idx), shape=(n_vocab,))
        data = tokens.ctypes.data_as(ctypes.POINTER(bindings.llama_token_data))
        candidates = bindings.llama_token_data_array(data=data, size=n_vocab, selected=-1, sorted=False)
        bindings.llama_sampler_apply(self.sampler, ctypes.byref(candidates))
        chosen = candidates.data[candidates.selected]
        if not np.isfinite(chosen.logit):
            raise InvalidRequestError(
                "The grammar and the sampling options exclude each other, so that no token is left to choose. "
                "Check logit_bias, logits_processor, the temperature and the penalties."
            )
        token = int(chosen.id)
        bindings.llama_sampler_accept(self.sampler, token)
        return token


class _CheckedModel(_Mixin):  # type: ignore[misc]
    """Makes ``LlamaModel`` refuse such arguments, and its vocabulary readable on any thread."""

    _execution: Execution

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        return self._execution.look_up(functools.partial(self._tokenize, text, add_bos, special))

    def _tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        """Do what the original does, which takes memory for all tokens of the context length in the model's header."""
        bindings = import_llama_cpp().llama_cpp
        size = len(text) + 2  # a token for each byte, and those of the beginning and the end
        for _ in range(2):
            tokens = (bindings.llama_token * size)()
            count = bindings.llama_tokenize(self.vocab, text, len(text), tokens, size, add_bos, special)
            if count >= 0:
                return list(tokens[:count])
            size = -count
        raise InvalidRequestError("llama.cpp cannot tokenize this text. Use a shorter one.")

    def detokenize(self, tokens: list[int], special: bool = False) -> bytes:
        self._check_tokens(tokens)
        text: bytes = self._execution.look_up(functools.partial(super().detokenize, tokens, special))
        return text

    def token_to_piece(self, token: int, special: bool = False) -> bytes:
        self._check_tokens([token])
        return super().token_to_piece(token, special)  # type: ignore[no-any-return]

    def token_get_text(self, token: int) -> str:
        self._check_tokens([token])
        return super().token_get_text(token)  # type: ignore[no-any-return]

    def token_get_score(self, token: int) -> float:
        self._check_tokens([token])
        return super().token_get_score(token)  # type: ignore[no-any-return]

    def token_get_attr(self, token: int) -> int:
        self._check_tokens([token])
        return super().token_get_attr(token)  # type: ignore[no-any-return]

    def _check_tokens(self, tokens: Iterable[int]) -> None:
        n_vocab = self.n_vocab()
        wrong = next((token for token in tokens if not 0 <= token < n_vocab), None)
        if wrong is not None:
            raise InvalidRequestError(f"{wrong} is not a token of this model. Its tokens are 0 to {n_vocab - 1}.")


# --- the handle -------------------------------------------------------------------------------------------------------


class Llama(_Mixin):  # type: ignore[misc]
    """A loaded model: every method of ``llama_cpp.Llama``, made safe for a notebook.

    `modeldeck.load` returns it. Calls from several threads queue. ``unload()``, leaving a ``with`` block, or dropping
    the last reference frees the memory. ``cancel()`` ends a running generation, and so does an interrupt of the kernel.

    Parameters
    ----------
    model_path : str
        The model's file, or the first part of a split model.
    on_load_progress : callable
        Called with the loaded fraction, 0 to 1. Returning ``False`` ends the load.
    verbose : bool
        Whether llama.cpp's log is printed to stderr.
    **kwargs : Any
        The options of ``llama_cpp.Llama``.

    Raises
    ------
    LoadFailedError
        When llama.cpp cannot load the model.
    ModelUnloadedError
        By every method, after the model has been unloaded.
    GenerationCancelledError
        By a generation that ``cancel()`` ended, and by a stream after another call on the same thread began: at once on
        the main thread, and on others when nobody has read the stream for 10 seconds.
    InvalidRequestError
        For arguments that would crash llama.cpp.
    LlamaCrashedError
        When llama.cpp would have ended the process, or does not end within a minute after it was asked to. The
        process lives; the model is lost.

    Examples
    --------
    >>> with modeldeck.load("model.gguf", n_ctx=2048) as llm:               # doctest: +SKIP
    ...     answer = llm.create_chat_completion([{"role": "user", "content": "Hello"}])
    ...     for piece in llm("Once upon a time", max_tokens=50, stream=True):
    ...         print(piece["choices"][0]["text"], end="")
    """

    _execution: Execution

    def __init__(
        self,
        model_path: str,
        *,
        on_load_progress: Callable[[float], bool] = lambda fraction: True,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        hooks.install(import_llama_cpp())
        self._execution = Execution()
        self._recorder: Recorder | None = None
        thread = self._execution.thread
        thread.on_progress = on_load_progress
        thread.is_verbose = verbose
        with ExitStack() as on_failure:
            on_failure.callback(self.unload)
            load = functools.partial(self._load, model_path, verbose=verbose, **kwargs)
            try:
                thread.call(load, interrupt=lambda: setattr(thread, "on_progress", lambda fraction: False))
            except (TypeError, OverflowError, ctypes.ArgumentError) as error:
                raise InvalidRequestError(f"llama_cpp.Llama cannot use these options: {error}.") from error
            except (ValueError, RuntimeError, MemoryError) as error:
                reason = thread.log.reason() or str(error) or "not enough memory"
                raise LoadFailedError(f"llama.cpp cannot load {Path(model_path).name}: {reason}.") from error
            on_failure.pop_all()
        thread.on_progress = lambda fraction: True  # the caller's may hold on to anything
        _loaded.add(self)

    def _load(self, model_path: str, *, n_ctx: int = DEFAULT_N_CTX, **kwargs: Any) -> None:
        self._hides_templates = True
        # llama.cpp rounds the context length up in the same way, but llama-cpp-python would not know.
        super().__init__(model_path, n_ctx=padded_cells(n_ctx), **kwargs)
        self._hides_templates = False
        self._model._execution = self._execution
        self._model.__class__ = _checked_model_class()
        llama_cpp = import_llama_cpp()
        self._execution.stop_flag.attach(llama_cpp.llama_cpp, self._ctx.ctx)
        chat.add_template_handlers(self, llama_cpp, self._execution.renderer)
        if kwargs.get("chat_format") is None and kwargs.get("chat_handler") is None:
            self.chat_format = chat.default_format(self, llama_cpp)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata in the model's header, as text.

        While the model loads, chat templates are hidden, because ``llama_cpp.Llama`` would compile them.
        """
        if self._hides_templates:
            return {key: text for key, text in self._metadata.items() if not key.startswith(chat.TEMPLATE_KEY)}
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, str]) -> None:
        self._metadata = metadata

    @property
    def is_loaded(self) -> bool:
        """Whether the model is still in memory and usable."""
        return not self._execution.lock.is_closed and self._execution.thread.crash is None

    def cancel(self) -> bool:
        """End the running generation, from any thread. Its caller gets `GenerationCancelledError`.

        Returns
        -------
        bool
            Whether a generation was running.

        Examples
        --------
        >>> threading.Timer(10, llm.cancel).start()                         # doctest: +SKIP
        >>> llm("A very long prompt", max_tokens=1000)                      # doctest: +SKIP
        """
        return self._execution.lock.cancel()

    def unload(self) -> None:
        """Stop what is running and free the memory. Safe at any time, from any thread, and more than once.

        Every later use raises `ModelUnloadedError`.

        Examples
        --------
        >>> llm.unload()                                                    # doctest: +SKIP
        >>> llm.is_loaded                                                   # doctest: +SKIP
        False
        """
        execution = self._execution
        thread = execution.thread
        if thread.is_of_other_process:
            return
        is_first = execution.lock.close()
        if thread.crash is None:
            if is_first:
                thread.post(functools.partial(_free, self.__dict__))
                thread.stop()
                execution.lookup_thread.stop()
            thread.join()
            execution.lookup_thread.join()
        if thread.crash is not None:
            execution.renderer.close()
            _disable_parts(self.__dict__)
            execution.on_unload()

    def close(self) -> None:
        """Free the memory; the name that ``llama_cpp.Llama`` has for ``unload()``."""
        self.unload()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    def __del__(self) -> None:
        if "_execution" in self.__dict__ and not sys.is_finalizing():
            self.unload()

    def __repr__(self) -> str:
        name = Path(self.model_path).name
        return f"<Llama {name}, n_ctx={self._n_ctx}>" if self.is_loaded else f"<Llama {name}, unloaded>"

    def _run_exclusively(self, function: Callable[[], Any]) -> Any:
        execution = self._execution
        if execution.thread.is_current:
            return function()
        hold = execution.lock.acquire()
        stream: LlamaStream | None = None
        try:
            result = execution.run(functools.partial(self._run_stoppable, function))
            if isinstance(result, Iterator):
                stream = LlamaStream(self, result, hold)
            else:
                self._record()
        finally:
            if stream is None:
                execution.lock.release(hold)
            notices, execution.thread.notices = execution.thread.notices, []
        for notice in dict.fromkeys(notices):
            warnings.warn(notice, stacklevel=3)
        return stream or result

    def _run_stoppable(self, function: Callable[[], T]) -> T:
        try:
            with _Stoppable(self):
                return function()
        except UnusableSchema as error:
            raise InvalidRequestError(str(error)) from None
        except RecursionError as error:
            raise InvalidRequestError(
                "The messages, tools or schema are nested too deeply. Use less nesting."
            ) from error

    def _run_shared(self, function: Callable[[], T]) -> T:
        if self._execution.thread.is_current:
            return function()
        with self._execution.lock.shared():
            return function()

    def _record(self) -> None:
        """Save the measurement of this load, once enough has been generated. The caller holds the lock."""
        if self._recorder is not None and self._recorder.record(self._ctx.ctx, self._n_ctx):
            self._recorder = None


def _guarded(
    method: Callable[..., Any], original: Callable[..., Any], run: Callable[[Llama, Callable[[], Any]], Any]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def guarded(self: Llama, *args: Any, **kwargs: Any) -> Any:
        return run(self, functools.partial(method, self, *args, **kwargs))

    return guarded


@functools.cache
def llama_class() -> type[Llama]:
    """Return the class of loaded models: `Llama` in front of ``llama_cpp.Llama``."""
    original = import_llama_cpp().Llama
    base = type("CheckedLlama", (_CheckedLlama, original), {})
    methods = {
        name: _guarded(getattr(base, name), getattr(original, name), run)
        for names, run in ((_EXCLUSIVE_METHODS, Llama._run_exclusively), (_SHARED_METHODS, Llama._run_shared))
        for name in names
    }
    atexit.register(_unload_all)
    return type("Llama", (Llama, base), {"__module__": "modeldeck.llama", "__doc__": Llama.__doc__, **methods})


@functools.cache
def _checked_sampler_class() -> type[_CheckedSampler]:
    return type("CheckedSampler", (_CheckedSampler, import_llama_cpp()._internals.LlamaSampler), {})


@functools.cache
def _checked_model_class() -> type[_CheckedModel]:
    return type("CheckedModel", (_CheckedModel, import_llama_cpp()._internals.LlamaModel), {})


class LlamaStream(Generator[Any, Any, None]):
    """A generator of llama-cpp-python that runs piece by piece on the model's thread and holds its lock to the end."""

    def __init__(self, llama: Llama, iterator: Iterator[Any], hold: LockHold) -> None:
        self._llama = llama
        self._iterator = iterator
        self._hold = hold
        self._is_done = False
        llama._execution.lock.suspend(hold)

    def send(self, value: Any) -> Any:
        if self._is_done:
            raise StopIteration
        execution = self._llama._execution
        execution.lock.resume(self._hold)
        self._is_done = True
        try:
            piece = execution.run(functools.partial(self._next, value))
            self._is_done = False
        except StopIteration:
            self._llama._record()
            raise
        finally:
            if self._is_done:
                execution.lock.release(self._hold)
            else:
                execution.lock.suspend(self._hold)
        return piece

    def throw(self, *error: Any) -> Any:
        self._is_done = True
        self._llama._execution.lock.release(self._hold)
        if isinstance(self._iterator, Generator):
            return self._iterator.throw(*error)
        raise error[0]

    def __del__(self) -> None:
        self._llama._execution.lock.release(self._hold)

    def _next(self, value: Any) -> Any:
        with _Stoppable(self._llama):
            if value is not None and isinstance(self._iterator, Generator):
                return self._iterator.send(value)
            return next(self._iterator)


class _Stoppable:
    """Replaces whatever error a stopped generation fails with by the one that says so, and resets the model."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama

    def __enter__(self) -> None:
        self._llama._execution.raise_if_stopped()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        execution = self._llama._execution
        if error is None or isinstance(error, StopIteration) or not execution.lock.is_stopping:
            return
        if not execution.lock.is_closed:
            # llama.cpp has dropped the sequence from its cache, which llama-cpp-python would otherwise reuse.
            self._llama.reset()
            self._llama._ctx.kv_cache_clear()
        execution.raise_if_stopped()


# --- freeing ----------------------------------------------------------------------------------------------------------


class _UnloadedPart:
    """The class of the native parts after unloading: using one, through a tokenizer say, raises an error."""

    def __getattribute__(self, name: str) -> Any:
        raise unloaded_error()


def _free(state: dict[str, Any]) -> None:
    """Free what belongs to the `Llama` with these attributes. Runs last on the model's thread."""
    for name in _MEMORY_PARTS:
        state.pop(name, None)
    if "_stack" in state:
        state["_stack"].close()
    state["_execution"].renderer.close()
    _disable_parts(state)
    trim_heap()
    state["_execution"].on_unload()


def _disable_parts(state: dict[str, Any]) -> None:
    for name in _NATIVE_PARTS:
        if name in state:
            state[name].__class__ = _UnloadedPart


def call_on_unload(llama: Llama, method: Callable[[], object]) -> None:
    """Call a method once the model has been unloaded, on any thread, perhaps more than once.

    It takes the place of the one before, and neither keeps its object alive nor is called when the interpreter ends.
    """
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    llama._execution.on_unload = call
    if not llama.is_loaded:
        call()


def _unload_all() -> None:
    """Unload before the interpreter ends: afterwards no thread answers any more."""
    for llama in list(_loaded):
        llama._execution.on_unload = lambda: None
        llama.unload()
