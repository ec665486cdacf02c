"""Loading models: a ``llama_cpp.Llama`` that reports progress, gives its memory back, and cannot kill the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modeldeck.llama.install import LlamaAvailability, availability
from modeldeck.llama.loading import load
from modeldeck.llama.measured import Measurement, MeasurementStore

if TYPE_CHECKING:
    from modeldeck.llama.guard import Guarded as Llama

__all__ = ["Llama", "LlamaAvailability", "Measurement", "MeasurementStore", "availability", "load"]


def __getattr__(name: str) -> Any:
    if name == "Llama":
        from modeldeck.llama.guard import llama_class

        return llama_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
