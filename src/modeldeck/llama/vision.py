"""Images in chat: the handler for a model and its vision projector."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from modeldeck._errors import LoadFailedError
from modeldeck.llama import hooks
from modeldeck.llama.chat import TEMPLATE_KEY, special_tokens

if TYPE_CHECKING:
    from modeldeck.llama.guard import Guarded

_CHILD = Path(__file__).with_name("projector_child.py")
_CHECK_SECONDS = 0.1
_TEMPLATE_VARIABLE = "modeldeck_prompt"
_SIGN_OF_A_PRINTED_LIST = "{'type': 'text'"

_survived: set[tuple[Path, int, int]] = set()
"""Projectors that have been tried in this process, with size and time of change."""


def make_handler(llama_cpp: ModuleType, projector: Path, has_chat_template: bool) -> Any:
    """A chat handler of llama-cpp-python that understands images.

    With a chat template it is the general one, which places the images where the template says; without one it is
    LLaVA 1.5's, the format such models were made with.
    """
    formats = llama_cpp.llama_chat_format
    if not has_chat_template:
        return formats.Llava15ChatHandler(clip_model_path=str(projector), verbose=False)
    if not hasattr(formats, "MTMDChatHandler"):
        raise LoadFailedError(
            "This llama-cpp-python has no chat handler for vision models with a chat template. "
            "Update it to 0.3.36 or later, or load the model without mmproj for text only."
        )
    return _template_handler_class(llama_cpp)(clip_model_path=str(projector), verbose=False)


def try_projector(model: Path, projector: Path, check: Callable[[], None]) -> None:
    """Open the projector in a child process first, and raise when the child dies of it.

    Parameters
    ----------
    check
        Called now and then; what it raises ends the trial.
    """
    status = projector.stat()
    key = (projector, status.st_size, status.st_mtime_ns)
    if key in _survived:
        return
    if not _survives([sys.executable, "-P", str(_CHILD), str(model), str(projector)], check):
        raise LoadFailedError(
            f"The vision projector {projector.name} makes llama.cpp crash: it is damaged. Download it again, or load "
            "the model without mmproj for text only."
        )
    _survived.add(key)


def _survives(command: list[str], check: Callable[[], None]) -> bool:
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing) as child:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(_CHECK_SECONDS) == 0
                check()
        finally:
            child.kill()


def open_projector(llama: Guarded, projector: Path) -> None:
    """Load the projector now, so that a wrong one is an error of the load and not of the first message."""
    if not hasattr(llama.chat_handler, "_init_mtmd_context"):
        return
    hooks.install_projector_log(llama.chat_handler._mtmd_cpp)
    log = llama._control.thread.log
    log.clear()
    try:
        llama._control.thread.call(functools.partial(llama.chat_handler._init_mtmd_context, llama))
    except ValueError as error:
        raise LoadFailedError(
            f"The vision projector {projector.name} cannot be loaded with this model: {log.reason() or error}. "
            "Load the model without mmproj for text only."
        ) from error


@functools.cache
def _template_handler_class(llama_cpp: ModuleType) -> Any:
    base = llama_cpp.llama_chat_format.MTMDChatHandler

    def get_chat_template(self: Any, llama: Guarded) -> str:
        """What is rendered in this process: only what was rendered elsewhere."""
        return f"{{{{ {_TEMPLATE_VARIABLE} }}}}"

    def call(self: Any, *, llama: Guarded, messages: list[Any], **kwargs: Any) -> Any:
        prompt = _render(self, llama, messages, kwargs)
        return base.__call__(self, llama=llama, messages=messages, **{_TEMPLATE_VARIABLE: prompt}, **kwargs)

    return type("SafeMTMDChatHandler", (base,), {"_get_chat_template": get_chat_template, "__call__": call})


def _render(handler: Any, llama: Guarded, messages: list[Any], kwargs: dict[str, Any]) -> str:
    marker = handler._mtmd_cpp.mtmd_default_marker().decode()
    eos_token, bos_token = special_tokens(llama)
    variables = {name: kwargs.get(name) for name in ("functions", "function_call", "tools", "tool_choice")}
    variables |= {"eos_token": eos_token, "bos_token": bos_token, "add_generation_prompt": True}
    marked = handler._get_template_messages(messages, marker)
    render = functools.partial(llama._control.renderer.render, llama.metadata[TEMPLATE_KEY])
    prompt = render({"messages": marked, **variables})
    if _SIGN_OF_A_PRINTED_LIST in prompt:  # a template that knows only text contents
        prompt = render({"messages": [_with_text_content(message) for message in marked], **variables})
    return prompt


def _with_text_content(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "".join(str(part.get("text", "")) for part in content)}
