"""Loads models: a ``llama_cpp.Llama`` that reports progress, frees its memory, and cannot end the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modeldeck.llama.install import LlamaAvailability, availability
from modeldeck.llama.loading import LoadPlan, load, plan
from modeldeck.llama.measurements import Measurement, MeasurementStore

if TYPE_CHECKING:
    from modeldeck.llama.handle import Llama

__all__ = [
    "Llama",
    "LlamaAvailability",
    "LoadPlan",
    "Measurement",
    "MeasurementStore",
    "availability",
    "load",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name == "Llama":
        from modeldeck.llama.handle import llama_class

        return llama_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
