"""The list of downloads on disk: the next engine goes on with the unfinished and shows the finished. Never a token."""

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
"""So many finished downloads are kept for the next engine, and for so long: what a user may still look for."""

_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{32}")
_SUFFIX = ".download.json"


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished download came to. ``at`` is in seconds since the epoch, the rest as in ``DownloadSnapshot``."""

    at: float
    commit_hash: str
    received: int
    total: int | None
    bytes_fetched: int


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a download. ``finish`` is there when its state is ``ready``."""

    format: int = _FORMAT
    job_id: str
    request: DownloadRequest
    state: DownloadState
    created_at: float
    error: ErrorInfo | None = None
    finish: Finish | None = None


class JobStore:
    """One small file for each download, replaced as a whole. Its methods block.

    A store that cannot be written costs the memory of a restart, not the download, so its errors are passed over.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> list[StoredJob]:
        """All that can be read. Changes nothing, so that it may be another engine's list."""
        jobs = []
        for path in self._directory.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                job = msgspec.json.decode(path.read_bytes(), type=StoredJob)
                if job.format == _FORMAT and _NAME.fullmatch(job.job_id) and path == self._path(job.job_id):
                    jobs.append(job)
        return jobs

    def load(self) -> list[StoredJob]:
        """All that can be read, oldest first. Finished ones that are too old or too many are deleted."""
        jobs = self.read()
        outdated = _outdated(jobs, time.time())
        for job_id in outdated:
            self.delete(job_id)
        for draft in self._directory.glob(f"*{_SUFFIX}.*{DRAFT_SUFFIX}"):  # of an engine that was killed
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        return sorted((job for job in jobs if job.job_id not in outdated), key=lambda job: job.created_at)

    def save(self, job: StoredJob) -> None:
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path(job.job_id), msgspec.json.encode(job))

    def delete(self, job_id: str) -> None:
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
