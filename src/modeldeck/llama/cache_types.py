"""Asks llama.cpp whether it can compute with a KV cache of the requested types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeldeck._children import Child
from modeldeck._errors import InvalidRequestError, LoadFailedError
from modeldeck.gguf.ggml_types import GGML_TYPES
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.sizing.cache_shape import head_length

_PROGRAM = Path(__file__).with_name("children") / "try_cache_types.py"
_TIMEOUT_SECONDS = 30.0
_DEFAULT_TYPE = 1  # F16
_DEFAULT_HEAD_LENGTH = 128

_usable: set[tuple[Any, ...]] = set()
"""The requests of this process that llama.cpp has computed with."""


def check_cache_types(metadata: GGUFMetadata, options: dict[str, Any], check: Callable[[], object]) -> None:
    """Raise when llama.cpp has no kernel for the cache types in ``options``.

    llama.cpp loads a model with any cache type, and ends the process at the first prompt when it lacks the kernel.
    Which kernels it has depends on its version, on the processor and on flash attention. So a child process evaluates
    a few tokens with a tiny model that has these cache types. Nothing is asked for the default types.

    Parameters
    ----------
    check
        Called several times a second meanwhile. An exception it raises ends the trial.

    Raises
    ------
    InvalidRequestError
        When the child process dies of it, or llama.cpp reports an error.
    LoadFailedError
        When the child process cannot try it, because it does not start or is ended from outside, for example.
    """
    types = tuple(_DEFAULT_TYPE if options.get(name) is None else options[name] for name in ("type_k", "type_v"))
    if types == (_DEFAULT_TYPE, _DEFAULT_TYPE):
        return
    length = head_length(metadata) or _DEFAULT_HEAD_LENGTH
    request = {
        "type_k": types[0],
        "type_v": types[1],
        "flash_attn": bool(options["flash_attn"]),
        "key_length": metadata.key_length or length,
        "value_length": metadata.value_length or length,
        "n_gpu_layers": options["n_gpu_layers"],
    }
    key = tuple(request.values())
    if key in _usable:
        return
    with Child(_PROGRAM) as child:
        reply = child.ask(request, timeout_seconds=_TIMEOUT_SECONDS, check=check)
    if reply.is_complete and reply.answers[0]["is_usable"]:
        _usable.add(key)
        return
    names = f"type_k={GGML_TYPES[types[0]].name} and type_v={GGML_TYPES[types[1]].name}"
    if not reply.is_complete and not reply.is_crash:
        raise LoadFailedError(
            f"A KV cache with {names} could not be tried here: {reply.why_incomplete}. Load the model again, or "
            "leave type_k and type_v out to use F16."
        )
    # A cache that llama.cpp does not even make fails the load itself, with llama.cpp's own reason.
    if reply.is_crash or reply.answers[0]["is_accepted"]:
        raise InvalidRequestError(
            f"llama.cpp cannot compute with {names} here: {reply.crash_reason or 'it reports an error'}. "
            "Leave type_k and type_v out to use F16, or try Q8_0."
        )
