"""Between the session and the traits: the one owner of what the widget shows, and its only publisher."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import anyio
import anyio.to_thread

from modeldeck import __version__
from modeldeck._errors import (
    InvalidRequestError,
    ModelDeckError,
    NoFrontEndError,
)
from modeldeck._loop import LoopThread
from modeldeck._types import Action, DownloadSnapshot, DownloadState, LoadProgress, LocalModel, RepoDetails, SearchQuery
from modeldeck.session import Session
from modeldeck.widget import protocol, wire
from modeldeck.widget.throttle import Throttle
from modeldeck.widget.wire import LoadView, MachineView, SearchView

if TYPE_CHECKING:
    from modeldeck.llama import Llama, Measurement

PASSING_STATE_SECONDS = 0.1
"""A state that a download only passes through on its way is shown when it lasts longer than this."""
_PASSING = (DownloadState.QUEUED, DownloadState.RESOLVING)
HELLO_TIMEOUT_SECONDS = 5.0
_IDS_REMEMBERED = 512
_REPOS_OPEN = 32

_logger = logging.getLogger(__name__)


class Display(Protocol):
    """What the bridge writes to: the widget's traits and its message channel."""

    def publish(self, name: str, value: dict[str, Any]) -> None: ...

    def send_message(self, content: dict[str, Any]) -> None: ...


