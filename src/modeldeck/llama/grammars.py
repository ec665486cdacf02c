"""Tries a grammar in a child process, before llama.cpp parses it in this one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeldeck._children import Child, ChildReply
from modeldeck._errors import InvalidRequestError
from modeldeck.llama.native_thread import STACK_BYTES
from modeldeck.llama.templates import START_ADVICE

_CHILDREN = Path(__file__).with_name("children")
TRIAL_SECONDS = 10.0
_MAX_MEMORY_BYTES = 2 << 30
_TRIAL_STACK_BYTES = STACK_BYTES // 2
"""Half of the native thread's stack, so that a grammar which just fits the trial leaves room."""

_MAX_REMEMBERED = 64
_MAX_REASON_CHARACTERS = 200
_ADVICE = "Use less nesting, fewer alternatives and smaller repetitions, such as a smaller maxLength or maxItems."

_lock = threading.Lock()
_usable: OrderedDict[tuple[str, str, str], None] = OrderedDict()
"""Grammars that llama.cpp has used in a child process, with root and model file; the newest last."""

_converted: OrderedDict[tuple[str, tuple[str, ...]], str] = OrderedDict()
"""Grammars of JSON schemas with their property orders; the newest last."""


class UnusableSchema(BaseException):
    """A JSON schema cannot be used.

    llama-cpp-python catches every ``Exception`` while it converts a schema, and then constrains the answer to any JSON
    instead. This one passes through, and `Llama` turns it into an `InvalidRequestError`.
    """


def check_grammar(grammar: object, model_path: str, check: Callable[[], object]) -> None:
    """Raise when llama.cpp cannot use a ``LlamaGrammar`` with a model, or would crash or hang.

    Parameters
    ----------
    check
        Called several times a second meanwhile. An exception it raises ends the trial.

    Raises
    ------
    InvalidRequestError
        With llama.cpp's reason.
    """
    text, root = getattr(grammar, "_grammar", None), getattr(grammar, "_root", None)
    if not isinstance(text, str) or not isinstance(root, str):
        raise InvalidRequestError("grammar must be a llama_cpp.LlamaGrammar, such as LlamaGrammar.from_string(text).")
    if not text.strip():
        raise InvalidRequestError(
            "The grammar is empty and would allow any answer. Leave it out, or give it a rule root."
        )
    key = (text, root, model_path)
    with _lock:
        if key in _usable:
            return
    reply = _ask(
        "check_grammar.py",
        {"grammar": text, "root": root, "model": model_path, "stack_bytes": _TRIAL_STACK_BYTES},
        check,
    )
    if not reply.is_complete:
        raise InvalidRequestError(_failure("grammar", reply))
    if not reply.answers[0]["is_usable"]:
        reason = _reason(reply.errors) or "llama.cpp gives no reason"
        raise InvalidRequestError(f"The grammar cannot be used: {reason}. See llama.cpp's guide to GBNF grammars.")
    _remember(_usable, key, None)


def convert_schema(schema: str, prop_order: list[str] | None, check: Callable[[], object]) -> str:
    """Do what ``llama_cpp.llama_grammar.json_schema_to_gbnf`` does, in a child process.

    Parameters
    ----------
    check
        Called several times a second meanwhile. An exception it raises ends the conversion.

    Raises
    ------
    ValueError
        When the converter does not know the schema.
    UnusableSchema
        When its grammar would be too large, or the child process cannot be started.
    """
    key = (schema, tuple(prop_order or ()))
    with _lock:
        if key in _converted:
            return _converted[key]
    reply = _ask("convert_schema.py", {"schema": schema, "prop_order": prop_order}, check)
    if not reply.is_complete:
        raise UnusableSchema(_failure("JSON schema", reply))
    answer: dict[str, str] = reply.answers[0]
    if "error" in answer:
        raise ValueError(answer["error"])
    _remember(_converted, key, answer["grammar"])
    return answer["grammar"]


def _ask(program: str, request: dict[str, Any], check: Callable[[], object]) -> ChildReply:
    with Child(_CHILDREN / program, max_memory_bytes=_MAX_MEMORY_BYTES) as child:
        return child.ask(request, timeout_seconds=TRIAL_SECONDS, check=check)


def _failure(what: str, reply: ChildReply) -> str:
    if not reply.was_started:
        return f"The {what} could not be tried. {reply.last_error} {START_ADVICE}"
    limit = f"its parser ended with {reply.crash_reason}" if reply.is_crash else reply.last_error
    return f"The {what} is too deep or too large for llama.cpp: {limit}. {_ADVICE}".replace("..", ".")


def _reason(errors: str) -> str:
    """Return llama.cpp's first words, without the name of its function and the text of the grammar."""
    words = next((line.strip() for line in errors.splitlines() if line.strip()), "")
    words = words.partition(": ")[2] or words
    return words.removeprefix("error parsing grammar: ")[:_MAX_REASON_CHARACTERS].rstrip(". ")


def _remember(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    with _lock:
        memory[key] = value
        while len(memory) > _MAX_REMEMBERED:
            memory.popitem(last=False)
