"""The ownership of partial files: claiming, holding and releasing one.

There is one owner at a time. A process claims a journal by renaming it, which only one process can do, and only if the
journal is abandoned: its owner released it, or is this process and no longer has it open, or is dead, or (on another
machine) has not touched it for a while. The file lock is one sign of life among others, because some network
filesystems grant it to everyone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from modeldeck.engine.journal import Journal, Owner, digest_in_name, parse_journal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ABANDONED_SECONDS = 120.0
"""An owner on another machine that has not touched its journal for this long is considered dead."""
LARGEST_JOURNAL_BYTES = 64 << 20

open_journals: set[str] = set()
"""Names of the journals that this process has open. A full disk may not take the line that releases one."""


class OwnershipLostError(Exception):
    """Another process took the partial file over, because this one seemed dead."""


def this_process() -> Owner:
    """Return what a journal says about its owner if that is this process."""
    return Owner(host=socket.gethostname(), pid=os.getpid(), started_at=psutil.Process().create_time())


def try_lock(descriptor: int) -> bool:
    """Take the lock that lives as long as the descriptor. Returns ``True`` also where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def abandoned_journal(path: Path) -> Iterator[Journal | None]:
    """Hold the lock of a journal that nobody owns. Gives ``None`` if it is gone, owned or unreadable."""
    digest = digest_in_name(path.name)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        status = os.fstat(descriptor)
        journal = None
        if digest and status.st_size <= LARGEST_JOURNAL_BYTES and try_lock(descriptor) and is_same_file(path, status):
            journal = parse_journal(_read_all(descriptor), digest)
        if journal is None or not _is_abandoned(path.name, journal, status.st_mtime):
            yield None
        else:
            yield journal
    finally:
        os.close(descriptor)


def is_same_file(path: Path, status: os.stat_result) -> bool:
    """Return whether the path still leads to the file with this status."""
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False


def _is_abandoned(name: str, journal: Journal, modified_at: float) -> bool:
    """Judge without locks whether nobody writes any more."""
    if journal.is_released:
        return True
    owner = journal.owner
    if owner.host != socket.gethostname():
        return time.time() - modified_at > ABANDONED_SECONDS
    try:
        process = psutil.Process(owner.pid)
        is_same = abs(process.create_time() - owner.started_at) <= 1.0
        if is_same and owner.pid == os.getpid():
            return name not in open_journals
        return not is_same or process.status() == psutil.STATUS_ZOMBIE  # it was killed, and is not reaped yet
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return time.time() - modified_at > ABANDONED_SECONDS


def _read_all(descriptor: int) -> bytes:
    pieces = []
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)
