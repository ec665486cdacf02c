"""The engine as its users see it, and the one way to get it."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, TypeVar

from modeldeck._errors import EngineLostError, InvalidRequestError, ModelDeckError
from modeldeck._settings import Settings
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, EngineStatus

T = TypeVar("T")

INLINE_VARIABLE = "MODELDECK_INLINE"
INLINE_NOTICE = "Downloads run inside this process instead: they end with it, and a busy cell slows them down."


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    on_snapshot: Callable[[DownloadSnapshot], None]
    on_removed: Callable[[str], None] | None
    on_notice: Callable[[str | None], None] | None


class Engine(ABC):
    """A download engine: on a thread of this process, or in a process of its own.

    The coroutines may be awaited on any asyncio loop. ``snapshots``, ``subscribe`` and the properties may be used on
    any thread and never wait. All clients of one engine see all its downloads.
    """

    mode: Literal["inline", "process"]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, DownloadSnapshot] = {}
        self._subscriptions: list[_Subscription] = []
        self._waiters: dict[Future[DownloadSnapshot], str] = {}
        self._notice: str | None = None

    @property
    def notice(self) -> str | None:
        """What a person should know about the engine, such as that it was started anew."""
        return self._notice

    @abstractmethod
    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        """Start a download, or join the one with the same key. Returns at once."""

    @abstractmethod
    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None:
        """Do one of a download's ``actions``, for every client. Returns ``None`` after "dismiss".

        While another connected client wants the same file, the first "cancel" only withdraws this client's wish: the
        answer is not cancelled and its ``notice`` says why. A second one stops the download for all.
        """

    @abstractmethod
    async def look_again(self) -> None:
        """Have finished downloads whose files were deleted leave the list, for every client."""

    @abstractmethod
    async def set_limits(self, limits: EngineLimits) -> None:
        """Change the limits of the engine, for all its clients."""

    @abstractmethod
    async def status(self) -> EngineStatus:
        """What the engine says of itself."""

    @abstractmethod
    async def aclose(self) -> None:
        """Leave the engine. One in its own process goes on; the last user of an inline one ends it, partials kept."""

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        """Every download the engine knows, as last heard, oldest first."""
        with self._lock:
            return tuple(sorted(self._jobs.values(), key=lambda snapshot: (snapshot.created_at, snapshot.job_id)))

    def subscribe(
        self,
        callback: Callable[[DownloadSnapshot], None],
        *,
        on_removed: Callable[[str], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
    ) -> Callable[[], None]:
        """Be told of every new snapshot from now on, on the engine client's own thread; the callback must not block.

        Parameters
        ----------
        callback
            Gets each snapshot; snapshots of one download come in the order of their ``rev``.
        on_removed
            Gets the ``job_id`` of a download that was dismissed, by this or another client.
        on_notice
            Gets each new ``notice``.

        Returns
        -------
        callable
            Ends the subscription.
        """
        subscription = _Subscription(callback, on_removed, on_notice)
        with self._lock:
            self._subscriptions.append(subscription)

        def unsubscribe() -> None:
            with self._lock:
                if subscription in self._subscriptions:
                    self._subscriptions.remove(subscription)

        return unsubscribe

    async def wait(self, job_id: str) -> DownloadSnapshot:
        """Wait until the download is ready, failed, cancelled or paused; at once when it is already.

        Cancelling the waiting does not touch the download.
        """
        future: Future[DownloadSnapshot] = Future()
        with self._lock:
            snapshot = self._jobs.get(job_id)
            if snapshot is None:
                raise unknown_job(job_id)
            if is_settled(snapshot):
                return snapshot
            self._waiters[future] = job_id
        try:
            return await asyncio.wrap_future(future)
        finally:
            with self._lock:
                self._waiters.pop(future, None)

    # What follows is for the two kinds of engine, on their own thread.

    def _publish(self, snapshot: DownloadSnapshot) -> None:
        with self._lock:
            known = self._jobs.get(snapshot.job_id)
            if known is not None and (snapshot.rev < known.rev or snapshot == known):
                return
            self._jobs[snapshot.job_id] = snapshot
            subscriptions = tuple(self._subscriptions)
            settled = self._take_waiters(snapshot.job_id) if is_settled(snapshot) else ()
        for subscription in subscriptions:
            _tell(subscription.on_snapshot, snapshot)
        for future in settled:
            _tell(future.set_result, snapshot)

    def _remove(self, job_id: str) -> None:
        with self._lock:
            if self._jobs.pop(job_id, None) is None:
                return
            subscriptions = tuple(self._subscriptions)
            orphans = self._take_waiters(job_id)
        for subscription in subscriptions:
            _tell(subscription.on_removed, job_id)
        for future in orphans:
            _tell(future.set_exception, unknown_job(job_id))

    def _set_notice(self, notice: str | None) -> None:
        with self._lock:
            if notice == self._notice:
                return
            self._notice = notice
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            _tell(subscription.on_notice, notice)

    def _fail_waiters(self, error: ModelDeckError) -> None:
        with self._lock:
            futures = self._take_waiters(None)
        for future in futures:
            future.set_exception(error)

    def _take_waiters(self, job_id: str | None) -> tuple[Future[DownloadSnapshot], ...]:
        """Those still waiting for ``job_id`` (or for anything), claimed so that a cancel can no longer cross."""
        futures = [future for future, wanted in self._waiters.items() if job_id in (None, wanted)]
        for future in futures:
            del self._waiters[future]
        return tuple(future for future in futures if future.set_running_or_notify_cancel())


def _tell(callback: Callable[[T], object] | None, news: T) -> None:
    """Call ``callback`` from the loop, in order; one that raises is the loop's to report and harms nobody else."""
    if callback is not None:
        asyncio.get_running_loop().call_soon(callback, news)


def is_settled(snapshot: DownloadSnapshot) -> bool:
    return snapshot.state.is_final or snapshot.state is DownloadState.PAUSED


def unknown_job(job_id: str) -> InvalidRequestError:
    return InvalidRequestError(f"There is no download {job_id!r} any more. Start it again if you still want the file.")


def connect_engine(settings: Settings, *, inline: bool | None = None) -> Engine:
    """Get the engine for these settings' cache directory: join the running one, or start it.

    Blocks for a moment (an engine that starts takes some tenths of a second). When no process can be started, the
    engine is an inline one whose ``notice`` says so.

    Parameters
    ----------
    inline
        ``True`` for an engine on a thread of this process, which ends with it; ``False`` for a process of its own;
        ``None`` for the process unless the variable MODELDECK_INLINE is set to something other than 0.
    """
    from modeldeck.service.discovery import find_place
    from modeldeck.service.inline import InlineEngine
    from modeldeck.service.process import ProcessEngine

    if inline is None:
        inline = os.environ.get(INLINE_VARIABLE, "0") not in ("", "0")
    if inline:
        return InlineEngine(settings.cache_dir)
    try:
        return ProcessEngine(find_place(settings.cache_dir), settings.cache_dir)
    except EngineLostError as error:
        return InlineEngine(settings.cache_dir, notice=f"{error.message} {INLINE_NOTICE}")
