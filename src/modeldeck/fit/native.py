"""Asks llama.cpp itself how much memory a model needs, before the model is there, in a child process.

All it takes is the header: it is written to a sparse file of the model's full size, and ``no_alloc`` makes llama.cpp
plan its buffers without reading or allocating anything. A file on which llama.cpp would abort kills only the child;
that, too, is an answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import msgspec

from modeldeck.fit.cache_shape import padded_cells
from modeldeck.fit.devices import GPU
from modeldeck.fit.memory import DEFAULT_CONTEXT_OPTIONS, ContextOptions, MemoryUse, host_bytes
from modeldeck.gguf.ggml_types import type_id_of

DEFAULT_TIMEOUT_SECONDS = 20.0
DEVICES_FRESH_SECONDS = 10.0
CONTEXT_GRID = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Contexts asked for at once. Memory between two of them is at most 3 % below the line that joins them."""

_CACHE_LIMIT = 256
_F32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderPart:
    """The header of one model file, byte for byte, and the size of the whole file."""

    header: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextMemory:
    """What llama.cpp plans for one context, in bytes. Compute buffers are told apart by where they are."""

    n_ctx: int
    cache_bytes: int
    host_compute_bytes: int
    device_compute_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeAnswer:
    """What llama.cpp says about a model.

    ``status`` is "ok", "refused" (it would not load, ``reason`` in its own words), "would_abort" (it would take the
    process with it), or "unavailable" (it could not be asked: not installed, timed out).
    """

    status: Literal["ok", "refused", "would_abort", "unavailable"]
    reason: str | None = None
    weights_bytes: int | None = None
    head_count: int = 0
    vocab_size: int = 0
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS
    contexts: tuple[ContextMemory, ...] = ()

    def memory(self, n_ctx: int, *, weights_bytes: int | None = None) -> MemoryUse | None:
        """Memory for a context: as answered, or on the line between the two nearest answers; ``None`` beyond them.

        ``weights_bytes`` is for another quantization of the same model: it has the same cache and compute buffers.
        """
        weights = self.weights_bytes if weights_bytes is None else weights_bytes
        below = max((each for each in self.contexts if each.n_ctx <= n_ctx), key=lambda each: each.n_ctx, default=None)
        above = min((each for each in self.contexts if each.n_ctx >= n_ctx), key=lambda each: each.n_ctx, default=None)
        if weights is None or above is None:
            return None
        below = below or above
        span = above.n_ctx - below.n_ctx
        share = (padded_cells(n_ctx) - below.n_ctx) / span if span else 0.0

        def between(low: int, high: int) -> int:
            return int(low + (high - low) * share)

        compute = between(
            below.host_compute_bytes + below.device_compute_bytes + below.output_bytes,
            above.host_compute_bytes + above.device_compute_bytes + above.output_bytes,
        )
        n_ubatch = min(self.options.n_ubatch, n_ctx)
        scores = 0 if self.options.flash_attn else self.head_count * padded_cells(n_ctx) * n_ubatch * _F32_BYTES
        return MemoryUse(
            weights_bytes=weights,
            cache_bytes=between(below.cache_bytes, above.cache_bytes),
            compute_bytes=compute,
            touched_bytes=min(scores, compute),
            host_bytes=host_bytes(self.vocab_size),
        )


def is_available() -> bool:
    """Whether llama.cpp can be asked here at all."""
    return find_spec("llama_cpp") is not None


def ask_about_header(
    parts: Sequence[HeaderPart],
    *,
    contexts: Sequence[int] = CONTEXT_GRID,
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS,
    n_gpu_layers: int = 0,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> NativeAnswer:
    """Ask about a model of which only the headers are known, one part per file in the order of the shards.

    Blocks for about a second; call it on a worker thread. Answers are remembered by the headers' digest.
    """
    if sys.platform == "win32":
        # A sparse file must be asked for there; without that the model's full size would be taken from the disk.
        return NativeAnswer(status="unavailable", reason="On Windows llama.cpp is asked about local files only.")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part.header).to_bytes(8, "little") + part.size.to_bytes(8, "little") + part.header)
    key = (digest.hexdigest(), tuple(contexts), options, n_gpu_layers)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    try:
        with tempfile.TemporaryDirectory(prefix="modeldeck-") as folder:
            path = _write_headers(Path(folder), parts)
            answer = ask_about_file(
                path, contexts=contexts, options=options, n_gpu_layers=n_gpu_layers, timeout_seconds=timeout_seconds
            )
    except OSError as error:
        return NativeAnswer(status="unavailable", reason=f"No header could be written for llama.cpp: {error}")
    if answer.status != "unavailable":
        with _cache_lock:
            _cache[key] = answer
            while len(_cache) > _CACHE_LIMIT:
                _cache.popitem(last=False)
    return answer


