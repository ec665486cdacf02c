"""Unfinished downloads on disk, so that the next engine goes on with them. Never a token."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import msgspec

from modeldeck._types import DownloadRequest, DownloadState, ErrorInfo

_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{32}")
_SUFFIX = ".download.json"


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a download."""

    format: int = _FORMAT
    job_id: str
    request: DownloadRequest
    state: DownloadState
    created_at: float
    error: ErrorInfo | None = None


class JobStore:
    """One small file for each unfinished download, replaced as a whole. Its methods block.

    A store that cannot be written costs the memory of a restart, not the download, so its errors are passed over.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> list[StoredJob]:
        """All that can be read, oldest first."""
        jobs = []
        for path in self._directory.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                job = msgspec.json.decode(path.read_bytes(), type=StoredJob)
                if job.format == _FORMAT and _NAME.fullmatch(job.job_id) and path == self._path(job.job_id):
                    jobs.append(job)
        return sorted(jobs, key=lambda job: job.created_at)

    def save(self, job: StoredJob) -> None:
        path = self._path(job.job_id)
        temporary = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(job))
            os.replace(temporary, path)

    def delete(self, job_id: str) -> None:
        with contextlib.suppress(OSError):
            self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._directory / (job_id + _SUFFIX)
