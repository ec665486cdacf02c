"""One download or repair: its state, and the work on its files."""

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
from modeldeck.engine.budget import DownloadShare
from modeldeck.engine.completion import Phase
from modeldeck.engine.file import FileDownload
from modeldeck.engine.leftovers import discard_partials
from modeldeck.engine.peer_source import PeerSource
from modeldeck.engine.rate import RateMeter
from modeldeck.engine.resources import EngineResources
from modeldeck.engine.source import HubSource, Source
from modeldeck.engine.state import actions_of, can_move, is_settled
from modeldeck.engine.store import Finish, listed_names
from modeldeck.hub import cache
from modeldeck.hub.client import ClientLimits, HubClient
from modeldeck.hub.errors import error_from_os_error

TICK_SECONDS = 0.25

FILES_AT_ONCE = 8
"""Files of one download that are worked on at once. Those for which no connection is left wait, ready to start."""
_INTERNAL_ERROR = "Internal error: the download stopped. Downloaded data is kept. Retry, and please report this."


class Job:
    """A download or repair, with its state.

    Parameters
    ----------
    on_state, on_progress
        Called when the state, or anything else of the snapshot, has changed.
    reserved_bytes
        Returns how many bytes other downloads will still write on the same disk.
    names_in_use
        Returns the names of the blobs in the same folder that other unfinished downloads need, too.
    """

    def __init__(
        self,
        job_id: str,
        request: DownloadRequest,
        *,
        resources: EngineResources,
        token: str | None,
        on_state: Callable[[Job], None],
        on_progress: Callable[[Job], None],
        reserved_bytes: Callable[[Job], int],
        names_in_use: Callable[[Job], set[str]],
        created_at: float | None = None,
    ) -> None:
        self.job_id = job_id
        self.request = request
        self.state = DownloadState.QUEUED
        self.created_at = time.time() if created_at is None else created_at
        self.turn = self.created_at
        self.finished_at: float | None = None
        self.error: ErrorInfo | None = None
        self.notice: str | None = None
        self.settled = anyio.Event()
        self._resources = resources
        self._token = token
        self._on_state = on_state
        self._on_progress = on_progress
        self._reserved_bytes = reserved_bytes
        self._names_in_use = names_in_use
        self._is_repair = request.purpose == "repair"
        self._files: list[FileDownload] = []
        self._repaired_before = [0] * len(request.files)
        self.partial_names = listed_names(request)
        self._meter = RateMeter()
        self._fetched_before = 0
        self._most_received = 0
        self._total = total_size(request.files)
        self._commit_hash = request.commit_hash
        self._scope: anyio.CancelScope | None = None
        self._stopped = anyio.Event()
        self._goal: DownloadState | None = None
        self._is_given_up = False

    # --- how far it is ------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int | None:
        if self._files:
            sizes = [file.size for file in self._files]
            self._total = None if None in sizes else sum(size for size in sizes if size is not None)
        return self._total

    @property
    def received(self) -> int:
        """Bytes on the disk. It never decreases, so that no progress bar runs backwards.

        Only when a damaged file is mended it does: first it counts the bytes that were read, and after damage was found
        those that are good.
        """
        if self._files:
            received = sum(file.received for file in self._files)
            is_mending = any(file.is_mending for file in self._files)
            self._most_received = received if is_mending else max(self._most_received, received)
        return self._most_received

    def recall(self, received: int) -> None:
        """Go on from where an earlier engine had come."""
        self._most_received = received

    def recall_repaired(self, repaired_bytes: tuple[int, ...]) -> None:
        """Go on counting where an earlier engine had stopped."""
        if len(repaired_bytes) == len(self.request.files):
            self._repaired_before = list(repaired_bytes)

    def finish(self) -> Finish:
        """Return what is kept about a download that is ready."""
        assert self.state is DownloadState.READY
        return Finish(
            at=self.finished_at or time.time(),
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
        """Room that is still needed on the disk, as far as is known. A repair replaces bytes in place."""
        return 0 if self._is_repair else max(0, (self.total or 0) - self.received)

    @property
    def needs_partials(self) -> bool:
        """Whether it still has a use for its partial files. One that is being cancelled has not."""
        return self.state is not DownloadState.READY and not self._is_given_up

    @property
    def _missing(self) -> int | None:
        """Bytes still to fetch. More than ``received`` leaves open if something was lost since."""
        total = self.total
        return None if total is None else max(0, total - sum(file.received for file in self._files))

    @property
    def bytes_fetched(self) -> int:
        """Bytes received over the network, repeated ones included."""
        return self._fetched_before + sum(file.fetched for file in self._files)

    @property
    def repaired_bytes(self) -> tuple[int, ...]:
        """Bytes of each file that were in the cache but wrong."""
        before = self._repaired_before
        if not self._files:
            return tuple(before)
        return tuple(count + file.replaced_bytes for count, file in zip(before, self._files, strict=True))

    def snapshot(self, rev: int, *, queue_position: int | None = None) -> DownloadSnapshot:
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
            repaired_bytes=self.repaired_bytes if self._is_repair else (),
            error=self.error,
            notice=self.notice,
            actions=actions_of(self.state),
            queue_position=queue_position,
            finished_at=self.finished_at,
            created_at=self.created_at,
            updated_at=time.time(),
            rev=rev,
        )

    def move(self, target: DownloadState, *, error: ModelDeckError | None = None) -> None:
        """Change the state by a legal move, and report it."""
        if target is self.state:
            return
        if not can_move(self.state, target):
            raise InvalidRequestError(f"A {self.state} download cannot become {target}.")
        self.state = target
        self.finished_at = time.time() if target is DownloadState.READY else None
        self.error = None if error is None else error.to_info()
        if is_settled(target):
            self.settled.set()
        elif self.settled.is_set():
            self.settled = anyio.Event()
        self._on_state(self)

    def restore(self, state: DownloadState, error: ErrorInfo | None) -> None:
        """Take the state in which an earlier engine left it."""
        self.state, self.error = state, error
        if is_settled(state):
            self.settled.set()

    def restore_finished(self, finish: Finish) -> None:
        """Become ready: an earlier engine did all the work."""
        self._most_received, self._total = finish.received, finish.total
        self._commit_hash, self._fetched_before = finish.commit_hash, finish.bytes_fetched
        self.finished_at = finish.at
        self.restore(DownloadState.READY, None)

    # --- requests -----------------------------------------------------------------------------------------------------

    def enqueue(self, token: str | None) -> None:
        """Queue it, to go on where it stopped, in the place that it had."""
        if token is not None:
            self._token = token
        self._goal = None
        self.notice = None
        if self.state is DownloadState.QUEUED:
            self._on_state(self)  # a new one
        else:
            self.move(DownloadState.QUEUED)

    async def stop(self, goal: DownloadState) -> None:
        """Pause or cancel, and return once nothing is running. The download may become ready just before."""
        if self._scope is not None:
            self._goal = goal
            self._scope.cancel()
            await self._stopped.wait()
        if self._scope is None and self.state is not goal and can_move(self.state, goal):
            self.move(goal)  # before waiting for anything: a queued one could start meanwhile
            if goal is DownloadState.CANCELLED:
                await self._discard()

    async def _discard(self) -> None:
        """Delete the partial files that no other download needs.

        Those of a repair are the user's model, and stay for a download to complete.
        """
        self._is_given_up = True
        if self._is_repair:
            return
        blobs = cache.repo_dir(Path(self.request.cache_dir), self.request.repo_id) / "blobs"
        with contextlib.suppress(OSError):  # the disk may be gone
            for name in self.partial_names - self._names_in_use(self):
                await self._resources.threads.run(discard_partials, blobs, name)

    # --- the work -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make it stoppable: ``run`` is about to be called."""
        self._stopped = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Work until the download is ready, has failed, or was stopped. Call ``prepare`` first."""
        assert self._scope is not None
        try:
            with self._scope:
                await checkpoint()
                await self._run()
        finally:
            self._total, self._most_received = self.total, self.received
            self._fetched_before, self._repaired_before = self.bytes_fetched, list(self.repaired_bytes)
            self._files = []
            goal, self._goal = self._goal, None
            if not is_settled(self.state):
                if goal is DownloadState.CANCELLED:
                    with anyio.CancelScope(shield=True):
                        await self._discard()
                self.move(goal or DownloadState.FAILED, error=None if goal else ModelDeckError(_INTERNAL_ERROR))
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
            Settings(
                endpoint=request.endpoint,
                cache_dir=Path(request.cache_dir),
                token=self._token,
                is_offline=request.is_offline,
            ),
            limits=ClientLimits(retry_seconds=self._resources.policy.base_seconds),
            transport=self._resources.transport,
        )
        self._meter = RateMeter()
        try:
            with DownloadShare(self._resources.budget, is_frugal=request.is_frugal) as share:
                files = [self._file(hub, file, share) for file in request.files]
                self._fetched_before, self._files = self.bytes_fetched, files
                await self._check_room()
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(self._tick, share)
                    failure = await self._run_files()
                    task_group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await hub.aclose()
        if failure is not None:
            raise failure
        await self._resources.threads.run(
            cache.write_ref, Path(request.cache_dir), request.repo_id, request.revision, self._commit_hash or ""
        )

    def _file(self, hub: HubClient, file: GGUFFile, share: DownloadShare) -> FileDownload:
        request = self.request
        peers = self._resources.find_peers(request)
        source: Source
        if peers is not None and request.commit_hash is not None:
            source = PeerSource(peers, repo_id=request.repo_id, commit_hash=request.commit_hash, listed=file)
        else:
            source = HubSource(
                hub=hub,
                http=self._resources.http,
                endpoint=request.endpoint,
                token=self._token,
                repo_id=request.repo_id,
                revision=request.commit_hash or request.revision,
                listed=file,
            )
        return FileDownload(
            request=request,
            file=file,
            source=source,
            resources=self._resources,
            share=share,
            on_phase=self._follow_phases,
        )

    async def _check_room(self) -> None:
        if self._is_repair:
            return
        cache_dir, reserved = Path(self.request.cache_dir), self._reserved_bytes(self)

        def check() -> None:
            needed = sum(file.needed_bytes() for file in self._files)
            disk.check_room(cache_dir, needed=needed, reserved=reserved)

        try:
            await self._resources.threads.run(check)
        except OSError as exc:
            raise error_from_os_error(exc) from exc

    async def _run_files(self) -> ModelDeckError | None:
        """Complete all files, the first ones first. The first failure stops the others and is returned."""
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
        known = len(self.partial_names)
        for file in self._files:
            if file.source.commit_hash is not None:
                self._commit_hash = file.source.commit_hash
                self.partial_names.add(file.partial_name)
        if len(self.partial_names) > known:
            self._on_state(self)  # the next engine has to know them, too
        if Phase.FETCHING in phases:
            self.move(DownloadState.DOWNLOADING)
        elif Phase.VERIFYING in phases and (self.state is DownloadState.RESOLVING or Phase.RESOLVING not in phases):
            self.move(DownloadState.VERIFYING)

    async def _tick(self, share: DownloadShare) -> None:
        while True:
            share.measure()
            for file in self._files:
                file.adjust()
            if any(file.is_transferring for file in self._files):
                self._meter.update(time.monotonic(), self.bytes_fetched)
            self._on_progress(self)
            await anyio.sleep(TICK_SECONDS)
