"""Between the page and the session: every request is handed to the owner of the trait that it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modeldeck._errors import ModelDeckError
from modeldeck._loop import LoopThread
from modeldeck._types import DownloadSnapshot, SearchQuery
from modeldeck.session import Session
from modeldeck.widget import requests
from modeldeck.widget.about import AboutOwner
from modeldeck.widget.account import AccountOwner
from modeldeck.widget.deck import DeckOwner
from modeldeck.widget.downloads import DownloadsOwner
from modeldeck.widget.inbox import Inbox
from modeldeck.widget.load import LoadOwner
from modeldeck.widget.load_plan import PlanOwner
from modeldeck.widget.publisher import Display, Publisher, as_json
from modeldeck.widget.repos import ReposOwner
from modeldeck.widget.search import SearchOwner
from modeldeck.widget.shelf import LibraryOwner
from modeldeck.widget.tasks import Tasks, guard
from modeldeck.widget.traits import ClusterView, DeckState, Locale, ModelKey
from modeldeck.widget.trial import ChatOwner

if TYPE_CHECKING:
    from modeldeck.llama import Llama
    from modeldeck.widget.cluster_owner import ClusterOwner


class Bridge:
    """Serves one widget on one loop thread. Only `post`, `llm`, `downloads` and `error` may be used from other threads.

    Parameters
    ----------
    display : Display
        Where state and messages go.
    loop : LoopThread
        The loop that everything here runs on.
    session : Session
        Does the work. Used on the loop only, and closed when `run` ends.
    query : SearchQuery
        The first search.
    revision : str
        The branch, tag or commit that repositories are opened at.
    n_ctx : int
        Context length in tokens for fit and load.
    locale : {"en", "pt-BR"}, optional
        The language of the page, instead of its host's.
    comm_id : str, optional
        The widget's comm. The page needs it for its first message, which may find the shell busy.
    client : distributed.Client, optional
        Models go to all hosts of its Dask cluster instead of this machine.
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
        locale: Locale | None = None,
        comm_id: str | None = None,
        client: Any = None,
    ) -> None:
        self._loop = loop
        self._session = session
        self._tasks = Tasks()
        self._publisher = publisher = Publisher(display)
        self._inbox = Inbox(publisher)
        self._deck = DeckOwner(
            publisher, endpoint=session.settings.endpoint, n_ctx=n_ctx, locale=locale, comm_id=comm_id
        )
        self._search = SearchOwner(session, publisher, query)
        self._account = AccountOwner(session, publisher)
        self._about = AboutOwner(session, publisher, revision=revision)
        self._repos = ReposOwner(
            session,
            publisher,
            self._tasks,
            self._deck,
            revision=revision,
            on_local=self._search.show_local,
            on_header=self._search.show_header,
        )
        self._library = LibraryOwner(session, publisher, self._tasks, self._repos.files)
        self._plan = PlanOwner(session, publisher, self._repos)
        self._chat = ChatOwner(publisher, loop, self._tasks)
        self._load = LoadOwner(
            session, publisher, loop, self._tasks, self._deck, self._repos, self._library, self._chat
        )
        self._downloads = DownloadsOwner(session, publisher, loop, self._deck, self._repos, self._load)
        self._cluster: ClusterOwner | None = None
        if client is not None:
            from modeldeck.widget.cluster_owner import ClusterOwner

            self._cluster = self._downloads.cluster = ClusterOwner(
                client,
                session,
                publisher,
                loop,
                self._tasks,
                self._repos,
                on_change=lambda patience: self._downloads.mark(patience_seconds=patience),
            )
        self.ready = self._load.handover.wait

    @property
    def llm(self) -> Llama | None:
        """The loaded model, unless it has been unloaded by a cell."""
        return self._load.handover.llm

    @property
    def endpoint(self) -> str:
        """Where the widget searches."""
        return self._deck.view.endpoint

    @property
    def downloads(self) -> tuple[DownloadSnapshot, ...]:
        """What is known of downloads."""
        return self._downloads.snapshots

    @property
    def chat(self) -> list[dict[str, str]]:
        """The conversation with the loaded model, as ``create_chat_completion`` takes it."""
        return self._chat.conversation

    @property
    def error(self) -> ModelDeckError | None:
        """The last error of a request, a download or a load."""
        return self._publisher.error

    def initial_state(self) -> dict[str, dict[str, Any]]:
        """The traits before anything has happened."""
        cluster = ClusterView() if self._cluster is None else self._cluster.view
        state = DeckState(view=self._deck.view, account=self._account.view, search=self._search.view, cluster=cluster)
        return {f"_{name}": value for name, value in as_json(state).items()}

    def post(self, content: object) -> None:
        """Take a message of the page. Returns at once: it may be called in the middle of a running cell."""
        self._loop.post(self._inbox.receive, content)

    def take_over(self, predecessor: Bridge) -> None:
        """Show, and be able to unload, the model that another widget has loaded. Call it on the loop."""
        self._load.take_over(predecessor._load)

    async def run(self) -> None:
        """Serve the widget until cancelled."""
        try:
            async with self._session, self._tasks:
                self._tasks.start(self._deck.follow_machine)
                self._tasks.start(self._downloads.follow)
                self._tasks.start(self._repos.files.follow)
                self._tasks.start(self._search.run)
                if self._cluster is not None:
                    self._tasks.start(self._cluster.follow)
                while True:
                    self._tasks.start(self._answer, await self._inbox.get())
        finally:
            self._load.handover.close()

    async def _answer(self, envelope: requests.Envelope) -> None:
        error = await guard(self._carry_out, envelope.request)
        self._publisher.send(requests.answer(envelope.id, error))
        if error is not None:
            self._publisher.report(error)

    async def _carry_out(self, request: requests.Request) -> None:
        match request:
            case requests.HelloRequest():
                self._load.handover.greet()
                self._tasks.start(self._downloads.look_at_limits)
            case requests.SearchRequest(text, sort, filters):
                await self._search.search(text, sort, filters)
            case requests.SearchMoreRequest():
                await self._search.more()
            case requests.OpenRepoRequest(repo_id):
                if self._cluster is not None:
                    self._cluster.outdate()
                await self._repos.open(repo_id)
            case requests.PeekRequest(repo_id):
                await self._repos.peek(repo_id)
            case requests.CloseRepoRequest(repo_id):
                self._repos.close(repo_id)
            case requests.SetProjectorRequest(repo_id, is_wanted):
                await self._repos.set_projector(repo_id, is_wanted=is_wanted)
            case requests.OpenAboutRequest(repo_id):
                await self._about.open(repo_id)
            case requests.CloseAboutRequest(repo_id):
                self._about.close(repo_id)
            case requests.LookAtAccountRequest():
                await self._account.look()
            case requests.ActRequest(job_id, action):
                await self._downloads.act(job_id, action)
            case requests.ActOnVariantRequest():
                await self._act_on_variant(request)
            case requests.SetContextRequest(n_ctx):
                self._deck.set_n_ctx(n_ctx)
                await self._repos.judge_again()
            case requests.PlanLoadRequest(repo_id, variant_id, commit_hash, choices):
                await self._plan.make(repo_id, variant_id, commit_hash, choices)
            case requests.ActOnLibraryRequest():
                await self._act_on_library(request)
            case requests.ActOnDownloadsRequest(action):
                await self._downloads.act_on_all(action)
            case requests.SetLimitsRequest(max_active_jobs, bandwidth):
                await self._downloads.set_limits(max_active_jobs, bandwidth)
            case requests.TryRequest(text, system, temperature):
                self._chat.ask(text, system=system, temperature=temperature)
            case requests.CompareRequest(first, second):
                self._chat.compare(first, second)
            case requests.ActOnChatRequest("stop"):
                self._chat.stop()
            case requests.ActOnChatRequest("clear"):
                self._chat.clear()

    async def _act_on_variant(self, request: requests.ActOnVariantRequest) -> None:
        repo_id, variant_id = request.repo_id, request.variant_id
        match request.action:
            case "download":
                await self._downloads.start(repo_id, variant_id)
            case "get":
                await self._downloads.start(repo_id, variant_id, load_when_ready=True)
            case "load" if request.is_retry:
                self._load.retry(repo_id, variant_id)
            case "load":
                self._load.start(repo_id, variant_id, commit_hash=request.commit_hash, choices=request.choices)
            case "cancel_load" if self._load.state_of(repo_id, variant_id, request.commit_hash) == "loading":
                self._load.cancel()
            case "unload" if self._load.state_of(repo_id, variant_id, request.commit_hash) == "loaded":
                await self._load.unload()
            case "verify" | "repair" | "cancel_verify":
                model = await self._repos.local_model(repo_id, variant_id, request.commit_hash)
                key = ModelKey(repo_id=model.repo_id, variant_id=variant_id, commit_hash=model.commit_hash)
                if request.action == "cancel_verify":
                    self._library.cancel([key])
                else:
                    self._library.verify([key], repair=request.action == "repair")
            case "remove":
                await self._remove(repo_id, variant_id, request.commit_hash)

    async def _act_on_library(self, request: requests.ActOnLibraryRequest) -> None:
        match request.action:
            case "refresh":
                await self._repos.files.refresh()
            case "verify" | "repair":
                self._library.verify(request.models, repair=request.action == "repair")
            case "cancel_verify":
                self._library.cancel(request.models)
            case "remove":
                for key in request.models:
                    self._load.check_unused(key.repo_id, key.variant_id)
                await self._library.remove(request.models)
            case "remove_leftovers":
                await self._library.remove_leftovers(request.leftovers)

    async def _remove(self, repo_id: str, variant_id: str, commit_hash: str | None) -> None:
        """Delete a variant's files at one commit or at all, and take its failed downloads off the list."""
        self._load.check_unused(repo_id, variant_id)
        self._library.check_idle(repo_id, variant_id)
        removed: list[str] = []
        while (
            model := await self._repos.find_local(repo_id, variant_id, commit_hash)
        ) and model.commit_hash not in removed:
            removed.append(model.commit_hash)
            await self._session.remove(model)
        if not removed:  # some of its files are gone already
            await self._session.forget_removed_files()
        await self._downloads.dismiss_unfinished(repo_id, variant_id)
        await self._repos.files.refresh()
