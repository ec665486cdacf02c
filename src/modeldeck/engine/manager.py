"""All downloads of one engine: the queue, its limits, and those who watch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from modeldeck._errors import DiskFullError, InvalidRequestError, ModelDeckError
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits
from modeldeck.engine import disk
from modeldeck.engine.checks import CheckStore
from modeldeck.engine.crew import Connections
from modeldeck.engine.file import Tools
from modeldeck.engine.job import Job
from modeldeck.engine.limits import Bandwidth
from modeldeck.engine.partial import clean_partials, list_partials
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.state import actions_of, is_settled
from modeldeck.engine.store import JobStore, StoredJob
from modeldeck.engine.threads import DiskThreads
from modeldeck.engine.transfer import Patience
from modeldeck.engine.transport import EngineTransport
from modeldeck.hub import cache
from modeldeck.hub.urls import check_blob_name, check_filename, check_repo_id, check_revision
from modeldeck.sizing.hardware import cpu_count

T = TypeVar("T")

Subscriber = Callable[[DownloadSnapshot], None]


class DownloadManager:
    """Runs downloads on the event loop that entered it. All methods belong to that loop.

    ::

        async with DownloadManager(state_dir=None) as manager:
            job = await manager.submit(request)
            done = await manager.wait(job.job_id)

    Leaving it stops all downloads and keeps what they have; the next manager with the same ``state_dir`` goes on.

    Parameters
    ----------
    limits
        What may be used at once; see also ``set_limits``.
    state_dir
        Where downloads are remembered, also the latest finished ones. With ``None`` only partial files are.
    lists
        Where other engines of the same caches may remember downloads: what those have on the disk is left alone.
    checks_dir
        Where the blocks of finished files are remembered, for a repair that fetches the bad ones only; see
        `CheckStore`. With ``None`` they are not.
    policy, patience
        When to try again, and when to give a connection up.
    ssl_context
        In place of the one that trusts the usual authorities.
    """

    def __init__(
        self,
        *,
        limits: EngineLimits | None = None,
        state_dir: Path | None = None,
        lists: Sequence[Path] = (),
        checks_dir: Path | None = None,
        policy: RetryPolicy | None = None,
        patience: Patience | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits or EngineLimits()
        self._store = JobStore(state_dir) if state_dir is not None else None
        self._other_stores = [JobStore(directory) for directory in lists]
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="modeldeck-state")
        self._transport = EngineTransport(ssl_context=ssl_context)
        self._tools = Tools(
            transport=self._transport,
            http=httpx.AsyncClient(transport=self._transport, follow_redirects=False),
            threads=DiskThreads(),
            bandwidth=Bandwidth(self._limits.bandwidth_bytes_per_second),
            connections=Connections(self._limits, processors=cpu_count()),
            policy=policy or RetryPolicy(),
            patience=patience or Patience(),
            checks=CheckStore(checks_dir) if checks_dir is not None else None,
        )
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, ...], Job] = {}
        self._queue: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._cleaned: set[str] = set()
        self._subscribers: dict[object, Subscriber] = {}
        self._rev = 0
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        if self._store is not None:
            for stored, received in await self._on_store_thread(partial(_recollect, self._store)):
                self._readopt(stored, received)
        self._start_queued()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        for job_id in list(self._tasks):
            await self._jobs[job_id].stop(DownloadState.PAUSED)
        while self._tasks or self._chores:
            await asyncio.gather(*self._tasks.values(), *self._chores, return_exceptions=True)
        await self._tools.http.aclose()
        await self._transport.shut_down()
        self._tools.threads.shut_down()
        self._store_thread.shutdown(wait=True)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        """Queue a download, or join the one that has the same key.

        A paused or failed download of the same key goes on; a finished one is looked at again.

        Raises
        ------
        InvalidRequestError
            When no Hub could have such a repository, revision or file.
        """
        _check(request)
        job = self._by_key.get(request.key)
        if job is not None and job.state in (DownloadState.PAUSED, DownloadState.FAILED):
            return await self._enqueue(job, token)
        if job is not None and not job.state.is_final:
            return self._snapshot(job)
        if job is not None:
            self._forget(job)
        job = self._add(uuid.uuid4().hex, request, token=token)
        self._clean_once(request.cache_dir)
        return await self._enqueue(job, token)

    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None:
        """Do one of a download's ``actions``: what each means is in ``modeldeck.engine.state``.

        Returns
        -------
        DownloadSnapshot or None
            The download afterwards; ``None`` when it was dismissed, and so is off the list.

        Raises
        ------
        InvalidRequestError
            When there is no such download, or its state does not allow the action.
        """
        job = self._job(job_id, action)
        match action:
            case "resume" | "retry":
                return await self._enqueue(job, token)
            case "pause":
                await job.stop(DownloadState.PAUSED)
            case "cancel":
                await job.stop(DownloadState.CANCELLED)
            case "dismiss":
                self._forget(job)
        await self._until_stored()
        return None if action == "dismiss" else self._snapshot(job)

    async def forget_gone(self) -> None:
        """Take finished downloads off the list whose files are not in the cache any more."""
        finished = [job for job in self._jobs.values() if job.state is DownloadState.READY]
        gone = await self._tools.threads.run(lambda: [job for job in finished if _is_gone(job)])
        for job in gone:
            if self._jobs.get(job.job_id) is job:
                self._forget(job)

    async def wait(self, job_id: str) -> DownloadSnapshot:
        """The snapshot once nothing happens any more: ready, failed, cancelled or paused."""
        job = self._job(job_id)
        while not is_settled(job.state):
            await job.settled.wait()
        return self._snapshot(job)

    def set_limits(self, limits: EngineLimits) -> None:
        """Change the limits; running downloads follow at once, and more of them start if there is room."""
        if limits.max_active_jobs < 1 or limits.max_connections < 1:
            raise InvalidRequestError("At least one download and one connection must be allowed.")
        if limits.bandwidth_bytes_per_second is not None and limits.bandwidth_bytes_per_second < 1:
            raise InvalidRequestError("The bandwidth limit is in bytes per second, at least 1, or None for no limit.")
        self._limits = limits
        self._tools.bandwidth.set_limit(limits.bandwidth_bytes_per_second)
        self._tools.connections.set_limit(limits.max_connections)
        self._start_queued()

    # --- how it stands ------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def active(self) -> int:
        """Downloads that run."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """Downloads that are queued."""
        return len(self._queue)

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        """All downloads, oldest first."""
        return tuple(self._snapshot(job) for job in self._jobs.values())

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Be called on the loop: at once for each change of state, at most 4 times a second for progress.

        Returns
        -------
        Callable
            Ends the subscription.
        """
        key = object()
        self._subscribers[key] = callback
        return lambda: self._subscribers.pop(key, None) and None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _job(self, job_id: str, action: Action | None = None) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise InvalidRequestError("There is no such download. It may have been dismissed.")
        if action is not None and action not in actions_of(job.state):
            raise InvalidRequestError(f"A download that is {job.state} cannot be told to {action}.")
        return job

    def _add(
        self, job_id: str, request: DownloadRequest, *, token: str | None = None, created_at: float | None = None
    ) -> Job:
        job = Job(
            job_id,
            request,
            tools=self._tools,
            token=token,
            created_at=created_at,
            on_state=self._state_changed,
            on_progress=self._publish,
            reserved_bytes=self._reserved_bytes,
        )
        self._jobs[job_id] = job
        self._by_key[request.key] = job
        return job

    async def _enqueue(self, job: Job, token: str | None) -> DownloadSnapshot:
        job.enqueue(token)
        self._queue[job.job_id] = job
        if len(self._queue) > 1 or len(self._tasks) >= self._limits.max_active_jobs:
            await self._check_room(job)
        else:
            self._start_queued()
        await self._until_stored()
        return self._snapshot(job)

    async def _check_room(self, job: Job) -> None:
        """Tell now, not when its turn comes, that a queued download cannot fit."""
        try:
            await self._tools.threads.run(
                disk.check_room,
                Path(job.request.cache_dir),
                needed=job.remaining,
                reserved=self._reserved_bytes(job),
            )
        except DiskFullError as error:
            if job.state is DownloadState.QUEUED:
                job.move(DownloadState.FAILED, error=error)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.job_id, None)
        if self._by_key.get(job.request.key) is job:
            del self._by_key[job.request.key]
        if self._store is not None:
            self._store_thread.submit(self._store.delete, job.job_id)

    def _reserved_bytes(self, job: Job) -> int:
        """What downloads that run or wait before this one will still write on its disk."""
        devices: dict[str, int] = {}

        def device(cache_dir: str) -> int:
            if cache_dir not in devices:
                devices[cache_dir] = disk.device_of(Path(cache_dir))
            return devices[cache_dir]

        others = [self._jobs[job_id] for job_id in self._tasks if job_id != job.job_id]
        if job.job_id in self._queue:
            others += itertools.takewhile(lambda other: other is not job, self._queue.values())
        return sum(
            other.remaining for other in others if device(other.request.cache_dir) == device(job.request.cache_dir)
        )

    def _start_queued(self) -> None:
        while self._is_open and self._queue and len(self._tasks) < self._limits.max_active_jobs:
            job_id = next(iter(self._queue))
            job = self._queue.pop(job_id)
            job.prepare()
            task = asyncio.get_running_loop().create_task(self._run(job), name=f"modeldeck-download-{job_id}")
            self._tasks[job_id] = task
            task.add_done_callback(_report)

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        finally:
            del self._tasks[job.job_id]
            self._start_queued()
            self._do_chore(self._hang_up())

    async def _hang_up(self) -> None:
        """Close the connections that are kept for the next request, when nothing runs that could make one."""
        if not self._tasks:
            await self._transport.hang_up()

    def _state_changed(self, job: Job) -> None:
        if job.state is not DownloadState.QUEUED:
            self._queue.pop(job.job_id, None)
        if self._store is not None and self._is_open:
            if job.state is DownloadState.CANCELLED:
                self._store_thread.submit(self._store.delete, job.job_id)
            else:
                self._store_thread.submit(self._store.save, _stored(job))
        self._publish(job)

    def _publish(self, job: Job) -> None:
        if not self._subscribers:
            return
        snapshot = self._snapshot(job)
        loop = asyncio.get_running_loop()
        for key in self._subscribers:
            loop.call_soon(self._deliver, key, snapshot)  # a callback that raises is the loop's to report

    def _deliver(self, key: object, snapshot: DownloadSnapshot) -> None:
        callback = self._subscribers.get(key)
        if callback is not None:
            callback(snapshot)

    def _snapshot(self, job: Job) -> DownloadSnapshot:
        self._rev += 1
        return job.snapshot(self._rev)

    # --- over restarts ------------------------------------------------------------------------------------------------

    async def _until_stored(self) -> None:
        """Before an answer: what it says is what the next engine finds, even if this one is killed now."""
        if self._store is not None and self._is_open:
            await self._on_store_thread(lambda: None)

    async def _on_store_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, function)

    def _readopt(self, stored: StoredJob, received: int) -> None:
        """Go on with a download of an earlier engine. Its token is gone: where one is needed, the Hub will say so."""
        job = self._add(stored.job_id, stored.request, created_at=stored.created_at)
        if stored.finish is not None:
            job.restore_finished(stored.finish)
            return
        job.recall(received)
        if stored.state in (DownloadState.PAUSED, DownloadState.FAILED):
            job.restore(stored.state, stored.error)
        else:
            self._queue[job.job_id] = job

    def _clean_once(self, cache_dir: str) -> None:
        """Delete what other downloads left over in this cache long ago, once in the life of an engine."""
        if cache_dir in self._cleaned:
            return
        self._cleaned.add(cache_dir)
        requests = [job.request for job in self._jobs.values()]

        def clean() -> None:
            requests.extend(job.request for store in self._other_stores for job in store.read())
            keep = {file.sha256 for request in requests for file in request.files if file.sha256}
            with contextlib.suppress(OSError):  # left-overs of a disk that fails are the least of its problems
                clean_partials(Path(cache_dir), keep=keep)

        self._do_chore(self._tools.threads.run(clean))

    def _do_chore(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _report(task: asyncio.Task[None]) -> None:
    """The job has said that it failed; why is for whoever looks after the program."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a download ended by a mistake", "exception": error})


def _check(request: DownloadRequest) -> None:
    check_repo_id(request.repo_id)
    check_revision(request.revision)
    if request.commit_hash is not None:
        check_revision(request.commit_hash)
    if not request.files:
        raise InvalidRequestError("A download needs at least one file. List the repository and choose a variant.")
    for file in request.files:
        check_filename(file.filename)
        for digest in filter(None, (file.sha256, file.oid)):
            check_blob_name(digest)
    if len({file.filename for file in request.files}) < len(request.files):
        raise InvalidRequestError("A download names each file once.")


def _stored(job: Job) -> StoredJob:
    return StoredJob(
        job_id=job.job_id,
        request=job.request,
        state=job.state,
        created_at=job.created_at,
        error=job.error,
        finish=job.finish() if job.state is DownloadState.READY else None,
    )


def _is_gone(job: Job) -> bool:
    """Whether a file of a finished download is missing, or not whole. What cannot be looked at is not called gone."""
    request = job.request
    for file in request.files:
        try:
            path = cache.snapshot_path(Path(request.cache_dir), request.repo_id, job.commit_hash or "", file.filename)
            if file.size not in (None, path.stat().st_size):
                return True
        except (FileNotFoundError, NotADirectoryError, InvalidRequestError):
            return True
        except OSError:
            continue
    return False


def _recollect(store: JobStore) -> list[tuple[StoredJob, int]]:
    """The downloads of earlier engines, and the bytes there are of the unfinished ones. Blocks."""
    found = []
    for stored in store.load():
        with contextlib.suppress(InvalidRequestError):
            _check(stored.request)
            found.append((stored, 0 if stored.finish is not None else _claimed_bytes(stored.request)))
    return found


def _claimed_bytes(request: DownloadRequest) -> int:
    """Bytes that partial files and finished blobs of a download hold, by what they say of themselves."""
    blobs = cache.repo_dir(Path(request.cache_dir), request.repo_id) / "blobs"
    received = 0
    for file in request.files:
        if file.sha256 is None:
            continue
        try:
            received += cache.blob_path(Path(request.cache_dir), request.repo_id, file.sha256).stat().st_size
        except (OSError, ModelDeckError):
            received += max((info.received for info in list_partials(blobs, file.sha256)), default=0)
    return received
