"""The bandwidth of this machine's memory: measured once in a few hundredths of a second, and remembered."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import sys
import threading
import time
from pathlib import Path
from statistics import median

import msgspec

from modeldeck._files import replace_file
from modeldeck.sizing.hardware import cpu_count

MAX_SECONDS = 0.035
"""The time that a measurement takes, apart from the start of its threads."""

_FILE_NAME = "bandwidth.json"
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 256 << 20
_MAX_THREADS = 16
_FILL_SHARE = 0.4
_MIN_READS = 3
_FILLING, _ABSENT = 1, 2

_lock = threading.Lock()
_measured: dict[str, float | None] = {}


def find_bandwidth(folder: Path | None) -> float | None:
    """Return the bytes per second that all processors together read from memory, measured on the first call.

    Parameters
    ----------
    folder
        Where the figure is remembered, for each machine that shares the folder; ``None`` keeps it in this process only.

    Returns
    -------
    float or None
        ``None`` when it cannot be measured on this system.
    """
    path = None if folder is None else folder / _FILE_NAME
    key = f"{platform.node()}:{os.cpu_count()}:{cpu_count()}"
    known = _read(path)
    if key not in known:
        with _lock:
            if key not in _measured:
                _measured[key] = measure_bandwidth(cpu_count())
        bandwidth = _measured[key]
        if bandwidth is None:
            return None
        known[key] = bandwidth
        _write(path, known)
    return known[key]


def measure_bandwidth(thread_count: int) -> float | None:
    """Let threads read from memory for 35 ms, and return the bytes per second that they read together."""
    find_byte = _memchr()
    if find_byte is None:
        return None
    readers = [_Reader(find_byte) for _ in range(min(thread_count, _MAX_THREADS))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    rates = [reader.bytes_per_second for reader in readers]
    return sum(rates) if all(rates) else None


class _Reader:
    """One thread that fills a buffer larger than most caches, then reads it again and again, in the C library."""

    def __init__(self, find_byte: ctypes._NamedFuncPointer) -> None:
        self.bytes_per_second = 0.0
        self._find_byte = find_byte
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="modeldeck-bandwidth", daemon=True)
        self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with mmap.mmap(-1, _BUFFER_BYTES) as buffer:
            view = (ctypes.c_char * _BUFFER_BYTES).from_buffer(buffer)
            try:
                self._measure(ctypes.addressof(view))
            finally:
                del view

    def _measure(self, address: int) -> None:
        started = time.perf_counter()
        filled = 0
        while filled < _BUFFER_BYTES and (not filled or time.perf_counter() - started < MAX_SECONDS * _FILL_SHARE):
            ctypes.memset(address + filled, _FILLING, _CHUNK_BYTES)
            filled += _CHUNK_BYTES
        place, rates = 0, list[float]()
        while (before := time.perf_counter()) - started < MAX_SECONDS or len(rates) < _MIN_READS:
            self._find_byte(address + place, _ABSENT, _CHUNK_BYTES)
            rates.append(_CHUNK_BYTES / (time.perf_counter() - before))
            place = (place + _CHUNK_BYTES) % filled
        # The median, because now and then the thread is interrupted, or finds a chunk in a cache.
        self.bytes_per_second = median(rates)


def _memchr() -> ctypes._NamedFuncPointer | None:
    """Find the C library's search for a byte, which reads memory about as fast as it can be read."""
    try:
        library = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        function = library.memchr
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    function.restype = ctypes.c_void_p
    return function


def _read(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _write(path: Path | None, known: dict[str, float]) -> None:
    """Remember the figures. Where that is impossible, the next process measures again."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(known))
