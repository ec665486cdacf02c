"""Where an engine is found: one per user, cache directory and modeldeck version.

The runtime directory holds the socket, the lock and the log. ``/tmp/modeldeck-UID`` comes first because it depends on
nothing but the user: XDG_RUNTIME_DIR and TMPDIR differ between a login shell, a Jupyter server and a cron job, and then
one user would have several engines. It is only used when it belongs to the user and nobody else can enter it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modeldeck._errors import EngineLostError
from modeldeck._files import nearest_existing
from modeldeck._version import __version__

if TYPE_CHECKING:
    from filelock import FileLock

RUNTIME_VARIABLE = "MODELDECK_RUNTIME_DIR"
STATE_VARIABLE = "MODELDECK_STATE_DIR"
TRANSPORT_VARIABLE = "MODELDECK_ENGINE_TRANSPORT"

MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""``sun_path`` of ``sockaddr_un`` without its final NUL byte (unix(7))."""

_DIGEST_CHARACTERS = 12
LOG_SECONDS = 7 * 86_400.0
"""How long the log of an engine that has ended stays, if anything is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlace:
    """Where one engine lives. ``name`` is the stem of its files in ``directory``."""

    directory: Path
    name: str
    transport: Literal["unix", "tcp"] = "unix"

    @property
    def socket_path(self) -> Path:
        return self.directory / f"{self.name}.sock"

    @property
    def address_path(self) -> Path:
        """Port and secret of an engine that listens on TCP."""
        return self.directory / f"{self.name}.json"

    @property
    def lock_path(self) -> Path:
        """Locked for as long as the engine's process lives."""
        return self.directory / f"{self.name}.lock"

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.name}.log"


