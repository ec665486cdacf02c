"""Directives whose content comes from the code: the public names, the command's help, and the error codes."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Iterator

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

import modeldeck
from modeldeck import cluster
from modeldeck.cli.arguments import make_parser


def public_names(kind: str) -> Iterator[str]:
    """The names of ``modeldeck.__all__`` that are functions, classes, data or errors, in alphabetical order.

    The kind ``cluster`` has all names of ``modeldeck.cluster``.
    """
    if kind == "cluster":
        yield from sorted(cluster.__all__, key=str.lower)
        return
    for name in sorted(modeldeck.__all__, key=str.lower):
        if kind_of(getattr(modeldeck, name)) == kind:
            yield name


def kind_of(value: object) -> str | None:
    if inspect.isfunction(value):
        return "functions"
    if not isinstance(value, type):
        return None
    if issubclass(value, modeldeck.ModelDeckError):
        return "errors"
    return "data" if dataclasses.is_dataclass(value) or value is modeldeck.DownloadState else "classes"


class FromCode(SphinxDirective):
    """A directive that writes reStructuredText and has it parsed."""

    def parse(self, lines: list[str]) -> list[nodes.Node]:
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, source="<code>"), 0, node)
        return node.children


class PublicNames(FromCode):
    """The reference of the public functions, classes or data."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        module = cluster if kind == "cluster" else modeldeck
        lines = ["```{eval-rst}"]
        for name in public_names(kind):
            path, found = f"{module.__name__}.{name}", kind_of(getattr(module, name))
            if found == "functions":
                lines += [f".. autofunction:: {path}", ""]
            elif found == "data":
                lines += [f".. autoclass:: {path}()", ""]
            else:
                lines += [f".. autoclass:: {path}", "   :members:", ""]
        return self.parse([*lines, "```"])


class ErrorTable(FromCode):
    """One row for each error: its code, its class, when it is raised, and what to do."""

    def run(self) -> list[nodes.Node]:
        lines = ["```{eval-rst}", ".. list-table::", "   :header-rows: 1", ""]
        lines += ["   * - code", "     - class", "     - what happened", "     - what to do"]
        for name in public_names("errors"):
            error = getattr(modeldeck, name)
            happened, _, to_do = inspect.cleandoc(error.__doc__).partition("\n\n")
            to_do = to_do.partition("\n\nParameters\n")[0].partition("\n\nAttributes\n")[0]
            lines.append(f"   * - ``{error.code}``")
            lines += [f"     - {' '.join(text.split())}" for text in (f"``{name}``", happened, to_do)]
        return self.parse([*lines, "```"])


class CommandHelp(SphinxDirective):
    """The help of the command and of each subcommand."""

    def run(self) -> list[nodes.Node]:
        parser = make_parser()
        sections: list[nodes.Node] = [nodes.literal_block(text=parser.format_help(), language="text")]
        (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for name, subparser in subparsers.choices.items():
            section = nodes.section(ids=[f"modeldeck-{name}"])
            section += nodes.title(text=f"modeldeck {name}")
            section += nodes.literal_block(text=subparser.format_help(), language="text")
            sections.append(section)
        return sections


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("public-names", PublicNames)
    app.add_directive("error-table", ErrorTable)
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
