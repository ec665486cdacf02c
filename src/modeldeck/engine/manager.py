"""All downloads of one engine: the list, the queue, the limits and the subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from modeldeck._errors import DiskFullError, InvalidRequestError
from modeldeck._settings import check_limits
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits
from modeldeck.engine import disk
from modeldeck.engine.bandwidth_limit import BandwidthLimit
from modeldeck.engine.block_digests import BlockDigestStore
from modeldeck.engine.budget import ConnectionBudget
from modeldeck.engine.job import Job
from modeldeck.engine.leftovers import clean_partials, list_partials
from modeldeck.engine.patience import Patience
from modeldeck.engine.peer_source import Peers
from modeldeck.engine.resources import EngineResources
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.state import actions_of, is_settled
from modeldeck.engine.store import JobStore, StoredJob, listed_names
from modeldeck.engine.threads import DiskThreads
from modeldeck.engine.transport import EngineTransport
from modeldeck.engine.verification_store import VerificationStore
from modeldeck.hub import cache
from modeldeck.hub.sending import Sender
from modeldeck.hub.urls import check_blob_name, check_filename, check_repo_id, check_revision
from modeldeck.sizing.hardware import cpu_count

T = TypeVar("T")

Subscriber = Callable[[DownloadSnapshot], None]


class DownloadManager:
    """Runs downloads and repairs on the event loop that entered it. Call all methods on that loop.

    ::

        async with DownloadManager(state_dir=None) as manager:
            job = await manager.submit(request)
            done = await manager.wait(job.job_id)

    Leaving it stops all downloads and keeps what they have. The next manager with the same ``state_dir`` goes on.

    Parameters
    ----------
    limits
        What the downloads may use together. ``set_limits`` changes it.
    state_dir
        Where the list of downloads is kept, with the latest finished ones. With ``None`` it is not kept.
    lists
        Where other engines of the same caches may keep their lists. Partial files of those downloads are not deleted.
    blocks_dir
        Where the block digests of finished files are kept, so that a repair fetches only the bad blocks; see
        `BlockDigestStore`. With ``None`` they are not kept.
    verified_dir
        Where it is kept which files were verified; see `VerificationStore`. With ``None`` it is not kept.
    policy, patience
        When to try again, and when to close a connection.
    ssl_context
        Used instead of the one that trusts the usual authorities.
    find_peers
        Returns the hosts to take the files of a request from, or ``None`` to take them from the Hub.

    Attributes
    ----------
    open_partials : dict of str to Partial
        The partial files that are being completed, by digest.
    """

    def __init__(
        self,
        *,
        limits: EngineLimits | None = None,
        state_dir: Path | None = None,
        lists: Sequence[Path] = (),
        blocks_dir: Path | None = None,
        verified_dir: Path | None = None,
        policy: RetryPolicy | None = None,
        patience: Patience | None = None,
        ssl_context: ssl.SSLContext | None = None,
        find_peers: Callable[[DownloadRequest], Peers | None] = lambda request: None,
    ) -> None:
        self._limits = check_limits(limits or EngineLimits())
        self._store = JobStore(state_dir) if state_dir is not None else None
        self._other_stores = [JobStore(directory) for directory in lists]
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="modeldeck-state")
        self._transport = EngineTransport(ssl_context=ssl_context)
        self._resources = EngineResources(
            transport=self._transport,
            http=Sender(self._transport),
            threads=DiskThreads(),
            bandwidth=BandwidthLimit(self._limits.bandwidth_bytes_per_second),
            budget=ConnectionBudget(self._limits, processors=cpu_count()),
            policy=policy or RetryPolicy(),
            patience=patience or Patience(),
            block_digests=BlockDigestStore(blocks_dir) if blocks_dir is not None else None,
            find_peers=find_peers,
            verifications=VerificationStore(verified_dir) if verified_dir is not None else None,
        )
        self.open_partials = self._resources.open_partials
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
            self._sort_queue()
        self._start_queued()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        for job_id in list(self._tasks):
            await self._jobs[job_id].stop(DownloadState.PAUSED)
        while self._tasks or self._chores:
            # Since Python 3.12, gather gives way to nothing when all have ended, so their callbacks would never run.
            await asyncio.gather(asyncio.sleep(0), *self._tasks.values(), *self._chores, return_exceptions=True)
        await self._resources.http.aclose()
        await self._transport.shut_down()
        self._resources.threads.shut_down()
        self._store_thread.shutdown(wait=True)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        """Queue a download, or join the one that has the same key.

        A paused or failed download with the same key goes on, in its old place in the queue. One of the same variant
        with other files beside it, such as a projector, is replaced by the new one, which goes on with its bytes. A
        finished one is replaced too, by one that finds its files in the cache. A repair is queued like a download, and
        has a key of its own.

        Parameters
        ----------
        request
            What to download or repair.
        token
            For the Hub's own origin. It stays in memory.

        Raises
        ------
        InvalidRequestError
            If no Hub could have such a repository, revision or file.
        """
        _check(request)
        job = self._by_key.get(request.key)
        if job is not None and job.state in (DownloadState.PAUSED, DownloadState.FAILED):
            return await self._enqueue(job, token)
        if job is not None and not job.state.is_final:
            return self._snapshot(job)
        if job is None:
            job = self._stopped_with_other_files(request)
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
            case "move_up":
                self._move(job, -1)
            case "move_down":
                self._move(job, 1)
        await self._until_stored()
        return None if action == "dismiss" else self._snapshot(job)

    async def forget_gone(self) -> None:
        """Take finished downloads off the list if their files are no longer in the cache."""
        finished = [job for job in self._jobs.values() if job.state is DownloadState.READY]
        gone = await self._resources.threads.run(lambda: [job for job in finished if _is_gone(job)])
        for job in gone:
            if self._jobs.get(job.job_id) is job:
                self._forget(job)

    async def wait(self, job_id: str) -> DownloadSnapshot:
        """Wait until a download is ready, failed, cancelled or paused, and return its snapshot."""
        job = self._job(job_id)
        while not is_settled(job.state):
            await job.settled.wait()
        return self._snapshot(job)

    def set_limits(self, limits: EngineLimits) -> None:
        """Change the limits at once, and start queued downloads if they may. None that runs is stopped for it."""
        self._limits = check_limits(limits)
        self._resources.bandwidth.set_limit(limits.bandwidth_bytes_per_second)
        self._resources.budget.set_limit(limits.max_connections)
        self._start_queued()

    # --- the list ------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def active(self) -> int:
        """Number of downloads that run."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """Number of downloads that are queued."""
        return len(self._queue)

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        """Return all downloads, oldest first."""
        return tuple(self._snapshot(job) for job in self._jobs.values())

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call ``callback`` on the loop: at once for each change of state, at most 4 times a second for progress.

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
            raise InvalidRequestError("This download is no longer in the list. It may have been dismissed.")
        if action is not None and action not in actions_of(job.state):
            raise InvalidRequestError(f"Cannot {action} a download that is {job.state}.")
        return job

    def _add(
        self, job_id: str, request: DownloadRequest, *, token: str | None = None, created_at: float | None = None
    ) -> Job:
        job = Job(
            job_id,
            request,
            resources=self._resources,
            token=token,
            created_at=created_at,
            on_state=self._state_changed,
            on_progress=self._publish,
            reserved_bytes=self._reserved_bytes,
            names_in_use=self._names_in_use,
        )
        self._jobs[job_id] = job
        self._by_key[request.key] = job
        return job

    def _stopped_with_other_files(self, request: DownloadRequest) -> Job | None:
        """Return the paused or failed download of a variant that takes other files than this request beside it."""
        for job in self._jobs.values():
            is_stopped = job.state in (DownloadState.PAUSED, DownloadState.FAILED)
            if is_stopped and replace(job.request, files=request.files).key == request.key:
                return job
        return None

    def _sort_queue(self) -> None:
        self._queue = dict(sorted(self._queue.items(), key=lambda item: item[1].turn))

    async def _enqueue(self, job: Job, token: str | None) -> DownloadSnapshot:
        job.enqueue(token)
        self._queue[job.job_id] = job
        self._sort_queue()
        for other in itertools.dropwhile(lambda other: other is not job, self._queue.values()):
            self._publish(other)
        if len(self._queue) > 1 or len(self._tasks) >= self._limits.max_active_jobs:
            await self._check_room(job)
        else:
            self._start_queued()
        await self._until_stored()
        return self._snapshot(job)

    def _move(self, job: Job, steps: int) -> None:
        """Exchange a download's place in the queue with its neighbour's. At the end of the queue nothing changes."""
        queue = list(self._queue.values())
        if job not in queue:  # it is about to start
            return
        place = queue.index(job)
        if not 0 <= place + steps < len(queue):
            return
        other = queue[place + steps]
        job.turn, other.turn = other.turn, job.turn
        queue[place], queue[place + steps] = other, job
        self._queue = {each.job_id: each for each in queue}
        for each in (job, other):
            if self._store is not None:
                self._store_thread.submit(self._store.save, _stored(each))
            self._publish(each)

    async def _check_room(self, job: Job) -> None:
        """Report now, and not when its turn comes, that a queued download does not fit."""
        try:
            await self._resources.threads.run(
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
        """Return the bytes that downloads before this one will still write on the same disk."""
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

    def _names_in_use(self, job: Job) -> set[str]:
        """Return the names of the blobs that other unfinished downloads need in the folder of this one."""

        def folder(request: DownloadRequest) -> tuple[str, str]:
            return request.real_cache_dir, request.repo_id

        others = (other for other in self._jobs.values() if other is not job and other.needs_partials)
        return {
            name for other in others if folder(other.request) == folder(job.request) for name in other.partial_names
        }

    def _start_queued(self) -> None:
        while self._is_open and self._queue and len(self._tasks) < self._limits.max_active_jobs:
            job_id = next(iter(self._queue))
            job = self._queue.pop(job_id)
            self._publish_queue()
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
        """Close idle connections once nothing runs that could use them."""
        if not self._tasks:
            await self._transport.hang_up()

    def _state_changed(self, job: Job) -> None:
        if job.state is not DownloadState.QUEUED and self._queue.pop(job.job_id, None) is not None:
            self._publish_queue()
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

    def _publish_queue(self) -> None:
        """Tell those that wait their new places."""
        for job in self._queue.values():
            self._publish(job)

    def _deliver(self, key: object, snapshot: DownloadSnapshot) -> None:
        callback = self._subscribers.get(key)
        if callback is not None:
            callback(snapshot)

    def _snapshot(self, job: Job) -> DownloadSnapshot:
        self._rev += 1
        place = next((place for place, job_id in enumerate(self._queue) if job_id == job.job_id), None)
        return job.snapshot(self._rev, queue_position=place)

    # --- over restarts ------------------------------------------------------------------------------------------------

    async def _until_stored(self) -> None:
        """Wait until the list is on disk, so that an answer is true even if this engine is killed right after it."""
        if self._store is not None and self._is_open:
            await self._on_store_thread(lambda: None)

    async def _on_store_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, function)

    def _readopt(self, stored: StoredJob, received: int) -> None:
        """Go on with a download of an earlier engine. Its token is gone: if one is needed, the Hub will say so."""
        job = self._add(stored.job_id, stored.request, created_at=stored.created_at)
        job.turn = stored.turn or stored.created_at
        job.partial_names.update(stored.partial_names)
        job.recall_repaired(stored.repaired_bytes)
        if stored.finish is not None:
            job.restore_finished(stored.finish)
            return
        job.recall(received)
        if stored.state in (DownloadState.PAUSED, DownloadState.FAILED):
            job.restore(stored.state, stored.error)
        else:
            self._queue[job.job_id] = job

    def _clean_once(self, cache_dir: str) -> None:
        """Delete old partial files in this cache, once in the life of an engine."""
        if cache_dir in self._cleaned:
            return
        self._cleaned.add(cache_dir)
        keep = {name for job in self._jobs.values() for name in job.partial_names}

        def clean() -> None:
            for stored in itertools.chain.from_iterable(store.read() for store in self._other_stores):
                keep.update(listed_names(stored.request), stored.partial_names)
            with contextlib.suppress(OSError):  # a failing disk has worse problems
                clean_partials(Path(cache_dir), keep=keep)

        self._do_chore(self._resources.threads.run(clean))

    def _do_chore(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _report(task: asyncio.Task[None]) -> None:
    """Log why a job ended by an error of the program. The job itself says only that it failed.

    When the interpreter is about to leave, executors refuse work: what fails then is not an error of the program.
    """
    if not task.cancelled() and (error := task.exception()) is not None and not _is_interpreter_leaving():
        task.get_loop().call_exception_handler({"message": "a download ended by an internal error", "exception": error})


def _is_interpreter_leaving() -> bool:
    """Return whether executors refuse work. They do so before the main thread counts as ended."""
    with ThreadPoolExecutor(1) as executor:
        try:
            executor.submit(int)
        except RuntimeError:
            return True
    return False


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
        repaired_bytes=job.repaired_bytes,
        turn=job.turn,
        partial_names=tuple(sorted(job.partial_names)),
    )


def _is_gone(job: Job) -> bool:
    """Return whether a file of a finished download is missing or not whole. One that cannot be examined is neither."""
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
    """Return the downloads of earlier engines, with the bytes that the unfinished ones have. This blocks."""
    found = []
    for stored in store.load():
        with contextlib.suppress(InvalidRequestError):
            _check(stored.request)
            found.append((stored, 0 if stored.finish is not None else _claimed_bytes(stored)))
    return found


def _claimed_bytes(stored: StoredJob) -> int:
    """Return the bytes that a download has, by what its partial files and the blobs' sizes claim."""
    request = stored.request
    if request.purpose == "repair":
        return 0  # a file in the cache counts once it was read
    blobs = cache.repo_dir(Path(request.cache_dir), request.repo_id) / "blobs"
    listed = [file.sha256 for file in request.files if file.sha256 is not None]
    received = 0
    for name in (*listed, *sorted({*stored.partial_names} - {*listed})):
        try:
            received += (blobs / name).stat().st_size
        except OSError:
            received += max((info.received for info in list_partials(blobs, name)), default=0)
    return received