def ask_about_file(
    path: Path,
    *,
    contexts: Sequence[int] = CONTEXT_GRID,
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS,
    n_gpu_layers: int = 0,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> NativeAnswer:
    """Ask about a local model, the first file of a split one. Its weights are not read."""
    request = {
        "kind": "model",
        "path": str(path),
        "n_gpu_layers": n_gpu_layers,
        "contexts": [
            {
                "n_ctx": n_ctx,
                "n_ubatch": min(options.n_ubatch, n_ctx),
                "flash_attn": options.flash_attn,
                "swa_full": options.swa_full,
                "type_k": type_id_of(options.type_k),
                "type_v": type_id_of(options.type_v),
            }
            for n_ctx in dict.fromkeys(contexts)
        ],
    }
    reply = _ask(request, timeout_seconds)
    return _answer(reply, options)


def list_llama_devices(timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> tuple[GPU, ...] | None:
    """The GPUs llama.cpp can offload to, with the memory of the last ten seconds; ``None`` when it does not answer."""
    global _devices
    devices, fresh_until = _devices
    if time.monotonic() < fresh_until:
        return devices
    reply = _ask({"kind": "devices"}, timeout_seconds)
    for line in reply.lines:
        if line.get("kind") == "devices":
            try:
                devices = msgspec.convert(line["devices"], tuple[GPU, ...])
            except msgspec.ValidationError:
                return None
            is_for_good = not line["can_offload"]
            _devices = (devices, math.inf if is_for_good else time.monotonic() + DEVICES_FRESH_SECONDS)
            return devices
    return None


@dataclass(frozen=True, slots=True)
class _Reply:
    lines: list[dict[str, Any]]
    returncode: int | None
    errors: str


_cache: OrderedDict[tuple[str, tuple[int, ...], ContextOptions, int], NativeAnswer] = OrderedDict()
_cache_lock = Lock()
_devices: tuple[tuple[GPU, ...], float] = ((), -math.inf)


def _write_headers(folder: Path, parts: Sequence[HeaderPart]) -> Path:
    """Sparse files of the full sizes under the names llama.cpp expects of a split model."""
    for number, part in enumerate(parts, start=1):
        name = "model.gguf" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.gguf"
        with (folder / name).open("wb") as file:
            file.write(part.header)
            file.truncate(max(part.size, len(part.header)))
    return min(folder.iterdir())


def _ask(request: dict[str, Any], timeout_seconds: float) -> _Reply:
    if not is_available():
        return _Reply([], None, "llama-cpp-python is not installed.")
    command = [sys.executable, "-P", "-m", "modeldeck.fit.probe"]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=timeout_seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Reply([], None, f"llama.cpp did not answer within {timeout_seconds:g} seconds.")
    except OSError as error:
        return _Reply([], None, f"No process could be started to ask llama.cpp: {error}")
    lines: list[dict[str, Any]] = []
    for line in done.stdout.splitlines():
        try:
            lines.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            break
    return _Reply(lines, done.returncode, done.stderr.decode("utf-8", errors="replace").strip())


def _answer(reply: _Reply, options: ContextOptions) -> NativeAnswer:
    last_words = reply.errors.splitlines()[-1] if reply.errors else None
    if reply.returncode is None:
        return NativeAnswer(status="unavailable", reason=last_words)
    if _is_abort(reply.returncode):
        reason = _assertion(reply.errors) or f"llama.cpp ended with {_signal_name(reply.returncode)}."
        return NativeAnswer(status="would_abort", reason=reason)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in reply.lines:
        by_kind.setdefault(line.get("kind", ""), []).append(line)
    if refused := by_kind.get("refused"):
        return NativeAnswer(status="refused", reason=refused[0].get("reason"))
    if reply.returncode != 0 or "model" not in by_kind:
        return NativeAnswer(status="unavailable", reason=last_words)
    model = by_kind["model"][0]
    return NativeAnswer(
        status="ok",
        weights_bytes=model["weights_bytes"],
        head_count=model["head_count"],
        vocab_size=model["vocab_size"],
        options=options,
        contexts=tuple(msgspec.convert(line, ContextMemory) for line in by_kind.get("context", [])),
    )


def _is_abort(returncode: int) -> bool:
    if sys.platform == "win32":
        return returncode not in (0, 1)
    return returncode in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGFPE, -signal.SIGILL, -signal.SIGBUS)


def _signal_name(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"code {returncode}"


def _assertion(errors: str) -> str | None:
    """The assertion that failed, or else the last thing said."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return next((line for line in lines if "GGML_ASSERT" in line or "GGML_ABORT" in line), lines[-1] if lines else None)
