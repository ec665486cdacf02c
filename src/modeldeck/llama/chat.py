"""Chat with the model's own templates, rendered by a `TemplateRenderer` instead of in this process."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from modeldeck._errors import ChatTemplateError, InvalidRequestError
from modeldeck.llama.templates import TemplateRenderer

TEMPLATE_KEY = "tokenizer.chat_template"
_DEFAULT_FORMAT = "chat_template.default"
TEXT_ONLY = frozenset({"text"})
TEXT_AND_IMAGES = frozenset({"text", "image_url"})
_EXAMPLE = "[{'role': 'user', 'content': 'Hello'}]"
_EXAMPLE_PART = "{'type': 'text', 'text': 'Hello'}"
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


def check_messages(messages: Any, kinds: frozenset[str] | None = TEXT_ONLY) -> list[dict[str, Any]]:
    """Return chat messages as a list, and their parts as lists.

    Parameters
    ----------
    messages
        A list or tuple of dictionaries with a role and a content.
    kinds
        The types of parts that the model understands; ``None`` when that is not known.

    Raises
    ------
    InvalidRequestError
        When they are something else, or a part has another type.
    """
    if not isinstance(messages, list | tuple):
        raise InvalidRequestError(
            f"Chat messages must be a list, such as {_EXAMPLE}, not {_kind(messages)}. "
            "Use create_completion() for a prompt of your own."
        )
    return [_check_message(message, kinds) for message in messages]


def with_text_contents(messages: Any, separator: str = "\n") -> list[dict[str, Any]]:
    """Return messages whose contents are text: parts are joined with ``separator``, and ``None`` is empty.

    Raises
    ------
    InvalidRequestError
        When they are not messages, or a part is not text.
    """
    return [_with_text_content(message, separator) for message in check_messages(messages)]


def check_response_format(response_format: Any) -> Any:
    """Return ``response_format`` in the form that llama-cpp-python understands; it ignores every other one.

    Raises
    ------
    InvalidRequestError
        When it has no such form.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind in ("text", "json_object"):
        return response_format
    if kind != "json_schema":
        raise InvalidRequestError(
            "response_format must be a dictionary with the type 'text', 'json_object' or 'json_schema', such as "
            "{'type': 'json_object'}."
        )
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequestError(
            "A response_format of the type 'json_schema' must have a schema, as in "
            "{'type': 'json_schema', 'json_schema': {'name': 'answer', 'schema': {'type': 'object'}}}."
        )
    return {"type": "json_object", "schema": schema}


def check_tool_choice(tool_choice: Any, tools: Any) -> None:
    """Raise `InvalidRequestError` for a ``tool_choice`` that llama-cpp-python would ignore."""
    if tool_choice is None or tool_choice in ("none", "auto"):
        return
    function = tool_choice.get("function") if isinstance(tool_choice, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            f"llama-cpp-python cannot follow tool_choice={tool_choice!r}. Name the tool, as in "
            "{'type': 'function', 'function': {'name': 'NAME'}}, or leave tool_choice out."
        )
    if not tools:
        raise InvalidRequestError("tool_choice names a tool, and tools has none. Pass tools=[…] too.")


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
    has_none = any(message.get("content", "") is None for message in messages)
    if not prompt or (has_none and "None" in prompt) or any(sign in prompt for sign in _PRINTED_PARTS):
        return False
    contents = [message.get("content") for message in messages]
    texts = [_text(part) for content in contents if isinstance(content, list) for part in content]
    return all(text.strip() in prompt for text in texts)


def _check_message(message: Any, kinds: frozenset[str] | None) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InvalidRequestError(f"Chat messages must be dictionaries, such as in {_EXAMPLE}, not {_kind(message)}.")
    if not isinstance(message.get("role"), str):
        raise InvalidRequestError(f"A chat message must have a role, as in {_EXAMPLE}.")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    if not isinstance(content, list | tuple):
        raise InvalidRequestError(
            f"Chat messages must be JSON in the form of OpenAI's API: a content is text or a list of parts, not "
            f"{_kind(content)}."
        )
    for part in content:
        _check_part(part, kinds)
    return {**message, "content": list(content)}


def _check_part(part: Any, kinds: frozenset[str] | None) -> None:
    if isinstance(part, str):
        return
    if not isinstance(part, dict):
        raise InvalidRequestError(
            f"A part of a message must be a dictionary, such as {_EXAMPLE_PART}, not {_kind(part)}."
        )
    kind = part.get("type")
    if kinds is not None and kind not in kinds:
        if kinds == TEXT_ONLY:
            understood, advice = "text", "Load the model with mmproj=… (its vision projector), or leave the part out."
        else:
            understood, advice = "text and images", "Leave the part out."
        raise InvalidRequestError(
            f"This model takes {understood} only, and a message has a part of type {kind!r}. {advice}"
        )
    if kind == "text" and not isinstance(part.get("text"), str):
        raise InvalidRequestError(f"A part of type 'text' must have a text, as in {_EXAMPLE_PART}.")
    if kind == "image_url" and not isinstance(_address(part), str):
        raise InvalidRequestError(
            "A part of type 'image_url' must have the address of an image, as in "
            "{'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,…'}}."
        )


def _address(part: dict[str, Any]) -> Any:
    image = part.get("image_url")
    return image.get("url") if isinstance(image, dict) else image


def _kind(value: object) -> str:
    return f"a value of the type {type(value).__name__}"


def _with_text_content(message: dict[str, Any], separator: str) -> dict[str, Any]:
    if "content" not in message:
        return message
    content = message["content"]
    if content is None:
        return {**message, "content": ""}
    if not isinstance(content, list):
        return message
    return {**message, "content": separator.join(map(_text, content))}


def _text(part: Any) -> str:
    return part if isinstance(part, str) else str(part.get("text", ""))


def special_tokens(llama: Any) -> tuple[str, str]:
    """Return the texts of the end and the beginning token, empty where the model has none."""
    eos, bos = (
        llama._model.token_get_text(token) if token != -1 else "" for token in (llama.token_eos(), llama.token_bos())
    )
    return eos, bos
