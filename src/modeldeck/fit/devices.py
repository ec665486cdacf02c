"""GPUs, and those of them that NVIDIA's driver knows of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One device's memory in bytes."""

    name: str
    total: int
    free: int


def list_nvidia_gpus() -> tuple[GPU, ...]:
    """What NVIDIA's management library sees, where its Python package is installed."""
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
    return GPU(name=name if isinstance(name, str) else name.decode(), total=int(memory.total), free=int(memory.free))
