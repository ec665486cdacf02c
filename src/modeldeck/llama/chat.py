"""Chat with the model's own templates, rendered by a `TemplateRenderer` instead of in this process."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from modeldeck.llama.templates import TemplateRenderer

if TYPE_CHECKING:
    from modeldeck.llama.guard import Guarded

TEMPLATE_KEY = "tokenizer.chat_template"
_DEFAULT_FORMAT = "chat_template.default"


class SafeFormatter:
    """What ``llama_cpp.llama_chat_format.Jinja2ChatFormatter`` is, without jinja in this process."""

    def __init__(self, llama: Guarded, llama_cpp: ModuleType, template: str) -> None:
        self._renderer: TemplateRenderer = llama._control.renderer
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


def add_template_handlers(llama: Guarded, llama_cpp: ModuleType) -> None:
    """Register a handler for each template in the model's metadata, under llama-cpp-python's names for them."""
    for key, template in llama.metadata.items():
        if key == TEMPLATE_KEY:
            name = _DEFAULT_FORMAT
        elif key.startswith(f"{TEMPLATE_KEY}."):
            name = key.removeprefix("tokenizer.")
        else:
            continue
        formatter = SafeFormatter(llama, llama_cpp, template)
        make_handler = llama_cpp.llama_chat_format.chat_formatter_to_chat_completion_handler
        llama._chat_handlers[name] = make_handler(formatter)


def default_format(llama: Guarded, llama_cpp: ModuleType) -> str:
    """The chat format to use when none was asked for, chosen as llama-cpp-python does."""
    if TEMPLATE_KEY not in llama.metadata:
        return str(llama.chat_format)
    known = llama_cpp.llama_chat_format.guess_chat_format_from_gguf_metadata(llama.metadata)
    return known or _DEFAULT_FORMAT


def special_tokens(llama: Guarded) -> tuple[str, str]:
    """The texts of the end and the beginning token, empty where the model has none."""
    eos, bos = (
        llama._model.token_get_text(token) if token != -1 else "" for token in (llama.token_eos(), llama.token_bos())
    )
    return eos, bos
