"""Chooses the options a model is loaded with: the caller's, and otherwise what suits a notebook on this machine."""

from __future__ import annotations

import inspect
import operator
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from modeldeck._context_length import read_n_ctx
from modeldeck._errors import DoesNotFitError, InvalidRequestError
from modeldeck._tables import format_memory
from modeldeck._types import DEFAULT_N_CTX, FitEstimate
from modeldeck.gguf.ggml_types import GGML_TYPES
from modeldeck.llama.model_file import ModelFile
from modeldeck.sizing.estimate import estimate_fit
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.memory import DEFAULT_N_UBATCH, ContextOptions

_MAX_EMBEDDING_N_CTX = 2048
_MIN_N_CTX = 256
_F32_BYTES = 4
_F16_TYPE_ID = 1
_TYPES_IN_BLOCKS = frozenset(ggml_type.name for ggml_type in GGML_TYPES.values() if ggml_type.block_size > 1)


def choose_options(
    model: ModelFile, hardware: Hardware, given: dict[str, Any], *, mmproj: Path | None = None
) -> dict[str, Any]:
    """Choose all options for ``Llama(...)``. Those in ``given`` stay as they are.

    The defaults are:

    * a context of 4096 tokens, or what the model was made for, or what fits
    * as many threads as processors this process may use, because more are up to 15 times slower
    * weights read into memory, because a CPU keeps mapped weights twice
    * flash attention, which needs a tenth of the memory
    * as many layers on the GPU as fit there

    Raises
    ------
    DoesNotFitError
        When the model needs more memory than is free, at the requested context length.
    InvalidRequestError
        When a value cannot be used.
    """
    options, fit = plan_options(model, hardware, given, mmproj=mmproj)
    if fit.verdict == "too_large":
        raise _does_not_fit(model, fit)
    return options


def plan_options(
    model: ModelFile, hardware: Hardware, given: dict[str, Any], *, mmproj: Path | None = None
) -> tuple[dict[str, Any], FitEstimate]:
    """Choose all options as `choose_options` does, with the memory that they take, also when it is more than is free.

    Raises
    ------
    InvalidRequestError
        When a value cannot be used.
    """
    given = {name: _plain(value) for name, value in given.items() if name != "n_ctx" or value is not None}
    options: dict[str, Any] = {
        "embedding": model.is_embedding,
        "flash_attn": not model.is_embedding,
        "n_threads": hardware.cpu_count,
        "n_threads_batch": hardware.cpu_count,
        "verbose": False,
        **given,
    }
    _check_overrides(options)
    _check_threads(options)
    _check_batches(options)
    _check_value_cache(options)
    wanted = _wanted_n_ctx(model, options)
    fit = _estimate(model, hardware, options, wanted, mmproj)
    if fit.verdict == "too_large" and "n_ctx" not in given and (fit.max_n_ctx or 0) >= _MIN_N_CTX:
        wanted = min(wanted, fit.max_n_ctx or wanted)
        fit = _estimate(model, hardware, options, wanted, mmproj)
    options["n_ctx"] = wanted
    options.setdefault("n_gpu_layers", _gpu_layers(hardware, fit))
    options.setdefault("use_mmap", bool(hardware.gpus) and options["n_gpu_layers"] != 0)
    if options["embedding"]:
        # An encoder must see a text at once: more tokens than n_ubatch end the process.
        options.setdefault("n_batch", wanted)
        options["n_ubatch"] = options["n_batch"]
    return options, fit


def check_names(llama_cpp: ModuleType, given: dict[str, Any]) -> None:
    """Refuse options that ``Llama(...)`` does not know and would silently ignore."""
    known = inspect.signature(llama_cpp.Llama.__init__).parameters
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidRequestError(f"llama_cpp.Llama has no option {', '.join(unknown)}. See help(llama_cpp.Llama).")


