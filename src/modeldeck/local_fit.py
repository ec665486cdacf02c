"""Judges a model on disk: whether it fits this machine, and how fast it will generate. Needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modeldeck._context_length import read_n_ctx
from modeldeck._types import FitEstimate
from modeldeck.llama.model_file import inspect_model
from modeldeck.sizing.ask_child import is_llama_cpp_installed
from modeldeck.sizing.dry_run import dry_run_file
from modeldeck.sizing.estimate import estimate_fit
from modeldeck.sizing.hardware import probe_hardware
from modeldeck.sizing.speed import SpeedHistory, with_speed

if TYPE_CHECKING:
    from modeldeck.llama.measurements import Measurement


def judge_file(
    path: Path,
    *,
    sidecar_paths: Sequence[Path] = (),
    n_ctx: int,
    exact: bool,
    history: SpeedHistory,
    measured: Measurement | None = None,
) -> FitEstimate:
    """Judge a model file. Blocks, for about a second if llama.cpp is asked.

    Parameters
    ----------
    path
        The model's only file, or its first shard.
    sidecar_paths
        Files that are loaded with it, such as a vision projector.
    n_ctx
        Context length in tokens; 0 means the model's own.
    exact
        Let llama.cpp plan the memory, if llama-cpp-python is installed.
    history
        The speeds that were measured on this machine.
    measured
        What the last load of this file took.

    Raises
    ------
    GGUFError
        If this is not a GGUF file that llama.cpp could load.
    LoadFailedError
        If it cannot be read, is not a model, or a part is missing.
    """
    n_ctx = read_n_ctx(n_ctx, own=0)
    model = inspect_model(path)
    hardware = probe_hardware()
    planned = None
    n_ctx = n_ctx or model.metadata.context_length or 0
    if exact and is_llama_cpp_installed():
        dry_run = dry_run_file(model.path)
        if dry_run.refusal is not None:
            return FitEstimate(verdict="unusable", n_ctx=n_ctx, reason=dry_run.refusal, reason_code="refused")
        planned = dry_run.memory(n_ctx) if n_ctx else None
    fit = estimate_fit(
        model.metadata,
        weights_bytes=model.size,
        sidecar_bytes=sum(sidecar.stat().st_size for sidecar in sidecar_paths),
        n_ctx=n_ctx,
        hardware=hardware,
        planned=planned,
    )
    fit = with_speed(fit, model.metadata, weights_bytes=model.size, hardware=hardware, history=history)
    if measured is not None and fit.verdict in ("fits", "partial"):
        fit = replace(fit, tokens_per_second=measured.tokens_per_second, speed_source="measured")
    return fit
