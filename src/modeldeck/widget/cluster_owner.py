"""The trait ``_cluster``: what is known of the Dask cluster that models go to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modeldeck.session import Session
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.pulls import Pulls
from modeldeck.widget.repos import ReposOwner
from modeldeck.widget.tasks import Tasks
from modeldeck.widget.traits import ClusterView


class ClusterOwner:
    """Owns the trait ``_cluster``.

    Parameters
    ----------
    client
        The Dask client.
    session, publisher, tasks
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
        tasks: Tasks,
        repos: ReposOwner,
        *,
        on_change: Callable[[float | None], object],
    ) -> None:
        self._publisher = publisher
        self.pulls = Pulls(
            client, session.settings, publisher, tasks, on_change=on_change, on_ready=repos.files.outdate
        )
        self._shown = self.view

    @property
    def view(self) -> ClusterView:
        """What the trait is to hold."""
        return ClusterView(is_used=True, pulls=self.pulls.hosts)

    def publish(self) -> None:
        """Publish what has changed."""
        view = self.view
        if view != self._shown:
            self._shown = view
            self._publisher.publish("cluster", view)
