"""The trait ``_load``: the model that is loaded, or being loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from msgspec.structs import replace

from modeldeck._errors import InvalidRequestError, LlamaInstallingError
from modeldeck._loop import LoopThread
from modeldeck._types import LoadProgress
from modeldeck.session import Session
from modeldeck.widget.deck import DeckOwner
from modeldeck.widget.handover import Handover
from modeldeck.widget.load_plan import code_of, load_arguments, plan_load
from modeldeck.widget.pacer import Pacer
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.repos import ReposOwner
from modeldeck.widget.shelf import LibraryOwner
from modeldeck.widget.tasks import Tasks, guard
from modeldeck.widget.traits import LoadChoices, LoadView, VariantState
from modeldeck.widget.trial import ChatOwner

if TYPE_CHECKING:
    from modeldeck.llama import Llama


class LoadOwner:
    """Owns the trait ``_load``.

    Parameters
    ----------
    session, publisher, loop, tasks
        Shared with the other owners.
    deck : DeckOwner
        Measures the memory again after a load.
    repos : ReposOwner
        Has the files to load, and shows what is loaded.
    library : LibraryOwner
        Shows what is loaded, too.
    chat : ChatOwner
        Tries what is loaded.
    """

    def __init__(
        self,
        session: Session,
        publisher: Publisher,
        loop: LoopThread,
        tasks: Tasks,
        deck: DeckOwner,
        repos: ReposOwner,
        library: LibraryOwner,
        chat: ChatOwner,
    ) -> None:
        self._session = session
        self._publisher = publisher
        self._loop = loop
        self._tasks = tasks
        self._deck = deck
        self._repos = repos
        self._library = library
        self._chat = chat
        self._scope: anyio.CancelScope | None = None
        self._pacer = Pacer(self._publish)
        self._view = LoadView()
        self._wish: tuple[str, str] | None = None
        self._asked: tuple[str, str, str | None, LoadChoices] | None = None
        """What `start` was told the last time."""
        self.handover = Handover(publisher)

    def start(
        self,
        repo_id: str,
        variant_id: str,
        *,
        commit_hash: str | None = None,
        choices: LoadChoices = LoadChoices(),  # noqa: B008 - it is frozen
    ) -> None:
        """Load a variant that is in the cache, in the place of the model that is loaded.

        Parameters
        ----------
        repo_id, variant_id
            The variant.
        commit_hash
            The commit that it belongs to, where the cache may have it of several.
        choices
            How to load it.
        """
        view = self._view
        if view.state == "loading":
            raise InvalidRequestError(
                f"{view.label or view.variant_id} of {view.repo_id} is being loaded. Cancel it or wait."
            )
        self._asked = (repo_id, variant_id, commit_hash, choices)
        n_ctx = choices.n_ctx or self._deck.view.n_ctx
        self._show(
            LoadView(state="loading", repo_id=repo_id, variant_id=variant_id, commit_hash=commit_hash, n_ctx=n_ctx)
        )
        self._tasks.start(self._run, repo_id, variant_id, choices)

    def retry(self, repo_id: str, variant_id: str) -> None:
        """Load a variant once more, from the commit and with the choices of the last time."""
        if self._asked is not None and self._asked[:2] == (repo_id, variant_id):
            _, _, commit_hash, choices = self._asked
            self.start(repo_id, variant_id, commit_hash=commit_hash, choices=choices)
        else:
            self.start(repo_id, variant_id)

    def wish(self, repo_id: str, variant_id: str) -> None:
        """Load this variant when it is downloaded, in the place of an earlier wish."""
        self._wish = (repo_id, variant_id)
        self._update_handover()

    def drop_wish(self, repo_id: str, variant_id: str) -> None:
        """The variant is not to be loaded when it is downloaded, or will not be downloaded."""
        if self._wish == (repo_id, variant_id):
            self._wish = None
            self._update_handover()

    def fulfil(self, repo_id: str, variant_id: str) -> None:
        """The variant is downloaded: load it if this was wished, unless another model is being loaded."""
        if self._wish == (repo_id, variant_id):
            self._wish = None
            if self._view.state != "loading":
                self.start(repo_id, variant_id)
            self._update_handover()

    def cancel(self) -> None:
        """Stop loading."""
        if self._scope is not None:
            self._scope.cancel()

    async def unload(self) -> None:
        """Free the model's memory."""
        view = self._view
        await self._drop()
        if self._view is view:  # else another load has begun
            self._show(LoadView())
        await self._repos.files.refresh()
        self._tasks.start(self._repos.judge_again)  # its memory is free, and its speed has been measured

    def state_of(self, repo_id: str, variant_id: str, commit_hash: str | None = None) -> VariantState | None:
        """Whether a variant is loaded or being loaded. A request about another one comes too late."""
        return self._view.variant_state(repo_id, variant_id, commit_hash)

    def take_over(self, other: LoadOwner) -> None:
        """Take the model of another widget, unless this one has one already."""
        other.cancel()
        llm, view = other.handover.llm, other._view
        if llm is not None and self._view.state == "none":
            other.handover.take_back()
            other._show(LoadView())
            other._chat.drop()
            self.handover.give(llm)
            self._chat.take(llm)
            self._show(view)
            self._follow(llm)

    def check_unused(self, repo_id: str, variant_id: str) -> None:
        """Refuse to remove the files of a model that is loaded or being loaded."""
        if self.state_of(repo_id, variant_id) is not None:
            raise InvalidRequestError("This model is loaded. Unload it first, then remove it.")

    async def _run(self, repo_id: str, variant_id: str, choices: LoadChoices) -> None:
        with anyio.CancelScope() as self._scope:
            error = await guard(self._load_model, repo_id, variant_id, choices)
            if error is not None:
                self._show(replace(self._view, state="failed", stage=None, fraction=None, error=error.to_info()))
                label = self._view.label or variant_id
                self._publisher.toast(
                    "error",
                    f"Loading {label} failed. {error.message}",
                    "load_failed",
                    label=label,
                    repo_id=repo_id,
                    error=error.to_info(),
                )
                self._publisher.report(error)
        if self._scope.cancelled_caught:
            self._show(LoadView())
        self._scope = None

    async def _load_model(self, repo_id: str, variant_id: str, choices: LoadChoices) -> None:
        await self._drop()
        model = await self._repos.local_model(repo_id, variant_id, self._view.commit_hash)
        n_ctx = choices.n_ctx or self._repos.n_ctx_of(repo_id)
        has_projector = self._repos.loads_projector(repo_id, self._view.commit_hash)
        self._show(replace(self._view, label=model.label, commit_hash=model.commit_hash, n_ctx=n_ctx))
        load = partial(
            self._session.load,
            model,
            mmproj=None if has_projector else False,
            progress=lambda progress: self._loop.post(self._on_progress, progress),
            on_notice=partial(self._publisher.toast, "info"),
            **load_arguments(choices),
        )
        while True:
            try:
                plan = await plan_load(self._session, model, choices, n_ctx, projector=has_projector)
                n_ctx = plan.options["n_ctx"]
                code = await code_of(model, choices, n_ctx, projector=has_projector, plan=plan)
                llm = await load(n_ctx=n_ctx)
                break
            except LlamaInstallingError:
                self._show(replace(self._view, stage="installing"))
                await self._deck.follow_machine()
        self._tasks.start(self._deck.look_at_machine)
        self.handover.give(llm)
        kind = self._chat.take(llm)
        loaded = replace(self._view, state="ready", stage="ready", fraction=1.0)
        self._show(replace(loaded, kind=kind, n_ctx=llm.n_ctx(), code=code))
        self._follow(llm)
        message = f"{model.label} of {repo_id} is loaded: use browser.llm."
        self._publisher.toast("success", message, "loaded", label=model.label, repo_id=repo_id)

    def _follow(self, llm: Llama) -> None:
        """Hear of it when a cell unloads the model."""
        from modeldeck.llama.handle import call_on_unload

        call_on_unload(llm, self._tell_unloaded)

    def _tell_unloaded(self) -> None:
        """Called on any thread."""
        self._loop.post(self._on_unloaded)

    def _on_unloaded(self) -> None:
        """A cell has unloaded the model, unless it was the widget itself, or another model is loaded since."""
        if self._view.state == "ready" and self.handover.is_unloaded:
            self._tasks.start(self.unload)

    def _on_progress(self, progress: LoadProgress) -> None:
        if self._view.state == "loading":
            self._view = replace(self._view, stage=progress.stage, fraction=progress.fraction)
            self._pacer.mark()

    async def _drop(self) -> None:
        llm = self.handover.take_back()
        self._chat.drop()
        if llm is not None:
            await anyio.to_thread.run_sync(llm.unload)
            self._tasks.start(self._deck.look_at_machine)

    def _show(self, view: LoadView) -> None:
        self._view = view
        self._update_handover()
        self._publish()
        self._repos.show_load(view)
        self._library.show_load(view)

    def _update_handover(self) -> None:
        self.handover.is_expected = self._view.state == "loading" or self._wish is not None

    def _publish(self) -> None:
        self._publisher.publish("load", self._view)
