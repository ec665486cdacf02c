"""Pulls to a Dask cluster, which the page shows as downloads. Their bars stand for all hosts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import anyio.to_thread

from modeldeck import cluster
from modeldeck._errors import ClusterError, DownloadCancelledError, InvalidRequestError, ModelDeckError
from modeldeck._settings import Settings
from modeldeck._types import Action, DownloadRequest, DownloadState, ErrorInfo
from modeldeck._wire import JobView
from modeldeck.cluster import HostPull, PulledModel, PullJob, PullSnapshot
from modeldeck.cluster.dask_calls import CLOSED, is_open
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import Tasks
from modeldeck.widget.traits import HostPullView, HostSource

LOOK_SECONDS = 0.25
"""How long a change on the cluster may be unseen."""
CLIENT_CLOSED = f"{CLOSED} Then show the browser again: ModelBrowser(client=client)."
_S = DownloadState


@dataclass(slots=True, eq=False)
class _Pull:
    """One pull. ``end`` is the state in which it ended."""

    job_id: str
    request: DownloadRequest
    job: PullJob
    snapshot: PullSnapshot
    end: DownloadState | None = None
    error: ErrorInfo | None = None
    finished_at: float | None = None

    @property
    def name(self) -> str:
        return f"{self.request.label} of {self.request.repo_id}"


class Pulls:
    """The pulls that one widget has started. `jobs` and `hosts` are what the page gets of them.

    Parameters
    ----------
    client
        The Dask client.
    settings : Settings
        The Hub's address and the token.
    publisher, tasks
        Shared with the owners.
    on_change : callable
        Called with how many seconds the news may wait, as for `Pacer.mark`.
    on_ready : callable
        Called when hosts have a model, perhaps in the cache of this machine.
    """

    def __init__(
        self,
        client: Any,
        settings: Settings,
        publisher: Publisher,
        tasks: Tasks,
        *,
        on_change: Callable[[float | None], object],
        on_ready: Callable[[], object],
    ) -> None:
        self._client = client
        self._settings = settings
        self._publisher = publisher
        self._tasks = tasks
        self._on_change = on_change
        self._on_ready = on_ready
        self._pulls: dict[str, _Pull] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._pulls

    @property
    def jobs(self) -> tuple[JobView, ...]:
        """The pulls as downloads."""
        return tuple(
            pull_view(
                pull.job_id,
                pull.request,
                pull.snapshot,
                end=pull.end,
                error=pull.error,
                finished_at=pull.finished_at,
                can_retry=is_open(self._client),
            )
            for pull in self._pulls.values()
        )

    @property
    def hosts(self) -> dict[str, tuple[HostPullView, ...]]:
        """The hosts of each pull."""
        return {pull.job_id: host_views(pull.snapshot.hosts) for pull in self._pulls.values()}

    def start(self, request: DownloadRequest, *, projector: bool) -> None:
        """Bring a variant to all hosts, with its vision projector or without it, unless this is being done."""
        if not is_open(self._client):
            raise ClusterError(CLIENT_CLOSED)
        same = [pull for pull in self._pulls.values() if pull.request.key == request.key]
        if any(pull.end is None for pull in same):
            return
        job = cluster.pull(
            self._client,
            f"{request.repo_id}:{request.variant_id}",
            revision=request.commit_hash or request.revision,
            projector=projector,
            wait=False,
            endpoint=self._settings.endpoint,
            token=self._settings.token or False,
        )
        for pull in same:
            del self._pulls[pull.job_id]
        pull = _Pull(f"pull-{uuid.uuid4().hex[:8]}", request, job, job.snapshot)
        self._pulls[pull.job_id] = pull
        self._on_change(0.0)
        self._tasks.start(self._follow, pull)

    async def act(self, job_id: str, action: Action) -> None:
        """Do what a button of a pull says."""
        pull = self._pulls[job_id]
        if action == "cancel" and pull.end is None:
            if is_open(self._client):
                await anyio.to_thread.run_sync(pull.job.cancel, abandon_on_cancel=True)
        elif action == "dismiss" and pull.end is not None:
            del self._pulls[job_id]
            self._on_change(0.0)
        elif action == "retry" and pull.end is _S.FAILED:
            if not is_open(self._client):
                raise ClusterError(CLIENT_CLOSED)
            pull.job.retry()
            pull.end = pull.error = pull.finished_at = None
            self._on_change(0.0)
            self._tasks.start(self._follow, pull)
        else:
            raise InvalidRequestError(f"{pull.name} has ended, or does not allow {action!r}.")

    async def dismiss_ready(self) -> None:
        """Take the finished ones off the list."""
        for pull in [pull for pull in self._pulls.values() if pull.end is _S.READY]:
            await self.act(pull.job_id, "dismiss")

    async def _follow(self, pull: _Pull) -> None:
        job = pull.job
        while not job.done() and is_open(self._client):
            await anyio.sleep(LOOK_SECONDS)
            if job.snapshot is not pull.snapshot:
                is_progress = _states(job.snapshot) == _states(pull.snapshot)
                pull.snapshot = job.snapshot
                self._on_change(None if is_progress else 0.0)
        pull.finished_at = time.time()
        try:
            await self._finish(pull)
        except DownloadCancelledError:
            pull.end = _S.CANCELLED
            del self._pulls[pull.job_id]
        except ModelDeckError as failure:
            error = failure if is_open(self._client) else ClusterError(CLIENT_CLOSED)
            pull.end, pull.error = _S.FAILED, error.to_info()
            self._tell_failure(pull, error)
        pull.snapshot = job.snapshot
        self._on_change(0.0)

    async def _finish(self, pull: _Pull) -> None:
        if not pull.job.done():
            raise ClusterError(CLIENT_CLOSED)
        ended = asyncio.ensure_future(_result(pull.job))
        await asyncio.wait([ended])
        if ended.cancelled() or isinstance(ended.exception(), OSError):
            raise ClusterError("The connection to the Dask cluster was lost. Try again when it is back.")
        model = ended.result()
        self._on_ready()
        if any(host.state is _S.CANCELLED for host in model.hosts):
            raise DownloadCancelledError("The pull was cancelled.")
        if model.failed and not is_open(self._client):
            raise ClusterError(CLIENT_CLOSED)
        if not model.failed:
            pull.end = _S.READY
            request = pull.request
            self._publisher.toast(
                "success",
                f"{pull.name} is downloaded and verified.",
                "downloaded",
                label=request.label,
                repo_id=request.repo_id,
            )
            return
        pull.end = _S.FAILED  # each host has its error
        first = model.failed[0]
        reason = "It was paused." if first.error is None else first.error.message
        count = f"{len(model.failed)} of {len(model.hosts)} hosts"
        self._tell_failure(pull, ClusterError(f"{count} do not have it. {first.host}: {reason}"))

    def _tell_failure(self, pull: _Pull, error: ModelDeckError) -> None:
        self._publisher.toast(
            "error",
            f"{pull.name} failed. {error.message}",
            "download_failed",
            label=pull.request.label,
            repo_id=pull.request.repo_id,
            error=error.to_info(),
        )
        self._publisher.report(error)


async def _result(job: PullJob) -> PulledModel:
    return await job


def _states(snapshot: PullSnapshot) -> list[DownloadState]:
    return [host.state for host in snapshot.hosts]


def pull_view(
    job_id: str,
    request: DownloadRequest,
    snapshot: PullSnapshot,
    *,
    end: DownloadState | None = None,
    error: ErrorInfo | None = None,
    finished_at: float | None = None,
    can_retry: bool = True,
) -> JobView:
    """The view of a pull: a download that stands for all hosts.

    Parameters
    ----------
    job_id : str
        Names the pull in a request.
    request : DownloadRequest
        The variant.
    snapshot : PullSnapshot
        The pull now.
    end : DownloadState, optional
        The state in which it ended.
    error : ErrorInfo, optional
        Why it failed, if this is not about single hosts.
    finished_at : float, optional
        When it ended, in seconds since the epoch.
    can_retry : bool
        Whether the cluster can still be reached.
    """
    # While it runs, the bar is about the hosts that can still get it.
    counted = [host for host in snapshot.hosts if host.source != "shared cache" and (host.error is None or end)]
    sizes = [host.total for host in counted if host.total is not None]
    total = sum(sizes) if sizes and len(sizes) == len(counted) else None
    received = sum(host.received for host in counted)
    rates = [host.rate for host in snapshot.hosts if host.rate is not None]
    rate = sum(rates) if rates and end is None else None
    actions: tuple[Action, ...] = ("cancel",)
    if end is not None:
        actions = ("retry", "dismiss") if end is _S.FAILED and can_retry else ("dismiss",)
    return JobView(
        job_id=job_id,
        repo_id=request.repo_id,
        variant_id=request.variant_id,
        label=request.label,
        purpose="download",
        state=end or _state_of(snapshot),
        queue_position=None,
        received=received,
        total=total,
        percent=None if total is None else min(100, received * 100 // total),
        rate=rate,
        eta_seconds=(total - received) / rate if rate and total else None,
        connections=0,
        attempt=1,
        retry_in_seconds=None,
        is_stalled=False,
        error=error,
        notice=None,
        notice_code=None,
        finished_at=finished_at if end is _S.READY else None,
        actions=actions,
    )


def host_views(hosts: tuple[HostPull, ...]) -> tuple[HostPullView, ...]:
    """The views of a pull's hosts."""
    views = []
    for host in hosts:
        source, peer = host.source, None
        if source is not None and source.startswith("peer "):
            source, _, peer = source.partition(" ")
        views.append(
            HostPullView(
                host=host.host,
                state=host.state,
                source=cast("HostSource | None", source),
                peer=peer,
                received=host.received,
                total=host.total,
                rate=host.rate,
                error=host.error,
            )
        )
    return tuple(views)


def _state_of(snapshot: PullSnapshot) -> DownloadState:
    """The state of a pull that runs: what most of it waits for."""
    states = set(_states(snapshot))
    return next((state for state in (_S.DOWNLOADING, _S.VERIFYING) if state in states), _S.RESOLVING)
