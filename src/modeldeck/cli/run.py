"""Runs the command and turns what it ends with into an exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Awaitable, Callable, Sequence

import anyio

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck.cli.arguments import make_parser
from modeldeck.cli.commands import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from modeldeck.cli.output import Output, drop
from modeldeck.session import Session


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    _open_streams()
    _print_anything()
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if "command" not in arguments:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    output = Output(arguments.json, arguments.quiet, arguments.verbose)
    try:
        return anyio.run(_run, arguments, output)
    except ModelDeckError as error:
        output.failed(error)
        return EXIT_USAGE if isinstance(error, InvalidRequestError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        drop(sys.stdout)  # the reader of the output left, as in `modeldeck ls | head`
        return EXIT_FAILED
    except OSError as error:
        drop(sys.stdout)
        output.problem(str(error))
        return EXIT_FAILED


def _open_streams() -> None:
    """Give a program that was started without standard streams empty ones.

    Otherwise the next file that is opened, such as a download, would be the one that native libraries write errors to.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - it stays open, as the one that is missing
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _print_anything() -> None:
    """Escape what the encoding of the output does not have, so that a finished download does not fail at its path."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


async def _run(arguments: argparse.Namespace, output: Output) -> int:
    command: Callable[[Session, argparse.Namespace, Output], Awaitable[int]] = arguments.command
    async with Session(
        endpoint=arguments.endpoint,
        cache_dir=arguments.cache_dir,
        token=arguments.token,
        inline=True if arguments.inline else None,
    ) as session:
        return await command(session, arguments, output)
