"""Start the child process `modeldeck.sizing.llama_child`, send it one request, and collect its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import msgspec

DEFAULT_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ChildReply:
    """How the child process ended.

    ``lines`` are the JSON objects that it wrote. ``returncode`` is ``None`` when it could not be started or did not
    finish in time; then ``errors`` says why. Otherwise ``errors`` is its standard error output.
    """

    lines: list[dict[str, Any]]
    returncode: int | None
    errors: str


def is_llama_cpp_installed() -> bool:
    """Tell whether llama-cpp-python is installed. It is not imported for that."""
    return find_spec("llama_cpp") is not None


def ask_llama_child(request: dict[str, Any], timeout_seconds: float) -> ChildReply:
    """Run the child process with one request and wait for its end. Blocks."""
    if not is_llama_cpp_installed():
        return ChildReply([], None, "llama-cpp-python is not installed.")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "modeldeck.sizing.llama_child"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=timeout_seconds,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ChildReply([], None, f"llama.cpp did not answer within {timeout_seconds:g} seconds.")
    except OSError as error:
        return ChildReply([], None, f"The process that asks llama.cpp could not be started: {error}")
    lines: list[dict[str, Any]] = []
    for line in done.stdout.splitlines():
        try:
            lines.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            break
    return ChildReply(lines, done.returncode, done.stderr.decode("utf-8", errors="replace").strip())
