"""Disks: how much room there is, reading and writing at an offset, and what a failed write means."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from modeldeck._errors import DiskFullError, StorageError
from modeldeck._files import nearest_existing
from modeldeck.hub.errors import error_from_os_error

Buffer = bytes | bytearray | memoryview

MARGIN_BYTES = 1 << 20
"""Left free for journals, links and directories."""

_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_CALL = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_WAIT_BEFORE_AND_WRITE = 1 | 2
"""sync_file_range(2): wait for what an earlier call began, report its errors, and begin to write what is new."""
_MAX_BUFFERS = 512
"""Below the IOV_MAX of every system."""


# --- room -------------------------------------------------------------------------------------------------------------


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write on the filesystem that holds, or would hold, ``path``."""
    return shutil.disk_usage(nearest_existing(path)).free


def device_of(path: Path) -> int:
    """Return the number of the filesystem that holds, or would hold, ``path``."""
    return os.stat(nearest_existing(path)).st_dev


def allocated_bytes(path: Path) -> int:
    """Return the bytes that a file takes on its disk, or 0 if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_blocks * 512


def check_room(path: Path, *, needed: int, reserved: int) -> None:
    """Make sure that a download fits on the disk.

    Parameters
    ----------
    path
        The cache.
    needed
        Bytes that the download will still write.
    reserved
        Bytes that other downloads will still write.

    Raises
    ------
    DiskFullError
        If it does not fit.
    """
    free = free_bytes(path)
    if needed <= 0 or needed + reserved + MARGIN_BYTES <= free:
        return
    others = f" and {_gb(reserved)} for other downloads" if reserved else ""
    raise DiskFullError(
        f"Not enough room in the cache: {_gb(needed)} needed{others}, {_gb(free)} free. "
        f"Free {_gb(needed + reserved + MARGIN_BYTES - free)}, choose a smaller file, "
        "or set HF_HUB_CACHE to another disk.",
        needed_bytes=needed,
        free_bytes=free,
    )


# --- reading and writing at an offset ---------------------------------------------------------------------------------


def write_at(descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write all buffers, one after the other, at ``offset``."""
    waiting = [memoryview(buffer) for buffer in buffers]
    while waiting:
        written = os.pwritev(descriptor, waiting[:_MAX_BUFFERS], offset)
        offset += written
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = waiting[0][written:]


def read_at(descriptor: int, target: memoryview, offset: int) -> int:
    """Fill ``target`` from ``offset`` and return the number of bytes read. Only the end of the file makes it short."""
    filled = 0
    while filled < len(target):
        count = os.preadv(descriptor, [target[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return filled


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` at the descriptor's position."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


# --- to the disk and from it ------------------------------------------------------------------------------------------


def write_back(descriptor: int) -> None:
    """Bring a file's bytes to its disk now, so that little is left to wait for at the end.

    Linux only begins to write what is new since the last call. Later writes then do not wait for a commit of the
    file's metadata or a flush of the disk's own cache, as after ``fsync``. Other systems get an ``fsync``.

    Raises
    ------
    OSError
        Also for bytes of an earlier call that could not be written.
    """
    if _sync_file_range is None:
        os.fsync(descriptor)
    elif _sync_file_range(descriptor, 0, 0, _WAIT_BEFORE_AND_WRITE):
        code = ctypes.get_errno()
        if code not in _NO_SUCH_CALL:
            raise OSError(code, os.strerror(code))  # it is reported once: an fsync would succeed now
        os.fsync(descriptor)


def read_from_disk(descriptor: int) -> None:
    """After a disk error: make later reads of a file return what its disk has, where the system can do that.

    Bytes that could not be written stay in memory as if they had been, and the error is not reported again.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # the loss was reported already, and the next reader will see its extent
            os.fsync(descriptor)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def error_from_write(exc: OSError, path: Path, *, missing: int | None) -> StorageError:
    """Return the error that a failed write means.

    Parameters
    ----------
    exc
        What the system raised.
    path
        Where the write went.
    missing
        Bytes of the download that are still to be written, for the message about a full disk.
    """
    if exc.errno not in _OUT_OF_ROOM:
        if exc.errno == errno.EFBIG:
            return StorageError("The cache's disk cannot store files this large. Set HF_HUB_CACHE to another disk.")
        return error_from_os_error(exc)
    try:
        free: int | None = free_bytes(path)
    except OSError:
        free = None
    plain = error_from_os_error(exc, needed_bytes=missing, free_bytes=free)
    if missing is None:
        return plain
    what = "Your disk quota for the cache is used up" if exc.errno == errno.EDQUOT else "The cache's disk is full"
    return DiskFullError(
        f"{what}: {_gb(missing)} of this download are still to be written. Downloaded data is kept. "
        "Make room, then resume.",
        needed_bytes=missing,
        free_bytes=free,
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count, 0) / 1e6:.1f} MB"


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's system call, which Python's ``os`` lacks, or ``None`` elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()
