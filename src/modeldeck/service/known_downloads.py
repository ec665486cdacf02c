"""The downloads as one client of an engine knows them, and who is told of changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._types import DownloadSnapshot
from modeldeck.engine.state import is_settled

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    on_snapshot: Callable[[DownloadSnapshot], None]
    on_removed: Callable[[str], None] | None
    on_notice: Callable[[str | None], None] | None


class KnownDownloads:
    """The latest snapshot of each download, the engine's notice, subscribers, and callers that wait for a download.

    ``publish``, ``remove``, ``set_notice`` and ``fail_waiters`` belong to the client's loop thread. The rest may be
    used on any thread and never blocks.
    """

    def __init__(self, notice: str | None = None) -> None:
        self._lock = threading.Lock()
        self._snapshots: dict[str, DownloadSnapshot] = {}
        self._subscriptions: list[_Subscription] = []
        self._waiters: dict[Future[DownloadSnapshot], str] = {}
        self._notice = notice

    @property
    def notice(self) -> str | None:
        return self._notice

    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        """Return the latest snapshot of every download, oldest download first."""
        with self._lock:
            return tuple(sorted(self._snapshots.values(), key=lambda snapshot: (snapshot.created_at, snapshot.job_id)))

    def get(self, job_id: str) -> DownloadSnapshot | None:
        with self._lock:
            return self._snapshots.get(job_id)

    def subscribe(
        self,
        callback: Callable[[DownloadSnapshot], None],
        on_removed: Callable[[str], None] | None,
        on_notice: Callable[[str | None], None] | None,
    ) -> Callable[[], None]:
        """Call back on the loop thread for every change from now on. Returns a function that ends the subscription."""
        subscription = _Subscription(callback, on_removed, on_notice)
        with self._lock:
            self._subscriptions.append(subscription)

        def unsubscribe() -> None:
            with self._lock:
                if subscription in self._subscriptions:
                    self._subscriptions.remove(subscription)

        return unsubscribe

    async def wait(self, job_id: str) -> DownloadSnapshot:
        """Wait until the download is ready, failed, cancelled or paused; return at once when it already is."""
        future: Future[DownloadSnapshot] = Future()
        with self._lock:
            snapshot = self._snapshots.get(job_id)
            if snapshot is None:
                raise unknown_job(job_id)
            if is_settled(snapshot.state):
                return snapshot
            self._waiters[future] = job_id
        try:
            return await asyncio.wrap_future(future)
        finally:
            with self._lock:
                self._waiters.pop(future, None)

    # --- on the client's loop thread

    def publish(self, snapshot: DownloadSnapshot) -> None:
        """Take over a snapshot, unless a newer one is known, and tell subscribers and waiters."""
        with self._lock:
            known = self._snapshots.get(snapshot.job_id)
            if known is not None and (snapshot.rev < known.rev or snapshot == known):
                return
            self._snapshots[snapshot.job_id] = snapshot
            subscriptions = tuple(self._subscriptions)
            settled = self._take_waiters(snapshot.job_id) if is_settled(snapshot.state) else ()
        for subscription in subscriptions:
            _call_soon(subscription.on_snapshot, snapshot)
        for future in settled:
            _call_soon(future.set_result, snapshot)

    def remove(self, job_id: str) -> None:
        """Forget a download that is off the engine's list."""
        with self._lock:
            if self._snapshots.pop(job_id, None) is None:
                return
            subscriptions = tuple(self._subscriptions)
            orphans = self._take_waiters(job_id)
        for subscription in subscriptions:
            _call_soon(subscription.on_removed, job_id)
        for future in orphans:
            _call_soon(future.set_exception, unknown_job(job_id))

    def set_notice(self, notice: str | None) -> None:
        with self._lock:
            if notice == self._notice:
                return
            self._notice = notice
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            _call_soon(subscription.on_notice, notice)

    def fail_waiters(self, error: ModelDeckError) -> None:
        with self._lock:
            futures = self._take_waiters(None)
        for future in futures:
            future.set_exception(error)

    def _take_waiters(self, job_id: str | None) -> tuple[Future[DownloadSnapshot], ...]:
        """Remove the waiters for ``job_id`` (``None``: all) and mark them as running, so that no cancel crosses."""
        futures = [future for future, wanted in self._waiters.items() if job_id in (None, wanted)]
        for future in futures:
            del self._waiters[future]
        return tuple(future for future in futures if future.set_running_or_notify_cancel())


def _call_soon(callback: Callable[[T], object] | None, news: T) -> None:
    """Call from the loop, in order. The loop reports a callback that raises, and the others still run."""
    if callback is not None:
        asyncio.get_running_loop().call_soon(callback, news)


def unknown_job(job_id: str) -> InvalidRequestError:
    return InvalidRequestError(f"There is no download {job_id!r} any more. Start it again if you still want the file.")
