"""Judge whether a model fits this machine's RAM and GPUs, by formula or by the memory that llama.cpp planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from modeldeck._types import DEFAULT_N_CTX, FitEstimate, FitReasonCode, FitVerdict
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.sizing.cache_shape import layer_shapes
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.memory import DEFAULT_CONTEXT_OPTIONS, ContextOptions, MemoryUse, memory_use

_MIN_N_CTX = 256
_MAX_N_CTX = 1 << 17
_GPU_MARGIN_BYTES = 1 << 30
_RAM_RESERVE_DIVISOR = 16
"""A sixteenth of what a model needs stays free beside it."""

# The KV cache by file size alone, fitted to SmolLM2-135M, Llama-3.1-8B and Llama-3.1-70B in 4 bits: a model of 4.9 GB
# keeps 128 KiB for each token, and the cache grows with the size to the power of 0.44.
_TYPICAL_KV_BYTES_PER_TOKEN = 128 << 10
_TYPICAL_WEIGHTS_BYTES = 4.9e9
_TYPICAL_EXPONENT = 0.44


def estimate_fit(
    metadata: GGUFMetadata | None,
    *,
    weights_bytes: int | None,
    n_ctx: int,
    hardware: Hardware,
    sidecar_bytes: int = 0,
    options: ContextOptions = DEFAULT_CONTEXT_OPTIONS,
    planned: MemoryUse | None = None,
    gpu_layers: int | None = None,
) -> FitEstimate:
    """Judge whether a model fits this machine with a context of ``n_ctx`` tokens.

    Parameters
    ----------
    metadata
        The model's metadata, of which a quick look is enough; ``None`` when only the size is known.
    weights_bytes
        Size of the model's own files, all shards together; ``None`` makes the verdict "unknown".
    n_ctx
        Context length in tokens; 0 means the model's own.
    hardware
        The machine to judge for.
    sidecar_bytes
        Size of the files that are loaded with the model, such as a vision projector.
    options
        The options that the model will be loaded with.
    planned
        The memory that llama.cpp itself planned for this ``n_ctx``; used instead of the formula.
    gpu_layers
        How many layers are to run on the GPU, instead of as many as fit there.
    """
    n_ctx = n_ctx or (metadata.context_length if metadata else None) or DEFAULT_N_CTX
    if weights_bytes is None:
        return FitEstimate(
            verdict="unknown", n_ctx=n_ctx, reason="The file size is unknown.", reason_code="size_unknown"
        )
    machine = _Machine(hardware)
    model = _Model(metadata, weights_bytes + sidecar_bytes, options)
    use = model.memory(n_ctx)
    if planned is not None:
        # llama.cpp tells what it reserves, but not how much of that it will touch.
        touched = min(use.touched_bytes if metadata is not None else planned.touched_bytes, planned.compute_bytes)
        use = replace(planned, weights_bytes=planned.weights_bytes + sidecar_bytes, touched_bytes=touched)
    block_count = (metadata.block_count if metadata else None) or 0
    if gpu_layers is not None and hardware.gpus and gpu_layers <= block_count:
        compared = machine.compare_layers(use, gpu_layers, block_count)
    else:
        compared = machine.compare(use)
    verdict = compared.verdict
    n_gpu_layers, reason = None, None
    reason_code: FitReasonCode | None = None
    trained_n_ctx = None
    if verdict == "partial":
        n_gpu_layers = machine.n_gpu_layers(use, block_count) if gpu_layers is None else gpu_layers
        reason_code, reason = _partial_reason(n_gpu_layers)
    elif verdict == "too_large":
        reason_code = "too_large"
        reason = "Needs more memory than is free on this machine."
    elif metadata is not None and metadata.context_length and n_ctx > metadata.context_length:
        reason_code, trained_n_ctx = "beyond_training", metadata.context_length
        reason = f"The model was trained for {trained_n_ctx} tokens. With more, its answers get worse."
    if hardware.ram_total <= 0:
        verdict, reason_code = "unknown", "memory_unknown"
        reason = "This machine's memory could not be read."
    return FitEstimate(
        verdict=verdict,
        n_ctx=n_ctx,
        needed_bytes=compared.needed_bytes,
        reserve_bytes=compared.reserve_bytes,
        available_bytes=compared.available_bytes,
        max_n_ctx=_max_n_ctx(model, machine, verdict),
        n_gpu_layers=n_gpu_layers,
        method="native" if planned is not None else model.method,
        reason=reason,
        reason_code=reason_code,
        trained_n_ctx=trained_n_ctx,
    )


class _Model:
    """A model's memory as a function of the context length."""

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


