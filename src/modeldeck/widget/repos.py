"""The traits ``_repos`` and ``_picks``: the cards that are unfolded, and what is recommended of the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._types import DownloadRequest, FitEstimate, LocalModel, ModelTraits, RepoDetails, Variant
from modeldeck._wire import ReasonView, SidecarView
from modeldeck.session import Session
from modeldeck.widget.account import steps_to
from modeldeck.widget.deck import DeckOwner
from modeldeck.widget.local_files import GONE, LocalFiles
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import Tasks, outcome_of
from modeldeck.widget.traits import (
    VARIANT_ACTIONS,
    HeaderView,
    HostsFitView,
    IncompleteView,
    LoadView,
    MeasuredView,
    RepoView,
    StepView,
    VariantRowView,
)

if TYPE_CHECKING:
    from modeldeck.cluster.host_rooms import HostRoom
    from modeldeck.llama import Measurement

_REPOS_OPEN = 32
_REPOS_PEEKED = 64


class ReposOwner:
    """Owns the traits ``_repos`` and ``_picks``.

    Parameters
    ----------
    session, publisher, tasks
        Shared with the other owners.
    deck : DeckOwner
        Has the context length that variants are judged for.
    revision : str
        The branch, tag or commit that repositories are opened at.
    on_local : callable
        Called with the repositories of which this machine has a variant, after each look at the cache.
    on_header : callable
        Called with a repository and what its header tells of the model.
    """

    def __init__(
        self,
        session: Session,
        publisher: Publisher,
        tasks: Tasks,
        deck: DeckOwner,
        *,
        revision: str,
        on_local: Callable[[Iterable[str]], None],
        on_header: Callable[[str, ModelTraits], None],
    ) -> None:
        self._session = session
        self._publisher = publisher
        self._tasks = tasks
        self._deck = deck
        self._revision = revision
        self._cards: OrderedDict[str, RepoDetails | ModelDeckError | None] = OrderedDict()
        self._peeked: OrderedDict[str, RepoDetails] = OrderedDict()
        self._variants: dict[str, tuple[Variant, ...]] = {}
        """Of the repositories that are looked at, the variants with everything that goes with them."""
        self._with_projector: dict[str, bool] = {}
        """What was chosen; a projector is wanted where nothing was."""
        self._load = LoadView()
        self._on_local = on_local
        self._on_header = on_header
        self.is_on_cluster = False
        """Whether models go to a cluster, so that their fit on this machine does not matter."""
        self._rooms: tuple[HostRoom, ...] | None = None
        self._host_fits: dict[str, dict[str, HostsFitView]] = {}
        self.files = LocalFiles(session)
        self.files.listen(self._show_files)

    async def open(self, repo_id: str) -> None:
        """Unfold a card, first with the fit by a formula, then with llama.cpp's own figures."""
        self._cards[repo_id] = None
        self._cards.move_to_end(repo_id)
        while len(self._cards) > _REPOS_OPEN:
            self._cards.popitem(last=False)
        self._publish()
        try:
            details = await outcome_of(self._describe, repo_id)
        except ModelDeckError as error:
            self._show(repo_id, error)
            raise
        self._show(repo_id, details)
        self._tasks.start(self._refine, repo_id, details)

    async def peek(self, repo_id: str) -> None:
        """Find out what is recommended of a repository. Where that cannot be found out, its card has no button."""
        if repo_id in self._peeked:
            return
        with suppress(ModelDeckError):
            self._remember(await self._describe(repo_id), repo_id)
            self._publish()

    def close(self, repo_id: str) -> None:
        """Fold a card."""
        self._cards.pop(repo_id, None)
        self._publish()

    async def judge_again(self) -> None:
        """Judge the variants of every card for the context length of now."""
        n_ctx = self._deck.view.n_ctx
        known = {**self._peeked, **self._cards}
        for repo_id, details in known.items():
            if isinstance(details, RepoDetails):
                judged = await self._session.reassess(details, n_ctx=n_ctx)
                if n_ctx != self._deck.view.n_ctx:
                    return  # another context length has been chosen meanwhile
                judged = await self._judge_hosts(repo_id, judged)
                self._remember(judged, repo_id)
                if repo_id in self._cards:  # it may have been closed meanwhile
                    self._cards[repo_id] = judged
        self._publish()

    def has_projector(self, repo_id: str) -> bool:
        """Whether the variants of a repository are wanted with their vision projector."""
        return self._with_projector.get(repo_id, True)

    def loads_projector(self, repo_id: str, commit_hash: str | None) -> bool:
        """Whether a load takes the projector: one from the library, which names its commit, or as a card is ticked."""
        return commit_hash is not None or self.has_projector(repo_id)

    async def set_projector(self, repo_id: str, *, is_wanted: bool) -> None:
        """Download and load the variants of a repository with their vision projector, or without it."""
        self._with_projector[repo_id] = is_wanted
        await self.judge(repo_id)

    def with_chosen_projector(self, request: DownloadRequest) -> DownloadRequest:
        """A request with the projector or without it, as was chosen; as it is where nothing was."""
        if request.repo_id in self._with_projector:
            with suppress(InvalidRequestError):  # the card is not known any more
                details, variant = self.variant(request.repo_id, request.variant_id)
                if details.commit_hash == request.commit_hash:
                    return replace(request, files=variant.all_files)
        return request

    async def judge(self, repo_id: str) -> None:
        """Judge the variants of one card again: other files are wanted, or one of them is damaged."""
        details = self._details(repo_id)
        if details is not None:
            self._show(repo_id, await self._wanted(repo_id, self._whole(repo_id, details)))

    def _whole(self, repo_id: str, details: RepoDetails) -> RepoDetails:
        """A repository with everything that goes with its variants."""
        return replace(details, variants=self._variants.get(repo_id, details.variants))

    async def _wanted(self, repo_id: str, details: RepoDetails) -> RepoDetails:
        """A repository with only those files that are wanted, and judged for them."""
        if not self.has_projector(repo_id):
            details = details.without_projectors()
        judged = await self._session.reassess(details, n_ctx=self._deck.view.n_ctx)
        return await self._judge_hosts(repo_id, judged)

    async def judge_on(self, rooms: tuple[HostRoom, ...] | None) -> None:
        """Judge the variants of every card for the hosts of a cluster from now on; ``None`` if they are not known."""
        self._rooms = rooms
        if rooms is None:
            self._host_fits.clear()
        for repo_id, details in {**self._peeked, **self._cards}.items():
            if isinstance(details, RepoDetails):
                judged = await self._judge_hosts(repo_id, details)
                self._remember(judged, repo_id)
                if repo_id in self._cards:  # it may have been closed meanwhile
                    self._cards[repo_id] = judged
        self._publish()

    async def _judge_hosts(self, repo_id: str, details: RepoDetails) -> RepoDetails:
        """Judge the variants for the hosts of the cluster, if there is one, and recommend one for them."""
        if self._rooms is None:
            return details
        rooms, n_ctx = self._rooms, self._deck.view.n_ctx
        machines = [room.hardware for room in rooms if room.hardware is not None]
        estimates = iter(await self._session.fits_on(details, machines, n_ctx=n_ctx))
        by_room = [None if room.hardware is None else next(estimates) for room in rooms]
        if (rooms, n_ctx) == (self._rooms, self._deck.view.n_ctx):
            self._host_fits[repo_id] = hosts_fits(details, rooms, by_room)
        return recommended_for_hosts(details, self._host_fits.get(repo_id, {}))

    def show_load(self, load: LoadView) -> None:
        """Show which variant is loaded or being loaded."""
        self._load = load
        self._publish()

    def variant(self, repo_id: str, variant_id: str) -> tuple[RepoDetails, Variant]:
        """A variant of an unfolded card."""
        details = self._details(repo_id)
        if details is None:
            raise InvalidRequestError(f"The card of {repo_id} is not open. Open it and try again.")
        details = self._whole(repo_id, details)  # what the card shows may be older than the user's choice
        if not self.has_projector(repo_id):
            details = details.without_projectors()
        variant = details.variant(variant_id)
        if variant is None:
            raise InvalidRequestError(f"{repo_id} has no variant {variant_id!r}. Open its card again.")
        return details, variant

    def n_ctx_of(self, repo_id: str) -> int:
        """The context length to load with: the user's, but not more than the model was trained for."""
        details = self._details(repo_id)
        known = details.model.context_length if details and details.model else None
        return min(self._deck.view.n_ctx, known or self._deck.view.n_ctx)

    async def find_local(self, repo_id: str, variant_id: str, commit_hash: str | None = None) -> LocalModel | None:
        """The files of a variant in the cache, of a commit; without one, as its card shows it."""
        if commit_hash is not None:
            return await self._session.find_local(repo_id, variant_id, commit_hash=commit_hash)
        return await self.files.find(repo_id, variant_id, self._details(repo_id))

    async def local_model(self, repo_id: str, variant_id: str, commit_hash: str | None = None) -> LocalModel:
        """What `find_local` finds, or raise `InvalidRequestError`; the library then shows what is there."""
        model = await self.find_local(repo_id, variant_id, commit_hash)
        if model is None:
            await self.files.refresh()
            raise InvalidRequestError(GONE)
        return model

    async def _describe(self, repo_id: str) -> RepoDetails:
        n_ctx = self._deck.view.n_ctx
        details = await self._session.describe(repo_id, self._revision, n_ctx=n_ctx, exact=False, on_notice=_on_card)
        self._variants[repo_id] = details.variants
        if not self.has_projector(repo_id):
            return await self._wanted(repo_id, details)
        return await self._judge_hosts(repo_id, details)

    def _details(self, repo_id: str) -> RepoDetails | None:
        card = self._cards.get(repo_id)
        return card if isinstance(card, RepoDetails) else self._peeked.get(repo_id)

    def _remember(self, details: RepoDetails, repo_id: str) -> None:
        if details.model is not None:
            self._on_header(repo_id, details.model)
        self._peeked[repo_id] = details
        self._peeked.move_to_end(repo_id)
        while len(self._peeked) > _REPOS_PEEKED:
            self._variants.pop(self._peeked.popitem(last=False)[0], None)

    async def _refine(self, repo_id: str, details: RepoDetails) -> None:
        asked = self._deck.view.n_ctx, self.has_projector(repo_id)
        exact = await self._session.reassess(details, n_ctx=self._deck.view.n_ctx, exact=True)
        if asked != (self._deck.view.n_ctx, self.has_projector(repo_id)):  # the user has chosen otherwise meanwhile
            exact = await self._wanted(repo_id, self._whole(repo_id, details))
        self._show(repo_id, await self._judge_hosts(repo_id, exact))

    def _show(self, repo_id: str, outcome: RepoDetails | ModelDeckError) -> None:
        if isinstance(outcome, RepoDetails):
            self._remember(outcome, repo_id)
        if repo_id in self._cards:
            self._cards[repo_id] = outcome
        self._publish()

    def _show_files(self) -> None:
        self._on_local(self.files.repo_ids)
        self._publish()

    def _publish(self) -> None:
        repos = {repo_id: self._view(repo_id, card) for repo_id, card in self._cards.items()}
        self._publisher.publish("repos", repos)
        picks = {repo_id: self._pick(details) for repo_id, details in self._peeked.items()}
        self._publisher.publish("picks", {repo_id: pick for repo_id, pick in picks.items() if pick is not None})

    def _view(self, repo_id: str, card: RepoDetails | ModelDeckError | None) -> RepoView:
        if card is None:
            return RepoView()
        if isinstance(card, ModelDeckError):
            return RepoView(state="failed", error=card.to_info())
        local = self.files.of(card)
        settings = self._session.settings
        steps = steps_to(card, settings.endpoint, has_token=settings.token is not None)
        view = repo_view(
            card,
            steps=steps,
            local=local,
            load=self._load,
            lacking=self.files.lacking(card),
            hosts=self._fits_of(card),
        )
        return msgspec.structs.replace(
            view,
            common=common_sidecars(self._variants.get(repo_id, card.variants)),
            has_projector=self.has_projector(repo_id),
        )

    def _pick(self, details: RepoDetails) -> VariantRowView | None:
        variant = details.variant(details.recommended) if details.recommended else None
        local = self.files.of(details)
        if variant is None:
            return None
        lacking = self.files.lacking(details)
        return variant_view(details, variant, local, self._load, lacking, self._fits_of(details))

    def _fits_of(self, details: RepoDetails) -> Mapping[str, HostsFitView] | None:
        return self._host_fits.get(details.repo_id, {}) if self.is_on_cluster else None