class Bridge:
    """Runs on one loop thread; every attribute is touched there only, except through `post`, `llm` and `downloads`.

    Parameters
    ----------
    display : Display
        Where state and messages go.
    loop : LoopThread
        The loop everything here runs on.
    session : Session
        Asked for everything; used on the loop only, and closed when `run` ends.
    query : SearchQuery
        The first search.
    revision : str
        The revision that repositories are opened at.
    n_ctx : int
        Context length in tokens for fit and load.
    comm_id : str, optional
        The widget's comm. The front end needs it for its very first message: that one may find the shell busy.
    """

    def __init__(
        self,
        display: Display,
        loop: LoopThread,
        session: Session,
        *,
        query: SearchQuery,
        revision: str,
        n_ctx: int,
        comm_id: str | None = None,
    ) -> None:
        self._display = display
        self._loop = loop
        self._session = session
        self._revision = revision
        self._n_ctx = n_ctx
        self._search = SearchView(query=query)
        self._search_rev = 0
        self._search_scope: anyio.CancelScope | None = None
        self._repos: OrderedDict[str, RepoDetails | ModelDeckError | None] = OrderedDict()
        self._jobs: dict[str, DownloadSnapshot] = {}
        self._jobs_rev = 0
        self._local: set[tuple[str, str, str]] = set()
        self._measured: dict[tuple[str, str, str], Measurement] = {}
        self._load = LoadView()
        self._load_scope: anyio.CancelScope | None = None
        self._loaded = asyncio.Event()
        self._heard = asyncio.Event()
        self._is_over = False
        self._is_outdated = asyncio.Event()
        """What is on disk may be other than what is shown."""
        self._is_outdated.set()
        self._look = asyncio.Lock()
        """One look at the disk at a time: the last that began is the last that is shown."""
        self._seen_ids: OrderedDict[str, None] = OrderedDict()
        self._toasts = 0
        self._inbox: asyncio.Queue[protocol.Envelope] = asyncio.Queue()
        self._downloads_throttle = Throttle(self._publish_downloads)
        self._load_throttle = Throttle(self._publish_load)
        self._machine = MachineView(comm_id=comm_id)
        self._llm: Llama | None = None

    @property
    def llm(self) -> Llama | None:
        """The loaded model, unless its user has unloaded it meanwhile."""
        llm = self._llm
        return llm if llm is not None and llm.is_loaded else None

    @property
    def endpoint(self) -> str:
        return self._session.settings.endpoint

    @property
    def downloads(self) -> tuple[DownloadSnapshot, ...]:
        """What is known of downloads, from any thread."""
        return tuple(self._jobs.copy().values())

    def initial_state(self) -> dict[str, dict[str, Any]]:
        """The traits before anything has happened."""
        return {
            "_view": wire.view_wire(self.endpoint, self._n_ctx, self._machine),
            "_search": wire.search_wire(0, self._search),
            "_repos": {},
            "_downloads": wire.downloads_wire(0, ()),
            "_load": wire.load_wire(self._load),
        }

    # --- from any thread ----------------------------------------------------------------------------------------------

    def post(self, content: object) -> None:
        """Take a message of the front end. Returns at once: it may be called in the middle of a running cell."""
        self._loop.post(self._receive, content)

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _receive(self, content: object) -> None:
        message = protocol.parse(content)
        if message is None:
            return
        if isinstance(message, protocol.Malformed):
            if self._is_new(message.id):
                self._send(protocol.failure(message.id, message.error))
            return
        if self._is_new(message.id):
            self._inbox.put_nowait(message)
        # Also of a copy: a page that sends again has not heard the first one.
        self._send(protocol.acknowledgement(message.id))

    def _is_new(self, message_id: str | None) -> bool:
        """Whether nothing with this id has come before."""
        if not message_id:
            return True
        if message_id in self._seen_ids:
            return False
        self._seen_ids[message_id] = None
        if len(self._seen_ids) > _IDS_REMEMBERED:
            self._seen_ids.popitem(last=False)
        return True

    async def run(self) -> None:
        """Serve the widget until cancelled."""
        try:
            async with self._session, anyio.create_task_group() as self._tasks:
                tasks = self._tasks
                tasks.start_soon(self._guard, self._look_at_machine)
                tasks.start_soon(self._follow_engine)
                tasks.start_soon(self._follow_disk)
                tasks.start_soon(self._guard, self._run_search)
                while True:
                    tasks.start_soon(self._answer, await self._inbox.get())
        finally:
            self._is_over = True
            self._loaded.set()  # nothing will be: who waits is told so

    async def _answer(self, envelope: protocol.Envelope) -> None:
        error = await self._guard(self._carry_out, envelope.request)
        if error is None:
            self._send(protocol.success(envelope.id, {"version": __version__}))
        else:
            self._send(protocol.failure(envelope.id, error))

    async def _guard(self, function: Callable[..., Any], *args: Any) -> ModelDeckError | None:
        """Run one piece of work so that its failure, even a bug, is told and takes nothing else down."""
        try:
            await function(*args)
        except ModelDeckError as error:
            return error
        except Exception as error:
            _logger.exception("modeldeck's widget failed")
            return ModelDeckError(
                f"modeldeck failed: {type(error).__name__}: {error}. The kernel's log has the details."
            )
        return None

    async def _carry_out(self, request: protocol.Request) -> None:
        match request:
            case protocol.Hello():
                self._heard.set()
            case protocol.Search(text, sort):
                self._search = SearchView(query=replace(self._search.query, text=text, sort=sort))
                await self._run_search()
            case protocol.SearchMore():
                await self._run_search(more=True)
            case protocol.OpenRepo(repo_id):
                await self._open_repo(repo_id)
            case protocol.CloseRepo(repo_id):
                self._repos.pop(repo_id, None)
                self._publish_repos()
            case protocol.StartDownload(repo_id, variant_id):
                await self._start_download(repo_id, variant_id)
            case protocol.Pause(job_id):
                await self._act(job_id, "pause")
            case protocol.Resume(job_id):
                await self._act(job_id, "resume")
            case protocol.Cancel(job_id):
                await self._act(job_id, "cancel")
            case protocol.Retry(job_id):
                await self._act(job_id, "retry")
            case protocol.Dismiss(job_id):
                await self._act(job_id, "dismiss")
            case protocol.Load(repo_id, variant_id):
                self._start_load(repo_id, variant_id)
            case protocol.CancelLoad():
                if self._load_scope is not None:
                    self._load_scope.cancel()
            case protocol.Unload():
                await self._unload()
            case protocol.Remove(repo_id, variant_id):
                await self._remove(repo_id, variant_id)
            case protocol.SetContext(n_ctx):
                await self._set_n_ctx(n_ctx)
            case protocol.Refresh():
                await self._refresh()

    async def _look_at_machine(self) -> None:
        from modeldeck.llama import availability
        from modeldeck.sizing.hardware import probe_hardware

        hardware = await anyio.to_thread.run_sync(probe_hardware)
        self._machine = replace(self._machine, hardware=hardware, llama=availability())
        self._publish_view()

    # --- search and repositories --------------------------------------------------------------------------------------

    async def _run_search(self, *, more: bool = False) -> None:
        """Search, or get the next page; a newer search takes an older one's place."""
        view = self._search
        if more and view.next_cursor is None:
            return
        if self._search_scope is not None:
            self._search_scope.cancel()
        with anyio.CancelScope() as self._search_scope:
            self._publish_search(replace(view, status="searching", error=None))
            try:
                page = await self._session.search(
                    view.query.text,
                    sort=view.query.sort,
                    limit=view.query.limit,
                    cursor=view.next_cursor if more else None,
                )
            except ModelDeckError as error:
                self._publish_search(replace(view, status="failed", error=error))
                raise
            known = view.models if more else ()
            self._publish_search(
                replace(view, status="done", models=known + page.models, next_cursor=page.next_cursor, error=None)
            )

    async def _open_repo(self, repo_id: str) -> None:
        self._repos[repo_id] = None
        self._repos.move_to_end(repo_id)
        while len(self._repos) > _REPOS_OPEN:
            self._repos.popitem(last=False)
        self._publish_repos()
        outcome: RepoDetails | ModelDeckError
        try:
            outcome = await self._session.describe(repo_id, self._revision, n_ctx=self._n_ctx, exact=False)
        except ModelDeckError as error:
            outcome = error
        self._show_repo(repo_id, outcome)
        if isinstance(outcome, ModelDeckError):
            raise outcome
        self._tasks.start_soon(self._guard, self._refine_repo, repo_id, outcome)

    async def _refine_repo(self, repo_id: str, details: RepoDetails) -> None:
        """Let llama.cpp correct the formula, while the user already looks at the card."""
        n_ctx = self._n_ctx
        exact = await self._session.reassess(details, n_ctx=n_ctx, exact=True)
        if n_ctx != self._n_ctx:
            exact = await self._session.reassess(details, n_ctx=self._n_ctx)
        self._show_repo(repo_id, exact)

    def _show_repo(self, repo_id: str, outcome: RepoDetails | ModelDeckError) -> None:
        if repo_id in self._repos:
            self._repos[repo_id] = outcome
            self._publish_repos()

    async def _set_n_ctx(self, n_ctx: int) -> None:
        self._n_ctx = n_ctx
        self._publish_view()
        for repo_id, details in list(self._repos.items()):
            if isinstance(details, RepoDetails):
                judged = await self._session.reassess(details, n_ctx=n_ctx)
                if repo_id in self._repos and n_ctx == self._n_ctx:  # nobody has closed it or changed it since
                    self._repos[repo_id] = judged
        self._publish_repos()

    async def _follow_disk(self) -> None:
        while True:
            await self._is_outdated.wait()
            self._is_outdated.clear()
            await self._guard(self._refresh)

    async def _refresh(self) -> None:
        """Look again at what is on disk."""
        async with self._look:
            found = await self._session.local_models()
            models = {(model.repo_id, model.commit_hash, model.variant_id): model for model in found}
            measured = await self._session.measured(models.values())
            self._local = set(models)
            self._measured = {key: measured[model.path] for key, model in models.items() if model.path in measured}
            self._publish_repos()

    def _opened(self, repo_id: str) -> RepoDetails:
        details = self._repos.get(repo_id)
        if not isinstance(details, RepoDetails):
            raise InvalidRequestError(f"The files of {repo_id} are not open. Open the card and try again.")
        return details

    def _n_ctx_for(self, repo_id: str) -> int:
        """The context length to load with: the user's, but no more than the model was made for."""
        details = self._repos.get(repo_id)
        known = details.model.context_length if isinstance(details, RepoDetails) and details.model else None
        return min(self._n_ctx, known or self._n_ctx)

    async def _find_local(self, repo_id: str, variant_id: str) -> LocalModel | None:
        """The files of a variant, of the commit that its card shows."""
        details = self._repos.get(repo_id)
        commit_hash = details.commit_hash if isinstance(details, RepoDetails) else None
        return await self._session.find_local(repo_id, variant_id, commit_hash=commit_hash)

    # --- downloads ----------------------------------------------------------------------------------------------------

    async def _start_download(self, repo_id: str, variant_id: str) -> None:
        details = self._opened(repo_id)
        variant = details.variant(variant_id)
        if variant is None:
            raise InvalidRequestError(f"{repo_id} has no variant {variant_id!r}. Open the card again.")
        download = await self._session.start(self._session.request_for(details, variant))
        self._take_snapshot(download.snapshot)

    async def _act(self, job_id: str, action: Action) -> None:
        snapshot = await self._session.act(job_id, action)
        if snapshot is not None:
            self._take_snapshot(snapshot)

    async def _follow_engine(self) -> None:
        error = await self._guard(self._subscribe)
        if error is not None:
            self._toast("error", error.message)

    async def _subscribe(self) -> None:
        engine = await self._session.engine()
        unsubscribe = await self._session.subscribe(
            lambda snapshot: self._loop.post(self._take_snapshot, snapshot),
            on_removed=lambda job_id: self._loop.post(self._forget_job, job_id),
            on_notice=lambda notice: self._loop.post(self._set_engine, engine.mode, notice),
        )
        try:
            for snapshot in await self._session.downloads():
                self._take_snapshot(snapshot, is_news=False)
            self._set_engine(engine.mode, engine.notice)
            await anyio.sleep_forever()
        finally:
            unsubscribe()

    def _take_snapshot(self, snapshot: DownloadSnapshot, *, is_news: bool = True) -> None:
        before = self._jobs.get(snapshot.job_id)
        if before is not None and before.rev >= snapshot.rev:
            return
        if snapshot.request.cache_dir != str(self._session.settings.cache_dir):
            return
        if before is None and snapshot.state is DownloadState.CANCELLED:
            return  # it has left the list already
        self._jobs[snapshot.job_id] = snapshot
        if is_news and (before is None or before.state is not snapshot.state):
            self._on_transition(snapshot)
        if snapshot.state is DownloadState.CANCELLED:
            del self._jobs[snapshot.job_id]
        self._downloads_throttle.mark(patience_seconds=_patience(before, snapshot))

    def _set_engine(self, mode: Literal["inline", "process"], notice: str | None) -> None:
        self._machine = replace(self._machine, engine_mode=mode, engine_notice=notice)
        self._publish_view()

    def _forget_job(self, job_id: str) -> None:
        snapshot = self._jobs.pop(job_id, None)
        if snapshot is None:  # one that was cancelled is gone already
            return
        self._downloads_throttle.mark(patience_seconds=0.0)
        if snapshot.state is DownloadState.READY:  # perhaps because its files were deleted
            self._is_outdated.set()

    def _on_transition(self, snapshot: DownloadSnapshot) -> None:
        name = f"{snapshot.request.label} of {snapshot.request.repo_id}"
        if snapshot.state is DownloadState.READY:
            if snapshot.commit_hash is not None:
                self._local.add((snapshot.request.repo_id, snapshot.commit_hash, snapshot.request.variant_id))
            self._publish_repos()
            self._is_outdated.set()  # for a look that has begun and not seen it
            self._toast("success", f"{name} is downloaded and verified.")
        elif snapshot.state is DownloadState.FAILED and snapshot.error is not None:
            self._toast("error", f"{name} failed. {snapshot.error.message}")

    async def _remove(self, repo_id: str, variant_id: str) -> None:
        if self._load.is_about(repo_id, variant_id) and self._load.status in ("loading", "ready"):
            raise InvalidRequestError("This model is loaded. Unload it first, then remove it.")
        model = await self._find_local(repo_id, variant_id)
        if model is not None:
            await self._session.remove(model)
        else:  # some of its files are gone already
            await self._session.forget_removed_files()
        for snapshot in list(self._jobs.values()):
            request = snapshot.request
            is_unfinished = snapshot.state in (DownloadState.FAILED, DownloadState.CANCELLED)
            if (request.repo_id, request.variant_id) == (repo_id, variant_id) and is_unfinished:
                await self._session.act(snapshot.job_id, "dismiss")
        await self._refresh()

    # --- loading ------------------------------------------------------------------------------------------------------

    def _start_load(self, repo_id: str, variant_id: str) -> None:
        if self._load.status == "loading":
            raise InvalidRequestError(f"{self._load.label} of {self._load.repo_id} is being loaded. Cancel it or wait.")
        self._set_load(LoadView(status="loading", repo_id=repo_id, variant_id=variant_id, n_ctx=self._n_ctx))
        self._tasks.start_soon(self._run_load, repo_id, variant_id)

    async def _run_load(self, repo_id: str, variant_id: str) -> None:
        with anyio.CancelScope() as self._load_scope:
            error = await self._guard(self._load_model, repo_id, variant_id)
            if error is not None:
                self._set_load(replace(self._load, status="failed", progress=None, error=error))
                self._toast("error", f"Loading {self._load.label or variant_id} failed. {error.message}")
        if self._load_scope.cancelled_caught:
            self._set_load(LoadView())
        self._load_scope = None

    async def _load_model(self, repo_id: str, variant_id: str) -> None:
        await self._drop_llm()
        model = await self._find_local(repo_id, variant_id)
        if model is None:
            await self._refresh()
            raise InvalidRequestError("The model's files are no longer in the cache. Download it again.")
        n_ctx = self._n_ctx_for(repo_id)
        self._set_load(replace(self._load, label=model.label, n_ctx=n_ctx))
        llm = await self._session.load(
            model, n_ctx=n_ctx, progress=self._post_load_progress, on_notice=partial(self._toast, "info")
        )
        self._llm = llm
        self._tasks.start_soon(self._guard, self._look_at_machine)
        self._set_load(replace(self._load, status="ready", progress=LoadProgress(stage="ready", fraction=1.0)))
        self._toast("success", f"{model.label} of {repo_id} is loaded: use browser.llm.")
        self._loaded.set()

    def _post_load_progress(self, progress: LoadProgress) -> None:
        self._loop.post(self._on_load_progress, progress)

    def _on_load_progress(self, progress: LoadProgress) -> None:
        if self._load.status == "loading":
            self._load = replace(self._load, progress=progress)
            self._load_throttle.mark()

    async def _unload(self) -> None:
        await self._drop_llm()
        self._set_load(LoadView())
        await self._refresh()

    async def _drop_llm(self) -> None:
        llm, self._llm = self._llm, None
        self._loaded.clear()
        if llm is not None:
            await anyio.to_thread.run_sync(llm.unload)
            self._tasks.start_soon(self._guard, self._look_at_machine)

    async def ready(self) -> Llama:
        """The loaded model, as soon as there is one.

        Raises
        ------
        NoFrontEndError
            When nobody could press Load, because no view of the widget answers, or it was closed.
        """
        if self.llm is None and not self._heard.is_set():
            self._send(protocol.ping())
            with anyio.move_on_after(HELLO_TIMEOUT_SECONDS):
                await self._heard.wait()
            if not self._heard.is_set():
                raise NoFrontEndError(
                    "No notebook page shows this widget, so nobody can press Load. Display it first (`browser` as the "
                    'last line of a cell), or load without it: modeldeck.load("owner/name:Q4_K_M").'
                )
        while (llm := self.llm) is None:
            if self._is_over:
                raise NoFrontEndError(
                    "This widget was closed, so nobody can press Load. Display a new ModelBrowser(), or load without "
                    'it: modeldeck.load("owner/name:Q4_K_M").'
                )
            self._loaded.clear()
            await self._loaded.wait()
        return llm

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _publish_view(self) -> None:
        self._display.publish("view", wire.view_wire(self.endpoint, self._n_ctx, self._machine))

    def _publish_search(self, view: SearchView) -> None:
        self._search = view
        self._search_rev += 1
        self._display.publish("search", wire.search_wire(self._search_rev, view))

    def _publish_repos(self) -> None:
        self._display.publish("repos", {repo_id: self._repo_wire(known) for repo_id, known in self._repos.items()})

    def _repo_wire(self, known: RepoDetails | ModelDeckError | None) -> dict[str, Any]:
        if known is None:
            return wire.opening_wire()
        if isinstance(known, ModelDeckError):
            return wire.failed_repo_wire(known)
        here = (known.repo_id, known.commit_hash)
        return wire.open_repo_wire(
            known,
            endpoint=self.endpoint,
            local={key[2] for key in self._local if key[:2] == here},
            measured={key[2]: measurement for key, measurement in self._measured.items() if key[:2] == here},
            load=self._load,
        )

    def _publish_downloads(self) -> None:
        self._jobs_rev += 1
        self._display.publish("downloads", wire.downloads_wire(self._jobs_rev, self._jobs.values()))

    def _set_load(self, load: LoadView) -> None:
        self._load = load
        self._publish_load()
        self._publish_repos()

    def _publish_load(self) -> None:
        self._display.publish("load", wire.load_wire(self._load))

    def _toast(self, level: Literal["success", "error", "info"], message: str) -> None:
        self._toasts += 1
        self._send(protocol.toast(str(self._toasts), level, message))

    def _send(self, content: dict[str, Any]) -> None:
        """A message that cannot be sent is lost. It must not take with it what else the bridge does."""
        try:
            self._display.send_message(content)
        except Exception:
            _logger.exception("modeldeck's widget could not send a message")


def _patience(before: DownloadSnapshot | None, now: DownloadSnapshot) -> float | None:
    """For how many seconds the page can do without this news; ``None`` for mere progress."""
    if now.state in _PASSING:
        return PASSING_STATE_SECONDS
    is_progress = before is not None and (before.state, before.notice) == (now.state, now.notice)
    return None if is_progress else 0.0
