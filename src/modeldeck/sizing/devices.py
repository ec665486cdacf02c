"""The GPUs of this machine: those that llama.cpp can use, and those that NVIDIA's driver lists."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from modeldeck.sizing.ask_child import DEFAULT_TIMEOUT_SECONDS, ask_llama_child

DEVICES_FRESH_SECONDS = 10.0
_TRANSFERS_PER_CYCLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One device.

    Parameters
    ----------
    name
        The device's name, as its driver gives it.
    total, free
        Its memory in bytes.
    bandwidth
        The bytes per second between the device and its memory, where the driver tells.
    """

    name: str
    total: int
    free: int
    bandwidth: float | None = None


_llama_devices: tuple[tuple[GPU, ...], float] = ((), -math.inf)


def list_llama_devices(timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> tuple[GPU, ...] | None:
    """List the GPUs that llama.cpp can offload to. Their free memory is at most ten seconds old.

    Returns
    -------
    tuple of GPU or None
        ``None`` when llama.cpp could not be asked.
    """
    global _llama_devices
    devices, fresh_until = _llama_devices
    if time.monotonic() < fresh_until:
        return devices
    reply = ask_llama_child({"kind": "devices"}, timeout_seconds)
    for line in reply.answers:
        if line.get("kind") == "devices":
            try:
                devices = msgspec.convert(line["devices"], tuple[GPU, ...])
            except msgspec.ValidationError:
                return None
            is_final = not line["can_offload"]
            _llama_devices = (devices, math.inf if is_final else time.monotonic() + DEVICES_FRESH_SECONDS)
            return devices
    return None


def list_nvidia_gpus() -> tuple[GPU, ...]:
    """List the GPUs that NVIDIA's management library sees. Empty where its Python package is not installed."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_nvidia_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _nvidia_gpu(pynvml: Any, index: int) -> GPU:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return GPU(
        name=name if isinstance(name, str) else name.decode(),
        total=int(memory.total),
        free=int(memory.free),
        bandwidth=_nvidia_bandwidth(pynvml, handle),
    )


def _nvidia_bandwidth(pynvml: Any, handle: Any) -> float | None:
    """Return the memory's bandwidth: two transfers for each cycle of its clock, as wide as its bus."""
    try:
        megahertz = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)
        bits = pynvml.nvmlDeviceGetMemoryBusWidth(handle)
    except pynvml.NVMLError:
        return None
    return megahertz * 1e6 * _TRANSFERS_PER_CYCLE * bits / 8 or None