def _on_card(_notice: str) -> None:
    """The card shows the notice of the details."""


def repo_view(
    details: RepoDetails,
    *,
    steps: tuple[StepView, ...],
    local: Mapping[str, Measurement | None],
    load: LoadView,
    lacking: Collection[str] = (),
    hosts: Mapping[str, HostsFitView] | None = None,
) -> RepoView:
    """The view of an opened repository.

    Parameters
    ----------
    details : RepoDetails
        The repository.
    steps : tuple[StepView, ...]
        What to do for a gated one.
    local : mapping
        The ``variant_id`` of each variant that is complete in the cache, with what its last load took.
    load : LoadView
        The model that is loaded or being loaded.
    lacking : collection of str
        The ``variant_id`` of each variant that is here without its projector.
    hosts : mapping, optional
        How each variant fits the hosts of a cluster, as far as this is known. It takes the place of its fit here.
    """
    return RepoView(
        state="open",
        steps=steps,
        recommended=details.recommended,
        recommended_reason=ReasonView.of(details.recommended_reason),
        model=None if details.model is None else msgspec.convert(details.model, HeaderView, from_attributes=True),
        hub_error=details.hub_error,
        only_in_cache=details.only_in_cache,
        variants=tuple(variant_view(details, variant, local, load, lacking, hosts) for variant in details.variants),
        common=common_sidecars(details.variants),
        incomplete=tuple(
            IncompleteView(name=shards.prefix, count=len(shards.files), total=shards.total)
            for shards in details.incomplete
        ),
    )


