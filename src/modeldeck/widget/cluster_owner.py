"""The trait ``_cluster``: what is known of the Dask cluster that models go to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import msgspec
from msgspec.structs import replace

from modeldeck._errors import ClusterError, ModelDeckError
from modeldeck._loop import LoopThread
from modeldeck._types import Action
from modeldeck.cluster.dask_calls import is_open
from modeldeck.cluster.host_rooms import addresses_of, look_at_hosts
from modeldeck.cluster.running_maps import cancel_map, listen_to_maps, maps_of
from modeldeck.session import Session
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.pulls import CLIENT_CLOSED, LOOK_SECONDS, Pulls
from modeldeck.widget.repos import ReposOwner
from modeldeck.widget.tasks import Tasks
from modeldeck.widget.traits import ClusterView, MapView, UnusableHostView

FOLLOW_SECONDS = 3.0
"""How long a change of the cluster's workers may be unseen."""


class ClusterOwner:
    """Owns the trait ``_cluster``.

    Parameters
    ----------
    client
        The Dask client.
    session, publisher, loop, tasks
        Shared with the other owners.
    repos : ReposOwner
        Looks at the cache of this machine again, which hosts may share.
    on_change : callable
        Has `publish` called soon. Gets the seconds that the news may wait, as `Pacer.mark`.
    """

    def __init__(
        self,
        client: Any,
        session: Session,
        publisher: Publisher,
        loop: LoopThread,
        tasks: Tasks,
        repos: ReposOwner,
        *,
        on_change: Callable[[float | None], object],
    ) -> None:
        self._client = client
        self._publisher = publisher
        self._repos = repos
        repos.is_on_cluster = True
        self._on_change = on_change
        self._tasks = tasks
        self._loop = loop
        self._state = ClusterView(is_used=True)
        self._maps: tuple[MapView, ...] = ()
        self._is_following_maps = False
        self._must_look = asyncio.Event()
        self.pulls = Pulls(
            client, session.settings, publisher, tasks, on_change=on_change, on_ready=repos.files.outdate
        )
        self._shown = self.view

    @property
    def view(self) -> ClusterView:
        """What the trait is to hold."""
        return replace(self._state, pulls=self.pulls.hosts, maps=self._maps)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.pulls or any(running.job_id == job_id for running in self._maps)

    async def act(self, job_id: str, action: Action) -> None:
        """Do what a button of a pull says, or cancel a map."""
        if job_id in self.pulls:
            await self.pulls.act(job_id, action)
        elif action == "cancel":
            await cancel_map(self._client, job_id)

    def outdate(self) -> None:
        """Have `follow` look at the memory of the hosts again."""
        self._must_look.set()

    async def follow(self) -> None:
        """Show which hosts there are and what fits them, from now until the client is closed."""
        stop_listening = listen_to_maps(self._client, lambda: self._loop.post(self._begin_maps))
        self._begin_maps()
        try:
            await self._follow_hosts()
        finally:
            stop_listening()

    async def _follow_hosts(self) -> None:
        seen: frozenset[str] | None = None
        while True:
            try:
                present = await addresses_of(self._client)
                if present != seen or self._must_look.is_set():
                    self._must_look.clear()
                    await self._look()
                    seen = present
            except (ModelDeckError, OSError) as error:
                seen = None
                await self._fail(error)
                if not is_open(self._client):
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._must_look.wait(), FOLLOW_SECONDS)

    def _begin_maps(self) -> None:
        if not self._is_following_maps:
            self._is_following_maps = True
            self._tasks.start(self._follow_maps)

    async def _follow_maps(self) -> None:
        """Show the maps of this client until none runs."""
        while True:
            running = maps_of(self._client) if is_open(self._client) else ()
            maps = msgspec.convert(running, tuple[MapView, ...], from_attributes=True)
            if maps != self._maps:
                is_progress = len(maps) == len(self._maps)
                self._maps = maps
                self._on_change(None if is_progress else 0.0)
            if not maps:
                break
            await anyio.sleep(LOOK_SECONDS)
        self._is_following_maps = False

    async def _look(self) -> None:
        rooms = await look_at_hosts(self._client)
        unusable = tuple(
            UnusableHostView(host=room.name, problem=room.problem) for room in rooms if room.problem is not None
        )
        self._show(ClusterView(is_used=True, host_count=len(rooms), unusable=unusable))
        await self._repos.judge_on(rooms)

    async def _fail(self, error: ModelDeckError | OSError) -> None:
        if not is_open(self._client):
            error = ClusterError(CLIENT_CLOSED)
        elif isinstance(error, OSError):
            error = ClusterError("The scheduler of the Dask cluster cannot be reached. It is tried again.")
        view = ClusterView(is_used=True, error=error.to_info())
        if view != self._state:
            self._show(view)
            await self._repos.judge_on(None)

    def _show(self, state: ClusterView) -> None:
        if state != self._state:
            self._state = state
            self._on_change(0.0)

    def publish(self) -> None:
        """Publish what has changed."""
        view = self.view
        if view != self._shown:
            self._shown = view
            self._publisher.publish("cluster", view)
