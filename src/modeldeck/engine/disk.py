"""Room on disks, bringing bytes to them, and what a failed write means."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from modeldeck._errors import DiskFullError, StorageError
from modeldeck.hub.errors import error_from_os_error

MARGIN_BYTES = 1 << 20
"""Left free for journals, links and directories."""

_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_CALL = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_WAIT_BEFORE_AND_WRITE = 1 | 2
"""sync_file_range(2): what was begun earlier is waited for, and its errors are told; what is new is begun."""


def nearest_existing(path: Path) -> Path:
    """Where the path leads, or the closest folder above that this user can see: where it would be made."""
    path = Path(os.path.realpath(path))  # pathlib's own resolve and exists raise an error for what cannot be looked at
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the filesystem that holds, or would hold, ``path``."""
    return shutil.disk_usage(nearest_existing(path)).free


def device_of(path: Path) -> int:
    return os.stat(nearest_existing(path)).st_dev


def check_room(path: Path, *, needed: int, reserved: int) -> None:
    """Make sure that ``needed`` more bytes fit beside the ``reserved`` ones that other downloads will still write.

    Raises
    ------
    DiskFullError
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


def write_back(descriptor: int) -> None:
    """Have the system bring a file's bytes to its disk, so that little is left to wait for at the end. Blocks.

    Linux only begins it for what came since the last call: who writes on is not held up by a commit of the file's
    metadata or by a flush of the disk's own memory, as by ``fsync``. Other systems get an ``fsync``.

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
            raise OSError(code, os.strerror(code))  # told once: an fsync would say now that all is well
        os.fsync(descriptor)


def read_from_disk(descriptor: int) -> None:
    """After an error: have what is read of a file from now on be what its disk has, where the system can do that.

    Bytes that could not be written stay in memory as if they had been, and nobody is told a second time. Blocks.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # that something is lost was said already; who reads it will see what
            os.fsync(descriptor)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def error_from_write(exc: OSError, path: Path, *, missing: int | None) -> StorageError:
    """What a failed write means; a full disk says how much is missing."""
    if exc.errno not in _OUT_OF_ROOM:
        if exc.errno == errno.EFBIG:
            return StorageError("The disk of the cache takes no files this large. Set HF_HUB_CACHE to another disk.")
        return error_from_os_error(exc)
    try:
        free: int | None = free_bytes(path)
    except OSError:
        free = None
    plain = error_from_os_error(exc, needed_bytes=missing, free_bytes=free)
    if missing is None:
        return plain
    what = "Your disk quota for the cache is used up" if exc.errno == errno.EDQUOT else "The disk of the cache is full"
    return DiskFullError(
        f"{what}: {_gb(missing)} of this download are still to be written. Everything so far is kept. "
        "Make room, then resume.",
        needed_bytes=missing,
        free_bytes=free,
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count, 0) / 1e6:.1f} MB"


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's own call, which Python's ``os`` lacks; ``None`` elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()