def variant_view(
    details: RepoDetails,
    variant: Variant,
    local: Mapping[str, Measurement | None],
    load: LoadView,
    lacking: Collection[str] = (),
    hosts: Mapping[str, HostsFitView] | None = None,
) -> VariantRowView:
    """The view of one variant of an opened repository; see `repo_view`."""
    variant_id = variant.variant_id
    state = load.variant_state(details.repo_id, variant_id) or ("downloaded" if variant_id in local else "available")
    measurement = local.get(variant_id)
    actions = VARIANT_ACTIONS[state]
    if state == "downloaded" and variant_id in lacking and hosts is None:
        actions = (*actions, "download")
    fit = details.fits.get(variant_id)
    on_hosts = None
    if hosts is not None:
        if state == "downloaded":  # here, but perhaps not on the hosts
            actions = ("download", *actions)
        if fit is None or fit.verdict != "unusable":
            fit, on_hosts = None, hosts.get(variant_id)
    return VariantRowView.of(
        variant,
        fit,
        state=state,
        actions=actions,
        measured=None if measurement is None else msgspec.convert(measurement, MeasuredView, from_attributes=True),
        hosts=on_hosts,
    )


def common_sidecars(variants: tuple[Variant, ...]) -> tuple[SidecarView, ...]:
    """What goes with every one of these variants."""
    if not variants:
        return ()
    names = [{sidecar.file.filename for sidecar in variant.sidecars} for variant in variants]
    shared = set.intersection(*names)
    return tuple(SidecarView.of(sidecar) for sidecar in variants[0].sidecars if sidecar.file.filename in shared)


