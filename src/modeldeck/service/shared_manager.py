"""One download manager shared by several clients, and the view that each client has of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modeldeck._errors import ProxyError, TLSError
from modeldeck._notices import SHARED_NOTICE
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, EngineStatus
from modeldeck._version import __version__
from modeldeck.engine.state import is_settled
from modeldeck.service.discovery import all_state_directories, find_blocks_directory, find_verified_directory

if TYPE_CHECKING:
    from modeldeck.engine.manager import DownloadManager
    from modeldeck.engine.peer_source import Peers

DISK_SECONDS = 1.0


def open_manager(
    cache_dir: Path,
    *,
    state_dir: Path | None = None,
    limits: EngineLimits | None = None,
    find_peers: Callable[[DownloadRequest], Peers | None] = lambda request: None,
) -> DownloadManager:
    """Make a manager that keeps its list of downloads in ``state_dir``, or nowhere.

    It knows of finished files what any engine of this cache directory has learned. ``find_peers`` is that of
    `DownloadManager`.
    """
    from modeldeck.engine.manager import DownloadManager  # brings httpx, which a client never needs

    return DownloadManager(
        limits=limits,
        state_dir=state_dir,
        lists=all_state_directories(cache_dir),
        blocks_dir=find_blocks_directory(cache_dir),
        find_peers=find_peers,
        verified_dir=find_verified_directory(cache_dir),
    )


_SETTINGS_CODES = (ProxyError.code, TLSError.code)
SETTINGS_HINT = "The engine has the settings of its start: after a change, run 'modeldeck engine stop' and try again."
"""For the errors that name variables, because those of an engine's process are not the caller's of now."""


class SharedManager:
    """A running download manager and its clients. Everything happens on the manager's loop.

    Parameters
    ----------
    manager
        The manager, already entered.
    mode
        Where it runs; told to clients.
    remember_limits : callable, optional
        Keeps new limits for the next engine. Called on a worker thread.
    """

    def __init__(
        self,
        manager: DownloadManager,
        mode: Literal["inline", "process"],
        *,
        remember_limits: Callable[[EngineLimits], None] | None = None,
    ) -> None:
        self.manager = manager
        self.mode = mode
        self.started_at = time.time()
        self.views: set[ClientView] = set()
        self.on_work_change: Callable[[], None] = lambda: None
        self._remember_limits = remember_limits
        self._known = {snapshot.job_id for snapshot in manager.snapshots()}
        self._unsettled = {snapshot.job_id for snapshot in manager.snapshots() if not is_settled(snapshot.state)}
        self._unsubscribe = manager.subscribe(self._publish)

    @property
    def has_work(self) -> bool:
        """Whether a download runs or waits for its turn. A paused download is not work: it is on the disk."""
        return bool(self._unsettled)

    def attach(self, on_snapshot: Callable[[DownloadSnapshot], None], on_removed: Callable[[str], None]) -> ClientView:
        """Add a client. The callbacks are called on the manager's loop and must not block."""
        view = ClientView(self, on_snapshot, on_removed)
        self.views.add(view)
        return view

    def status(self) -> EngineStatus:
        states = [snapshot.state for snapshot in self.manager.snapshots()]
        return EngineStatus(
            mode=self.mode,
            version=__version__,
            pid=os.getpid(),
            started_at=self.started_at,
            active=sum(state.is_active for state in states),
            waiting=states.count(DownloadState.QUEUED),
            clients=len(self.views),
            limits=self.manager.limits,
        )

    async def set_limits(self, limits: EngineLimits) -> None:
        """Change the limits, and keep them for the next engine before the answer says that they are set."""
        self.manager.set_limits(limits)
        if self._remember_limits is not None:
            await asyncio.to_thread(self._remember_limits, limits)

    async def pause_all(self) -> None:
        """Pause the downloads that run or wait, so that the next engine does not continue them unasked."""
        await asyncio.gather(*(self.manager.act(job_id, "pause") for job_id in self._unsettled), return_exceptions=True)

    async def forget_removed_files(self) -> None:
        """Take finished downloads whose files were deleted off the list, and tell all clients.

        A disk that does not answer keeps a client waiting for ``DISK_SECONDS`` at most.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(DISK_SECONDS):
                await self.manager.forget_gone()
        self.announce_removed()

    def announce_removed(self) -> None:
        """Tell all clients which downloads have left the manager's list, dismissed or replaced by a new one."""
        present = {snapshot.job_id for snapshot in self.manager.snapshots()}
        for job_id in self._known - present:
            for view in tuple(self.views):
                view.forget(job_id)
        self._known = present
        self._unsettled &= present

    def close(self) -> None:
        self._unsubscribe()
        self.views.clear()

    def _publish(self, snapshot: DownloadSnapshot) -> None:
        had_work = self.has_work
        self._known.add(snapshot.job_id)
        if is_settled(snapshot.state):
            self._unsettled.discard(snapshot.job_id)
        else:
            self._unsettled.add(snapshot.job_id)
        for view in tuple(self.views):
            view.publish(snapshot)
        if self.has_work != had_work:
            self.on_work_change()


