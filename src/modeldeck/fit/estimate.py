"""Does a model fit? Memory by formula, and the verdict for RAM and for GPUs.

The formulas follow llama.cpp's own allocation (see :mod:`modeldeck.fit.cache_shape` for the cache); how far they are
from it is measured by ``tests/llama/test_fit_formula.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modeldeck._types import FitEstimate, FitVerdict
from modeldeck.fit.cache_shape import cache_bytes, has_window, head_length, layer_shapes, padded_cells
from modeldeck.fit.hardware import Hardware
from modeldeck.gguf.ggml_types import TYPE_BY_NAME
from modeldeck.gguf.metadata import GGUFMetadata

DEFAULT_N_CTX = 4096
DEFAULT_N_UBATCH = 512

_F32_BYTES = 4
_MASK_BYTES_FLASH = 2
_MIN_N_CTX = 256
_MAX_N_CTX = 1 << 17
_HOST_BYTES = 40 << 20
_HOST_BYTES_PER_TOKEN = 250
_GPU_MARGIN_BYTES = 1 << 30
_RAM_MARGIN = 1 / 16

# KV cache by file size alone, fitted to SmolLM2-135M, Llama-3.1-8B and Llama-3.1-70B in 4 bits: a model of 4.9 GB
# keeps 128 KiB a token, and the cache grows with the size to the power of 0.44.
_TYPICAL_KV_BYTES_PER_TOKEN = 128 << 10
_TYPICAL_WEIGHTS_BYTES = 4.9e9
_TYPICAL_EXPONENT = 0.44


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes llama.cpp allocates for one model and one context.

    ``compute_bytes`` is what it reserves for intermediate results; of that, a CPU only ever touches
    ``touched_bytes``. ``host_bytes`` is the process around it.
    """

    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    touched_bytes: int
    host_bytes: int = _HOST_BYTES

    @property
    def ram_bytes(self) -> int:
        """What the process grows by on a CPU."""
        return self.weights_bytes + self.cache_bytes + self.touched_bytes + self.host_bytes

    @property
    def vram_bytes(self) -> int:
        """What must be free on the GPUs for all layers to run there."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """The options of ``Llama(...)`` that decide on memory, with its names and defaults."""

    n_ubatch: int = DEFAULT_N_UBATCH
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = False
    swa_full: bool = True


DEFAULT_CONTEXT_OPTIONS = ContextOptions()


def estimate_fit(
    metadata: GGUFMetadata | None,
    *,
    weights_bytes: int | None,
    n_ctx: int,
    hardware: Hardware,
    sidecar_bytes: int = 0,
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS,
    measured: MemoryUse | None = None,
) -> FitEstimate:
    """Say whether a model fits this machine with a context of ``n_ctx`` tokens.

    Parameters
    ----------
    metadata
        From the header, a quick look is enough; ``None`` when only the size is known.
    weights_bytes
        Size of the model's own files, all shards together; ``None`` makes the verdict "unknown".
    n_ctx
        Tokens; 0 means the model's own context length.
    sidecar_bytes
        Size of what is loaded with it, such as a vision projector.
    measured
        What llama.cpp itself answered for this ``n_ctx``; used instead of the formula.
    """
    n_ctx = n_ctx or (metadata.context_length if metadata else None) or DEFAULT_N_CTX
    if weights_bytes is None:
        return FitEstimate(verdict="unknown", n_ctx=n_ctx, reason="The size of the file is not known.")
    machine = _Machine(hardware)
    model = _Model(metadata, weights_bytes + sidecar_bytes, options)
    use = model.memory(n_ctx) if measured is None else _with_sidecars(measured, sidecar_bytes)
    verdict, needed, available = machine.verdict(use)
    n_gpu_layers, reason = None, None
    if verdict == "partial":
        n_gpu_layers = machine.n_gpu_layers(use, (metadata.block_count if metadata else None) or 0)
        reason = _partial_reason(n_gpu_layers)
    elif verdict == "too_large":
        reason = "Needs more memory than this machine has free."
    if hardware.ram_total <= 0:
        verdict, reason = "unknown", "The memory of this machine could not be read."
    return FitEstimate(
        verdict=verdict,
        n_ctx=n_ctx,
        needed_bytes=needed,
        available_bytes=available,
        max_n_ctx=_max_n_ctx(model, machine, verdict),
        n_gpu_layers=n_gpu_layers,
        method="native" if measured is not None else model.method,
        reason=reason,
    )


def memory_use(
    metadata: GGUFMetadata, *, weights_bytes: int, n_ctx: int, options: ContextOptions = DEFAULT_CONTEXT_OPTIONS
) -> MemoryUse | None:
    """Memory by formula, or ``None`` when the header does not say enough."""
    shapes = layer_shapes(metadata)
    if not shapes:
        return None
    cache = cache_bytes(
        shapes,
        sliding_window=metadata.sliding_window,
        n_ctx=n_ctx,
        n_ubatch=min(options.n_ubatch, n_ctx),
        k_bytes=_element_bytes(options.type_k),
        v_bytes=_element_bytes(options.type_v),
        swa_full=options.swa_full,
    )
    compute, touched = _compute_bytes(metadata, n_ctx, options)
    return MemoryUse(
        weights_bytes=weights_bytes,
        cache_bytes=cache,
        compute_bytes=compute,
        touched_bytes=touched,
        host_bytes=_HOST_BYTES + _HOST_BYTES_PER_TOKEN * (metadata.vocab_size or 0),
    )


def _compute_bytes(metadata: GGUFMetadata, n_ctx: int, options: ContextOptions) -> tuple[int, int]:
    """The compute buffer, and the part of it a CPU touches.

    The buffer is as large as the largest of three moments: the logits, the attention scores, the feed-forward step.
    The logits' part is reserved for a whole batch and only ever written for single tokens.
    """
    n_ubatch = min(options.n_ubatch, n_ctx)
    heads = max(metadata.head_count, default=0)
    key = metadata.key_length or head_length(metadata)
    row = max(metadata.embedding_length or 0, heads * key) * n_ubatch * _F32_BYTES
    cells = padded_cells(n_ctx)
    masks = 2 if has_window(metadata) else 1
    logits = (metadata.vocab_size or 0) * n_ubatch * _F32_BYTES + 3 * row
    if options.flash_attn:
        attention = masks * cells * n_ubatch * _MASK_BYTES_FLASH + 6 * row
        touched = 0
    else:
        scores = heads * cells * n_ubatch * _F32_BYTES
        attention = scores + masks * cells * n_ubatch * _F32_BYTES + 6 * row
        touched = scores
    feed_forward = 2 * max(metadata.feed_forward_length, default=0) * n_ubatch * _F32_BYTES + 3 * row
    return max(logits, attention, feed_forward), touched


def _element_bytes(type_name: str) -> float:
    known = TYPE_BY_NAME[type_name.lower()]
    return known.block_bytes / known.block_size


class _Model:
    """Memory as a function of the context."""

    def __init__(self, metadata: GGUFMetadata | None, weights_bytes: int, options: ContextOptions) -> None:
        self._metadata = metadata
        self._weights_bytes = weights_bytes
        self._options = options
        self.context_length = (metadata.context_length if metadata else None) or _MAX_N_CTX
        self.method: Literal["formula", "size"] = "size"
        if metadata is not None and layer_shapes(metadata):
            self.method = "formula"

    def memory(self, n_ctx: int) -> MemoryUse:
        if self._metadata is not None:
            use = memory_use(self._metadata, weights_bytes=self._weights_bytes, n_ctx=n_ctx, options=self._options)
            if use is not None:
                return use
        scale = (self._weights_bytes / _TYPICAL_WEIGHTS_BYTES) ** _TYPICAL_EXPONENT
        cache = int(_TYPICAL_KV_BYTES_PER_TOKEN * scale * n_ctx)
        return MemoryUse(
            weights_bytes=self._weights_bytes, cache_bytes=cache, compute_bytes=cache // 2, touched_bytes=cache // 4
        )


class _Machine:
    """The verdict on one machine."""

    def __init__(self, hardware: Hardware) -> None:
        self._ram = hardware.ram_available
        self._vram = sum(max(0, gpu.free - _GPU_MARGIN_BYTES) for gpu in hardware.gpus)
        self._has_gpu = bool(hardware.gpus)

    def verdict(self, use: MemoryUse) -> tuple[FitVerdict, int, int]:
        """The verdict with the needed and the available bytes it was made on."""
        if self._has_gpu and use.vram_bytes <= self._vram:
            return "fits", use.vram_bytes, self._vram
        fits_ram = use.ram_bytes * (1 + _RAM_MARGIN) <= self._ram
        if not self._has_gpu:
            return ("fits" if fits_ram else "too_large"), use.ram_bytes, self._ram
        if use.ram_bytes * (1 + _RAM_MARGIN) <= self._ram + max(0, self._vram - use.compute_bytes):
            return "partial", use.vram_bytes, self._vram
        return "too_large", use.ram_bytes, self._ram + self._vram

    def n_gpu_layers(self, use: MemoryUse, block_count: int) -> int:
        """How many layers go to the GPUs: what is free there, shared out evenly over the layers."""
        per_layer = (use.weights_bytes + use.cache_bytes) / (block_count + 1)
        return max(0, min(block_count, int((self._vram - use.compute_bytes) / per_layer))) if per_layer else 0


def _with_sidecars(use: MemoryUse, sidecar_bytes: int) -> MemoryUse:
    return replace(use, weights_bytes=use.weights_bytes + sidecar_bytes)


def _partial_reason(n_gpu_layers: int) -> str:
    if n_gpu_layers == 0:
        return "Too large for the GPU: it runs on the processor."
    return f"Fits partly: {n_gpu_layers} layers on the GPU, the rest on the processor."


def _max_n_ctx(model: _Model, machine: _Machine, verdict: FitVerdict) -> int | None:
    """The largest context, in steps of 256 tokens, that gets the verdict "fits" and that the model was made for."""

    def fits(steps: int) -> bool:
        return machine.verdict(model.memory(steps * _MIN_N_CTX))[0] == "fits"

    if verdict == "unknown":
        return None
    low, high = 0, max(1, model.context_length // _MIN_N_CTX)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low * _MIN_N_CTX or None
