"""`ModelBrowser`: the widget itself. It holds traits and hands everything else to the bridge."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anywidget
import msgspec
import traitlets

from modeldeck._context_length import read_n_ctx
from modeldeck._errors import InvalidRequestError
from modeldeck._loop import shared_loop
from modeldeck._types import DEFAULT_N_CTX, MAX_PAGE_SIZE, EngineLimits, SearchQuery
from modeldeck.session import Session
from modeldeck.widget.bridge import Bridge
from modeldeck.widget.comm_patches import prepare_comm
from modeldeck.widget.succession import after_this_cell
from modeldeck.widget.traits import Locale

if TYPE_CHECKING:
    from modeldeck.llama import Llama

_logger = logging.getLogger(__name__)

_BUNDLE = Path(__file__).parent / "static" / "widget.js"
_TRANSLATIONS = _BUNDLE.with_name("texts.json")
_WAKE_SECONDS = 0.25


def _bundle_text() -> str:
    if not _BUNDLE.is_file():
        raise InvalidRequestError(
            "modeldeck's JavaScript is not built. In a checkout run `npm ci && npm run build` in js/; "
            "an installed wheel always has it, so reinstall modeldeck."
        )
    return _BUNDLE.read_text(encoding="utf-8")


def _translations() -> dict[str, Any]:
    """The texts of the page in other languages than English."""
    translations: dict[str, Any] = msgspec.json.decode(_TRANSLATIONS.read_bytes()) if _TRANSLATIONS.is_file() else {}
    return translations


class _Live(traitlets.TraitType[Any, Any]):
    """A read-only trait whose value is read from the bridge each time, so that it is current in a running cell too."""

    def __init__(self, help: str) -> None:
        super().__init__(read_only=True, help=help)

    def get(self, obj: Any, cls: type[Any] | None = None) -> Any:
        return getattr(obj._bridge, self.name or "")


class ModelBrowser(anywidget.AnyWidget):
    """The widget: search, download and load GGUF models in a notebook cell.

    Show it as the last line of a cell. After you have pressed Load, the model is ``browser.llm`` in every later cell,
    or ``llm = await browser``.

    Parameters
    ----------
    query : str, optional
        The text to search for at first. Without one, the widget begins with what is trending on the Hub.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    revision : str
        The branch, tag or commit of the repositories to open.
    n_ctx : int
        The context length in tokens that models are judged for and loaded with. The user can change it.
    page_size : int
        Results that a search shows at once, 1 to 100.
    locale : {"en", "pt-BR"}, optional
        The language of the page: English or Brazilian Portuguese. By default it is the language of the notebook, and
        English where that is another one.
    inline : bool, optional
        Download on a thread of the kernel, instead of in the engine's own process.
    limits : EngineLimits, optional
        What the download engine may use. They apply to every program that uses this engine, and stay until they are
        changed. ``None`` leaves the engine's own.
    client : distributed.Client, optional
        The client of a Dask cluster. Cards then say on how many of its hosts a variant fits, and Get and Download bring
        it to all of them instead of this machine. Prompts that a `cluster.Fleet` of this client answers are shown.
    **options : Any
        The options of every ipywidgets widget, such as ``layout``.

    Attributes
    ----------
    llm : Llama or None
        The loaded model; ``None`` before a model is loaded.
    downloads : tuple[DownloadSnapshot, ...]
        The downloads that run, are paused, have failed or are finished.
    client : distributed.Client or None
        The client that was given.
    chat : list[dict[str, str]]
        The conversation of the loaded model's panel, as ``create_chat_completion`` takes it.
    error : ModelDeckError or None
        The last error of a search, a download or a load.
    loaded : dict or None
        What ``llm`` is: ``repo_id``, ``variant_id``, ``label``, ``commit_hash`` and ``n_ctx``. The page knows it too:
        when it changes, marimo runs the cells that use the widget.

    Notes
    -----
    ``llm``, ``downloads``, ``chat`` and ``error`` are read-only traits. In a kernel their observers are called on its
    main thread, in the order of the changes, and not before the running cell has ended. ``loaded`` is a read-only trait
    too. Its observers are called at once, on the widget's own thread. What an observer raises is logged.

    Examples
    --------
    >>> browser = ModelBrowser("smollm2")  # doctest: +SKIP
    >>> browser  # doctest: +SKIP
    >>> llm = await browser  # doctest: +SKIP
    >>> browser.observe(lambda change: print(change.new), "llm")  # doctest: +SKIP
    """

    _view = traitlets.Dict().tag(sync=True)
    _account = traitlets.Dict().tag(sync=True)
    _search = traitlets.Dict().tag(sync=True)
    _repos = traitlets.Dict().tag(sync=True)
    _about = traitlets.Dict().tag(sync=True)
    _picks = traitlets.Dict().tag(sync=True)
    _downloads = traitlets.Dict().tag(sync=True)
    _load = traitlets.Dict().tag(sync=True)
    _library = traitlets.Dict().tag(sync=True)
    _plan = traitlets.Dict().tag(sync=True)
    _chat = traitlets.Dict().tag(sync=True)
    _cluster = traitlets.Dict().tag(sync=True)
    _texts = traitlets.Dict().tag(sync=True)

    loaded = traitlets.Dict(allow_none=True, default_value=None, read_only=True).tag(sync=True)
    llm = _Live(help="The loaded model, or None.")
    downloads = _Live(help="The downloads that are running, paused, failed and finished.")
    chat = _Live(help="The conversation with the loaded model.")
    error = _Live(help="The last error of a search, a download or a load, or None.")

    _serving: Future[None] | None = None

    def __init__(
        self,
        query: str | None = "",
        *,
        endpoint: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        revision: str = "main",
        n_ctx: int = DEFAULT_N_CTX,
        page_size: int = 20,
        locale: Locale | None = None,
        inline: bool | None = None,
        limits: EngineLimits | None = None,
        client: Any = None,
        **options: Any,
    ) -> None:
        for name in options:
            if name.startswith("_") or name not in anywidget.AnyWidget.class_trait_names():
                raise TypeError(f"ModelBrowser() got an unexpected keyword argument {name!r}")
        query = "" if query is None else query
        for name, text in (("query", query), ("revision", revision)):
            if not isinstance(text, str):
                raise InvalidRequestError(f"{name} must be a text, not {text!r}.")
        if type(page_size) is not int or not 1 <= page_size <= MAX_PAGE_SIZE:
            raise InvalidRequestError(
                f"page_size must be a whole number between 1 and {MAX_PAGE_SIZE}, not {page_size!r}."
            )
        if locale is not None and locale not in get_args(Locale):
            raise InvalidRequestError(f"There is no locale {locale!r}. Use one of: {', '.join(get_args(Locale))}.")
        if client is not None:
            from modeldeck.cluster.dask_calls import client_of

            client_of(client)  # refuses what cannot be used
        self.client = client
        self._esm = _bundle_text()
        self._texts = _translations()
        self._loop = shared_loop()
        comm_id = uuid.uuid4().hex
        self._bridge = Bridge(
            _Traits(self),
            self._loop,
            Session(endpoint=endpoint, cache_dir=cache_dir, token=token, inline=inline, limits=limits),
            query=SearchQuery(text=query, sort="downloads" if query else "trending", limit=page_size),
            revision=revision,
            n_ctx=read_n_ctx(n_ctx),
            locale=locale,
            comm_id=comm_id,
            client=client,
        )
        self.on_msg(self._on_message)
        super().__init__(model_id=comm_id, **self._bridge.initial_state(), **options)
        if self.comm is not None:
            prepare_comm(self.comm)
        self._serving = self._loop.start(self._bridge.run())
        after_this_cell(self, ModelBrowser, take_over=self._take_over)

    def __await__(self) -> Generator[Any, None, Llama]:
        return self._ready().__await__()

    async def _ready(self) -> Llama:
        ready = asyncio.wrap_future(self._loop.start(self._bridge.ready()))
        try:
            while not ready.done():
                # ipykernel notices the user's interrupt of an `await` only when its loop wakes up.
                await asyncio.wait({ready}, timeout=_WAKE_SECONDS)
        finally:
            ready.cancel()
        return ready.result()

    def wait(self, timeout: float | None = None) -> Llama:
        """Block until a model is loaded, and return it. An interrupt ends the waiting and leaves the download alone.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. Without it, wait as long as it takes.

        Returns
        -------
        Llama
            The loaded model.

        Raises
        ------
        TimeoutError
            If the timeout is over.
        NoFrontEndError
            If no page shows the widget, if its clicks cannot reach a running cell, or if the widget is closed.

        Examples
        --------
        >>> llm = browser.wait(timeout=600)  # doctest: +SKIP
        """
        return self._loop.wait(self._bridge.ready(), timeout)

    def close(self) -> None:
        """Remove the widget from the page. Downloads continue, and a loaded model stays usable."""
        if self._serving is not None:
            self._serving.cancel()
        super().close()

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Ignore state from the page, because Python is the only writer of the traits.

        Parameters
        ----------
        sync_data : dict[str, Any]
            The state that the page sent.
        """

    def _take_over(self, predecessor: ModelBrowser) -> None:
        self._loop.post(self._bridge.take_over, predecessor._bridge)

    def _on_message(self, _widget: object, content: object, _buffers: object) -> None:
        self._bridge.post(content)

    def __repr__(self) -> str:
        return f"ModelBrowser(endpoint={self._bridge.endpoint!r})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return what the notebook shows. A page that cannot show the widget falls back to the text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/plain"] += f"\n{_WHY_TEXT}"
        return bundle


