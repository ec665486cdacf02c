"""From the loaded model to the cells that wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from modeldeck._errors import NoFrontEndError
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.requests import PingMessage
from modeldeck.widget.waiting import why_no_cell_can_wait

if TYPE_CHECKING:
    from modeldeck.llama import Llama

HELLO_TIMEOUT_SECONDS = 5.0
ANSWER_TIMEOUT_SECONDS = 10.0
"""A page that has said hello before may be slow, but answers within this time if its messages arrive at all."""
_HEADLESS = 'load without it: modeldeck.load("owner/name:Q4_K_M").'


class Handover:
    """Holds the loaded model for cells that wait for it. Used on the widget's loop; any thread may read `llm`."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._llm: Llama | None = None
        self._has_news = asyncio.Event()
        self._was_greeted = asyncio.Event()
        self._is_closed = False
        self._why_not = why_no_cell_can_wait()
        self.is_expected = False
        """A model is being loaded, or will be when it is downloaded: nobody has to press Load."""

    @property
    def llm(self) -> Llama | None:
        """The loaded model, unless it has been unloaded by a cell."""
        llm = self._llm
        return llm if llm is not None and llm.is_loaded else None

    @property
    def is_unloaded(self) -> bool:
        """Whether a model was handed over that a cell has unloaded since."""
        return self._llm is not None and not self._llm.is_loaded

    def greet(self) -> None:
        """A page shows the widget."""
        self._was_greeted.set()

    def give(self, llm: Llama) -> None:
        """Hand over a model to every cell that waits."""
        self._set(llm)
        self._has_news.set()

    def take_back(self) -> Llama | None:
        """The model that was handed over, which is not handed over from now on."""
        llm = self._llm
        self._set(None)
        self._has_news.clear()
        return llm

    def _set(self, llm: Llama | None) -> None:
        before, self._llm = self._llm, llm
        self._publisher.announce("llm", before, llm)

    def close(self) -> None:
        """The widget is closed: end all waiting."""
        self._is_closed = True
        self._was_greeted.set()
        self._has_news.set()

    async def wait(self) -> Llama:
        """The loaded model, as soon as there is one.

        Raises
        ------
        NoFrontEndError
            When no page answers, so that nobody can press Load, or when the widget was closed.
        """
        if self.llm is None and not self.is_expected and not self._is_closed:
            await self._check_page()
        while (llm := self.llm) is None:
            if self._is_closed:
                raise NoFrontEndError(
                    "This widget was closed, so nobody can press Load. Display a new ModelBrowser(), or " + _HEADLESS
                )
            self._has_news.clear()
            await self._has_news.wait()
        return llm

    async def _check_page(self) -> None:
        """Make sure that a click could reach Python now, while a cell waits for it."""
        if self._why_not:
            raise NoFrontEndError(f"{self._why_not}, or {_HEADLESS}")
        was_greeted = self._was_greeted.is_set()
        self._was_greeted.clear()
        self._publisher.send(PingMessage())
        with anyio.move_on_after(ANSWER_TIMEOUT_SECONDS if was_greeted else HELLO_TIMEOUT_SECONDS):
            await self._was_greeted.wait()
            return
        if self.llm is not None or self.is_expected or self._is_closed:
            return
        if was_greeted:
            self._was_greeted.set()
            raise NoFrontEndError(
                "The page does not answer while this cell runs: it was closed, or this notebook delivers no clicks to "
                f"a running cell. Press Load first and run this cell when the model is loaded, or {_HEADLESS}"
            )
        raise NoFrontEndError(
            "No notebook page shows this widget, so nobody can press Load. Display it first (`browser` as the last "
            f"line of a cell), or {_HEADLESS}"
        )
