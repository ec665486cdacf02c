"""Loads a model: checks first, then stages with progress, and a way to cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeldeck._errors import LlamaCrashedError, LoadCancelledError, LoadFailedError, ModelDeckError
from modeldeck._types import FitEstimate, LoadProgress
from modeldeck.llama import vision
from modeldeck.llama.cache_types import check_cache_types
from modeldeck.llama.handle import Llama, llama_class
from modeldeck.llama.install import import_llama_cpp, require_llama_cpp
from modeldeck.llama.measurements import MeasurementStore, Recorder
from modeldeck.llama.model_file import check_adapter, check_projector, inspect_model
from modeldeck.llama.options import check_names, choose_options, plan_options
from modeldeck.sizing.hardware import probe_hardware
from modeldeck.sizing.speed import bytes_per_token, gpu_share

_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What loading a model with some options would take.

    Attributes
    ----------
    options : dict[str, Any]
        All options that ``llama_cpp.Llama`` would get.
    fit : FitEstimate
        The memory that they need.
    context_length : int or None
        The context length in tokens that the model was trained for.
    block_count : int or None
        The number of its layers.
    processors : int
        Processors that this process may use.
    has_gpu : bool
        Whether there is a GPU that llama.cpp can use.
    """

    options: dict[str, Any]
    fit: FitEstimate
    context_length: int | None
    block_count: int | None
    processors: int
    has_gpu: bool


def load(
    path: str | Path,
    *,
    n_ctx: int | None = None,
    progress: Callable[[LoadProgress], object] | None = None,
    cancel: threading.Event | None = None,
    mmproj: str | Path | None = None,
    measurements: MeasurementStore | None = None,
    **kwargs: Any,
) -> Llama:
    """Load a GGUF file and return it as a ready `Llama`. Blocks, but other threads run meanwhile.

    Parameters
    ----------
    path : str or Path
        The model's file, or the first part of a split model. Links are not resolved.
    n_ctx : int, optional
        Context length in tokens, 0 for the model's own. By default 4096, or less if the model or the memory requires.
    progress : callable, optional
        Called with each `LoadProgress`: "reading" the header, and the whole file when it is to be mapped; "opening" it
        (the vocabulary); "loading" the weights; "ready". An exception it raises ends the load.
    cancel : threading.Event, optional
        Set it from another thread to end the load and free its memory.
    mmproj : str or Path, optional
        The model's vision projector. With it, messages may contain images.
    measurements : MeasurementStore, optional
        Where to save what the load and the first generation took.
    **kwargs
        Options of ``llama_cpp.Llama``. Those not given are chosen for this machine.

    Returns
    -------
    Llama
        The model. Call ``unload()`` on it, or use it in a ``with`` block, to free its memory.

    Raises
    ------
    LlamaMissingError
        When llama-cpp-python is not installed.
    GGUFError, LoadFailedError
        When the file is damaged, or llama.cpp cannot load it. The message has llama.cpp's own reason.
    InvalidRequestError
        When an option is unknown or its value cannot be used.
    DoesNotFitError
        When the model needs more memory than is free. Nothing has been allocated.
    LoadCancelledError
        When ``cancel`` was set.

    Examples
    --------
    >>> llm = load("model.gguf", n_ctx=2048)                                # doctest: +SKIP
    >>> llm.create_chat_completion([{"role": "user", "content": "Hello"}])  # doctest: +SKIP
    """
    require_llama_cpp()
    stages = _Stages(progress, cancel or threading.Event())
    path = Path(path).absolute()
    projector = None if mmproj is None else Path(mmproj).absolute()
    stages.enter("reading")
    recorder = None if measurements is None else Recorder(measurements, path)
    model = inspect_model(path)
    if projector is not None:
        check_projector(projector)
    if kwargs.get("lora_path"):
        kwargs["lora_path"] = str(check_adapter(kwargs["lora_path"]))
    hardware = probe_hardware()
    options = choose_options(model, hardware, {"n_ctx": n_ctx, **kwargs}, mmproj=projector)
    if recorder is not None and "n_threads" not in kwargs:  # such a speed would not predict other models
        recorder.compare(
            bytes_per_token(model.metadata, model.size),
            model.metadata.block_count or 0,
            gpu_share(model.metadata, hardware, options["n_gpu_layers"]),
        )
    check_cache_types(model.metadata, options, stages.check)
    if projector is not None:
        vision.try_projector(path, projector, stages.check)
    if options["use_mmap"]:
        stages.read(model.paths)
    stages.enter("opening")
    llama_cpp = import_llama_cpp()
    check_names(llama_cpp, kwargs)
    if projector is not None and options.get("chat_handler") is None:
        options["chat_handler"] = vision.make_handler(llama_cpp, projector, bool(model.metadata.has_chat_template))
    stages.check()
    llama = _construct(path, options, stages)
    try:
        if projector is not None:
            vision.open_projector(llama, projector)
        if recorder is not None:
            recorder.loaded()
            llama._recorder = recorder
        stages.enter("ready", 1.0)
    except BaseException:
        llama.unload()
        raise
    return llama


