"""Chat with the model's own templates, rendered by a `TemplateRenderer` instead of in this process."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from modeldeck.llama.templates import TemplateRenderer

TEMPLATE_KEY = "tokenizer.chat_template"
_DEFAULT_FORMAT = "chat_template.default"


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
        prompt = self._renderer.render(
            self._template,
            {
                "messages": messages,
                "functions": functions,
                "function_call": function_call,
                "tools": tools,
                "tool_choice": tool_choice,
                "eos_token": self._eos_token,
                "bos_token": self._bos_token,
                "add_generation_prompt": True,
                **variables,
            },
        )
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


def special_tokens(llama: Any) -> tuple[str, str]:
    """Return the texts of the end and the beginning token, empty where the model has none."""
    eos, bos = (
        llama._model.token_get_text(token) if token != -1 else "" for token in (llama.token_eos(), llama.token_bos())
    )
    return eos, bos
