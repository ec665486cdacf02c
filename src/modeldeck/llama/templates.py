"""Renders chat templates in a child process, where a hostile one can do no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeldeck._children import Child
from modeldeck._errors import ChatTemplateError, InvalidRequestError

MAX_RENDER_SECONDS = 10.0
_MAX_MEMORY_BYTES = 1 << 30
_MAX_NAME_CHARACTERS = 50
_PROGRAM = Path(__file__).with_name("children") / "render_template.py"
_ADVICE = "Pass chat_format=… to load() to use another one, or use create_completion() with a prompt of your own."
START_ADVICE = "Close files and programs that you no longer use, and try again."


class TemplateRenderer:
    """Renders jinja chat templates in a child process, which starts with the first one and ends with ``close``.

    Parameters
    ----------
    max_seconds
        How long one rendering may take.
    check
        Called several times a second meanwhile. An exception it raises ends the rendering.
    """

    def __init__(self, *, max_seconds: float = MAX_RENDER_SECONDS, check: Callable[[], object] = lambda: None) -> None:
        self._max_seconds = max_seconds
        self._check = check
        self._child = Child(_PROGRAM, max_memory_bytes=_MAX_MEMORY_BYTES)

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """Return the prompt that ``template`` makes of ``variables``.

        Raises
        ------
        ChatTemplateError
            When the template is wrong, refuses the messages, takes too long or needs too much memory, or when the child
            process cannot be started.
        InvalidRequestError
            When a variable is not a JSON value.
        """
        if not template.strip():
            raise _failure("it is empty")
        if "{{" not in template and "{%" not in template:
            raise _failure(f"it is a name, {template.strip()[:_MAX_NAME_CHARACTERS]!r}, and not a template")
        try:
            reply = self._child.ask(
                {"template": template, "variables": variables}, timeout_seconds=self._max_seconds, check=self._check
            )
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"Chat messages must be JSON values: {error}.") from error
        if not reply.was_started:
            raise ChatTemplateError(f"The chat template could not be rendered. {reply.last_error} {START_ADVICE}")
        if not reply.is_complete:
            raise _failure(f"it took more than {self._max_seconds:g} seconds or too much memory")
        answer = reply.answers[0]
        if "error" in answer:
            raise _failure(answer["error"])
        prompt: str = answer["prompt"]
        if not prompt.strip():
            raise _failure("it makes an empty prompt")
        return prompt

    def close(self) -> None:
        """End the child process, also while it renders."""
        self._child.stop()


def _failure(reason: str) -> ChatTemplateError:
    return ChatTemplateError(f"The model's chat template failed: {reason}. {_ADVICE}")