def plan(path: str | Path, *, mmproj: str | Path | None = None, **kwargs: Any) -> LoadPlan:
    """Say what `load` would do with these options, without loading. Blocks for some milliseconds.

    Parameters
    ----------
    path : str or Path
        The model's file, or the first part of a split model.
    mmproj : str or Path, optional
        The model's vision projector.
    **kwargs
        Options of ``llama_cpp.Llama``, as for `load`.

    Returns
    -------
    LoadPlan
        The options that would be taken, and the memory.

    Raises
    ------
    GGUFError, LoadFailedError
        When the file is damaged, or not a model.
    InvalidRequestError
        When an option's value cannot be used.

    Examples
    --------
    >>> plan("model.gguf", n_ctx=8192).fit.needed_bytes  # doctest: +SKIP
    """
    model = inspect_model(Path(path).absolute())
    if kwargs.get("lora_path"):
        kwargs["lora_path"] = str(check_adapter(kwargs["lora_path"]))
    hardware = probe_hardware()
    options, fit = plan_options(model, hardware, kwargs, mmproj=None if mmproj is None else Path(mmproj))
    return LoadPlan(
        options=options,
        fit=fit,
        context_length=model.metadata.context_length,
        block_count=model.metadata.block_count,
        processors=hardware.cpu_count,
        has_gpu=bool(hardware.gpus),
    )


def _construct(path: Path, options: dict[str, Any], stages: _Stages) -> Llama:
    try:
        return llama_class()(str(path), on_load_progress=stages.on_native_progress, **options)
    except LlamaCrashedError as error:
        raise LoadFailedError(
            f"llama.cpp cannot load {path.name}: {error.reason}. The file is damaged, or an option is wrong."
        ) from error
    except ModelDeckError:
        stages.check()
        raise


class _Stages:
    """Reports the progress of a load, and ends the load when it has been cancelled."""

    def __init__(self, progress: Callable[[LoadProgress], object] | None, cancel: threading.Event) -> None:
        self._progress = progress
        self._cancel = cancel
        self._failure: BaseException | None = None

    def enter(self, stage: Any, fraction: float | None = None) -> None:
        self.check()
        if self._progress is not None:
            self._progress(LoadProgress(stage=stage, fraction=fraction))

    def check(self) -> None:
        """Raise when the load has been cancelled, or its progress callback has failed."""
        if self._failure is not None:
            raise self._failure
        if self._cancel.is_set():
            raise LoadCancelledError("Loading was cancelled, and its memory was freed.")

    def on_native_progress(self, fraction: float) -> bool:
        """Serve as llama.cpp's callback: ``False`` ends the load."""
        try:
            self.enter("loading", fraction)
        except BaseException as error:  # noqa: BLE001 - no exception can pass through native code
            self._failure = error
            return False
        return True

    def read(self, paths: tuple[Path, ...]) -> None:
        """Bring the files into the page cache. llama.cpp would read them in one call, without progress or cancel."""
        total = sum(path.stat().st_size for path in paths)
        done = 0
        buffer = bytearray(_READ_BYTES)
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    done += count
                    self.enter("reading", done / total)
