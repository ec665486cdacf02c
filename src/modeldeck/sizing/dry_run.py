"""Let llama.cpp plan a model's memory in a child process, without allocating it and before the model is downloaded.

Only the header is needed. It is written to a sparse file of the model's full size, and ``no_alloc`` makes llama.cpp
plan its buffers without reading or allocating anything. A file that makes llama.cpp abort ends only the child process,
and the result says so.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import msgspec

from modeldeck._children import ChildReply
from modeldeck.gguf.ggml_types import type_id_of
from modeldeck.gguf.shards import shard_names
from modeldeck.sizing.ask_child import DEFAULT_TIMEOUT_SECONDS, ask_llama_child
from modeldeck.sizing.cache_shape import padded_cells
from modeldeck.sizing.memory import DEFAULT_CONTEXT_OPTIONS, ContextOptions, MemoryUse, host_bytes

CONTEXT_GRID = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Context lengths that one child process plans. Between two of them, interpolation is at most 3 % too high."""

_CACHE_LIMIT = 256
_F32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderPart:
    """The header bytes of one model file, and the size of the whole file in bytes."""

    header: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextMemory:
    """The memory that llama.cpp plans for one context, in bytes; compute buffers are split by where they lie."""

    n_ctx: int
    cache_bytes: int
    host_compute_bytes: int
    device_compute_bytes: int
    output_bytes: int

    @property
    def compute_bytes(self) -> int:
        """The buffers where the layers run. A small part stays in RAM where they run on a GPU."""
        return self.device_compute_bytes or self.host_compute_bytes + self.output_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The outcome of loading a model without its weights.

    Parameters
    ----------
    status
        "ok"; "refused": llama.cpp would not load the model; "would_abort": llama.cpp would end the whole process;
        "unavailable": llama.cpp is not installed or did not finish in time.
    reason
        llama.cpp's own message where the status is not "ok".
    weights_bytes
        Bytes of all tensors.
    head_count, vocab_size
        The model's attention heads, and the number of tokens in its vocabulary.
    options
        The options that the contexts were planned with.
    contexts
        The plan for each context length.
    """

    status: Literal["ok", "refused", "would_abort", "unavailable"]
    reason: str | None = None
    weights_bytes: int | None = None
    head_count: int = 0
    vocab_size: int = 0
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS
    contexts: tuple[ContextMemory, ...] = ()

    @property
    def refusal(self) -> str | None:
        """Why llama.cpp cannot load the model, as a sentence; ``None`` if it can, or was not asked."""
        if self.status not in ("refused", "would_abort"):
            return None
        return f"llama.cpp cannot load this model here: {self.reason}"

    def memory(self, n_ctx: int, *, weights_bytes: int | None = None) -> MemoryUse | None:
        """Return the memory for a context length, interpolated between the two nearest plans.

        Parameters
        ----------
        n_ctx
            Context length in tokens.
        weights_bytes
            Size of another quantization of the same model, which has the same cache and compute buffers.

        Returns
        -------
        MemoryUse or None
            ``None`` for a context longer than the longest planned one.
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

        compute = between(below.compute_bytes, above.compute_bytes)
        n_ubatch = min(self.options.n_ubatch, n_ctx)
        scores = 0 if self.options.flash_attn else self.head_count * padded_cells(n_ctx) * n_ubatch * _F32_BYTES
        return MemoryUse(
            weights_bytes=weights,
            cache_bytes=between(below.cache_bytes, above.cache_bytes),
            compute_bytes=compute,
            touched_bytes=min(scores, compute),
            host_bytes=host_bytes(self.vocab_size),
        )


def dry_run_header(
    parts: Sequence[HeaderPart],
    *,
    contexts: Sequence[int] = CONTEXT_GRID,
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> DryRun:
    """Plan a model of which only the headers are known. Blocks for about a second, so call it on a worker thread.

    Results are remembered by the headers' digest.

    Parameters
    ----------
    parts
        One for each file of the model, in the order of the shards.
    contexts
        Context lengths to plan, in tokens.
    options
        The options to plan them with.
    timeout_seconds
        The child process is ended after this time.
    """
    if sys.platform == "win32":
        # Truncating a file upwards reserves real disk space on Windows, as much as the whole model.
        return DryRun(status="unavailable", reason="On Windows only local files can be tried.")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part.header).to_bytes(8, "little") + part.size.to_bytes(8, "little") + part.header)
    key = (digest.hexdigest(), tuple(contexts), options)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    try:
        with tempfile.TemporaryDirectory(prefix="modeldeck-") as folder:
            path = _write_headers(Path(folder), parts)
            answer = dry_run_file(path, contexts=contexts, options=options, timeout_seconds=timeout_seconds)
    except OSError as error:
        return DryRun(status="unavailable", reason=f"The header could not be written to a temporary file: {error}")
    if answer.status != "unavailable":
        with _cache_lock:
            _cache[key] = answer
            while len(_cache) > _CACHE_LIMIT:
                _cache.popitem(last=False)
    return answer


def dry_run_file(
    path: Path,
    *,
    contexts: Sequence[int] = CONTEXT_GRID,
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> DryRun:
    """Plan a local model, given by its only file or its first shard. The weights are not read.

    The other parameters are those of `dry_run_header`.
    """
    request = {
        "kind": "model",
        "path": str(path),
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
    return _read_reply(ask_llama_child(request, timeout_seconds), options)


_cache: OrderedDict[tuple[str, tuple[int, ...], ContextOptions], DryRun] = OrderedDict()
_cache_lock = Lock()


def _write_headers(folder: Path, parts: Sequence[HeaderPart]) -> Path:
    """Write sparse files of the full sizes, under the names that llama.cpp expects of a split model."""
    names = ("model.gguf",) if len(parts) == 1 else shard_names("model", len(parts))
    for name, part in zip(names, parts, strict=True):
        with (folder / name).open("wb") as file:
            file.write(part.header)
            file.truncate(max(part.size, len(part.header)))
    return folder / names[0]


def _read_reply(reply: ChildReply, options: ContextOptions) -> DryRun:
    if reply.is_crash:
        return DryRun(status="would_abort", reason=reply.crash_reason)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for answer in reply.answers:
        by_kind.setdefault(answer.get("kind", ""), []).append(answer)
    if refused := by_kind.get("refused"):
        return DryRun(status="refused", reason=refused[0].get("reason"))
    if not reply.is_complete or "model" not in by_kind:
        return DryRun(status="unavailable", reason=reply.last_error)
    model = by_kind["model"][0]
    return DryRun(
        status="ok",
        weights_bytes=model["weights_bytes"],
        head_count=model["head_count"],
        vocab_size=model["vocab_size"],
        options=options,
        contexts=tuple(msgspec.convert(answer, ContextMemory) for answer in by_kind.get("context", [])),
    )
