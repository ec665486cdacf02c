"""Tries a grammar in a child process, which may die of it; see `modeldeck._children`.

llama.cpp parses a grammar by recursion, so a deep one overflows the stack. It visits rules again and again, and keeps
every way to continue, so a small grammar can take forever or all memory.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

_MAX_TOKENS = 8
_ERROR_LEVEL = 4

_no_devices = (ctypes.c_void_p * 1)(None)


def answer(request: dict[str, Any]) -> Iterator[dict[str, bool]]:
    """Use ``request["grammar"]`` with the vocabulary of ``request["model"]``, and ``request["stack_bytes"]`` of stack.

    One answer: whether llama.cpp parses the grammar. Its reason for a refusal is in stderr. Then the grammar has also
    chosen a few tokens, so that one which takes forever has not been answered yet.
    """
    threading.stack_size(request["stack_bytes"])
    with ThreadPoolExecutor(1) as thread:
        yield {"is_usable": thread.submit(is_usable, request["model"], request["grammar"], request["root"]).result()}


def is_usable(model_path: str, grammar: str, root: str) -> bool:
    import numpy as np
    from llama_cpp import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(load_vocabulary(model_path))
    sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, grammar.encode(), root.encode())
    if not sampler:
        return False
    n_tokens = llama_cpp.llama_vocab_n_tokens(vocabulary)
    tokens = np.zeros(n_tokens, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    tokens["id"] = np.arange(n_tokens)
    for _ in range(_MAX_TOKENS):
        tokens["logit"] = 0
        data = tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        candidates = llama_cpp.llama_token_data_array(data=data, size=n_tokens, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
        allowed = map(int, tokens["id"][np.isfinite(tokens["logit"])])
        token = next((each for each in allowed if not llama_cpp.llama_vocab_is_eog(vocabulary, each)), None)
        if token is None:
            break
        llama_cpp.llama_sampler_accept(sampler, token)
    return True


@cache
def error_callback() -> Any:
    """Make a log callback that writes llama.cpp's errors to stderr, and nothing else."""
    from llama_cpp import llama_cpp

    def write_error(level: int, text: bytes, _user_data: object) -> None:
        if level == _ERROR_LEVEL:
            sys.stderr.write(text.decode(errors="replace"))
            sys.stderr.flush()

    return llama_cpp.llama_log_callback(write_error)


@cache
def load_vocabulary(model_path: str) -> Any:
    """Load a model without its weights, on no device."""
    from llama_cpp import llama_cpp

    llama_cpp.llama_log_set(error_callback(), None)
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    params.devices = ctypes.addressof(_no_devices)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(model_path), params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load the vocabulary of {model_path}")
    return model
