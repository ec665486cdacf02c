"""From the loaded model to the cells that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from modeldeck._errors import NoFrontEndError
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.requests import PingMessage

if TYPE_CHECKING:
    from modeldeck.llama import Llama

HELLO_TIMEOUT_SECONDS = 5.0
_HEADLESS = 'load without it: modeldeck.load("owner/name:Q4_K_M").'


class Handover:
    """Holds the loaded model. Used on the widget's loop, except for `llm`, which any thread may read."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._llm: Llama | None = None
        self._has_news = asyncio.Event()
        self._was_greeted = asyncio.Event()
        self._is_closed = False

    @property
    def llm(self) -> Llama | None:
        """The loaded model, unless it has been unloaded by a cell."""
        llm = self._llm
        return llm if llm is not None and llm.is_loaded else None

    def greet(self) -> None:
        """A page shows the widget."""
        self._was_greeted.set()

    def give(self, llm: Llama) -> None:
        """Hand over a model to every cell that waits."""
        self._llm = llm
        self._has_news.set()

    def take_back(self) -> Llama | None:
        """The model that was handed over, which is not handed over from now on."""
        llm, self._llm = self._llm, None
        self._has_news.clear()
        return llm

    def close(self) -> None:
        """The widget is closed: end all waiting."""
        self._is_closed = True
        self._has_news.set()

    async def wait(self) -> Llama:
        """The loaded model, as soon as there is one.

        Raises
        ------
        NoFrontEndError
            When no page answers, so that nobody can press Load, or when the widget was closed.
        """
        if self.llm is None and not self._was_greeted.is_set():
            self._publisher.send(PingMessage())
            with anyio.move_on_after(HELLO_TIMEOUT_SECONDS):
                await self._was_greeted.wait()
            if not self._was_greeted.is_set():
                raise NoFrontEndError(
                    "No notebook page shows this widget, so nobody can press Load. Display it first (`browser` as the "
                    f"last line of a cell), or {_HEADLESS}"
                )
        while (llm := self.llm) is None:
            if self._is_closed:
                raise NoFrontEndError(
                    "This widget was closed, so nobody can press Load. Display a new ModelBrowser(), or " + _HEADLESS
                )
            self._has_news.clear()
            await self._has_news.wait()
        return llm
