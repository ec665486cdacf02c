"""Chat with the model's own templates, rendered by a `TemplateRenderer` instead of in this process."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from modeldeck._errors import ChatTemplateError, InvalidRequestError
from modeldeck.llama.templates import TemplateRenderer

TEMPLATE_KEY = "tokenizer.chat_template"
_DEFAULT_FORMAT = "chat_template.default"
_PRINTED_PARTS = ("{'type': 'text'", '{"type": "text"', '{"type":"text"')


class TemplateFormatter:
    """Does what ``llama_cpp.llama_chat_format.Jinja2ChatFormatter`` does, without jinja in this process."""

    def __init__(self, llama: Any, llama_cpp: ModuleType, template: str, renderer: TemplateRenderer) -> None:
        self._renderer = renderer
        self._llama_cpp = llama_cpp
        self._template = template
        self._eos_id = llama.token_eos()
        self._eos_token, self._bos_token = special_tokens(llama)

    def __call__(
        self,
        *,
        messages: list[Any],
        functions: Any = None,
        function_call: Any = None,
        tools: Any = None,
        tool_choice: Any = None,
        **variables: Any,
    ) -> Any:
        variables = {
            "functions": functions,
            "function_call": function_call,
            "tools": tools,
            "tool_choice": tool_choice,
            "eos_token": self._eos_token,
            "bos_token": self._bos_token,
            "add_generation_prompt": True,
            **variables,
        }
        prompt = render_messages(self._renderer, self._template, messages, variables)
        return self._llama_cpp.llama_chat_format.ChatFormatterResponse(
            prompt=prompt,
            stop=[self._eos_token],
            stopping_criteria=self._llama_cpp.StoppingCriteriaList([self._ends_with_eos]),
            added_special=True,
        )

    def _ends_with_eos(self, tokens: Any, _logits: Any) -> bool:
        return bool(tokens[-1] == self._eos_id)


def add_template_handlers(llama: Any, llama_cpp: ModuleType, renderer: TemplateRenderer) -> None:
    """Register a chat handler for each template in a model's metadata, under llama-cpp-python's names for them.

    Parameters
    ----------
    llama
        The ``llama_cpp.Llama``.
    """
    for key, template in llama.metadata.items():
        if key == TEMPLATE_KEY:
            name = _DEFAULT_FORMAT
        elif key.startswith(f"{TEMPLATE_KEY}."):
            name = key.removeprefix("tokenizer.")
        else:
            continue
        formatter = TemplateFormatter(llama, llama_cpp, template, renderer)
        make_handler = llama_cpp.llama_chat_format.chat_formatter_to_chat_completion_handler
        llama._chat_handlers[name] = make_handler(formatter)


def default_format(llama: Any, llama_cpp: ModuleType) -> str:
    """Choose the chat format that llama-cpp-python chooses when none is given."""
    if TEMPLATE_KEY not in llama.metadata:
        return str(llama.chat_format)
    known = llama_cpp.llama_chat_format.guess_chat_format_from_gguf_metadata(llama.metadata)
    return known or _DEFAULT_FORMAT


def check_messages(messages: Any) -> Any:
    """Raise `InvalidRequestError` when a message has an image or a sound, which only a projector understands."""
    for part in _parts(messages):
        if isinstance(part, dict) and part.get("type") != "text":
            raise InvalidRequestError(
                f"This model takes text only, and a message has a part of type {part.get('type')!r}. "
                "Load the model with mmproj=… (its vision projector), or leave the part out."
            )
    return messages


def with_text_contents(messages: Any, separator: str = "\n") -> Any:
    """Return messages whose contents are text: parts are joined with ``separator``, and ``None`` is empty.

    Raises
    ------
    InvalidRequestError
        When a part is not text.
    """
    check_messages(messages)
    if not isinstance(messages, list | tuple):
        return messages
    return [_with_text_content(message, separator) for message in messages]


def render_messages(
    renderer: TemplateRenderer, template: str, messages: Any, variables: dict[str, Any], *, separator: str = "\n"
) -> str:
    """Return the prompt for messages, in the form that the template understands.

    A content may be a list of parts or ``None``. Many templates know only text: they print Python's notation of the
    list, the word "None" or nothing, or fail. Such a prompt is made again from plain text.

    Raises
    ------
    ChatTemplateError
        When the template cannot render the messages.
    """
    plain = with_text_contents(messages, separator)
    if plain == messages:
        return renderer.render(template, {"messages": messages, **variables})
    try:
        prompt = renderer.render(template, {"messages": messages, **variables})
    except ChatTemplateError:
        prompt = ""
    return prompt if _is_understood(prompt, messages) else renderer.render(template, {"messages": plain, **variables})


def _is_understood(prompt: str, messages: list[Any]) -> bool:
    """Whether all texts are in the prompt, and neither a printed list nor a printed ``None``."""
    has_none = any(isinstance(message, dict) and message.get("content", "") is None for message in messages)
    if not prompt or (has_none and "None" in prompt) or any(sign in prompt for sign in _PRINTED_PARTS):
        return False
    texts = [part if isinstance(part, str) else str(part.get("text", "")) for part in _parts(messages)]
    return all(text.strip() in prompt for text in texts)


def _parts(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list | tuple) else ():
        content = message.get("content") if isinstance(message, dict) else None
        yield from content if isinstance(content, list) else ()


def _with_text_content(message: Any, separator: str) -> Any:
    if not isinstance(message, dict) or "content" not in message:
        return message
    content = message["content"]
    if content is None:
        return {**message, "content": ""}
    if not isinstance(content, list):
        return message
    texts = [part if isinstance(part, str) else str(part.get("text", "")) for part in content]
    return {**message, "content": separator.join(texts)}


def special_tokens(llama: Any) -> tuple[str, str]:
    """Return the texts of the end and the beginning token, empty where the model has none."""
    eos, bos = (
        llama._model.token_get_text(token) if token != -1 else "" for token in (llama.token_eos(), llama.token_bos())
    )
    return eos, bos
