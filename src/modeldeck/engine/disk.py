"""Room on disks, and what a failed write means."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from modeldeck._errors import DiskFullError, StorageError
from modeldeck.hub.errors import error_from_os_error

MARGIN_BYTES = 1 << 20
"""Left free for journals, links and directories."""

_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)


def nearest_existing(path: Path) -> Path:
    """The path itself or the closest folder above it that exists: where it would be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the filesystem that holds, or would hold, ``path``."""
    return shutil.disk_usage(nearest_existing(path.resolve())).free


def device_of(path: Path) -> int:
    return os.stat(nearest_existing(path.resolve())).st_dev


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