_WHY_TEXT = """\
This page cannot show the widget. If it was open while modeldeck was installed, reload it. If the kernel runs in
another environment than Jupyter, run pip install anywidget in Jupyter's environment too, then reload the page."""


def _loaded(load: dict[str, Any]) -> dict[str, Any] | None:
    """The trait ``loaded``, which is a part of the trait ``_load``."""
    names = ("repo_id", "variant_id", "label", "commit_hash", "n_ctx")
    return {name: load[name] for name in names} if load["state"] == "ready" else None


@contextmanager
def _observers() -> Iterator[None]:
    """Log what an observer of the user raises. The trait has its value by then, and the widget has other work to do."""
    try:
        yield
    except Exception:
        _logger.exception("An observer of modeldeck's widget failed")


class _Traits:
    """The bridge's way to the widget."""

    def __init__(self, widget: ModelBrowser) -> None:
        self._widget = widget
        try:
            self._kernel_loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # not in a kernel: observers are called on the widget's own thread
            self._kernel_loop = None

    def publish(self, name: str, value: dict[str, Any]) -> None:
        if name == "load":
            with _observers():
                self._widget.set_trait("loaded", _loaded(value))
        with _observers():
            setattr(self._widget, f"_{name}", value)

    def together(self) -> AbstractContextManager[None]:
        holding: AbstractContextManager[None] = self._widget.hold_sync()
        return holding

    def send_message(self, content: dict[str, Any]) -> None:
        self._widget.send(content)

    def announce(self, name: str, old: object, new: object) -> None:
        change = traitlets.Bunch(name=name, old=old, new=new, owner=self._widget, type="change")
        loop = self._kernel_loop
        if loop is None:
            self._notify(change)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._notify, change)

    def _notify(self, change: traitlets.Bunch) -> None:
        with _observers():
            self._widget.notify_change(change)
