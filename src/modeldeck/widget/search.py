"""The trait ``_search``: the results of the last search."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
from msgspec.structs import replace

from modeldeck._errors import ModelDeckError
from modeldeck._types import ModelTraits, SearchPage, SearchQuery, SortKey
from modeldeck.session import Session
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import outcome_of
from modeldeck.widget.traits import FiltersView, SearchView, SummaryView

NO_FILTERS = FiltersView()


class SearchOwner:
    """Owns the trait ``_search``. A newer search takes the place of one that is still running."""

    def __init__(self, session: Session, publisher: Publisher, query: SearchQuery) -> None:
        self._session = session
        self._publisher = publisher
        self._limit = query.limit
        self._cursor: str | None = None
        self._local: tuple[str, ...] = ()
        self._active: dict[str, int] = {}
        """The active parameters of the repositories whose header has been read."""
        self._scope: anyio.CancelScope | None = None
        self.view = SearchView(text=query.text, sort=query.sort)

    async def search(self, text: str, sort: SortKey, filters: FiltersView = NO_FILTERS) -> None:
        """Show the first page of another search."""
        self.view = SearchView(text=text, sort=sort, filters=filters)
        await self.run()

    def show_local(self, repo_ids: Iterable[str]) -> None:
        """Show of which repositories this machine has a variant."""
        local = tuple(sorted(set(repo_ids)))
        if local != self._local:
            self._local = local
            self._show(self.view)

    def show_header(self, repo_id: str, model: ModelTraits) -> None:
        """Show what the header of a model tells better than the name of its repository."""
        count = model.active_parameter_count
        if count is not None and self._active.get(repo_id) != count:
            self._active[repo_id] = count
            self._show(self.view)

    async def run(self) -> None:
        """Get the first page of the search that is shown."""
        self._cursor = None
        await self._get_page(replace(self.view, models=(), has_more=False), None)

    async def more(self) -> None:
        """Append the next page, if there is one."""
        if self._cursor is not None:
            await self._get_page(self.view, self._cursor)

    async def _get_page(self, view: SearchView, cursor: str | None) -> None:
        if self._scope is not None:
            self._scope.cancel()
        with anyio.CancelScope() as self._scope:
            self._show(replace(view, state="searching", error=None))
            try:
                page = await outcome_of(self._ask, view, cursor)
            except ModelDeckError as error:
                self._show(replace(view, state="failed", error=error.to_info()))
                raise
            self._cursor = page.next_cursor
            models = tuple(SummaryView.of(model, self._session.settings.endpoint) for model in page.models)
            self._show(
                replace(view, state="done", models=view.models + models, has_more=self._cursor is not None, error=None)
            )

    async def _ask(self, view: SearchView, cursor: str | None) -> SearchPage:
        return await self._session.search(
            view.text,
            sort=view.sort,
            limit=self._limit,
            author=view.filters.author,
            filters=view.filters.to_query(),
            cursor=cursor,
        )

    def _show(self, view: SearchView) -> None:
        models = tuple(
            replace(model, active_parameter_count=self._active.get(model.repo_id, model.active_parameter_count))
            for model in view.models
        )
        self.view = replace(view, models=models, local=self._local)
        self._publisher.publish("search", self.view)
