"""What loading and generating took on this machine, remembered for the next time."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from modeldeck._files import replace_file
from modeldeck.sizing.speed import SpeedHistory, bandwidth_of_run

_FILE_NAME = "measured.json"
_MAX_ENTRIES = 500
_MIN_TOKENS = 8
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one load and its first generation took.

    Attributes
    ----------
    load_seconds : float
        From the call of ``load`` to the ready model.
    tokens_per_second : float
        Speed of the generation, without the prompt.
    memory_bytes : int
        Growth of the process's resident memory.
    n_ctx : int
        Context length in tokens.
    token_bytes : float or None
        Bytes of weights read for each token; ``None`` when the speed says nothing about other models.
    layer_count : int
        The number of the model's layers.
    gpu_share : float
        Share of the layers that ran on the GPU, 0 to 1.
    """

    load_seconds: float
    tokens_per_second: float
    memory_bytes: int
    n_ctx: int
    token_bytes: float | None = None
    layer_count: int = 0
    gpu_share: float = 0.0


class MeasurementStore:
    """Keeps the last measurement of each file on each machine in one JSON file; machines may share a home directory.

    A measurement is never worth an error: a file that cannot be read or written is ignored.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE_NAME

    def find(self, path: Path) -> Measurement | None:
        """Return the measurement of a model file on this machine."""
        return self.find_all([path]).get(path)

    def find_all(self, paths: Iterable[Path]) -> dict[Path, Measurement]:
        """Return the measurements of those model files that have one, reading the disk once."""
        entries = self._read()
        return {path: entries[key] for path in paths if (key := _key(path)) in entries}

    def save(self, path: Path, measurement: Measurement) -> None:
        entries = self._read()
        key = _key(path)
        entries.pop(key, None)
        entries[key] = measurement
        newest = dict(list(entries.items())[-_MAX_ENTRIES:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, msgspec.json.encode(newest))

    def speed_history(self) -> SpeedHistory:
        """Return the speeds on this machine: of each file, and the bytes per second that the models have read."""
        here = {
            key.removeprefix(_machine()): entry for key, entry in self._read().items() if key.startswith(_machine())
        }
        comparable = [entry for entry in here.values() if entry.token_bytes]
        return SpeedHistory(
            cpu_bandwidths=tuple(_bandwidth(entry) for entry in comparable if entry.gpu_share == 0),
            gpu_bandwidths=tuple(_bandwidth(entry) for entry in comparable if entry.gpu_share == 1),
            tokens_per_second={name: entry.tokens_per_second for name, entry in here.items()},
        )

    def _read(self) -> dict[str, Measurement]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Measurement])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}


class Recorder:
    """Measures one load from its creation on, and saves it after the first generation of a few tokens."""

    def __init__(self, store: MeasurementStore, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._path = path
        self._clock = clock
        self._started = clock()
        self._memory_before = _resident_bytes()
        self._load_seconds: float | None = None
        self._token_bytes: float | None = None
        self._layer_count = 0
        self._gpu_share = 0.0

    def compare(self, token_bytes: float, layer_count: int, gpu_share: float) -> None:
        """Note what makes the speed comparable with that of other models, see `Measurement`."""
        self._token_bytes = token_bytes
        self._layer_count = layer_count
        self._gpu_share = gpu_share

    def loaded(self) -> None:
        """Take the time: the model is ready."""
        self._load_seconds = self._clock() - self._started

    def record(self, context: object, n_ctx: int) -> bool:
        """Save the measurement of a llama.cpp context. Returns ``False`` until enough has been generated."""
        from llama_cpp import llama_cpp

        times = llama_cpp.llama_perf_context(context)
        if self._load_seconds is None or times.n_eval < _MIN_TOKENS or times.t_eval_ms <= 0:
            return False
        measurement = Measurement(
            load_seconds=self._load_seconds,
            tokens_per_second=times.n_eval / times.t_eval_ms * 1000,
            memory_bytes=max(0, _resident_bytes() - self._memory_before),
            n_ctx=n_ctx,
            token_bytes=self._token_bytes,
            layer_count=self._layer_count,
            gpu_share=self._gpu_share,
        )
        self._store.save(self._path, measurement)
        return True


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _key(path: Path) -> str:
    """Identify a file by its digest where the Hugging Face cache names it, or by name, size and time of change."""
    target = path.resolve()
    if _SHA256.fullmatch(target.name):
        name = target.name
    else:
        try:
            status = target.stat()
            name = f"{target.name}:{status.st_size}:{status.st_mtime_ns}"
        except OSError:
            name = str(target)
    return f"{_machine()}{name}"


def _machine() -> str:
    return f"{platform.node()}:{os.cpu_count()}:"


def _bandwidth(measurement: Measurement) -> float:
    return bandwidth_of_run(measurement.tokens_per_second, measurement.token_bytes or 0, measurement.layer_count)
