"""Send one request to the program `llama_child`, in a child process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from modeldeck._children import Child, ChildReply
from modeldeck.sizing.llama_installation import read_installation

DEFAULT_TIMEOUT_SECONDS = 20.0
LLAMA_PROGRAM = Path(__file__).with_name("llama_child.py")


def is_llama_cpp_installed() -> bool:
    """Tell whether llama-cpp-python is installed. It is not imported for that. One that is half installed is not."""
    if "llama_cpp" not in sys.modules and (installation := read_installation()) is not None and installation.is_running:
        return False
    importlib.invalidate_caches()  # it may have come since this process started
    return importlib.util.find_spec("llama_cpp") is not None


def ask_llama_child(request: dict[str, Any], timeout_seconds: float) -> ChildReply:
    """Ask llama.cpp in a new child process, and end the process. Blocks."""
    if not is_llama_cpp_installed():
        return ChildReply(errors="llama-cpp-python is not installed.")
    with Child(LLAMA_PROGRAM) as child:
        return child.ask(request, timeout_seconds=timeout_seconds)
