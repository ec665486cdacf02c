"""Renders chat templates for another process: one JSON object a line in, one out.

Run as a file, outside the package, so that it starts quickly. A chat template comes with the model, from a stranger; a
loop in it may never end and one multiplication may take all memory. Here that ends this process and nothing else.
"""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

import jinja2.ext
from jinja2 import Template
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY_BYTES = 1 << 30
MAX_PROMPT_CHARACTERS = 8 << 20


class GenerationTag(jinja2.ext.Extension):
    """Transformers' ``{% generation %}`` marks what the assistant said; for a prompt it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own type

    def parse(self, parser: Parser) -> list[Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateRaisedError(Exception):
    """The template called ``raise_exception``."""


def raise_exception(message: str) -> None:
    raise TemplateRaisedError(str(message))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Transformers and llama-cpp-python have it, which is not jinja's own: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    return environment


def render(compile_template: Callable[[str], Template], request: dict[str, Any]) -> dict[str, str]:
    """The answer to one request: ``prompt``, or ``error``."""
    try:
        prompt = compile_template(request["template"]).render(
            **request["variables"],
            raise_exception=raise_exception,
            strftime_now=lambda format: datetime.now().strftime(format),
        )
    except TemplateRaisedError as error:
        return {"error": f"it refused the messages: {error}"}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001 - anything can come out of a stranger's template
        return {"error": f"{type(error).__name__}: {error}"[:1000]}
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        return {"error": f"it makes a prompt of {len(prompt)} characters"}
    return {"prompt": prompt}


def main() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compile_template = cache(make_environment().from_string)
    for line in sys.stdin.buffer:
        answer = json.dumps(render(compile_template, json.loads(line)))
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
