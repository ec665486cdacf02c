"""One download: the only thing in the engine that changes, and it changes only here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from modeldeck._errors import DiskFullError, InvalidRequestError, ModelDeckError
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, ErrorInfo, GGUFFile, total_size
from modeldeck.engine import disk
from modeldeck.engine.crew import Crew
from modeldeck.engine.file import FileDownload, Phase, Tools
from modeldeck.engine.partial import discard_partials
from modeldeck.engine.rate import RateMeter
from modeldeck.engine.source import Source
from modeldeck.engine.state import actions_of, can_move, is_settled
from modeldeck.engine.store import Finish
from modeldeck.hub import cache
from modeldeck.hub.client import HubClient
from modeldeck.hub.errors import error_from_os_error

TICK_SECONDS = 0.25

FILES_AT_ONCE = 8
"""So many files of one download are on their way at once; those beyond the connections' number wait ready."""
_MISTAKE = "modeldeck made a mistake and stopped this download. What came is kept: press Retry, and please report it."


class Job:
    """A download with its state.

    Parameters
    ----------
    on_state, on_progress
        Called when the state, or anything else of the snapshot, has changed.
    reserved_bytes
        How much other downloads will still write on the same disk.
    """

    def __init__(
        self,
        job_id: str,
        request: DownloadRequest,
        *,
        tools: Tools,
        token: str | None,
        on_state: Callable[[Job], None],
        on_progress: Callable[[Job], None],
        reserved_bytes: Callable[[Job], int],
        created_at: float | None = None,
    ) -> None:
        self.job_id = job_id
        self.request = request
        self.state = DownloadState.QUEUED
        self.created_at = time.time() if created_at is None else created_at
        self.error: ErrorInfo | None = None
        self.notice: str | None = None
        self.settled = anyio.Event()
        self._tools = tools
        self._token = token
        self._on_state = on_state
        self._on_progress = on_progress
        self._reserved_bytes = reserved_bytes
        self._files: list[FileDownload] = []
        self._partial_names = {digest for file in request.files if (digest := file.sha256 or file.oid)}
        self._meter = RateMeter()
        self._fetched_before = 0
        self._most_received = 0
        self._total = total_size(request.files)
        self._commit_hash = request.commit_hash
        self._scope: anyio.CancelScope | None = None
        self._stopped = anyio.Event()
        self._goal: DownloadState | None = None

    # --- how it stands ------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int | None:
        if self._files:
            sizes = [file.size for file in self._files]
            self._total = None if None in sizes else sum(size for size in sizes if size is not None)
        return self._total

    @property
    def received(self) -> int:
        """Never less than it was, so that no bar goes back."""
        self._most_received = max(self._most_received, sum(file.received for file in self._files))
        return self._most_received

    def recall(self, received: int) -> None:
        """An earlier engine had come this far."""
        self._most_received = received

    def finish(self) -> Finish:
        """What there is to remember of a download that is ready."""
        assert self.state is DownloadState.READY
        return Finish(
            at=time.time(),
            commit_hash=self._commit_hash or "",
            received=self.received,
            total=self.total,
            bytes_fetched=self.bytes_fetched,
        )

    @property
    def commit_hash(self) -> str | None:
        return self._commit_hash

    @property
    def remaining(self) -> int:
        """Bytes that will still be written, as far as is known."""
        return max(0, (self.total or 0) - self.received)

    @property
    def _missing(self) -> int | None:
        """Bytes that are still to come: more than ``received`` leaves open where what had come was lost since."""
        total = self.total
        return None if total is None else max(0, total - sum(file.received for file in self._files))

    @property
    def bytes_fetched(self) -> int:
        return self._fetched_before + sum(file.fetched for file in self._files)

    def snapshot(self, rev: int) -> DownloadSnapshot:
        waits = [file.retry_at for file in self._files if file.retry_at is not None]
        retry_in = max(0.0, min(waits) - time.monotonic()) if waits and self.state.is_active else None
        is_flowing = self.state is DownloadState.DOWNLOADING and retry_in is None
        total, received = self.total, self.received
        if total is not None and self.state is not DownloadState.READY:
            received = min(received, total)
        return DownloadSnapshot(
            job_id=self.job_id,
            request=self.request,
            state=self.state,
            commit_hash=self._commit_hash,
            received=received,
            total=total,
            rate=self._meter.rate if is_flowing else None,
            eta_seconds=self._meter.eta_seconds(self._missing) if is_flowing else None,
            connections=sum(file.connections for file in self._files),
            attempt=max((file.attempt for file in self._files), default=0),
            retry_in_seconds=retry_in,
            is_stalled=is_flowing and self._meter.is_stalled,
            bytes_fetched=self.bytes_fetched,
            error=self.error,
            notice=self.notice,
            actions=actions_of(self.state),
            created_at=self.created_at,
            updated_at=time.time(),
            rev=rev,
        )

    def move(self, target: DownloadState, *, error: ModelDeckError | None = None) -> None:
        """Change the state by a legal move and tell."""
        if target is self.state:
            return
        if not can_move(self.state, target):
            raise InvalidRequestError(f"A download that is {self.state} cannot become {target}.")
        self.state = target
        self.error = None if error is None else error.to_info()
        if is_settled(target):
            self.settled.set()
        elif self.settled.is_set():
            self.settled = anyio.Event()
        self._on_state(self)

    def restore(self, state: DownloadState, error: ErrorInfo | None) -> None:
        """Stand where an earlier engine left it."""
        self.state, self.error = state, error
        if is_settled(state):
            self.settled.set()

    def restore_finished(self, finish: Finish) -> None:
        """Be ready: an earlier engine did all the work."""
        self._most_received, self._total = finish.received, finish.total
        self._commit_hash, self._fetched_before = finish.commit_hash, finish.bytes_fetched
        self.restore(DownloadState.READY, None)

    # --- requests -----------------------------------------------------------------------------------------------------

    def enqueue(self, token: str | None) -> None:
        """Begin again where it stopped."""
        if token is not None:
            self._token = token
        self._goal = None
        self.notice = None
        if self.state is DownloadState.QUEUED:
            self._on_state(self)  # a new one
        else:
            self.move(DownloadState.QUEUED)

    async def stop(self, goal: DownloadState) -> None:
        """Pause or cancel. Returns when nothing is running any more; a download may become ready just before."""
        if self._scope is not None:
            self._goal = goal
            self._scope.cancel()
            await self._stopped.wait()
        if self._scope is None and self.state is not goal and can_move(self.state, goal):
            self.move(goal)  # before anything is waited for: a queued one could start meanwhile
            if goal is DownloadState.CANCELLED:
                await self._discard()

    async def _discard(self) -> None:
        blobs = cache.repo_dir(Path(self.request.cache_dir), self.request.repo_id) / "blobs"
        with contextlib.suppress(OSError):  # of a disk that cannot be reached nothing can be deleted
            for name in self._partial_names:
                await self._tools.threads.run(discard_partials, blobs, name)

    # --- the work -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Be stoppable from now on: ``run`` is about to be called."""
        self._stopped = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Work until the download is ready, has failed, or was stopped. A prepared job only."""
        assert self._scope is not None
        try:
            with self._scope:
                await checkpoint()
                await self._run()
        finally:
            self._total, self._most_received = self.total, self.received
            self._fetched_before, self._files = self.bytes_fetched, []
            goal, self._goal = self._goal, None
            if not is_settled(self.state):
                if goal is DownloadState.CANCELLED:
                    with anyio.CancelScope(shield=True):
                        await self._discard()
                self.move(goal or DownloadState.FAILED, error=None if goal else ModelDeckError(_MISTAKE))
            self._scope = None  # now it may be started again
            self._stopped.set()

    async def _run(self) -> None:
        try:
            self.move(DownloadState.RESOLVING)
            await self._download()
            self.move(DownloadState.READY)
        except DiskFullError as error:
            self.move(DownloadState.PAUSED if self.received else DownloadState.FAILED, error=error)
        except ModelDeckError as error:
            self.move(DownloadState.FAILED, error=error)

    async def _download(self) -> None:
        request = self.request
        hub = HubClient(
            Settings(endpoint=request.endpoint, cache_dir=Path(request.cache_dir), token=self._token),
            transport=self._tools.transport,
        )
        self._meter = RateMeter()
        try:
            with Crew(self._tools.connections) as crew:
                files = [self._file(hub, file, crew) for file in request.files]
                self._fetched_before, self._files = self.bytes_fetched, files
                await self._check_room()
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(self._tick, crew)
                    failure = await self._run_files()
                    task_group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await hub.aclose()
        if failure is not None:
            raise failure
        await self._tools.threads.run(
            cache.write_ref, Path(request.cache_dir), request.repo_id, request.revision, self._commit_hash or ""
        )

    def _file(self, hub: HubClient, file: GGUFFile, crew: Crew) -> FileDownload:
        request = self.request
        source = Source(
            hub=hub,
            http=self._tools.http,
            endpoint=request.endpoint,
            token=self._token,
            repo_id=request.repo_id,
            revision=request.commit_hash or request.revision,
            listed=file,
        )
        return FileDownload(
            request=request, file=file, source=source, tools=self._tools, crew=crew, on_phase=self._follow_phases
        )

    async def _check_room(self) -> None:
        cache_dir, reserved = Path(self.request.cache_dir), self._reserved_bytes(self)

        def check() -> None:
            needed = sum(file.needed_bytes() for file in self._files)
            disk.check_room(cache_dir, needed=needed, reserved=reserved)

        try:
            await self._tools.threads.run(check)
        except OSError as exc:
            raise error_from_os_error(exc) from exc

    async def _run_files(self) -> ModelDeckError | None:
        """Bring all files, the first ones first; the first failure stops the others and is returned."""
        failures: list[ModelDeckError] = []
        first = self._files[0]
        if self.request.commit_hash is None:
            try:
                await first.resolve()
            except ModelDeckError as error:
                return error
            for file in self._files[1:]:
                file.source.pin(first.source.resolved.commit_hash)
        limiter = anyio.CapacityLimiter(FILES_AT_ONCE)

        async def run(file: FileDownload) -> None:
            async with limiter:
                try:
                    await file.run()
                except ModelDeckError as error:
                    failures.append(error)
                    task_group.cancel_scope.cancel()

        async with anyio.create_task_group() as task_group:
            for file in self._files:
                task_group.start_soon(run, file)
        return failures[0] if failures else None

    def _follow_phases(self) -> None:
        phases = {file.phase for file in self._files}
        for file in self._files:
            if file.source.commit_hash is not None:
                self._commit_hash = file.source.commit_hash
                self._partial_names.add(file.partial_name)
        if Phase.FETCHING in phases:
            self.move(DownloadState.DOWNLOADING)
        elif Phase.VERIFYING in phases and self.state is DownloadState.DOWNLOADING and Phase.RESOLVING not in phases:
            self.move(DownloadState.VERIFYING)

    async def _tick(self, crew: Crew) -> None:
        while True:
            crew.measure()
            for file in self._files:
                file.adjust()
            if any(file.is_transferring for file in self._files):
                self._meter.update(time.monotonic(), self.bytes_fetched)
            self._on_progress(self)
            await anyio.sleep(TICK_SECONDS)