class _Comparison(NamedTuple):
    """A verdict, and the bytes that it compares. The reserve must be available beside the needed bytes."""

    verdict: FitVerdict
    needed_bytes: int
    reserve_bytes: int
    available_bytes: int


class _Machine:
    """One machine's free memory, and the verdicts that follow from it."""

    def __init__(self, hardware: Hardware) -> None:
        self._ram = hardware.ram_available
        self._vram = sum(max(0, gpu.free - _GPU_MARGIN_BYTES) for gpu in hardware.gpus)
        self._has_gpu = bool(hardware.gpus)

    def compare(self, use: MemoryUse) -> _Comparison:
        """Compare the memory that a model needs with the memory that is free."""
        if self._has_gpu and use.vram_bytes <= self._vram:
            return _Comparison("fits", use.vram_bytes, 0, self._vram)
        reserve = -(-use.ram_bytes // _RAM_RESERVE_DIVISOR)
        available = self._ram
        if self._has_gpu:
            available += max(0, self._vram - use.compute_bytes)
        if use.ram_bytes + reserve > available:
            return _Comparison("too_large", use.ram_bytes, reserve, available)
        if self._has_gpu:
            return _Comparison("partial", use.vram_bytes, 0, self._vram)
        return _Comparison("fits", use.ram_bytes, reserve, available)

    def compare_layers(self, use: MemoryUse, gpu_layers: int, block_count: int) -> _Comparison:
        """Compare the memory that a model needs with this many layers on the GPUs with the memory that is free."""
        per_layer = (use.weights_bytes + use.cache_bytes) / (block_count + 1)
        on_gpu = int(per_layer * gpu_layers) + use.compute_bytes if gpu_layers else 0
        in_ram = max(0, use.ram_bytes - int(per_layer * gpu_layers))
        reserve = -(-in_ram // _RAM_RESERVE_DIVISOR)
        if on_gpu > self._vram:
            return _Comparison("too_large", on_gpu, 0, self._vram)
        if in_ram + reserve > self._ram:
            return _Comparison("too_large", in_ram, reserve, self._ram)
        if not gpu_layers:
            return _Comparison("fits", in_ram, reserve, self._ram)
        return _Comparison("partial", on_gpu, 0, self._vram)

    def n_gpu_layers(self, use: MemoryUse, block_count: int) -> int:
        """Return how many layers go to the GPUs when the free memory is divided evenly among them."""
        per_layer = (use.weights_bytes + use.cache_bytes) / (block_count + 1)
        return max(0, min(block_count, int((self._vram - use.compute_bytes) / per_layer))) if per_layer else 0


def _partial_reason(n_gpu_layers: int) -> tuple[FitReasonCode, str]:
    if n_gpu_layers == 0:
        return "on_cpu", "Too large for the GPU; runs on the CPU."
    return "partly_on_gpu", f"Fits partly: {n_gpu_layers} of its layers on the GPU, the rest on the CPU."


def _max_n_ctx(model: _Model, machine: _Machine, verdict: FitVerdict) -> int | None:
    """Return the largest context, in steps of 256 tokens, that fits and that the model was trained for."""

    def fits(steps: int) -> bool:
        return machine.compare(model.memory(steps * _MIN_N_CTX)).verdict == "fits"

    if verdict == "unknown":
        return None
    low, high = 0, max(1, model.context_length // _MIN_N_CTX)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low * _MIN_N_CTX or None
