"""The engine in a process of its own, which outlives the process that starts it."""

from __future__ import annotations

import os
import re
import site
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from modeldeck._errors import EngineLostError
from modeldeck._loop import in_daemon_thread
from modeldeck.service.discovery import RUNTIME_VARIABLE, STATE_VARIABLE, EnginePlace, explicit_directory
from modeldeck.service.sockets import dial

START_SECONDS = 30.0
READY = b"ready"
"""What the engine writes to its standard output once it listens. Any other text there is the reason why it does not."""

SECRET_VARIABLES = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_ENDPOINT"})
"""``HF_ENDPOINT`` may have a password in it. The engine does not need it: each request names its endpoint."""
_LOG_MODE = 0o600
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[\\/](?:[^\s'\":\\/]+[\\/])*")
"""The folders of an absolute path, without the name at its end."""

if sys.platform == "win32":
    _CREATION_FLAGS = (
        subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_BREAKAWAY_FROM_JOB
    )
else:
    _CREATION_FLAGS = 0


class ProcessHome:
    """Connects to the engine at ``place``, and starts it when none runs there."""

    mode: Literal["process"] = "process"

    def __init__(self, place: EnginePlace, cache_dir: Path) -> None:
        self._place = place
        self._cache_dir = cache_dir

    @property
    def log_hint(self) -> str:
        return _log_hint(self._place)

    def connect(self) -> tuple[socket.socket, str | None]:
        with suppress(OSError):
            return dial(self._place)
        start_engine(self._place, self._cache_dir)
        return dial(self._place)

    def leave(self) -> None:
        """The process needs no telling: it counts its connections."""


def engine_command() -> tuple[str, ...]:
    """Return the command that runs the engine.

    Raises
    ------
    EngineLostError
        When there is no Python to run it with.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise EngineLostError("There is no Python interpreter to run the engine with.")
    return (sys.executable, "-P", "-m", "modeldeck.service")


def start_engine(place: EnginePlace, cache_dir: Path) -> None:
    """Start an engine at ``place`` and return when one listens there, this one or another one that won the race.

    Raises
    ------
    EngineLostError
        When the process cannot be started or ends before it listens.
    """
    arguments = [
        *engine_command(),
        *("--cache-dir", str(cache_dir)),
        *("--runtime-dir", str(place.directory)),
        *("--name", place.name),
        *("--transport", place.transport),
        "--detach",
    ]
    try:
        log = os.open(place.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _LOG_MODE)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=os.path.abspath(os.sep),
                env=engine_environment(os.environ),
                start_new_session=True,
                creationflags=_CREATION_FLAGS,
            )
        finally:
            os.close(log)
    except OSError as error:
        raise EngineLostError(f"The engine's process cannot be started: {error.strerror or error}.") from error
    assert process.stdout is not None
    with process.stdout as output:
        try:
            word = in_daemon_thread(output.readline).result(START_SECONDS).strip()
        except TimeoutError:
            process.kill()
            word = b"it did not answer in time"
    if sys.platform == "win32":
        process.returncode = 0  # it goes on; no warning about that when this object is deleted
    else:
        process.wait()  # the process that went on is its child
    if word != READY:
        reason = _FOLDERS.sub("", word.decode(errors="replace") or _last_line(place.log_path))
        raise EngineLostError(f"The engine's process ended before it was ready: {reason}. {_log_hint(place)}")


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without secrets of the Hub, and with paths that are valid from any directory."""
    result = {name: value for name, value in environ.items() if name not in SECRET_VARIABLES}
    for name in (RUNTIME_VARIABLE, STATE_VARIABLE):
        if explicit := environ.get(name):
            result[name] = str(explicit_directory(explicit))
    if file := environ.get("SSL_CERT_FILE"):
        result["SSL_CERT_FILE"] = os.path.abspath(file)
    if folders := _absolute_paths(environ.get("SSL_CERT_DIR", "")):
        result["SSL_CERT_DIR"] = os.pathsep.join(folders)
    paths = _absolute_paths(environ.get("PYTHONPATH", ""))
    package_root = str(Path(__file__).parents[2])
    if package_root not in (*paths, *site.getsitepackages(), site.getusersitepackages()):
        paths.append(package_root)
    if paths:
        result["PYTHONPATH"] = os.pathsep.join(paths)
    return result


def _absolute_paths(text: str) -> list[str]:
    return [os.path.abspath(path) for path in text.split(os.pathsep) if path]


def _log_hint(place: EnginePlace) -> str:
    """Name the log, without its folder: a notebook keeps the message."""
    return f"See {place.log_path.name} in the folder of {RUNTIME_VARIABLE}, which is usually /tmp/modeldeck-UID."


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"
