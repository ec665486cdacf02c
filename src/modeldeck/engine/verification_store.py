"""What is known of the files of the cache: which ones were compared with their digest, when, by what, and the outcome.

One small file for each file of the cache, outside the cache::

    <state>/verified/<digest of the path>.json

A record is about a file as it was at that moment: one that was written since has no record. Records may be deleted at
any time. Neither reading nor writing one ever raises an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from modeldeck._files import replace_file

VerifiedBy: TypeAlias = Literal["download", "repair", "verify"]

MAX_RECORDS = 2000


class VerificationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of a file with its digest. ``at`` is in seconds since the epoch."""

    size: int
    mtime_ns: int
    at: float
    by: VerifiedBy
    is_valid: bool


class VerificationStore:
    """The records of one cache. The methods block.

    Parameters
    ----------
    directory
        Where the records are kept. It is created when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, path: Path, *, by: VerifiedBy, is_valid: bool) -> None:
        """Note that a file was read as a whole and compared just now."""
        with contextlib.suppress(OSError):
            status = path.stat()
            record = VerificationRecord(
                size=status.st_size, mtime_ns=status.st_mtime_ns, at=time.time(), by=by, is_valid=is_valid
            )
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path(path), msgspec.json.encode(record))
            self._tidy()

    def find(self, path: Path) -> VerificationRecord | None:
        """Return the record of a file as it is now."""
        record, status = self._read(path)
        if record is None or status is None:
            return None
        return record if (record.size, record.mtime_ns) == (status.st_size, status.st_mtime_ns) else None

    def knows(self, path: Path) -> bool:
        """Return whether a file of this size was compared at this path, even if it was written since."""
        record, status = self._read(path)
        return record is not None and status is not None and record.size == status.st_size

    def _read(self, path: Path) -> tuple[VerificationRecord, os.stat_result] | tuple[None, None]:
        """Return the record that there is for a path, with what the file is now."""
        try:
            return msgspec.json.decode(self._path(path).read_bytes(), type=VerificationRecord), path.stat()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None, None

    def _path(self, path: Path) -> Path:
        """The record's path. A file of a snapshot and the blob that it links to are one file."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
        return self._directory / f"{name}.json"

    def _tidy(self) -> None:
        """Delete the oldest records beyond the limit."""
        with os.scandir(self._directory) as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.name.endswith(".json")]
        for _, path in sorted(found, reverse=True)[MAX_RECORDS:]:
            with contextlib.suppress(FileNotFoundError):  # another process tidies, too
                os.unlink(path)
