"""What both homes of the engine share: one download manager, and a seat for each client that uses it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

from modeldeck import __version__
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, EngineStatus
from modeldeck.service.discovery import all_state_directories, find_blocks_directory

LOOK_SECONDS = 1.0
SHARED_NOTICE = "Another notebook wants this file too, so the download goes on. Cancel again to stop it for both."


class Manager(Protocol):
    """What the hosts need of ``modeldeck.engine.manager.DownloadManager``."""

    @property
    def limits(self) -> EngineLimits: ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot: ...
    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None: ...
    async def forget_gone(self) -> None: ...
    def snapshots(self) -> tuple[DownloadSnapshot, ...]: ...
    def subscribe(self, callback: Callable[[DownloadSnapshot], None]) -> Callable[[], None]: ...
    def set_limits(self, limits: EngineLimits) -> None: ...


ManagerFactory: TypeAlias = Callable[[Path | None], Manager]
"""Makes a manager that keeps its list of jobs in the given directory, or nowhere."""


def manager_factory(cache_dir: Path) -> ManagerFactory:
    """Makes real ones, which know of finished files what any engine of this cache directory has learned."""

    def create(state_dir: Path | None) -> Manager:
        from modeldeck.engine.manager import DownloadManager  # brings httpx, which a client never needs

        return DownloadManager(
            state_dir=state_dir,
            lists=all_state_directories(cache_dir),
            blocks_dir=find_blocks_directory(cache_dir),
        )

    return create


class Host:
    """A running manager and its clients. Everything happens on the manager's loop."""

    def __init__(self, manager: Manager, mode: Literal["inline", "process"]) -> None:
        self.manager = manager
        self.mode = mode
        self.started_at = time.time()
        self.seats: set[Seat] = set()
        self.on_work_change: Callable[[], None] = lambda: None
        self._known = {snapshot.job_id for snapshot in manager.snapshots()}
        self._moving = {snapshot.job_id for snapshot in manager.snapshots() if is_moving(snapshot)}
        self._unsubscribe = manager.subscribe(self._publish)

    @property
    def has_work(self) -> bool:
        """Whether something moves or waits for its turn. Paused downloads are no work: they are on the disk."""
        return bool(self._moving)

    def attach(self, on_snapshot: Callable[[DownloadSnapshot], None], on_removed: Callable[[str], None]) -> Seat:
        """Give a client its seat. The callbacks are called on the manager's loop and must not block."""
        seat = Seat(self, on_snapshot, on_removed)
        self.seats.add(seat)
        return seat

    async def status(self) -> EngineStatus:
        states = [snapshot.state for snapshot in self.manager.snapshots()]
        return EngineStatus(
            mode=self.mode,
            version=__version__,
            pid=os.getpid(),
            started_at=self.started_at,
            active=sum(state.is_active for state in states),
            waiting=states.count(DownloadState.QUEUED),
            clients=len(self.seats),
            limits=self.manager.limits,
        )

    async def set_limits(self, limits: EngineLimits) -> None:
        self.manager.set_limits(limits)

    async def pause_all(self) -> None:
        """Pause what moves, so that the next engine shows it as paused instead of going on unasked."""
        await asyncio.gather(*(self.manager.act(job_id, "pause") for job_id in self._moving), return_exceptions=True)

    async def look_again(self) -> None:
        """Take finished downloads whose files were deleted off the list, and tell all clients of it.

        A disk that does not answer must not keep a client waiting.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self.manager.forget_gone()
        self.forget_removed()

    def forget_removed(self) -> None:
        """Tell all clients of downloads that are off the manager's list: dismissed, or replaced by a new one."""
        present = {snapshot.job_id for snapshot in self.manager.snapshots()}
        for job_id in self._known - present:
            for seat in tuple(self.seats):
                seat.forget(job_id)
        self._known = present
        self._moving &= present

    def close(self) -> None:
        self._unsubscribe()
        self.seats.clear()

    def _publish(self, snapshot: DownloadSnapshot) -> None:
        had_work = self.has_work
        self._known.add(snapshot.job_id)
        if is_moving(snapshot):
            self._moving.add(snapshot.job_id)
        else:
            self._moving.discard(snapshot.job_id)
        for seat in tuple(self.seats):
            seat.publish(snapshot)
        if self.has_work != had_work:
            self.on_work_change()


class Seat:
    """One client's place at the engine.

    Notebooks that ask for the same file share one download, and every client sees and may steer all of them. Pausing
    acts for everybody: it loses nothing and anybody can resume. Cancelling deletes bytes, so the first Cancel of a
    client withdraws only its own wish while another connected client still wants the file: the download goes on, and
    the answer and the following snapshots say so in ``notice``. A second Cancel of the same client stops it for all.
    A client that has left (its kernel ended) wants nothing any more.
    """

    def __init__(
        self, host: Host, on_snapshot: Callable[[DownloadSnapshot], None], on_removed: Callable[[str], None]
    ) -> None:
        self._host = host
        self._on_snapshot = on_snapshot
        self._on_removed = on_removed
        self._wanted: set[str] = set()
        self._warned: set[str] = set()

    async def submit(self, request: DownloadRequest, token: str | None) -> DownloadSnapshot:
        snapshot = await self._host.manager.submit(request, token=token)
        self._host.forget_removed()
        return self._want(snapshot)

    async def act(self, job_id: str, action: Action, token: str | None) -> DownloadSnapshot | None:
        if action == "cancel" and (shared := self._withdraw(job_id)) is not None:
            return shared
        snapshot = await self._host.manager.act(job_id, action, token)
        if snapshot is None:
            self._host.forget_removed()
            return None
        return self._want(snapshot) if action in ("resume", "retry") else self._view(snapshot)

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        return tuple(self._view(snapshot) for snapshot in self._host.manager.snapshots())

    def publish(self, snapshot: DownloadSnapshot) -> None:
        self._on_snapshot(self._view(snapshot))

    def forget(self, job_id: str) -> None:
        self._wanted.discard(job_id)
        self._warned.discard(job_id)
        self._on_removed(job_id)

    def close(self) -> None:
        self._host.seats.discard(self)

    def _withdraw(self, job_id: str) -> DownloadSnapshot | None:
        """Give up this client's own wish. A snapshot is returned when the download goes on for the other clients."""
        self._wanted.discard(job_id)
        if job_id not in self._warned and self._is_wanted_by_others(job_id):
            snapshot = next((job for job in self._host.manager.snapshots() if job.job_id == job_id), None)
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
        return any(job_id in seat._wanted for seat in self._host.seats if seat is not self)

    def _view(self, snapshot: DownloadSnapshot) -> DownloadSnapshot:
        if snapshot.job_id in self._warned and not snapshot.state.is_final:
            return replace(snapshot, notice=SHARED_NOTICE)
        return snapshot


def is_moving(snapshot: DownloadSnapshot) -> bool:
    return snapshot.state.is_active or snapshot.state is DownloadState.QUEUED
