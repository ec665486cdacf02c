"""How many tokens per second a model will generate: the bytes that it reads for each token over the memory's bandwidth.

Generating a token reads nearly all weights once, so the bandwidth of the memory is what limits it. Of a mixture of
experts only the experts in use are read. The work between the weights adds a little for each layer, which is what keeps
small models from being as fast as their size suggests. ``benchmarks/speed.py`` compares the result with real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from modeldeck._types import FitEstimate, SpeedSource
from modeldeck.gguf.active_weights import active_share
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.sizing.hardware import Hardware

_CPU_EFFICIENCY = 0.6
_GPU_EFFICIENCY = 0.6
"""The share of the memory's bandwidth that llama.cpp reaches."""

_CORE_BYTES_PER_SECOND = 5e9
"""The weights that one core unpacks and multiplies in a second: with few cores this is less than memory provides."""

_SECONDS_PER_LAYER = 0.0001
"""The time that a layer takes beside its weights, measured with SmolLM2-135M (30 layers) and gemma3-270m (18)."""

_MAX_SHARE_OF_LAYERS = 0.5

_MIN_SECONDS_PER_TOKEN = 0.001
"""Below this, the work around the weights takes longer than reading them."""

ALL_LAYERS = -1
"""llama.cpp's ``n_gpu_layers`` for a model that runs on the GPU as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedHistory:
    """The speeds that were measured on this machine.

    Parameters
    ----------
    memory_bandwidth
        The bytes per second that the processors read from memory; ``None`` when it has not been measured.
    cpu_bandwidths
        The bytes per second that models running on the CPU have read, one for each measured model.
    gpu_bandwidths
        The same for models that ran on the GPU.
    tokens_per_second
        The measured speed of model files by their sha256.
    """

    memory_bandwidth: float | None = None
    cpu_bandwidths: tuple[float, ...] = ()
    gpu_bandwidths: tuple[float, ...] = ()
    tokens_per_second: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, and where the figure comes from."""

    tokens_per_second: float
    source: SpeedSource


def bytes_per_token(metadata: GGUFMetadata | None, weights_bytes: int) -> float:
    """Return the bytes of weights that are read to generate one token.

    Parameters
    ----------
    metadata
        The model's metadata. Without its tensors, the share of the experts is calculated from the model's dimensions;
        without any metadata, all weights count.
    weights_bytes
        Size of the model's own files.
    """
    return weights_bytes * (1.0 if metadata is None else active_share(metadata))


def expected_speed(
    token_bytes: float,
    *,
    hardware: Hardware,
    history: SpeedHistory,
    gpu_share: float,
    layer_count: int = 0,
    sha256: str | None = None,
) -> Speed | None:
    """Return the expected speed of generation with a short context.

    Parameters
    ----------
    token_bytes
        The bytes of weights that are read for one token, see `bytes_per_token`.
    hardware
        The machine, with the bandwidth of its GPUs.
    history
        The speeds that were measured on this machine.
    gpu_share
        The share of the layers that run on the GPU, 0 to 1.
    layer_count
        The number of the model's layers.
    sha256
        The digest of the model file, by which a measured speed is found.

    Returns
    -------
    Speed or None
        ``None`` when a bandwidth that matters is unknown, and for models so small that it does not limit them.
    """
    if sha256 is not None and (measured := history.tokens_per_second.get(sha256)):
        return Speed(measured, "measured")
    seconds = layer_count * _SECONDS_PER_LAYER
    source: SpeedSource = "calibrated"
    for share, achieved, expected in (
        (1 - gpu_share, history.cpu_bandwidths, _cpu_bandwidth(hardware, history)),
        (gpu_share, history.gpu_bandwidths, _gpu_bandwidth(hardware)),
    ):
        if not share:
            continue
        if not achieved:
            source = "estimated"
        bandwidth = median(achieved) if achieved else expected
        if not bandwidth:
            return None
        seconds += share * token_bytes / bandwidth
    return Speed(1 / seconds, source) if seconds >= _MIN_SECONDS_PER_TOKEN else None


def bandwidth_of_run(tokens_per_second: float, token_bytes: float, layer_count: int) -> float:
    """Return the bytes of weights that a model has read per second, without the time that its layers took beside."""
    seconds = 1 / tokens_per_second
    return token_bytes / (seconds - min(layer_count * _SECONDS_PER_LAYER, seconds * _MAX_SHARE_OF_LAYERS))


def gpu_share(metadata: GGUFMetadata | None, hardware: Hardware, n_gpu_layers: int | None) -> float:
    """Return the share of the layers that run on the GPU, 0 to 1, for the option ``n_gpu_layers`` of llama.cpp."""
    layers = (metadata.block_count if metadata is not None else None) or 0
    if not hardware.gpus or not n_gpu_layers:
        return 0.0
    if n_gpu_layers < 0 or n_gpu_layers >= layers:
        return 1.0
    return n_gpu_layers / layers


def with_speed(
    fit: FitEstimate,
    metadata: GGUFMetadata | None,
    *,
    weights_bytes: int | None,
    hardware: Hardware,
    history: SpeedHistory,
    sha256: str | None = None,
) -> FitEstimate:
    """Add the expected speed to the estimate of a variant that fits, as a whole or partly.

    Parameters
    ----------
    fit
        The estimate of the variant's memory.
    metadata, weights_bytes, sha256
        The variant's metadata, as far as known, its size without sidecars, and the digest of its first file.
    hardware, history
        The machine, and the speeds that were measured on it.
    """
    if weights_bytes is None or fit.verdict not in ("fits", "partial"):
        return fit
    if fit.verdict == "partial" and (metadata is None or not metadata.block_count):
        return fit
    speed = expected_speed(
        bytes_per_token(metadata, weights_bytes),
        hardware=hardware,
        history=history,
        gpu_share=gpu_share(metadata, hardware, fit.n_gpu_layers if fit.verdict == "partial" else ALL_LAYERS),
        layer_count=(metadata.block_count if metadata is not None else None) or 0,
        sha256=sha256,
    )
    if speed is None:
        return fit
    return replace(fit, tokens_per_second=speed.tokens_per_second, speed_source=speed.source)


def _cpu_bandwidth(hardware: Hardware, history: SpeedHistory) -> float | None:
    if not history.memory_bandwidth:
        return None
    return min(history.memory_bandwidth * _CPU_EFFICIENCY, hardware.cpu_count * _CORE_BYTES_PER_SECOND)


def _gpu_bandwidth(hardware: Hardware) -> float | None:
    """Return the bandwidth of the slowest GPU. They work one after the other, so it is a safe assumption for all."""
    bandwidths = [gpu.bandwidth for gpu in hardware.gpus]
    known = [bandwidth for bandwidth in bandwidths if bandwidth]
    return min(known) * _GPU_EFFICIENCY if known and len(known) == len(bandwidths) else None
