"""Images in chat: the handler for a model and its vision projector."""

from __future__ import annotations

import functools
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from modeldeck._children import Child
from modeldeck._errors import InvalidRequestError, LoadFailedError
from modeldeck.llama import hooks
from modeldeck.llama.chat import TEMPLATE_KEY, render_messages, special_tokens
from modeldeck.llama.native_thread import current_thread

_PROGRAM = Path(__file__).with_name("children") / "open_projector.py"
IMAGE_SECONDS = 60.0
_CHECK_SECONDS = 0.1
_IMAGE_ADVICE = "Check its address, or send it as a data address: data:image/png;base64,…"
_TEMPLATE_VARIABLE = "modeldeck_prompt"

_safe_projectors: set[tuple[Path, int, int]] = set()
"""Projectors that a child process has opened without a crash: path, size and time of change."""


def make_handler(llama_cpp: ModuleType, projector: Path, has_chat_template: bool) -> Any:
    """Make the chat handler of llama-cpp-python that understands images.

    With a chat template it is the general one, which places the images where the template says. Without one it is
    LLaVA 1.5's, the format such models were made with.
    """
    formats = llama_cpp.llama_chat_format
    if not has_chat_template:
        return _llava_handler_class(llama_cpp)(clip_model_path=str(projector), verbose=False)
    if not hasattr(formats, "MTMDChatHandler"):
        raise LoadFailedError(
            "This llama-cpp-python has no chat handler for vision models with a chat template. "
            "Update it to 0.3.36 or later, or load the model without mmproj for text only."
        )
    return _template_handler_class(llama_cpp)(clip_model_path=str(projector), verbose=False)


def try_projector(model: Path, projector: Path, check: Callable[[], None]) -> None:
    """Open the projector in a child process first, and raise when the child dies of it, or cannot try it.

    Parameters
    ----------
    check
        Called several times a second. An exception it raises ends the trial.
    """
    status = projector.stat()
    key = (projector, status.st_size, status.st_mtime_ns)
    if key in _safe_projectors:
        return
    with Child(_PROGRAM) as child:
        reply = child.ask({"model": str(model), "projector": str(projector)}, check=check)
    if reply.is_crash:
        raise LoadFailedError(
            f"The vision projector {projector.name} makes llama.cpp crash: it is damaged. Download it again, or load "
            "the model without mmproj for text only."
        )
    if not reply.is_complete:
        raise LoadFailedError(
            f"The vision projector {projector.name} could not be tried here: {reply.why_incomplete}. Load the "
            "model again, or load it without mmproj for text only."
        )
    _safe_projectors.add(key)


def open_projector(llama: Any, projector: Path) -> None:
    """Load the projector of a `Llama` now, so that a wrong one fails the load and not the first message."""
    if not hasattr(llama.chat_handler, "_init_mtmd_context"):
        return
    hooks.install_projector_log(llama.chat_handler._mtmd_cpp)
    log = llama._execution.thread.log
    log.clear()
    try:
        llama._execution.thread.call(functools.partial(llama.chat_handler._init_mtmd_context, llama))
    except ValueError as error:
        raise LoadFailedError(
            f"The vision projector {projector.name} cannot be loaded with this model: {log.reason() or error}. "
            "Load the model without mmproj for text only."
        ) from error


def load_image(address: str, check: Callable[[], object]) -> bytes:
    """Load an image from the network, or from another address that ``urllib`` knows.

    It is loaded on a thread, because the wait for a server cannot be interrupted.

    Parameters
    ----------
    check
        Called several times a second meanwhile. An exception it raises passes through.

    Raises
    ------
    InvalidRequestError
        When the image cannot be loaded, or takes longer than a minute.
    """
    results: SimpleQueue[bytes | Exception] = SimpleQueue()

    def load() -> None:
        try:
            with urllib.request.urlopen(address, timeout=IMAGE_SECONDS) as response:
                results.put(response.read())
        except Exception as error:  # noqa: BLE001 - raised below
            results.put(error)

    threading.Thread(target=load, name="modeldeck-image", daemon=True).start()
    deadline = time.monotonic() + IMAGE_SECONDS
    while time.monotonic() < deadline:
        try:
            result = results.get(timeout=_CHECK_SECONDS)
        except Empty:
            check()
            continue
        if isinstance(result, bytes):
            return result
        raise InvalidRequestError(f"An image of the message cannot be loaded: {result}. {_IMAGE_ADVICE}") from result
    raise InvalidRequestError(
        f"An image of the message cannot be loaded: its server did not send it within {IMAGE_SECONDS:g} seconds. "
        f"{_IMAGE_ADVICE}"
    )


def _handler_class(base: Any, methods: dict[str, Any]) -> Any:
    """Make a subclass of a chat handler of llama-cpp-python, which would wait for an image without end."""

    def load_handler_image(self: Any, image_url: str) -> bytes:
        thread = current_thread()
        if thread is None or image_url.startswith("data:"):
            image: bytes = base.load_image(self, image_url)
            return image
        return load_image(image_url, thread.check)

    return type(f"Safe{base.__name__}", (base,), {"load_image": load_handler_image, **methods})


@functools.cache
def _llava_handler_class(llama_cpp: ModuleType) -> Any:
    return _handler_class(llama_cpp.llama_chat_format.Llava15ChatHandler, {})


@functools.cache
def _template_handler_class(llama_cpp: ModuleType) -> Any:
    base = llama_cpp.llama_chat_format.MTMDChatHandler

    def get_chat_template(self: Any, llama: Any) -> str:
        """Return a template that only inserts the prompt, which was rendered in a child process."""
        return f"{{{{ {_TEMPLATE_VARIABLE} }}}}"

    def call(self: Any, *, llama: Any, messages: list[Any], **kwargs: Any) -> Any:
        prompt = _render(self, llama, messages, kwargs)
        return base.__call__(self, llama=llama, messages=messages, **{_TEMPLATE_VARIABLE: prompt}, **kwargs)

    return _handler_class(base, {"_get_chat_template": get_chat_template, "__call__": call})


def _render(handler: Any, llama: Any, messages: list[Any], kwargs: dict[str, Any]) -> str:
    marker = handler._mtmd_cpp.mtmd_default_marker().decode()
    eos_token, bos_token = special_tokens(llama)
    variables = {name: kwargs.get(name) for name in ("functions", "function_call", "tools", "tool_choice")}
    variables |= {"eos_token": eos_token, "bos_token": bos_token, "add_generation_prompt": True}
    marked = handler._get_template_messages(messages, marker)
    return render_messages(llama._execution.renderer, llama.metadata[TEMPLATE_KEY], marked, variables, separator="")
