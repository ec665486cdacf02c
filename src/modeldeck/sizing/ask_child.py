"""Send one request to the program `llama_child`, in a child process of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from modeldeck._children import Child, ChildReply

DEFAULT_TIMEOUT_SECONDS = 20.0
LLAMA_PROGRAM = Path(__file__).with_name("llama_child.py")


def is_llama_cpp_installed() -> bool:
    """Tell whether llama-cpp-python is installed. It is not imported for that."""
    return importlib.util.find_spec("llama_cpp") is not None


def ask_llama_child(request: dict[str, Any], timeout_seconds: float) -> ChildReply:
    """Ask llama.cpp in a new child process, and end the process. Blocks."""
    if not is_llama_cpp_installed():
        return ChildReply(errors="llama-cpp-python is not installed.")
    with Child(LLAMA_PROGRAM) as child:
        return child.ask(request, timeout_seconds=timeout_seconds)