def lock_place(place: EnginePlace) -> FileLock | None:
    """Take the lock of a place; ``None`` when another process or thread holds it.

    An engine that leaves deletes the lock's file, so a lock may turn out to be on a file that is not there any more. It
    counts only when the file that is there now cannot be locked again.
    """
    from filelock import FileLock, Timeout  # here, because a client locks nothing

    lock = FileLock(place.lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    while True:
        newer = FileLock(place.lock_path)
        try:
            newer.acquire(timeout=0)
        except Timeout:
            return lock
        lock.release()
        lock = newer


def remove_files(place: EnginePlace) -> None:
    """Remove the files of an engine that has ended; the caller holds the lock. A log with content stays for a week."""
    for path in (place.socket_path, place.address_path, place.log_path, place.lock_path):
        with suppress(OSError):
            if path == place.log_path and path.stat().st_size and path.stat().st_mtime > time.time() - LOG_SECONDS:
                continue
            path.unlink()


def remove_dead_files(directory: Path) -> None:
    """Remove what engines that were killed have left in a runtime directory, whatever their version and cache."""
    for path in directory.glob("*.lock"):
        place = EnginePlace(directory=directory, name=path.name.removesuffix(".lock"))
        with suppress(OSError):
            lock = lock_place(place)
            if lock is not None:
                remove_files(place)
                lock.release()


def find_place(cache_dir: Path, environ: Mapping[str, str] = os.environ) -> EnginePlace:
    """The place of the engine for ``cache_dir``; its directory is made when it is missing.

    Raises
    ------
    EngineLostError
        When no directory can hold a private socket.
    """
    problems: dict[str, None] = {}  # without the directories, because a notebook keeps the message
    for directory in runtime_directories(environ, user=user_name(), platform=sys.platform):
        place = place_in(directory, cache_dir, environ)
        if place is None:
            problems["its path is too long for a socket"] = None
            continue
        try:
            claim_directory(directory)
        except OSError as error:
            problems[error.strerror or type(error).__name__] = None
        else:
            return place
    raise EngineLostError(
        f"No directory can hold the engine's socket ({'; '.join(problems)}). "
        f"Set {RUNTIME_VARIABLE} to a short path that only you can write."
    )


def runtime_directories(environ: Mapping[str, str], *, user: str, platform: str) -> Iterator[Path]:
    """Candidates, best first. An explicit one has no alternative."""
    if explicit := environ.get(RUNTIME_VARIABLE):
        yield explicit_directory(explicit)
        return
    if platform == "win32":
        for variable in ("LOCALAPPDATA", "TEMP"):
            if base := environ.get(variable):
                yield Path(base) / "modeldeck" / "run"
        return
    yield Path("/tmp") / f"modeldeck-{user}"
    if base := environ.get("XDG_RUNTIME_DIR"):
        yield Path(base) / "modeldeck"
    if base := environ.get("TMPDIR"):
        yield Path(base).absolute() / f"modeldeck-{user}"
    yield Path("/var/tmp") / f"modeldeck-{user}"
    if home := _home(environ):
        yield home / ".cache" / "modeldeck" / "run"


def state_directories(environ: Mapping[str, str], place: EnginePlace, cache_dir: Path, platform: str) -> Iterator[Path]:
    """Where the list of downloads may be kept, best first. The last is lost when the machine restarts.

    It does not depend on the version, so that an update of modeldeck still shows what was paused before it.
    """
    name = _digest(_normal(cache_dir))
    if explicit := environ.get(STATE_VARIABLE):
        yield explicit_directory(explicit) / name
    elif platform == "win32":
        if base := environ.get("LOCALAPPDATA"):
            yield Path(base) / "modeldeck" / "state" / name
    elif base := environ.get("XDG_STATE_HOME"):
        yield Path(base) / "modeldeck" / name
    elif home := _home(environ):
        yield home / ".local" / "state" / "modeldeck" / name
    yield place.directory / f"{place.name}.state"


def all_state_directories(cache_dir: Path, environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where any engine of a cache directory may keep its list of downloads, best first."""
    try:
        place = find_place(cache_dir, environ)
    except EngineLostError:
        return ()
    return tuple(state_directories(environ, place, cache_dir, sys.platform))


def find_state_directory(cache_dir: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where to keep what is worth knowing the next time; ``None`` when there is no such place. It may be missing yet.

    The engine's list of downloads may be elsewhere, because only one engine may write it.
    """
    return next(filter(_can_be_written, all_state_directories(cache_dir, environ)), None)


def find_blocks_directory(cache_dir: Path) -> Path | None:
    """Return where the block digests of finished files are kept, for the engine and for `Session.verify`."""
    state_dir = find_state_directory(cache_dir)
    return None if state_dir is None else state_dir / "blocks"


def find_verified_directory(cache_dir: Path) -> Path | None:
    """Return where it is kept which files were verified, for the engine, `Session.verify` and `Session.contents`."""
    state_dir = find_state_directory(cache_dir)
    return None if state_dir is None else state_dir / "verified"


def find_turn_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that a program of this user locks while it changes a lock file; ``None`` where none can be.

    It stays there. Its name does not end like those of engines' locks, which every new engine tidies up.
    """
    for directory in runtime_directories(environ, user=user_name(), platform=sys.platform):
        with suppress(OSError):
            claim_directory(directory)
            return directory / "lock-files.turn"
    return None


def place_in(directory: Path, cache_dir: Path, environ: Mapping[str, str]) -> EnginePlace | None:
    """The place in ``directory``, under a shorter name when the path gets too long; ``None`` when it still is."""
    is_tcp = sys.platform == "win32" or environ.get(TRANSPORT_VARIABLE) == "tcp"
    cache = _normal(cache_dir)
    for name in (f"{__version__}-{_digest(cache)}", _digest(f"{__version__}\0{cache}")):
        place = EnginePlace(directory=directory, name=name, transport="tcp" if is_tcp else "unix")
        if is_tcp or len(os.fsencode(place.socket_path)) <= MAX_SOCKET_PATH_BYTES:
            return place
    return None


def explicit_directory(text: str) -> Path:
    """The directory that a variable names, from any working directory. A shell does not expand every ``~``."""
    return Path(os.path.expanduser(text)).absolute()


def claim_directory(directory: Path) -> None:
    """Make ``directory``, or check that it is a real directory of ours that nobody else can enter.

    Raises
    ------
    OSError
        When it cannot be made or used, or is not ours.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":
        info = directory.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise PermissionError(None, "it belongs to somebody else")
        if stat.S_IMODE(info.st_mode) & 0o077:
            directory.chmod(0o700)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(None, "it cannot be written")


def _can_be_written(directory: Path) -> bool:
    """Whether the directory, or what is missing of it, could be made and written. Nothing is made."""
    existing = nearest_existing(directory)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def user_name() -> str:
    """What tells one user of this machine from another."""
    return str(os.getuid()) if sys.platform != "win32" else ""


def _home(environ: Mapping[str, str]) -> Path | None:
    """The home directory when there is one. A missing home is not ours to make."""
    home = environ.get("HOME")
    return Path(home) if home and os.path.isdir(home) else None


def _normal(cache_dir: Path) -> str:
    return os.path.realpath(cache_dir)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:_DIGEST_CHARACTERS]