def recommended_for_hosts(details: RepoDetails, hosts: Mapping[str, HostsFitView]) -> RepoDetails:
    """Return the repository with the recommendation for a cluster: of the variants that fit on most hosts."""
    from modeldeck.sizing.recommend import recommend

    most = max((fit.fitting for fit in hosts.values()), default=0)
    fits = {
        variant_id: replace(details.fits[variant_id], verdict="fits" if 0 < most == fit.fitting else "too_large")
        for variant_id, fit in hosts.items()
        if variant_id in details.fits
    }
    chosen = recommend(details.variants, fits) if hosts else None
    return replace(details, recommended=None if chosen is None else chosen.variant_id, recommended_reason=None)


def hosts_fits(
    details: RepoDetails, rooms: tuple[HostRoom, ...], estimates: Sequence[Mapping[str, FitEstimate] | None]
) -> dict[str, HostsFitView]:
    """The views of how the variants of a repository fit the hosts of a cluster.

    Parameters
    ----------
    details : RepoDetails
        The repository.
    rooms : tuple of HostRoom
        The hosts.
    estimates : sequence of mapping
        The estimates for each host, by ``variant_id``; ``None`` where its memory is not known.
    """
    from modeldeck.cluster.host_rooms import judge_hosts

    views = {}
    for variant_id in (variant.variant_id for variant in details.variants):
        fit = judge_hosts(rooms, [None if found is None else found[variant_id] for found in estimates])
        views[variant_id] = HostsFitView(
            fitting=fit.fitting,
            total=fit.total,
            smallest=fit.smallest,
            needed_bytes=fit.needed_bytes,
            free_bytes=fit.free_bytes,
            problem=None if fit.problem is None else fit.problem.to_info(),
        )
    return views
