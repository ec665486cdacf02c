"""Brings a model to every host: one from the Hub, the others from each other, in chains."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from modeldeck._errors import (
    ClusterError,
    DownloadCancelledError,
    HubError,
    ModelDeckError,
    NetworkError,
    PeersLostError,
    RateLimitedError,
    ServerError,
    error_from_info,
)
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, ErrorInfo, total_size
from modeldeck.cluster.dask_calls import CLOSED, agents_on_workers, ask_worker, ask_workers, is_open, to_the_end
from modeldeck.cluster.hosts import Host, survey
from modeldeck.cluster.pulled import HostPull, PulledModel, PullSnapshot
from modeldeck.cluster.topics import listen

SHORTEST_INTERVAL_SECONDS = 0.25
REPORTS_PER_SECOND = 20
"""Reports of all hosts together. Each costs the scheduler about a millisecond."""
LOST = "The connection to the Dask cluster was lost. Try again when it is back."
_STOPPED = {"pause": DownloadState.PAUSED, "cancel": DownloadState.CANCELLED}
_LEFT = "The worker {worker} left the cluster or cannot be reached. Pull again: what it received is kept on its disk."


@dataclass(slots=True, eq=False)
class _Copy:
    """The pull into one cache. ``host`` acts for all hosts that share it."""

    host: Host
    sharers: list[Host]
    view: HostPull
    received: int = 0
    has_all: bool = False
    is_settled: bool = False
    failures: int = field(default=0)

    @property
    def is_ready(self) -> bool:
        return self.view.state is DownloadState.READY


class Pulling:
    """One pull. Its methods run on the client's loop; ``snapshot`` may be read anywhere.

    Parameters
    ----------
    client
        The Dask client.
    target
        ``"owner/name:LABEL"``.
    settings
        The Hub's address and token, as the client's side knows them.
    projector
        Whether the vision projector that goes with the model is pulled too.
    on_change
        Called with each new snapshot.
    """

    def __init__(
        self,
        client: Any,
        target: str,
        *,
        revision: str,
        workers: list[str] | None,
        cache_dir: str | None,
        settings: Settings,
        projector: bool = True,
        on_change: Callable[[PullSnapshot], object] = lambda snapshot: None,
    ) -> None:
        self._client = client
        self._target = target
        self._revision = revision
        self._workers = workers
        self._cache_dir = cache_dir
        self._settings = settings
        self._projector = projector
        self._on_change = on_change
        self._topic = f"modeldeck-pull-{uuid.uuid4().hex[:8]}"
        self._copies: list[_Copy] = []
        self._by_worker: dict[str, _Copy] = {}
        self._message: dict[str, Any] = {}
        self._stop_action: str | None = None
        self._barren: set[int] = set()
        self._notice: str | None = None
        self.hosts: list[Host] = []
        self.request: DownloadRequest | None = None
        self.snapshot = PullSnapshot(target=target)

    async def run(self, *, has_agents: bool = False) -> PulledModel:
        """Pull, and return what the hosts have.

        Parameters
        ----------
        has_agents
            The caller has modeldeck's agents on the workers already, and keeps them there.

        Raises
        ------
        ClusterError
            If the client is closed meanwhile, or the scheduler cannot be reached.
        ModelDeckError
            If no host has the model in the end. The first host's error says why, or that the pull was stopped.
        """
        try:
            async with nullcontext() if has_agents else agents_on_workers(self._client):
                await self._run()
        except ModelDeckError:
            raise
        except Exception as error:
            if not is_open(self._client):
                raise ClusterError(CLOSED) from error
            if isinstance(error, OSError):
                raise ClusterError(LOST) from error
            raise
        assert self.request is not None
        if not any(copy.is_ready for copy in self._copies):
            failures = [copy.view.error for copy in self._copies if copy.view.error is not None]
            if failures:
                raise error_from_info(failures[0])
            raise DownloadCancelledError(f"The pull of {self._target} was stopped. Pull again if you still want it.")
        return PulledModel(
            target=self._target,
            repo_id=self.request.repo_id,
            commit_hash=self.request.commit_hash or "",
            variant_id=self.request.variant_id,
            label=self.request.label,
            hosts=self.snapshot.hosts,
            notice=self._notice,
        )

    async def _run(self) -> None:
        self.hosts = await survey(self._client, workers=self._workers, cache_dir=self._cache_dir)
        self._copies = self._plan_copies()
        self._publish()
        stop_listening = listen(self._client, self._topic, self._take_report)
        try:
            self.request = await self._resolve()
            self._message = msgspec.to_builtins(self.request)
            await self._find()
            while rest := [copy for copy in self._copies if not copy.is_settled]:
                if self._stop_action is not None:  # before it had begun
                    self._settle_stopped(rest, _STOPPED[self._stop_action])
                else:
                    await self._run_round(rest)
        except asyncio.CancelledError:
            await to_the_end(self.stop("pause"))
            raise
        finally:
            stop_listening()

    async def stop(self, action: str) -> None:
        """End it on all hosts: "pause" keeps what was received, "cancel" deletes it."""
        self._stop_action = action
        if not self._message:
            return
        rest = [copy for copy in self._copies if not copy.is_settled]
        for copy in reversed(rest):  # the end of the chain first, because a host whose source has ended would fail
            await self._tell(copy, "stop", topic=self._topic, action=action)

    async def _tell(self, copy: _Copy, method: str, **arguments: Any) -> Any:
        """Send a message about this pull to the worker that acts for a cache, and return the answer or the error."""
        lead = copy.host.lead
        message = {"request": self._message, "cache_dir": lead.cache_dir, **arguments}
        return (await ask_workers(self._client, [lead.address], method, **message)).get(lead.address)

    # --- planning -----------------------------------------------------------------------------------------------------

    def _plan_copies(self) -> list[_Copy]:
        by_cache: dict[int, _Copy] = {}
        copies = []
        for host in self.hosts:
            view = HostPull(host=host.name, workers=tuple(worker.address for worker in host.workers))
            if host.problem is not None:
                error = ClusterError(f"{host.name}: {host.problem}").to_info()
                copy = _Copy(host=host, sharers=[], view=replace(view, state=DownloadState.FAILED, error=error))
                copy.is_settled = True
            elif host.cache in by_cache:
                by_cache[host.cache].sharers.append(host)
                continue
            else:
                copy = by_cache[host.cache] = _Copy(host=host, sharers=[], view=view)
            self._by_worker[host.lead.address] = copy
            copies.append(copy)
        return copies

    async def _resolve(self) -> DownloadRequest:
        """Let a worker ask the Hub what to pull: the next one, if it cannot be reached from there.

        If the Hub refuses, or no worker reaches it, a host that has the model in its cache is the source of the others.
        """
        failure: Exception | None = None
        for copy in self._copies:
            if copy.is_settled:
                failure = failure or error_from_info(copy.view.error or ErrorInfo(code="error", message=""))
                continue
            try:
                answer = await self._resolve_on(copy, is_cache_only=False)
                return self._take_request(answer, copy, answer["notice"])
            except (NetworkError, OSError) as error:
                failure = error
            except HubError as error:
                failure = error
                break
        assert failure is not None
        if isinstance(failure, NetworkError | HubError):
            rest = [copy for copy in self._copies if not copy.is_settled]
            asks = (self._resolve_on(copy, is_cache_only=True) for copy in rest)
            for copy, found in zip(rest, await asyncio.gather(*asks, return_exceptions=True), strict=True):
                if isinstance(found, dict):
                    return self._take_request(found, copy, str(failure))
        if isinstance(failure, ModelDeckError):
            raise failure
        raise ClusterError(f"No worker answers: {failure}.")

    async def _resolve_on(self, copy: _Copy, *, is_cache_only: bool) -> dict[str, Any]:
        lead = copy.host.lead
        answer: dict[str, Any] = await ask_worker(
            self._client,
            lead.address,
            "resolve",
            target=self._target,
            revision=self._revision,
            settings=_sealed(replace(self._settings, token=None) if is_cache_only else self._settings),
            cache_dir=lead.cache_dir,
            projector=self._projector,
            is_cache_only=is_cache_only,
        )
        return answer

    def _take_request(self, answer: dict[str, Any], copy: _Copy, problem: str | None) -> DownloadRequest:
        if problem is not None:
            self._notice = f"{problem} {copy.host.name} has it in its cache, and the others take it from there."
        request = msgspec.convert(answer["request"], DownloadRequest)
        if any(file.sha256 is None or file.size is None for file in request.files):
            raise ClusterError(
                f"The SHA-256 of some files of {self._target} is not known, so hosts cannot take them from each other. "
                "Download it on each host, or into a cache that they share."
            )
        return request

    async def _find(self) -> None:
        """Ask the hosts what they have."""
        rest = [copy for copy in self._copies if not copy.is_settled]
        answers = await asyncio.gather(*(self._tell(copy, "find") for copy in rest))
        for copy, answer in zip(rest, answers, strict=True):
            if isinstance(answer, dict):
                copy.has_all, copy.received = answer["has_all"], answer["received"]

    # --- pulling ------------------------------------------------------------------------------------------------------

    async def _run_round(self, rest: list[_Copy]) -> None:
        """Pull on the hosts that lack the model, each from the one before it in its chain."""
        claimed = [copy for copy in rest if copy.has_all]
        if claimed:
            # They are verified first. One whose file is damaged receives it like the others.
            for copy in claimed:
                copy.has_all = False
            await asyncio.gather(*(self._pull(copy, []) for copy in claimed))
            return
        holders = [copy for copy in self._copies if copy.is_ready and id(copy) not in self._barren]
        rest.sort(key=lambda copy: -copy.received)
        chains = [[holder] for holder in holders] or [[rest.pop(0)]]
        heads = [chain[0] for chain in chains]
        for index, copy in enumerate(rest):
            chains[index % len(chains)].append(copy)
        expecting = [copy for chain in chains for copy in chain if not copy.is_ready]
        await asyncio.gather(*(self._tell(copy, "expect") for copy in expecting))
        pulls = []
        for chain in chains:
            if not chain[0].is_ready:
                pulls.append(self._pull(chain[0], None))
            for position, copy in enumerate(chain[1:], 1):
                peers = chain[:position][::-1] + [head for head in heads if head is not chain[0]]
                pulls.append(self._pull(copy, peers))
        await asyncio.gather(*pulls)
        if holders and not any(copy.is_ready for chain in chains for copy in chain[1:]):
            self._barren.update(id(holder) for holder in holders)

    async def _pull(self, copy: _Copy, peers: list[_Copy] | None) -> None:
        if self._stop_action is not None:
            self._settle_stopped([copy], _STOPPED[self._stop_action])
            return
        lead = copy.host.lead
        source = "hub" if peers is None else f"peer {peers[0].host.name}" if peers else "already there"
        self._change(copy, source=source, state=DownloadState.RESOLVING)
        try:
            answer = await ask_worker(
                self._client,
                lead.address,
                "pull",
                request=self._message,
                cache_dir=lead.cache_dir,
                peers=None if peers is None else [_address_of(peer) for peer in peers],
                topic=self._topic,
                interval=max(SHORTEST_INTERVAL_SECONDS, len(self._copies) / REPORTS_PER_SECOND),
                settings=_sealed(self._settings) if peers is None else None,
            )
        except OSError:
            self._settle(copy, ClusterError(_LEFT.format(worker=lead.name) if is_open(self._client) else CLOSED))
            return
        except ModelDeckError as error:
            self._settle(copy, error)
            return
        snapshot = msgspec.convert(answer["snapshot"], DownloadSnapshot)
        copy.received = snapshot.received
        self._change(copy, left_out=(*copy.view.left_out, *answer["left_out"]))
        if answer["peers"]:
            source = f"peer {answer['peers'][-1]}"
        elif peers is None and snapshot.bytes_fetched == 0 and snapshot.state is DownloadState.READY:
            source = "already there"
        self._change(copy, received=snapshot.received, total=snapshot.total, rate=None, source=source)
        if snapshot.state is DownloadState.READY:
            copy.is_settled = True
            self._change(copy, state=DownloadState.READY)
        elif self._stop_action is not None and _has_lost_peers(snapshot):
            copy.is_settled = True  # its source was stopped before it
            self._change(copy, state=_STOPPED[self._stop_action])
        elif snapshot.error is None or self._stop_action is not None:
            copy.is_settled = True
            self._change(copy, state=snapshot.state, error=snapshot.error)
        else:
            self._take_failure(copy, error_from_info(snapshot.error), is_from_hub=peers is None)

    def _take_failure(self, copy: _Copy, error: ModelDeckError, *, is_from_hub: bool) -> None:
        if isinstance(error, PeersLostError):
            copy.failures += 1
            if copy.failures <= len(self._copies):  # the next round has another chain
                self._change(copy, state=DownloadState.QUEUED, source=None)
                return
        self._settle(copy, error)
        if is_from_hub and isinstance(error, HubError) and not isinstance(error, ServerError | RateLimitedError):
            for other in self._copies:  # the Hub would refuse them, too
                if not other.is_settled:
                    self._settle(other, error)

    def _settle_stopped(self, copies: list[_Copy], state: DownloadState) -> None:
        for copy in copies:
            copy.is_settled = True
            self._change(copy, state=state)

    def _settle(self, copy: _Copy, error: ModelDeckError) -> None:
        copy.is_settled = True
        self._change(copy, state=DownloadState.FAILED, error=error.to_info(), rate=None)

    # --- what the caller sees -----------------------------------------------------------------------------------------

    def _take_report(self, report: dict[str, Any]) -> None:
        copy = self._by_worker.get(report["worker"])
        state = DownloadState(report["state"])
        if copy is None or copy.is_settled or state in (DownloadState.READY, DownloadState.FAILED):
            return  # how it ended is in the answer
        copy.received = report["received"]
        self._change(copy, state=state, received=report["received"], total=report["total"], rate=report["rate"])

    def _change(self, copy: _Copy, **changes: Any) -> None:
        copy.view = replace(copy.view, **changes)
        self._publish()

    def _publish(self) -> None:
        views = []
        for copy in self._copies:
            size = None if self.request is None else total_size(self.request.files)
            view = copy.view if copy.view.total is not None else replace(copy.view, total=size)
            views.append(view)
            for host in copy.sharers:
                addresses = tuple(worker.address for worker in host.workers)
                views.append(replace(view, host=host.name, workers=addresses, source="shared cache", rate=None))
        self.snapshot = PullSnapshot(target=self._target, hosts=tuple(views))
        self._on_change(self.snapshot)


def _address_of(copy: _Copy) -> tuple[str, str, str]:
    lead = copy.host.lead
    return lead.address, copy.host.name, lead.cache_dir


def _sealed(settings: Settings) -> Any:
    """Return the settings as an object whose repr hides the token, since Dask may log the messages that it sends."""
    from distributed.protocol import to_serialize

    return to_serialize(settings)


def _has_lost_peers(snapshot: DownloadSnapshot) -> bool:
    return snapshot.error is not None and snapshot.error.code == PeersLostError.code
