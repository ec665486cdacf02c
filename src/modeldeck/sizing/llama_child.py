"""Asks llama.cpp in a child process; see `modeldeck._children`.

llama.cpp aborts its whole process on some files, so a notebook's kernel must never ask it directly. The child loads
models with ``no_alloc`` ("only load metadata and simulate memory allocations"), which needs only the header of the
file, and reads the numbers from llama.cpp's log, because no function returns them. All layers go to the GPUs, if there
are any that this build of llama.cpp can use.

Requests are ``{"kind": "devices"}`` and ``{"kind": "model", "path": …, "contexts": [{"n_ctx": …, "n_ubatch": …,
"flash_attn": …, "swa_full": …, "type_k": …, "type_v": …}, …]}``. Each answer is sent as soon as it is known, so that an
abort does not lose the earlier ones.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

LOG_INFO, LOG_ERROR = 2, 4
_GPU_DEVICE_TYPES = (1, 2)
_ALL_LAYERS = 2**31 - 1
_MIB = 1 << 20
_CACHE_SIZE = re.compile(r"^(?:llama_kv_cache|llama_memory_recurrent|\w*cache\w*|\w*memory\w*): *size = +([\d.]+) MiB")
_BUFFER_SIZE = re.compile(r"^\w+: +(\S+) +(compute|output) buffer size = +([\d.]+) MiB")


def answer(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Answer one request."""
    if request["kind"] == "devices":
        yield _devices()
    else:
        yield from _ask_about_model(request)


class _Log:
    """Collects llama.cpp's log lines, except its debug messages."""

    def __init__(self, llama: Any) -> None:
        self._lines: list[tuple[int, str]] = []
        self._callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _: Any) -> None:
        if level >= LOG_INFO:
            line = text.decode("utf-8", errors="replace").strip()
            self._lines.append((level, line))
            if level >= LOG_ERROR:
                sys.stderr.write(f"{line}\n")

    def take(self) -> list[tuple[int, str]]:
        lines, self._lines = self._lines, []
        return lines


def _ask_about_model(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import llama_cpp.llama_cpp as llama

    log = _Log(llama)
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = _ALL_LAYERS
    model = llama.llama_model_load_from_file(os.fsencode(request["path"]), params)
    lines = log.take()
    if not model:
        yield {"kind": "refused", "reason": _reason(lines)}
        return
    vocabulary = llama.llama_model_get_vocab(model)
    yield {
        "kind": "model",
        "weights_bytes": int(llama.llama_model_size(model)),
        "head_count": int(llama.llama_model_n_head(model)),
        "vocab_size": int(llama.llama_vocab_n_tokens(vocabulary)),
    }
    for wanted in request["contexts"]:
        yield _context(llama, model, log, wanted)


def _context(llama: Any, model: Any, log: _Log, wanted: dict[str, Any]) -> dict[str, Any]:
    params = llama.llama_context_default_params()
    params.n_ctx = wanted["n_ctx"]
    params.n_batch = params.n_ubatch = wanted["n_ubatch"]
    params.flash_attn_type = (
        llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if wanted["flash_attn"] else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.swa_full = wanted["swa_full"]
    params.type_k = wanted["type_k"]
    params.type_v = wanted["type_v"]
    context = llama.llama_init_from_model(model, params)
    lines = log.take()
    if not context:
        return {"kind": "no_context", **wanted, "reason": _reason(lines)}
    llama.llama_free(context)
    log.take()
    return {"kind": "context", **wanted, **read_sizes([line for _, line in lines])}


def read_sizes(lines: list[str]) -> dict[str, int]:
    """Add up the bytes of cache, compute and output buffers in llama.cpp's log lines."""
    sizes = {"cache_bytes": 0, "host_compute_bytes": 0, "device_compute_bytes": 0, "output_bytes": 0}
    for line in lines:
        if match := _CACHE_SIZE.match(line):
            sizes["cache_bytes"] += _bytes(match[1])
        elif match := _BUFFER_SIZE.match(line):
            device, kind, mebibytes = match.groups()
            is_host = device.startswith("CPU") or device.endswith("_Host")
            name = "output_bytes" if kind == "output" else f"{'host' if is_host else 'device'}_compute_bytes"
            sizes[name] += _bytes(mebibytes)
    return sizes


def _bytes(mebibytes: str) -> int:
    return round(float(mebibytes) * _MIB)


def _reason(lines: list[tuple[int, str]]) -> str | None:
    """Return llama.cpp's first error, which the later ones only repeat."""
    errors = [line for level, line in lines if level >= LOG_ERROR and line]
    return errors[0] if errors else None


def _devices() -> dict[str, Any]:
    import llama_cpp.llama_cpp as llama

    if not llama.llama_supports_gpu_offload():
        return {"kind": "devices", "devices": [], "can_offload": False}
    llama.llama_backend_init()
    return {"kind": "devices", "devices": _gpu_devices(), "can_offload": True}


def _gpu_devices() -> list[dict[str, Any]]:
    from llama_cpp._ggml import libggml

    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    libggml.ggml_backend_dev_description.restype = ctypes.c_char_p
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    libggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]
    libggml.ggml_backend_dev_memory.restype = None
    devices: list[dict[str, Any]] = []
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        if libggml.ggml_backend_dev_type(device) not in _GPU_DEVICE_TYPES:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = libggml.ggml_backend_dev_description(device).decode("utf-8", errors="replace")
        devices.append({"name": name, "total": total.value, "free": free.value})
    return devices
