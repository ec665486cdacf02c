"""The engine's process: a server in the background. Run as ``python -m modeldeck.service``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from modeldeck._errors import EngineLostError, ModelDeckError
from modeldeck._files import replace_file
from modeldeck._heap import trim_heap
from modeldeck._settings import check_limits
from modeldeck._types import EngineLimits
from modeldeck.service.discovery import (
    EnginePlace,
    claim_directory,
    lock_place,
    remove_dead_files,
    remove_files,
    state_directories,
)
from modeldeck.service.engine_server import EngineServer
from modeldeck.service.launch import READY
from modeldeck.service.shared_manager import SharedManager, open_manager
from modeldeck.service.sockets import dial, listen

IDLE_VARIABLE = "MODELDECK_ENGINE_IDLE_SECONDS"
IDLE_SECONDS = 60.0
RACE_SECONDS = 10.0
RACE_STEP_SECONDS = 0.02
NICENESS = 5
STDOUT = 1
MAX_LOG_BYTES = 1024 * 1024

_log = logging.getLogger("modeldeck.service")


def main(argv: Sequence[str] | None = None) -> None:
    """Run an engine until it is no longer needed. Return at once when another one already runs at this place."""
    options = _parse(argv)
    place = EnginePlace(directory=options.runtime_dir, name=options.name, transport=options.transport)
    if options.detach:
        _detach()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    lock = None
    try:
        claim_directory(place.directory)
        lock = _win_race(place)
        if lock is None:
            _report(READY)
            return
        if place.log_path.exists() and place.log_path.stat().st_size > MAX_LOG_BYTES:
            os.truncate(place.log_path, 0)
        listener, secret = listen(place)
        try:
            asyncio.run(_run(place, options, listener, secret))
        finally:
            remove_dead_files(place.directory)
            remove_files(place)
    except (OSError, ModelDeckError) as error:
        _report(str(error).encode())
        sys.exit(1)
    finally:
        if lock is not None:
            lock.release()


async def _run(place: EnginePlace, options: argparse.Namespace, listener: socket.socket, secret: str | None) -> None:
    state_dir, state_lock = _take_state_directory(place, options.cache_dir)
    try:
        limits = LimitsFile(state_dir)
        async with open_manager(options.cache_dir, state_dir=state_dir, limits=limits.read()) as manager:
            server = EngineServer(
                SharedManager(manager, "process", remember_limits=limits.write),
                secret=secret,
                idle_seconds=idle_seconds(os.environ),
                on_rest=give_memory_back,
            )
            loop = asyncio.get_running_loop()
            with suppress(NotImplementedError):  # Windows
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, server.stop)
            _report(READY)
            if options.detach:
                _give_way()
            await server.serve(listener)
    finally:
        if state_lock is not None:
            state_lock.release()


class LimitsFile:
    """Where an engine keeps its limits for the next one. ``None`` as the directory keeps nothing."""

    def __init__(self, state_dir: Path | None) -> None:
        self._path = None if state_dir is None else state_dir / "limits.json"

    def read(self) -> EngineLimits | None:
        """Return the limits, or ``None`` for the usual ones. A damaged file counts as missing."""
        if self._path is None:
            return None
        try:
            return check_limits(msgspec.json.decode(self._path.read_bytes(), type=EngineLimits))
        except (OSError, ModelDeckError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def write(self, limits: EngineLimits) -> None:
        with suppress(OSError):  # they hold as long as this engine runs
            if self._path is not None:
                replace_file(self._path, msgspec.json.encode(limits))


def give_memory_back() -> None:
    """Return what the last download needed to the system; the C library keeps freed memory until it is asked."""
    gc.collect()
    trim_heap()


def idle_seconds(environ: Mapping[str, str]) -> float:
    """Return how long an engine without clients and work stays."""
    try:
        return max(0.0, float(environ[IDLE_VARIABLE]))
    except (KeyError, ValueError):
        return IDLE_SECONDS


def _take_state_directory(place: EnginePlace, cache_dir: Path) -> tuple[Path | None, FileLock | None]:
    """Lock a directory for the list of downloads, one that no engine of another version writes to."""
    for directory in state_directories(os.environ, place, cache_dir, sys.platform):
        try:
            claim_directory(directory)
            lock = FileLock(directory / "engine.lock")
            lock.acquire(timeout=0)
        except (OSError, Timeout) as error:
            _log.warning("The list of downloads cannot be kept in %s: %s", directory, error)
        else:
            return directory, lock
    return None, None


def _win_race(place: EnginePlace) -> FileLock | None:
    """Return the lock of the place if this process becomes the engine. If not, another one already listens."""
    deadline = time.monotonic() + RACE_SECONDS
    while time.monotonic() < deadline:
        lock = lock_place(place)
        if lock is not None:
            return lock
        with suppress(OSError):
            dial(place)[0].close()
            return None
        time.sleep(RACE_STEP_SECONDS)
    raise EngineLostError("Another engine holds the lock but does not listen")


def _detach() -> None:
    """Fork and end the parent, so that the caller need not reap the engine and a kill of its process tree misses it.

    The caller has already started this process in a session of its own, and shares only one pipe with it, for
    ``_report``.
    """
    if sys.platform != "win32":
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _give_way() -> None:
    """Let the user's computation go first where cores are short. On free cores nothing changes.

    A thread inherits the niceness of the thread that starts it, so this runs before the disk threads start. Linux may
    weigh sessions instead of processes (autogroups in sched(7)); then only the niceness of the session counts.
    """
    with suppress(AttributeError, OSError):  # Windows
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def _report(word: bytes) -> None:
    """Tell the process that started this one, once, and close its pipe."""
    with suppress(BrokenPipeError):
        os.write(STDOUT, word + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modeldeck.service", description="modeldeck's download engine.")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--runtime-dir", type=Path, required=True, help="a private directory for socket, lock and log")
    parser.add_argument("--name", required=True, help="stem of the engine's files there")
    parser.add_argument("--transport", choices=("unix", "tcp"), default="unix")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    return parser.parse_args(argv)
