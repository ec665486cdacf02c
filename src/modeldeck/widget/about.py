"""The trait ``_about``: the model cards that are shown."""

from __future__ import annotations

from collections import OrderedDict

import anyio.to_thread

from modeldeck._errors import ModelDeckError, RemoteFileNotFoundError
from modeldeck.session import Session
from modeldeck.widget.model_card import first_screen, parse_model_card
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import outcome_of
from modeldeck.widget.traits import AboutView

_CARDS_SHOWN = 4
_FIRST_SCREEN_CHARACTERS = 4000


class AboutOwner:
    """Owns the trait ``_about``."""

    def __init__(self, session: Session, publisher: Publisher, *, revision: str) -> None:
        self._session = session
        self._publisher = publisher
        self._revision = revision
        self._shown: OrderedDict[str, AboutView] = OrderedDict()

    async def open(self, repo_id: str) -> None:
        """Show the model card of a repository."""
        self._shown[repo_id] = AboutView()
        self._shown.move_to_end(repo_id)
        while len(self._shown) > _CARDS_SHOWN:
            self._shown.popitem(last=False)
        self._publish()
        try:
            await outcome_of(self._read, repo_id)
        except ModelDeckError as error:
            self._show(repo_id, AboutView(state="failed", error=error.to_info()))
            raise

    async def _read(self, repo_id: str) -> None:
        try:
            text = await self._session.model_card(repo_id, self._revision)
        except RemoteFileNotFoundError:  # an error for Python; the page says that there is none
            text = ""
        base_url = f"{self._session.settings.endpoint}/{repo_id}/blob/{self._revision}/"
        begin = first_screen(text, _FIRST_SCREEN_CHARACTERS)
        if begin != text:  # the whole takes a while to be read, sent and drawn
            tokens, _ = await anyio.to_thread.run_sync(parse_model_card, begin, base_url)
            self._show(repo_id, AboutView(state="open", tokens=tokens))
        tokens, is_cut = await anyio.to_thread.run_sync(parse_model_card, text, base_url)
        self._show(repo_id, AboutView(state="open", tokens=tokens, is_cut=is_cut))

    def close(self, repo_id: str) -> None:
        """Forget a model card."""
        self._shown.pop(repo_id, None)
        self._publish()

    def _show(self, repo_id: str, view: AboutView) -> None:
        if repo_id in self._shown:  # it may have been closed meanwhile
            self._shown[repo_id] = view
            self._publish()

    def _publish(self) -> None:
        self._publisher.publish("about", self._shown)
