"""The list of downloads on disk, for the next engine. It never contains a token."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modeldeck._files import DRAFT_SUFFIX, replace_file
from modeldeck._types import DownloadRequest, DownloadState, ErrorInfo

MAX_FINISHED = 100
MAX_FINISHED_SECONDS = 30 * 86_400.0
"""Finished downloads are kept up to this number and age: those that a user may still look for."""

_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{32}")
_PARTIAL_NAME = re.compile(r"[0-9A-Za-z_-]{1,128}")
_SUFFIX = ".download.json"


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a download. ``at`` is in seconds since the epoch, the rest as in `DownloadSnapshot`."""

    at: float
    commit_hash: str
    received: int
    total: int | None
    bytes_fetched: int


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept about a download.

    ``finish`` is set if its state is ``ready``. Lower turns come first in the queue. ``partial_names`` are the names
    of the blobs that its partial files are for, also of those that the listing told no digest of.
    """

    format: int = _FORMAT
    job_id: str
    request: DownloadRequest
    state: DownloadState
    created_at: float
    error: ErrorInfo | None = None
    finish: Finish | None = None
    repaired_bytes: tuple[int, ...] = ()
    turn: float = 0.0
    partial_names: tuple[str, ...] = ()


def listed_names(request: DownloadRequest) -> set[str]:
    """Return the names of the blobs whose digests a request tells."""
    return {digest for file in request.files if (digest := file.sha256 or file.oid)}


class JobStore:
    """One small file for each download, replaced as a whole. The methods block.

    If the directory cannot be written, a restart forgets the downloads, but they still run. So errors are ignored.

    Parameters
    ----------
    directory
        Where the files are. It is created when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> list[StoredJob]:
        """Return all that can be read. This changes nothing, so it may be used for another engine's list."""
        jobs = []
        for path in self._directory.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                job = msgspec.json.decode(path.read_bytes(), type=StoredJob)
                is_named = _NAME.fullmatch(job.job_id) and all(map(_PARTIAL_NAME.fullmatch, job.partial_names))
                if job.format == _FORMAT and is_named and path == self._path(job.job_id):
                    jobs.append(job)
        return jobs

    def load(self) -> list[StoredJob]:
        """Return all that can be read, oldest first. Finished ones beyond the limits are deleted."""
        jobs = self.read()
        outdated = _outdated(jobs, time.time())
        for job_id in outdated:
            self.delete(job_id)
        for draft in self._directory.glob(f"*{_SUFFIX}.*{DRAFT_SUFFIX}"):  # of an engine that was killed
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        return sorted((job for job in jobs if job.job_id not in outdated), key=lambda job: job.created_at)

    def save(self, job: StoredJob) -> None:
        """Keep a download, in place of what was kept about it before."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path(job.job_id), msgspec.json.encode(job))

    def delete(self, job_id: str) -> None:
        """Forget a download."""
        with contextlib.suppress(OSError):
            self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._directory / (job_id + _SUFFIX)


def _outdated(jobs: Sequence[StoredJob], now: float) -> set[str]:
    finished = sorted(
        ((job.finish.at, job.job_id) for job in jobs if job.finish is not None),
        reverse=True,
    )
    return {
        job_id for rank, (at, job_id) in enumerate(finished) if rank >= MAX_FINISHED or at < now - MAX_FINISHED_SECONDS
    }
