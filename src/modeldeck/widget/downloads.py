"""The trait ``_downloads``: what the engine downloads, holds paused, and has failed or finished."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import anyio

from modeldeck._errors import GGUFError, InvalidRequestError, error_from_info
from modeldeck._loop import LoopThread
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, DownloadState
from modeldeck._wire import JobView
from modeldeck.session import Session
from modeldeck.widget.deck import DeckOwner
from modeldeck.widget.load import LoadOwner
from modeldeck.widget.pacer import Pacer
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.repos import ReposOwner
from modeldeck.widget.tasks import guard
from modeldeck.widget.traits import DownloadsView

if TYPE_CHECKING:
    from modeldeck.widget.cluster_owner import ClusterOwner

PASSING_STATE_SECONDS = 0.1
"""A state that a download usually passes through at once is shown when it lasts longer than this."""
_PASSING = (DownloadState.QUEUED, DownloadState.RESOLVING)
_UNFINISHED = (DownloadState.FAILED, DownloadState.CANCELLED)


class DownloadsOwner:
    """Owns the trait ``_downloads``.

    Parameters
    ----------
    session, publisher, loop
        Shared with the other owners.
    deck : DeckOwner
        Shows where the engine runs.
    repos : ReposOwner
        Has the variants that can be downloaded, and shows which ones are.
    load : LoadOwner
        Loads what is to be loaded when it is ready.
    """

    cluster: ClusterOwner | None = None
    """Set where models go to a Dask cluster instead of this machine."""

    def __init__(
        self,
        session: Session,
        publisher: Publisher,
        loop: LoopThread,
        deck: DeckOwner,
        repos: ReposOwner,
        load: LoadOwner,
    ) -> None:
        self._session = session
        self._publisher = publisher
        self._loop = loop
        self._deck = deck
        self._repos = repos
        self._load = load
        self._cache_dir = os.path.realpath(session.settings.cache_dir)
        self._jobs: dict[str, DownloadSnapshot] = {}
        self._announced: tuple[DownloadSnapshot, ...] = ()
        self._pacer = Pacer(self._publish)
        self.mark = self._pacer.mark

    @property
    def snapshots(self) -> tuple[DownloadSnapshot, ...]:
        """What is known of downloads, from any thread."""
        return tuple(self._jobs.copy().values())

    async def start(self, repo_id: str, variant_id: str, *, load_when_ready: bool = False) -> None:
        """Download a variant that a card shows."""
        details, variant = self._repos.variant(repo_id, variant_id)
        try:
            request = await self._session.request_for(details, variant)
        except GGUFError:
            await self._repos.judge(repo_id)
            raise
        if self.cluster is not None:
            self.cluster.pulls.start(request, projector=self._repos.has_projector(repo_id))
            return
        download = await self._session.start(request)
        if load_when_ready:
            self._load.wish(repo_id, variant_id)
        self._take(download.snapshot)

    async def act(self, job_id: str, action: Action) -> None:
        """Do what a button of a download says."""
        if self.cluster is not None and job_id in self.cluster:
            await self.cluster.act(job_id, action)
            return
        request = self._chosen_since(job_id) if action in ("resume", "retry") else None
        if request is None:
            snapshot = await self._session.act(job_id, action)
        else:
            snapshot = (await self._session.start(request)).snapshot
        if snapshot is not None:
            self._take(snapshot)

    async def act_on_all(self, action: Literal["pause", "resume", "dismiss"]) -> None:
        """Pause or resume every download that can be, or take every finished one off the list.

        Those that wait are paused before those that run: none of them starts in the place of another.
        """
        snapshots = [snapshot for snapshot in self.snapshots if action in snapshot.actions]
        if action == "dismiss":
            snapshots = [snapshot for snapshot in snapshots if snapshot.state is DownloadState.READY]
            if self.cluster is not None:
                await self.cluster.pulls.dismiss_ready()
        for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.state is not DownloadState.QUEUED):
            with suppress(InvalidRequestError):  # it has ended meanwhile
                await self.act(snapshot.job_id, action)

    def _chosen_since(self, job_id: str) -> DownloadRequest | None:
        """The request that goes on with a download, if the projector was ticked or unticked since its start."""
        snapshot = self._jobs.get(job_id)
        if snapshot is None or snapshot.request.purpose == "repair":
            return None
        request = self._repos.with_chosen_projector(snapshot.request)
        return None if request == snapshot.request else request

    async def set_limits(self, max_active_jobs: int, bandwidth_bytes_per_second: int | None) -> None:
        """Change what all downloads together may use."""
        limits = replace(
            await self._session.limits(),
            max_active_jobs=max_active_jobs,
            bandwidth_bytes_per_second=bandwidth_bytes_per_second,
        )
        await self._session.set_limits(limits)
        self._deck.set_limits(limits)

    async def look_at_limits(self) -> None:
        """Show the engine's limits, which another program may have changed."""
        self._deck.set_limits(await self._session.limits())

    async def dismiss_unfinished(self, repo_id: str, variant_id: str) -> None:
        """Take a variant's failed and cancelled downloads off the list."""
        for snapshot in self.snapshots:
            request = snapshot.request
            if (request.repo_id, request.variant_id) == (repo_id, variant_id) and snapshot.state in _UNFINISHED:
                await self._session.act(snapshot.job_id, "dismiss")

    async def follow(self) -> None:
        """Show what the engine does, from now until cancelled."""
        error = await guard(self._subscribe)
        if error is not None:
            self._publisher.toast("error", error.message, error=error.to_info())
            self._publisher.report(error)

    async def _subscribe(self) -> None:
        engine = await self._session.engine()
        unsubscribe = await self._session.subscribe(
            lambda snapshot: self._loop.post(self._take, snapshot),
            on_removed=lambda job_id: self._loop.post(self._forget, job_id),
            on_notice=lambda notice: self._loop.post(self._deck.set_engine, engine.mode, notice),
        )
        try:
            for snapshot in await self._session.downloads():
                self._take(snapshot, is_news=False)
            self._deck.set_engine(engine.mode, engine.notice)
            self._deck.set_limits((await engine.status()).limits)
            await anyio.sleep_forever()
        finally:
            unsubscribe()

    def _take(self, snapshot: DownloadSnapshot, *, is_news: bool = True) -> None:
        before = self._jobs.get(snapshot.job_id)
        if before is not None and before.rev >= snapshot.rev:
            return
        if snapshot.request.real_cache_dir != self._cache_dir:
            return
        if before is None and snapshot.state is DownloadState.CANCELLED:
            return  # it has left the list already
        self._jobs[snapshot.job_id] = snapshot
        if is_news and (before is None or before.state is not snapshot.state):
            self._on_transition(snapshot)
        if snapshot.state is DownloadState.CANCELLED:
            del self._jobs[snapshot.job_id]
        self._pacer.mark(patience_seconds=_patience(before, snapshot))

    def _forget(self, job_id: str) -> None:
        snapshot = self._jobs.pop(job_id, None)
        if snapshot is None:  # a cancelled one has been forgotten already
            return
        self._pacer.mark(patience_seconds=0.0)
        if snapshot.state is DownloadState.READY:  # perhaps because its files were deleted
            self._repos.files.outdate()

    def _on_transition(self, snapshot: DownloadSnapshot) -> None:
        request = snapshot.request
        name = f"{request.label} of {request.repo_id}"
        toast = partial(self._publisher.toast, label=request.label, repo_id=request.repo_id)
        if snapshot.state is DownloadState.READY:
            if snapshot.commit_hash is not None:
                self._repos.files.add(request.repo_id, snapshot.commit_hash, request.variant_id)
            if request.purpose == "repair":
                toast("success", f"{name} is repaired.", "repaired")
            else:
                toast("success", f"{name} is downloaded and verified.", "downloaded")
            self._load.fulfil(request.repo_id, request.variant_id)
        elif snapshot.state is DownloadState.CANCELLED:
            self._load.drop_wish(request.repo_id, request.variant_id)
        elif snapshot.state is DownloadState.FAILED and snapshot.error is not None:
            self._load.drop_wish(request.repo_id, request.variant_id)
            message = f"{name} failed. {snapshot.error.message}"
            toast("error", message, "download_failed", error=snapshot.error)
            self._publisher.report(error_from_info(snapshot.error))

    def _publish(self) -> None:
        snapshots = self.snapshots
        with self._publisher.together():
            pulls = () if self.cluster is None else self.cluster.pulls.jobs
            self._publisher.publish("downloads", downloads_view(snapshots, pulls))
            if self.cluster is not None:
                self.cluster.publish()
        before, self._announced = self._announced, snapshots
        self._publisher.announce("downloads", before, snapshots)


def downloads_view(snapshots: tuple[DownloadSnapshot, ...], pulls: tuple[JobView, ...] = ()) -> DownloadsView:
    """The view of some downloads, those to a cluster included."""
    return DownloadsView(jobs=(*(JobView.of(snapshot) for snapshot in snapshots), *pulls))


def _patience(before: DownloadSnapshot | None, now: DownloadSnapshot) -> float | None:
    """For how many seconds this news may wait; ``None`` for progress, which waits for its regular turn."""
    if now.state in _PASSING:
        return PASSING_STATE_SECONDS
    is_progress = before is not None and (before.state, before.notice, before.queue_position) == (
        now.state,
        now.notice,
        now.queue_position,
    )
    return None if is_progress else 0.0