class ClientView:
    """What one client sees of the manager, and may do.

    Notebooks that ask for the same file share one download, and every client sees and may steer all downloads. Pausing
    affects all clients: nothing is lost, and any client can resume. Cancelling deletes bytes, so while another
    connected client still wants the file, a client's first Cancel only withdraws its own wish: the download goes on,
    and the answer and the following snapshots say so in ``notice``. A second Cancel of the same client stops it for
    all. A client that has left, because its kernel ended, no longer wants anything.
    """

    def __init__(
        self,
        shared: SharedManager,
        on_snapshot: Callable[[DownloadSnapshot], None],
        on_removed: Callable[[str], None],
    ) -> None:
        self._shared = shared
        self._on_snapshot = on_snapshot
        self._on_removed = on_removed
        self._wanted: set[str] = set()
        self._warned: set[str] = set()

    async def submit(self, request: DownloadRequest, token: str | None) -> DownloadSnapshot:
        snapshot = await self._shared.manager.submit(request, token=token)
        self._shared.announce_removed()
        return self._want(snapshot)

    async def act(self, job_id: str, action: Action, token: str | None) -> DownloadSnapshot | None:
        if action == "cancel" and (shared := self._withdraw(job_id)) is not None:
            return shared
        snapshot = await self._shared.manager.act(job_id, action, token)
        if snapshot is None:
            self._shared.announce_removed()
            return None
        return self._want(snapshot) if action in ("resume", "retry") else self._view(snapshot)

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        return tuple(self._view(snapshot) for snapshot in self._shared.manager.snapshots())

    def publish(self, snapshot: DownloadSnapshot) -> None:
        self._on_snapshot(self._view(snapshot))

    def forget(self, job_id: str) -> None:
        self._wanted.discard(job_id)
        self._warned.discard(job_id)
        self._on_removed(job_id)

    def close(self) -> None:
        self._shared.views.discard(self)

    def _withdraw(self, job_id: str) -> DownloadSnapshot | None:
        """Give up this client's own wish. A snapshot is returned when the download goes on for the other clients."""
        self._wanted.discard(job_id)
        if job_id not in self._warned and self._is_wanted_by_others(job_id):
            snapshot = next((job for job in self._shared.manager.snapshots() if job.job_id == job_id), None)
            if snapshot is not None and not snapshot.state.is_final:
                self._warned.add(job_id)
                self.publish(snapshot)
                return self._view(snapshot)
        self._warned.discard(job_id)
        return None

    def _want(self, snapshot: DownloadSnapshot) -> DownloadSnapshot:
        self._wanted.add(snapshot.job_id)
        self._warned.discard(snapshot.job_id)
        return snapshot

    def _is_wanted_by_others(self, job_id: str) -> bool:
        return any(job_id in view._wanted for view in self._shared.views if view is not self)

    def _view(self, snapshot: DownloadSnapshot) -> DownloadSnapshot:
        if snapshot.job_id in self._warned and not snapshot.state.is_final:
            return replace(snapshot, notice=SHARED_NOTICE)
        error = snapshot.error
        if self._shared.mode == "process" and error is not None and error.code in _SETTINGS_CODES:
            return replace(snapshot, error=replace(error, message=f"{error.message} {SETTINGS_HINT}"))
        return snapshot
