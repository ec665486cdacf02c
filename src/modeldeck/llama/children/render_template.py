"""Renders chat templates in a child process; see `modeldeck._children`.

A chat template comes with the model, from a stranger. A loop in it may never end, and one multiplication may take all
memory. Here that ends this process and nothing else.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

import jinja2.ext
from jinja2 import Template
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_PROMPT_CHARACTERS = 8 << 20
_MAX_ERROR_CHARACTERS = 1000


class GenerationTag(jinja2.ext.Extension):
    """Transformers' ``{% generation %}``, which marks the assistant's text for training. A prompt ignores it."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own type

    def parse(self, parser: Parser) -> list[Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateRaisedError(Exception):
    """The template called ``raise_exception``."""


def answer(request: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Render ``request["template"]`` with ``request["variables"]``: one answer, with ``prompt`` or ``error``."""
    yield render(request["template"], request["variables"])


def render(template: str, variables: dict[str, Any]) -> dict[str, str]:
    try:
        prompt = compile_template(template).render(
            **variables,
            raise_exception=raise_exception,
            strftime_now=lambda format: datetime.now().strftime(format),
        )
    except TemplateRaisedError as error:
        return {"error": f"it refused the messages: {error}"}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001 - a stranger's template can raise anything
        return {"error": f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]}
    if len(prompt) > _MAX_PROMPT_CHARACTERS:
        return {"error": f"it makes a prompt of {len(prompt)} characters"}
    return {"prompt": prompt}


@cache
def compile_template(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    return environment.from_string(template)


def raise_exception(message: str) -> None:
    raise TemplateRaisedError(str(message))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Do as Transformers and llama-cpp-python do: unlike jinja's own filter, escape nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
