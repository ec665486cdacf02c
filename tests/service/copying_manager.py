"""A small download manager that copies local files at a given rate, for tests of the engine's homes.

It follows the interface of ``modeldeck.engine.manager.DownloadManager`` and keeps its promises: a partial file that a
kill leaves behind, a list of jobs in ``state_dir``, tokens in memory only. ``request.endpoint`` is the source file;
the repository "gated/…" wants a token.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from modeldeck._errors import InvalidRequestError, UnauthorizedError
from modeldeck._types import (
    Action,
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    EngineLimits,
)

STEP_SECONDS = 0.02
ACTIONS: dict[DownloadState, tuple[Action, ...]] = {
    DownloadState.DOWNLOADING: ("pause", "cancel"),
    DownloadState.PAUSED: ("resume", "cancel"),
    DownloadState.FAILED: ("retry", "dismiss"),
    DownloadState.READY: ("dismiss",),
    DownloadState.CANCELLED: ("dismiss",),
}


def target_of(request: DownloadRequest) -> Path:
    return Path(request.cache_dir) / request.variant_id


def partial_of(request: DownloadRequest) -> Path:
    return Path(request.cache_dir) / f"{request.variant_id}.part"


@contextmanager
def open_pair(source: Path, partial: Path) -> Iterator[tuple[BinaryIO, BinaryIO, int]]:
    with source.open("rb") as reader, partial.open("ab") as writer:
        reader.seek(writer.tell())
        yield reader, writer, source.stat().st_size


class CopyingManager:
    def __init__(self, *, state_dir: Path | None = None, bytes_per_second: int = 1_000_000) -> None:
        self.limits = EngineLimits()
        self._state_file = None if state_dir is None else state_dir / "jobs.json"
        self._step_bytes = max(1, int(bytes_per_second * STEP_SECONDS))
        self._jobs: dict[str, DownloadSnapshot] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tokens: dict[str, str] = {}
        self._callbacks: list[Callable[[DownloadSnapshot], None]] = []
        self._rev = 0

    async def __aenter__(self) -> Self:
        if self._state_file is not None and self._state_file.exists():
            for job in msgspec.json.decode(self._state_file.read_bytes(), type=list[DownloadSnapshot]):
                self._jobs[job.job_id] = job
                self._rev = max(self._rev, job.rev)
                if not job.state.is_final and job.state is not DownloadState.PAUSED:
                    self._start(job.job_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for job_id in tuple(self._tasks):
            await self._halt(job_id)

    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None:
        match action:
            case "pause":
                return await self.pause(job_id)
            case "cancel":
                return await self.cancel(job_id)
            case "dismiss":
                return await self.dismiss(job_id)
        return await self.resume(job_id, token=token)

    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        job = next((job for job in self._jobs.values() if job.request.key == request.key), None)
        if job is None or job.state.is_final:
            job_id = uuid.uuid4().hex
            self._jobs[job_id] = DownloadSnapshot(
                job_id=job_id, request=request, state=DownloadState.QUEUED, created_at=time.time()
            )
        else:
            job_id = job.job_id
        self._remember(job_id, token)
        if self._jobs[job_id].state is DownloadState.QUEUED:
            self._start(job_id)
        return self._jobs[job_id]

    async def pause(self, job_id: str) -> DownloadSnapshot:
        self._get(job_id)
        await self._halt(job_id)
        return self._move(job_id, state=DownloadState.PAUSED)

    async def resume(self, job_id: str, *, token: str | None = None) -> DownloadSnapshot:
        self._get(job_id)
        self._remember(job_id, token)
        self._start(job_id)
        return self._jobs[job_id]

    retry = resume

    async def cancel(self, job_id: str) -> DownloadSnapshot:
        job = self._get(job_id)
        await self._halt(job_id)
        partial_of(job.request).unlink(missing_ok=True)
        return self._move(job_id, state=DownloadState.CANCELLED)

    async def dismiss(self, job_id: str) -> None:
        if not self._get(job_id).state.is_final:
            raise InvalidRequestError("Only a download that has ended can be dismissed. Cancel it first.")
        del self._jobs[job_id]
        self._save()

    async def forget_gone(self) -> None:
        for job in tuple(self._jobs.values()):
            if job.state is DownloadState.READY and not target_of(job.request).exists():
                del self._jobs[job.job_id]
                self._save()

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        return tuple(self._jobs.values())

    def subscribe(self, callback: Callable[[DownloadSnapshot], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def set_limits(self, limits: EngineLimits) -> None:
        self.limits = limits

    def _get(self, job_id: str) -> DownloadSnapshot:
        if job_id not in self._jobs:
            raise InvalidRequestError(f"There is no download {job_id!r}.")
        return self._jobs[job_id]

    def _remember(self, job_id: str, token: str | None) -> None:
        if token is not None:
            self._tokens[job_id] = token

    def _start(self, job_id: str) -> None:
        request = self._jobs[job_id].request
        if request.repo_id.startswith("gated/") and job_id not in self._tokens:
            self._move(job_id, state=DownloadState.FAILED, error=UnauthorizedError("Give a token.").to_info())
        elif job_id not in self._tasks:
            self._move(job_id, state=DownloadState.DOWNLOADING, error=None)
            self._tasks[job_id] = asyncio.get_running_loop().create_task(self._copy(job_id))

    async def _halt(self, job_id: str) -> None:
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _copy(self, job_id: str) -> None:
        request = self._jobs[job_id].request
        partial = partial_of(request)
        with open_pair(Path(request.endpoint), partial) as (reader, writer, total):
            while data := reader.read(self._step_bytes):
                writer.write(data)
                writer.flush()
                self._move(job_id, received=writer.tell(), total=total)
                await asyncio.sleep(STEP_SECONDS)
        partial.rename(target_of(request))
        del self._tasks[job_id]
        self._move(job_id, state=DownloadState.READY, received=total, total=total)

    def _move(self, job_id: str, **changes: object) -> DownloadSnapshot:
        self._rev += 1
        job = replace(self._jobs[job_id], rev=self._rev, updated_at=time.time(), **changes)
        job = replace(job, actions=ACTIONS[job.state])
        is_new_state = job.state is not self._jobs[job_id].state
        self._jobs[job_id] = job
        if is_new_state:
            self._save()
        for callback in tuple(self._callbacks):
            callback(job)
        return job

    def _save(self) -> None:
        if self._state_file is not None:
            new = self._state_file.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(list(self._jobs.values())))
            new.replace(self._state_file)