def _plain(value: Any) -> Any:
    """Return an integer of another kind, such as numpy's, as Python's."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return value


def _wanted_n_ctx(model: ModelFile, options: dict[str, Any]) -> int:
    longest = model.metadata.context_length or DEFAULT_N_CTX
    if options["embedding"]:
        # Position embeddings end at the model's context length; beyond it llama.cpp reads past them.
        return min(longest, read_n_ctx(options.get("n_ctx"), default=_MAX_EMBEDDING_N_CTX, own=longest))
    return read_n_ctx(options.get("n_ctx"), default=min(longest, DEFAULT_N_CTX), own=longest)


def _check_overrides(options: dict[str, Any]) -> None:
    overrides = options.get("kv_overrides")
    if overrides is None:
        return
    if not isinstance(overrides, dict) or not all(isinstance(key, str) for key in overrides):
        raise InvalidRequestError(f"kv_overrides must be a dictionary of metadata keys and values, not {overrides!r}.")


def _check_threads(options: dict[str, Any]) -> None:
    processors = os.cpu_count() or 1
    for name in ("n_threads", "n_threads_batch"):
        count = options[name]
        # OpenMP ends the process when it cannot start this many threads.
        if count is not None and not (isinstance(count, int) and 1 <= count <= processors):
            raise InvalidRequestError(f"{name} must be between 1 and {processors}, the processors of this machine.")


def _check_batches(options: dict[str, Any]) -> None:
    for name in ("n_batch", "n_ubatch"):
        size = options.get(name, DEFAULT_N_UBATCH)
        # A negative one ends the process at the first prompt.
        if not (isinstance(size, int) and size >= 1):
            raise InvalidRequestError(f"{name} must be a number of tokens, at least 1.")


def _check_value_cache(options: dict[str, Any]) -> None:
    name = _type_name(options, "type_v")
    if not options["flash_attn"] and name in _TYPES_IN_BLOCKS:
        raise InvalidRequestError(
            f"llama.cpp has a value cache of the type {name} only with flash attention. Load with flash_attn=True, or "
            "with the cache type F16."
        )


def _estimate(
    model: ModelFile, hardware: Hardware, options: dict[str, Any], n_ctx: int, mmproj: Path | None
) -> FitEstimate:
    beside_bytes = sum(Path(path).stat().st_size for path in (mmproj, options.get("lora_path")) if path)
    if options.get("logits_all"):
        beside_bytes += n_ctx * (model.metadata.vocab_size or 0) * _F32_BYTES
    n_ubatch = options.get("n_ubatch", DEFAULT_N_UBATCH)
    context = ContextOptions(
        n_ubatch=n_ctx if options["embedding"] else n_ubatch,
        type_k=_type_name(options, "type_k"),
        type_v=_type_name(options, "type_v"),
        flash_attn=options["flash_attn"],
        swa_full=options.get("swa_full") is not False,
    )
    return estimate_fit(
        model.metadata,
        # With mapped weights, the caller accepts that they are read from disk again and again.
        weights_bytes=0 if options.get("use_mmap") else model.size,
        sidecar_bytes=beside_bytes,
        n_ctx=n_ctx,
        hardware=hardware,
        options=context,
        gpu_layers=_layers_wished(options),
    )


def _layers_wished(options: dict[str, Any]) -> int | None:
    """How many layers the caller wants on the GPU; ``None`` for all, or as many as fit."""
    layers = options.get("n_gpu_layers")
    return layers if isinstance(layers, int) and layers >= 0 else None


def _type_name(options: dict[str, Any], name: str) -> str:
    type_id = options.get(name)
    type_id = _F16_TYPE_ID if type_id is None else type_id
    if not isinstance(type_id, int) or type_id not in GGML_TYPES:
        raise InvalidRequestError(f"{name} must be one of llama_cpp's GGML_TYPE_* numbers, not {type_id!r}.")
    return GGML_TYPES[type_id].name


def _gpu_layers(hardware: Hardware, fit: FitEstimate) -> int:
    if not hardware.gpus:
        return 0
    return fit.n_gpu_layers or 0 if fit.verdict == "partial" else -1


def _does_not_fit(model: ModelFile, fit: FitEstimate) -> DoesNotFitError:
    needed, available = (fit.needed_bytes or 0) + fit.reserve_bytes, fit.available_bytes or 0
    needed_text, available_text = format_memory(needed, available)
    advice = "Take a smaller variant, or unload another model."
    if fit.max_n_ctx:
        advice = f"Up to n_ctx={fit.max_n_ctx} fits."
    return DoesNotFitError(
        f"{model.path.name} needs {needed_text} of memory with n_ctx={fit.n_ctx}, but only {available_text} is free. "
        f"{advice}",
        needed_bytes=needed,
        available_bytes=available,
        max_n_ctx=fit.max_n_ctx,
    )
