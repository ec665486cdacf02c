"""The headless façade: search, describe, download, load, verify, remove, over one engine and one Hub client."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import anyio.to_thread

from modeldeck._context_length import read_n_ctx
from modeldeck._errors import (
    AmbiguousVariantError,
    ContentChangedError,
    DoesNotFitError,
    GGUFError,
    HubError,
    InvalidRequestError,
    LoadFailedError,
    LockError,
    ModelDeckError,
    NetworkError,
    PermissionDeniedError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
)
from modeldeck._listing import Listing
from modeldeck._loop import in_daemon_thread, run_cancellable
from modeldeck._notices import WITHOUT_PROJECTOR_NOTICE
from modeldeck._settings import check_limits, resolve_settings
from modeldeck._types import (
    DEFAULT_N_CTX,
    MAX_PAGE_SIZE,
    Account,
    Action,
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    EngineLimits,
    ErrorInfo,
    FitEstimate,
    LoadProgress,
    LocalModel,
    LockedModel,
    RepoDetails,
    SearchFilters,
    SearchPage,
    SearchQuery,
    SortKey,
    Variant,
    VerifiedFile,
)
from modeldeck._uncaught import shorten_uncaught_errors
from modeldeck.download_handle import Download, ProgressCallback, pausing_if_cancelled
from modeldeck.library import (
    describe_cached,
    group_local,
    only_locked_files,
    paths_by_name,
    select_downloads,
    select_local,
    with_path,
    without_own_files,
)
from modeldeck.lockfile import LOCK_FILE_NAME
from modeldeck.renames import RenameStore
from modeldeck.targets import is_like_path, is_target, names_model, parse_target

if TYPE_CHECKING:
    from concurrent.futures import Future

    from modeldeck.appraisal import Appraiser
    from modeldeck.cache_contents import CacheContents, Leftover
    from modeldeck.hub.addresses import ModelAddress
    from modeldeck.hub.client import HubClient
    from modeldeck.llama import Llama, LoadPlan, Measurement, MeasurementStore
    from modeldeck.lockfile import LockFile
    from modeldeck.service.engine_client import EngineClient
    from modeldeck.sizing.hardware import Hardware
    from modeldeck.sizing.speed import SpeedHistory


shorten_uncaught_errors()

_MODEL_CARD_BYTES = 256 * 1024


class Session:
    """Everything that modeldeck does, for ``async`` code.

    Leaving the ``async with`` block closes the connections to the Hub and to the engine. Downloads in an engine's own
    process continue.

    Parameters
    ----------
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.
    inline : bool, optional
        Download on a thread of this process, instead of in the engine's own process.
    limits : EngineLimits, optional
        What the download engine may use. They apply to every program that uses this engine, and stay until they are
        changed. ``None`` leaves the engine's own.

    Examples
    --------
    >>> async with modeldeck.Session() as session:  # doctest: +SKIP
    ...     model = await session.download("owner/name", "Q4_K_M")
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        inline: bool | None = None,
        limits: EngineLimits | None = None,
    ) -> None:
        self.settings = resolve_settings(endpoint=endpoint, cache_dir=cache_dir, token=token)
        self._inline = inline
        self._limits = None if limits is None else check_limits(limits)
        self._hub: HubClient | None = None
        self._engine: Future[EngineClient] | None = None
        self._appraiser: Appraiser | None = None
        self._rename_store: RenameStore | None = None
        self._account: Account | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the Hub and to the engine. Downloads in an engine's own process continue."""
        with anyio.CancelScope(shield=True):
            hub, self._hub = self._hub, None
            engine, self._engine = self._engine, None
            # On a thread of its own, which ends its work also when this task is cancelled twice.
            leaving = None if engine is None else in_daemon_thread(partial(_leave, engine))
            if hub is not None:
                await hub.aclose()
            if leaving is not None:
                await asyncio.wrap_future(leaving)

    @property
    def hub(self) -> HubClient:
        """The client of the Hub, made on first use."""
        if self._hub is None:
            from modeldeck.hub.client import HubClient

            self._hub = HubClient(self.settings)
        return self._hub

    async def engine(self) -> EngineClient:
        """Start or join the download engine on first use, and return the client to it."""
        engine = self._begin_engine()
        try:
            # Shielded: a caller that is cancelled leaves the client, its thread and its connection to the session.
            return await asyncio.shield(asyncio.wrap_future(engine))
        except Exception:
            if self._engine is engine:
                self._engine = None  # the next call tries again
            raise

    def _begin_engine(self) -> Future[EngineClient]:
        if self._engine is None:
            from modeldeck.service.connect import connect_engine

            connect = partial(connect_engine, self.settings, inline=self._inline, limits=self._limits)
            self._engine = in_daemon_thread(connect)
        return self._engine

    # --- looking -----------------------------------------------------------------------------------------------------

    async def search(
        self,
        text: str = "",
        *,
        sort: SortKey = "downloads",
        limit: int = 20,
        author: str | None = None,
        filters: SearchFilters | None = None,
        cursor: str | None = None,
    ) -> SearchPage:
        """Search the Hub for repositories with GGUF files.

        Parameters
        ----------
        text : str
            Text that the names of repositories and owners must contain. Empty finds all.
        sort : {"downloads", "trending", "likes", "modified", "created"}
            The order of the results, highest or newest first.
        limit : int
            Results on a page, 1 to 100.
        author : str, optional
            Only repositories of this user or organization.
        filters : SearchFilters, optional
            What else the repositories must meet, such as the task, the licence or the number of weights.
        cursor : str, optional
            ``next_cursor`` of the page before, to get the next page.

        Returns
        -------
        SearchPage
            The results, and the cursor of the next page.

        Raises
        ------
        InvalidRequestError
            If a value cannot be right, such as a limit of 0.
        HubError, NetworkError
            If the Hub refuses or cannot be reached.

        Examples
        --------
        >>> page = await session.search("qwen3", sort="likes", limit=5)  # doctest: +SKIP
        """
        if not 1 <= limit <= MAX_PAGE_SIZE:
            raise InvalidRequestError(f"limit must be between 1 and {MAX_PAGE_SIZE}.")
        query = SearchQuery(text=text, sort=sort, limit=limit, author=author, filters=filters or SearchFilters())
        page = await self.hub.search(query, cursor)
        quantization = query.filters.quantization
        if quantization is None:
            return page
        from modeldeck.gguf.names import has_quantization

        return replace(
            page, models=tuple(model for model in page.models if has_quantization(model.filenames, quantization))
        )

    async def describe(
        self,
        repo_id: str,
        revision: str = "main",
        *,
        n_ctx: int = DEFAULT_N_CTX,
        exact: bool = True,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> RepoDetails:
        """List the variants of a repository, with sizes, digests, how each fits this machine, and which one to take.

        If the Hub refuses or cannot be reached, the variants are those that are complete in the cache.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``.
        revision : str
            A branch, a tag or a commit.
        n_ctx : int
            The context length in tokens to judge the memory for.
        exact : bool
            Ask llama.cpp itself for the memory, if llama-cpp-python is installed. It takes about a second more than the
            formula that is used otherwise, which is within 1 % of llama.cpp on average.
        on_notice : callable
            Called with the ``notice`` of the result, if it has one.

        Returns
        -------
        RepoDetails
            The variants, the estimate for each, and the recommended one.

        Raises
        ------
        InvalidRequestError
            If a value cannot be right, such as a malformed ``repo_id``.
        HubError, NetworkError
            If the Hub refuses or cannot be reached, and the cache has no model of the repository.

        Examples
        --------
        >>> repo = await session.describe("owner/name", n_ctx=8192)  # doctest: +SKIP
        """
        n_ctx = read_n_ctx(n_ctx)
        address = parse_target(repo_id, endpoint=self.settings.endpoint)
        details = await self._variants(address.repo_id, _revision_of(address, revision))
        if not details.is_from_cache:
            details = replace(details, only_in_cache=await self._removed_on_hub(details))
        if details.notice is not None:
            on_notice(details.notice)
        self._judge.ask_again(details)
        return await self.reassess(details, n_ctx=n_ctx, exact=exact)

    async def account(self) -> Account:
        """Tell whose token is in use: the name of the account, and where the token was found.

        Asks the Hub once for as long as the session lives, and not without a token.

        Returns
        -------
        Account
            The account, without the token.

        Raises
        ------
        UnauthorizedError
            If the Hub does not accept the token.
        HubError, NetworkError
            If the Hub refuses for another reason, or cannot be reached.

        Examples
        --------
        >>> (await session.account()).name  # doctest: +SKIP
        """
        if self._account is None:
            self._account = await self.hub.account()
        return self._account

    async def model_card(self, repo_id: str, revision: str = "main") -> str:
        """Read the model card of a repository: the Markdown of its README.md.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``.
        revision : str
            A branch, a tag or a commit.

        Returns
        -------
        str
            The text, at most 256 KiB of it, with the metadata in YAML at its beginning.

        Raises
        ------
        InvalidRequestError
            If a value cannot be right, such as a malformed ``repo_id``.
        HubError, NetworkError
            If the Hub refuses or cannot be reached, or the repository has no model card.

        Examples
        --------
        >>> text = await session.model_card("owner/name")  # doctest: +SKIP
        """
        address = parse_target(repo_id, endpoint=self.settings.endpoint)
        revision = _revision_of(address, revision)
        return await self.hub.read_text(address.repo_id, revision, "README.md", _MODEL_CARD_BYTES)

    async def _variants(self, repo_id: str, revision: str, selector: str | None = None) -> RepoDetails:
        """List the variants of a repository without judging how they fit.

        Where the Hub cannot be followed, list what the cache has; with a selector, only if that variant is among it.
        """
        try:
            return await self._variants_on_hub(repo_id, revision)
        except (HubError, NetworkError) as error:
            details = await self._variants_in_cache(repo_id, revision, selector, error.to_info())
            if details is None:
                raise
            return details

    async def _variants_in_cache(
        self, repo_id: str, revision: str, selector: str | None, because: ErrorInfo
    ) -> RepoDetails | None:
        from modeldeck.hub.cache import list_models

        names = await self._names_of(repo_id)
        details = await anyio.to_thread.run_sync(
            lambda: describe_cached(list_models(self.settings.cache_dir, names), revision, selector, because=because)
        )
        if details is not None:
            self._judge.forget(details)
        return details

    async def _removed_on_hub(self, details: RepoDetails) -> tuple[str, ...]:
        """Return the labels of what the cache has and the Hub no longer lists."""
        from modeldeck.hub.cache import list_models

        names = await self._names_of(details.repo_id)
        models = group_local(await anyio.to_thread.run_sync(list_models, self.settings.cache_dir, names))
        listed = {variant.variant_id for variant in details.variants}
        removed = (model for model in models if model.variant_id not in listed and not model.own_filenames)
        return tuple(dict.fromkeys(model.label for model in removed))

    async def _variants_on_hub(self, repo_id: str, revision: str) -> RepoDetails:
        from modeldeck.gguf.names import group_variants

        listing = await self.hub.listing(repo_id, revision)
        await anyio.to_thread.run_sync(self._remember_name, repo_id, listing.repo_id)
        grouping = group_variants(listing.files)
        return RepoDetails(
            repo_id=listing.repo_id,
            revision=listing.revision,
            commit_hash=listing.commit_hash,
            variants=grouping.variants,
            incomplete=grouping.incomplete,
            gated=listing.gated,
            license=listing.license,
        )

    async def fit(
        self, model: LocalModel | str | Path, *, n_ctx: int = DEFAULT_N_CTX, exact: bool = True
    ) -> FitEstimate:
        """Judge whether a model on disk fits this machine, and how fast it will generate. Works offline.

        Parameters
        ----------
        model : LocalModel or str or Path
            A model of the cache, the path of a GGUF file, or ``"owner/name[:LABEL]"`` for a model in the cache.
        n_ctx : int
            The context length in tokens to judge the memory for; 0 for the model's own.
        exact : bool
            Ask llama.cpp itself for the memory, if llama-cpp-python is installed. It takes about a second more than the
            formula that is used otherwise.

        Returns
        -------
        FitEstimate
            The verdict with its figures, the longest context that fits, and the expected speed.

        Raises
        ------
        InvalidRequestError
            If the text names neither a file nor a repository, or ``n_ctx`` is negative.
        RemoteFileNotFoundError
            If the model is not in the cache.
        AmbiguousVariantError
            If the cache has several variants of it. The message lists the choices.
        GGUFError, LoadFailedError
            If the file is damaged, or is not a model.

        Examples
        --------
        >>> await session.fit("model.gguf", n_ctx=8192)  # doctest: +SKIP
        """
        from modeldeck.local_fit import judge_file

        read_n_ctx(n_ctx, own=0)
        if isinstance(model, str) and is_target(model, endpoint=self.settings.endpoint):
            model = await self._local(model)
        if not isinstance(model, LocalModel):
            path = _file_named(model)
            model = await anyio.to_thread.run_sync(self._cached_at, path) or path
        path, sidecars = (model.path, model.sidecar_paths) if isinstance(model, LocalModel) else (model, ())

        def judge() -> FitEstimate:
            store = self._measurements()
            return judge_file(
                path,
                sidecar_paths=sidecars,
                n_ctx=n_ctx,
                exact=exact,
                history=self._speed_history(),
                measured=None if store is None else store.find(path),
            )

        with _telling_how_to_mend(model):
            return await anyio.to_thread.run_sync(judge)

    async def reassess(self, details: RepoDetails, *, n_ctx: int, exact: bool = False) -> RepoDetails:
        """Judge a repository for another context length, or exactly. What was fetched before is not fetched again.

        Parameters
        ----------
        details : RepoDetails
            The repository, as `describe` returned it.
        n_ctx : int
            The context length in tokens to judge the memory for.
        exact : bool
            Ask llama.cpp itself for the memory, if llama-cpp-python is installed.

        Returns
        -------
        RepoDetails
            The repository with new estimates.

        Raises
        ------
        HubError, NetworkError
            If a header is needed and the Hub refuses or cannot be reached.

        Examples
        --------
        >>> repo = await session.reassess(repo, n_ctx=32768)  # doctest: +SKIP
        """
        judge = self._judge.appraise_exactly if exact else self._judge.appraise
        return await judge(details, n_ctx=n_ctx)

    async def fits_on(
        self, details: RepoDetails, machines: Sequence[Hardware], *, n_ctx: int
    ) -> list[dict[str, FitEstimate]]:
        """Judge the variants of a repository for other machines than this one."""
        return await self._judge.appraise_for(details, machines, n_ctx=n_ctx)

    @property
    def _judge(self) -> Appraiser:
        if self._appraiser is None:
            from modeldeck.appraisal import Appraiser

            self._appraiser = Appraiser(lambda: self.hub, self.settings.cache_dir, self._speed_history)
        return self._appraiser

    # --- downloading -------------------------------------------------------------------------------------------------

    async def request(
        self,
        repo_id: str,
        variant: str | None = None,
        *,
        filename: str | None = None,
        revision: str = "main",
        projector: bool = True,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> DownloadRequest:
        """Make the request to download one variant.

        Where the Hub cannot be followed and the cache has the whole variant, the request is for what the cache has. The
        engine then verifies it.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``.
        variant : str, optional
            A label such as ``"Q4_K_M"``, or a ``variant_id``. Without it and ``filename``, the recommended variant.
        filename : str, optional
            The path of a file in the repository, instead of a variant.
        revision : str
            A branch, a tag or a commit.
        projector : bool
            Whether the vision projector that goes with the variant is downloaded too.
        on_notice : callable
            Called with a sentence that says why the cache is used and the Hub not followed.

        Returns
        -------
        DownloadRequest
            The request, pinned to a commit. Hand it to `start`.

        Raises
        ------
        InvalidRequestError
            If both a variant and a filename are given.
        RemoteFileNotFoundError, AmbiguousVariantError
            If no variant, or more than one, has this name. The message lists the choices.
        DoesNotFitError
            If no variant is given and none fits this machine.
        GGUFError
            If the file on the Hub is damaged, or not a GGUF file that llama.cpp can load.
        HubError, NetworkError
            If the Hub refuses or cannot be reached, and the cache does not have the variant.

        Examples
        --------
        >>> request = await session.request("owner/name", "Q4_K_M")  # doctest: +SKIP
        """
        address = parse_target(repo_id, variant, endpoint=self.settings.endpoint)
        if address.selector is not None and filename is not None:
            raise InvalidRequestError(f"Give the variant {address.selector!r} or the filename {filename!r}, not both.")
        wanted = address.selector if filename is None else filename
        revision = _revision_of(address, revision)
        details = await self._variants(address.repo_id, revision, wanted)
        if not projector:
            details = details.without_projectors()
        try:
            request = await self._request_of(details, wanted)
        except RemoteFileNotFoundError as error:
            because = replace(error.to_info(), message=f"On the Hub: {error.message}")
            cached = await self._variants_in_cache(address.repo_id, revision, wanted, because)
            if cached is None or details.is_from_cache:
                raise
            details = cached if projector else cached.without_projectors()
            request = await self._request_of(details, wanted)
        if details.is_from_cache and details.notice is not None:
            on_notice(details.notice)
        elif request.commit_hash != details.commit_hash:
            on_notice(
                f"The cache cannot be written, so {request.repo_id} is used at commit {str(request.commit_hash)[:8]}. "
                f"The files of {request.label} are the same at {details.revision!r}."
            )
        return request

    async def _request_of(self, details: RepoDetails, wanted: str | None) -> DownloadRequest:
        """Make the request for the wanted variant, or for the recommended one."""
        from modeldeck.gguf.names import find_variant

        if wanted is None and details.is_from_cache and len(details.variants) == 1:
            wanted = details.variants[0].variant_id
        if wanted is None:  # where a variant is named, to judge them all would take time for nothing
            details = await self.reassess(details, n_ctx=DEFAULT_N_CTX)
        while True:
            selector = details.recommended if wanted is None else wanted
            if selector is None:
                raise _nothing_to_recommend(details)
            chosen = find_variant(details.variants, selector)
            try:
                return await self.request_for(details, chosen)
            except GGUFError:
                if wanted is not None:
                    raise
            details = await self.reassess(details, n_ctx=DEFAULT_N_CTX)  # recommends another one

    async def request_for(self, details: RepoDetails, variant: Variant) -> DownloadRequest:
        """Make the request to download a variant of a repository that is already described.

        Unless the model is here, the headers of its files are read first, if that has not been done before.

        Parameters
        ----------
        details : RepoDetails
            The repository, as `describe` returned it.
        variant : Variant
            One of its variants.

        Returns
        -------
        DownloadRequest
            The request, pinned to the commit of the description. Hand it to `start`.

        Raises
        ------
        GGUFError
            If the file on the Hub is damaged, or not a GGUF file that llama.cpp can load. From then on, `reassess` does
            not recommend it.
        StorageError
            If this Python cannot write files with the names that the variant has.

        Examples
        --------
        >>> request = await session.request_for(repo, repo.variants[0])  # doctest: +SKIP
        """
        from modeldeck.hub.cache import check_encodable

        fit = details.fits.get(variant.variant_id)
        # What only llama.cpp refuses, and only here, may be meant for another program.
        problem = fit.reason if fit is not None and (fit.verdict, fit.reason_code) == ("unusable", "damaged") else None
        if await self.find_local(details.repo_id, variant.variant_id, commit_hash=details.commit_hash) is None:
            problem = await self._judge.find_problem(details, variant)
        if problem is not None:
            raise GGUFError(problem)
        for file in variant.all_files:
            check_encodable(file.filename)
        request = DownloadRequest(
            repo_id=self._name_in_cache(details, variant),
            revision=details.revision,
            commit_hash=details.commit_hash,
            variant_id=variant.variant_id,
            label=variant.label,
            files=variant.all_files,
            endpoint=self.settings.endpoint,
            cache_dir=str(self.settings.cache_dir),
            is_offline=self.settings.is_offline,
        )
        commit_hash = self._commit_to_stay_at(request, variant)
        return request if commit_hash is None else replace(request, revision=commit_hash, commit_hash=commit_hash)

    def _commit_to_stay_at(self, request: DownloadRequest, variant: Variant) -> str | None:
        """Return another commit at which a cache that cannot be written has the same files, if one is needed."""
        from modeldeck.hub.cache import is_writable, list_models

        cache_dir = self.settings.cache_dir
        if is_writable(cache_dir, request.repo_id):
            return None
        models = group_local(list_models(cache_dir, (request.repo_id,)))
        commits = [model.commit_hash for model in models if model.has_content_of(variant)]
        return None if request.commit_hash in commits else next(iter(commits), None)

    def _name_in_cache(self, details: RepoDetails, variant: Variant) -> str:
        """Return the repository's name under which the cache has files of a variant; its present one if none has."""
        from modeldeck.hub.cache import blob_path, snapshot_path

        cache_dir = self.settings.cache_dir

        def has_some(name: str) -> bool:
            return any(
                (file.sha256 is not None and blob_path(cache_dir, name, file.sha256).is_file())
                or snapshot_path(cache_dir, name, details.commit_hash, file.filename).is_file()
                for file in variant.files
            )

        return next(filter(has_some, self._renames().names_of(details.repo_id)), details.repo_id)

    async def start(self, request: DownloadRequest) -> Download:
        """Start a download in the engine, or join the one that already runs for the same request.

        Parameters
        ----------
        request : DownloadRequest
            What to download, as `request` or `request_for` made it.

        Returns
        -------
        Download
            The running download. Await it to get the model.

        Raises
        ------
        EngineLostError
            If the engine cannot be started or reached.

        Examples
        --------
        >>> download = await session.start(await session.request("owner/name", "Q4_K_M"))  # doctest: +SKIP
        >>> model = await download  # doctest: +SKIP
        """
        engine = await self.engine()
        snapshot = await engine.submit(request, token=self.settings.token)
        return Download(engine, snapshot, self.act)

    async def start_download(
        self,
        repo_id: str,
        variant: str | None = None,
        *,
        filename: str | None = None,
        revision: str = "main",
        projector: bool = True,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> Download:
        """Make a request as `request` does, and start it as `start` does. The engine starts while the Hub is asked.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``, or ``"owner/name:LABEL"`` with the variant.
        variant : str, optional
            A label such as ``"Q4_K_M"``, or a ``variant_id``. Without it and ``filename``, the recommended variant.
        filename : str, optional
            The path of a file in the repository, instead of a variant.
        revision : str
            A branch, a tag or a commit.
        projector : bool
            Whether the vision projector that goes with the variant is downloaded too.
        on_notice : callable
            Called with a sentence that says why the cache is used and the Hub not followed.

        Returns
        -------
        Download
            The running download. Await it to get the model.

        Raises
        ------
        ModelDeckError
            For the reasons that `request` and `start` name.

        Examples
        --------
        >>> download = await session.start_download("owner/name", "Q4_K_M")  # doctest: +SKIP
        >>> model = await download  # doctest: +SKIP
        """
        self._begin_engine()
        return await self.start(
            await self.request(
                repo_id, variant, filename=filename, revision=revision, projector=projector, on_notice=on_notice
            )
        )

    async def download(
        self,
        repo_id: str,
        variant: str | None = None,
        *,
        filename: str | None = None,
        revision: str = "main",
        projector: bool = True,
        progress: ProgressCallback | None = None,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> LocalModel:
        """Download a variant into the Hugging Face cache, verify it, and return it.

        The call resumes what an earlier one left, and returns at once if the cache has the model. This is so too if the
        Hub refuses or cannot be reached.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``, or ``"owner/name:LABEL"`` with the variant.
        variant : str, optional
            A label such as ``"Q4_K_M"``, or a ``variant_id``. Without it and ``filename``, the recommended variant.
        filename : str, optional
            The path of a file in the repository, instead of a variant.
        revision : str
            A branch, a tag or a commit.
        projector : bool
            Whether the vision projector that goes with the variant is downloaded too.
        progress : callable, optional
            Called with a `DownloadSnapshot` at every change of state, and at most four times a second between. An
            exception that it raises ends the waiting; the download continues.
        on_notice : callable
            Called with a sentence that says why the cache is used and the Hub not followed.

        Returns
        -------
        LocalModel
            The verified model in the cache.

        Raises
        ------
        RemoteFileNotFoundError, AmbiguousVariantError
            If no variant, or more than one, has this name. The message lists the choices.
        DoesNotFitError
            If no variant is given and none fits this machine.
        DownloadCancelledError
            If the download was cancelled elsewhere.
        HubError, NetworkError
            If the Hub refuses or cannot be reached, and the cache does not have the variant.
        StorageError, IntegrityError
            If the disk or the data is faulty. Received data is kept.

        Examples
        --------
        >>> model = await session.download("owner/name", "Q4_K_M")  # doctest: +SKIP
        """
        job = await self.start_download(
            repo_id, variant, filename=filename, revision=revision, projector=projector, on_notice=on_notice
        )
        return await job.result(progress=progress)

    async def downloads(self) -> Listing[DownloadSnapshot]:
        """List the downloads that the engine runs, holds paused, or remembers as failed or finished.

        Returns
        -------
        Listing[DownloadSnapshot]
            Each download as it is now.

        Raises
        ------
        EngineLostError
            If the engine cannot be started or reached.

        Examples
        --------
        >>> [(job.request.repo_id, job.percent) for job in await session.downloads()]  # doctest: +SKIP
        """
        return Listing((await self.engine()).snapshots())

    async def act(self, job_id: str, action: Action) -> DownloadSnapshot | None:
        """Pause, resume, cancel, retry or dismiss a download, or change its place in the queue.

        Parameters
        ----------
        job_id : str
            The identity of the download, as its snapshots tell it.
        action : {"move_up", "move_down", "pause", "resume", "cancel", "retry", "dismiss"}
            One of the ``actions`` of its latest snapshot.

        Returns
        -------
        DownloadSnapshot or None
            The download after this; ``None`` if it was dismissed.

        Raises
        ------
        InvalidRequestError
            If there is no such download, or its state does not allow the action.

        Examples
        --------
        >>> for job in await session.downloads():  # doctest: +SKIP
        ...     if "pause" in job.actions:
        ...         await session.act(job.job_id, "pause")
        """
        token = self.settings.token if action in ("resume", "retry") else None
        return await (await self.engine()).act(job_id, action, token)

    async def limits(self) -> EngineLimits:
        """Return what the download engine may use at present.

        Returns
        -------
        EngineLimits
            The limits of the running engine, which is started if none runs.

        Examples
        --------
        >>> (await session.limits()).max_active_jobs  # doctest: +SKIP
        3
        """
        return (await (await self.engine()).status()).limits

    async def set_limits(self, limits: EngineLimits) -> None:
        """Change what the download engine may use, for every program that uses it.

        Running downloads follow the bandwidth and the number of connections at once. If fewer downloads may run than
        do, they go on, and the next one starts when fewer are left.

        The limits stay until they are changed again, also when the engine restarts. Those of an inline engine end with
        it.

        Parameters
        ----------
        limits : EngineLimits
            All limits, also those that stay as they are.

        Raises
        ------
        InvalidRequestError
            If a limit is not a whole number, or is less than 1.

        Examples
        --------
        >>> await session.set_limits(EngineLimits(bandwidth_bytes_per_second=20_000_000))  # doctest: +SKIP
        """
        await (await self.engine()).set_limits(check_limits(limits))

    async def subscribe(
        self,
        callback: Callable[[DownloadSnapshot], None],
        *,
        on_removed: Callable[[str], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
    ) -> Callable[[], None]:
        """Follow all downloads of the engine.

        Parameters
        ----------
        callback : callable
            Called with each new `DownloadSnapshot`, on a thread of the engine's client. It must return quickly.
        on_removed : callable, optional
            Called with the ``job_id`` of a download that left the list.
        on_notice : callable, optional
            Called with a sentence about the engine, such as a restart, and with ``None`` when it no longer holds.

        Returns
        -------
        callable
            Call it to stop following.

        Raises
        ------
        EngineLostError
            If the engine cannot be started or reached.

        Examples
        --------
        >>> stop = await session.subscribe(lambda job: print(job.request.label, job.percent))  # doctest: +SKIP
        >>> stop()  # doctest: +SKIP
        """
        return (await self.engine()).subscribe(callback, on_removed=on_removed, on_notice=on_notice)

    async def cancel(self, target: str) -> int:
        """Give up the unfinished downloads of a repository, or of one variant, and delete their data.

        Without a variant, this includes the data of downloads that no engine remembers, such as those of a killed
        kernel.

        Parameters
        ----------
        target : str
            ``"owner/name"`` or ``"owner/name:LABEL"``.

        Returns
        -------
        int
            The bytes that were freed.

        Raises
        ------
        RemoteFileNotFoundError
            If no download of it is unfinished.
        AmbiguousVariantError
            If several variants of that name are. The message lists the choices.
        InvalidRequestError
            If the download goes on because another program wants it too. A second call stops it for all.

        Examples
        --------
        >>> await session.cancel("owner/name:Q4_K_M")  # doctest: +SKIP
        1073741824
        """
        from modeldeck.engine.leftovers import discard_partials, list_partials
        from modeldeck.hub.cache import repo_dir

        address = parse_target(target, endpoint=self.settings.endpoint)
        names, selector = await self._names_of(address.repo_id), address.selector
        engine = await self.engine()
        unfinished = [job for job in engine.snapshots() if "cancel" in job.actions]
        jobs = select_downloads(unfinished, names, selector)

        def allocated() -> dict[Path, int]:
            """Return the partial files of these downloads, and no others, with their sizes on the disk."""
            return {
                info.data_path: info.allocated_bytes
                for job in jobs
                for file in job.request.files
                if (digest := file.sha256 or file.oid)
                for info in list_partials(repo_dir(Path(job.request.cache_dir), job.request.repo_id) / "blobs", digest)
            }

        before = await anyio.to_thread.run_sync(allocated)
        answers = [await engine.act(job.job_id, "cancel") for job in jobs]
        after = await anyio.to_thread.run_sync(allocated)
        freed = sum(size for path, size in before.items() if path not in after)
        if selector is None:
            for name in names:
                blobs = repo_dir(self.settings.cache_dir, name) / "blobs"
                freed += await anyio.to_thread.run_sync(discard_partials, blobs)
        states = {answer.state for answer in answers if answer is not None}
        if freed or DownloadState.CANCELLED in states:
            return freed
        if any(not state.is_final for state in states):
            raise InvalidRequestError(
                f"The download of {target} goes on, because another program wants it too. Stop it there, or cancel it "
                "again in the same session to stop it for all."
            )
        raise RemoteFileNotFoundError(
            f"Nothing of {target} is unfinished. `modeldeck downloads` lists what is; "
            "`modeldeck rm` deletes what is complete."
        )

    # --- repeating ----------------------------------------------------------------------------------------------------

    async def lock(
        self,
        *targets: str,
        path: str | Path = LOCK_FILE_NAME,
        revision: str = "main",
        n_ctx: int | None = None,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> Listing[LockedModel]:
        """Write which files models are, at the commits of now, into a lock file. Nothing is downloaded.

        Models that the file already has stay. The named ones are added, or locked again at the present commit. Programs
        of one user that lock models in the same file take turns.

        Parameters
        ----------
        *targets : str
            ``"owner/name:LABEL"`` of each model; without a label, the recommended variant.
        path : str or Path
            The lock file.
        revision : str
            A branch, a tag or a commit.
        n_ctx : int, optional
            The context length in tokens to load the models with. By default 4096, or less if a model was trained for
            less.
        on_notice : callable
            Called with a sentence that says why the cache is used and the Hub not followed.

        Returns
        -------
        Listing[LockedModel]
            All models of the lock file.

        Raises
        ------
        InvalidRequestError
            If no model is named, or a value cannot be right.
        LockError
            If the lock file cannot be read or written, or the digest of a file is not known.
        RemoteFileNotFoundError, AmbiguousVariantError
            If no variant, or more than one, has a name. The message lists the choices.
        HubError, NetworkError
            If the Hub refuses or cannot be reached, and the cache does not have a model.

        Examples
        --------
        >>> await session.lock("owner/name:Q4_K_M", n_ctx=8192)  # doctest: +SKIP
        """
        from modeldeck.lockfile import add_to_lock_file, read_lock_file_so_far
        from modeldeck.service.discovery import find_turn_file

        if not targets:
            raise InvalidRequestError("Name the models to lock, as OWNER/NAME:LABEL.")
        path, n_ctx = Path(path), None if n_ctx is None else read_n_ctx(n_ctx)
        # What is wrong in the file is told before the Hub is asked.
        await anyio.to_thread.run_sync(read_lock_file_so_far, path)
        models = [await self._lock_one(target, revision, n_ctx, on_notice) for target in targets]

        def add() -> LockFile:
            return add_to_lock_file(path, models, turn=find_turn_file(), names_of=self._renames().names_of)

        return Listing((await anyio.to_thread.run_sync(add)).models)

    async def _lock_one(
        self, target: str, revision: str, n_ctx: int | None, on_notice: Callable[[str], object]
    ) -> LockedModel:
        from modeldeck.lockfile import pin

        request = await self.request(target, revision=revision, on_notice=on_notice)
        # The request has the name that the cache knows, which may be an old one.
        details = await self._variants(request.repo_id, request.commit_hash or request.revision)
        if n_ctx is None:
            traits = (await self.reassess(details, n_ctx=DEFAULT_N_CTX)).model
            n_ctx = min(DEFAULT_N_CTX, (traits.context_length if traits else None) or DEFAULT_N_CTX)
        return pin(details.repo_id, request.commit_hash or "", request.label, request.files, n_ctx=n_ctx)

    async def locked(self, name: str, path: str | Path = LOCK_FILE_NAME) -> LockedModel:
        """Find a model in a lock file, to load exactly its files.

        Parameters
        ----------
        name : str
            ``"owner/name:LABEL"``, or an address of the model. The owner and the label are optional where the rest
            means one model. A repository is found by an old name too, if it was asked for by that name before.
        path : str or Path
            The lock file.

        Returns
        -------
        LockedModel
            The model. Hand it to `load`.

        Raises
        ------
        LockError
            If the lock file cannot be used, or has no such model.
        AmbiguousVariantError
            If it has several. The message lists the choices.

        Examples
        --------
        >>> llm = await session.load(await session.locked("owner/name:Q4_K_M"))  # doctest: +SKIP
        """
        from modeldeck.lockfile import read_lock_file

        def find() -> LockedModel:
            lock = read_lock_file(Path(path))
            return lock.find(name, endpoint=self.settings.endpoint, names_of=self._renames().names_of)

        return await anyio.to_thread.run_sync(find)

    async def sync(
        self,
        path: str | Path = LOCK_FILE_NAME,
        *,
        check: bool = False,
        progress: ProgressCallback | None = None,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> Listing[LocalModel]:
        """Bring exactly the files of a lock file into the cache, verified; or only check whether they are there.

        What the cache has is not fetched again, at whichever commit it has it. A download that runs when the call is
        cancelled is paused.

        Parameters
        ----------
        path : str or Path
            The lock file.
        check : bool
            Fetch nothing and ask nobody. Read the files of the cache and compare them.
        progress : callable, optional
            Called with a `DownloadSnapshot` of one download after the other.
        on_notice : callable
            Called with a sentence if other versions of packages are installed than when the file was written.

        Returns
        -------
        Listing[LocalModel]
            The models, in the order of the lock file.

        Raises
        ------
        LockError
            If the lock file cannot be used, the Hub no longer has a file of it, or, with ``check``, something differs.
        GatedError, UnauthorizedError
            If the Hub asks for a token, or for accepted terms.
        HubError, NetworkError
            If the Hub refuses for another reason, or cannot be reached.
        StorageError, IntegrityError
            If the disk or the data is faulty. Received data is kept.

        Examples
        --------
        >>> models = await session.sync("modeldeck.lock")  # doctest: +SKIP
        """
        from modeldeck.lockfile import read_lock_file

        lock = await anyio.to_thread.run_sync(read_lock_file, Path(path))
        if changed := lock.changed_versions():
            on_notice(changed)
        if check:
            return Listing(await self._checked(lock.models))
        return Listing([await self._bring(model, progress) for model in lock.models])

    async def _checked(self, models: Iterable[LockedModel]) -> list[LocalModel]:
        """Return what the cache has of locked models, or raise what differs."""
        found: list[LocalModel] = []
        differences = []
        for model in models:
            local = await self._find_locked(model)
            if local is None:
                differences.append(f"{model.name} at commit {model.commit_hash[:8]} is not here.")
                continue
            found.append(local)
            files = await self.verify(only_locked_files(local, model), on_notice=lambda _: None)
            differences += [
                f"{file.path.name} of {model.repo_id} is damaged." for file in files if file.is_valid is False
            ]
        if differences:
            raise LockError(
                f"{' '.join(differences)} `modeldeck sync` brings what is missing, and `modeldeck verify --repair` "
                "mends what is damaged.",
                differences=differences,
            )
        return found

    async def _find_locked(self, model: LockedModel) -> LocalModel | None:
        """Return a model of the cache with exactly the locked files, preferably at the locked commit.

        Where downloads leave no links, nothing tells the digest of a file that was not read. At the locked commit, one
        with the right name and size is taken for the locked one.
        """
        names = await self._names_of(model.repo_id)
        digests = {file.filename: file.sha256 for file in model.files}
        sizes = {file.filename: file.size for file in model.files}

        def has_locked_files(local: LocalModel) -> bool:
            found = dict(zip(local.filenames, local.sha256s, strict=True))
            if local.commit_hash == model.commit_hash:
                paths = paths_by_name(local)
                for name in digests.keys() & found.keys():
                    if found[name] is None and os.path.getsize(paths[name]) == sizes[name]:
                        found[name] = digests[name]
            return digests.items() <= found.items()

        models = select_local(await self.local_models(), names)
        exact = await anyio.to_thread.run_sync(lambda: list(filter(has_locked_files, models)))
        return min(exact, key=lambda local: local.commit_hash != model.commit_hash, default=None)

    async def _bring(self, model: LockedModel, progress: ProgressCallback | None) -> LocalModel:
        """Have the engine verify or fetch the files of a locked model."""
        local = await self._find_locked(model)
        commit_hash = model.commit_hash if local is None else local.commit_hash
        request = DownloadRequest(
            repo_id=model.repo_id if local is None else local.repo_id,
            revision=commit_hash,
            commit_hash=commit_hash,
            variant_id=model.variant_id,
            label=model.label,
            files=model.files,
            endpoint=self.settings.endpoint,
            cache_dir=str(self.settings.cache_dir),
            is_offline=self.settings.is_offline,
        )
        job = await self.start(request)
        try:
            async with pausing_if_cancelled(job):
                return await job.result(progress=progress)
        except (RepoNotFoundError, RevisionNotFoundError, RemoteFileNotFoundError, ContentChangedError) as error:
            name = f"{model.name} at commit {model.commit_hash[:8]}"
            raise LockError(
                f"{name} is locked, but the Hub does not have it. {error.message} Lock another one with "
                "`modeldeck lock`, or copy the cache of a machine that has it.",
                differences=[f"{name} is not on the Hub."],
            ) from error

    # --- what is here ------------------------------------------------------------------------------------------------

    async def local_models(self) -> Listing[LocalModel]:
        """List the complete variants in the Hugging Face cache, whichever program downloaded them.

        Returns
        -------
        Listing[LocalModel]
            The models, sorted by repository, commit and quality.

        Raises
        ------
        StorageError
            If the cache cannot be read.

        Examples
        --------
        >>> [model.label for model in await session.local_models()]  # doctest: +SKIP
        """
        from modeldeck.hub.cache import list_models

        return Listing(group_local(await anyio.to_thread.run_sync(list_models, self.settings.cache_dir)))

    async def find_local(self, repo_id: str, variant_id: str, *, commit_hash: str | None = None) -> LocalModel | None:
        """Find a variant of a repository in the cache.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"``.
        variant_id : str
            The identity of the variant.
        commit_hash : str, optional
            The commit it must belong to. Otherwise the one that ``main`` means is preferred, then one that another
            branch or tag means.

        Returns
        -------
        LocalModel or None
            The model; ``None`` if the cache does not have all of it.

        Examples
        --------
        >>> await session.find_local("owner/name", "model-Q4_K_M.gguf")  # doctest: +SKIP
        """
        from modeldeck.hub.cache import list_models

        names = await self._names_of(repo_id)
        files = await anyio.to_thread.run_sync(list_models, self.settings.cache_dir, names)
        return _preferred(
            model
            for model in group_local(files)
            if model.variant_id == variant_id and commit_hash in (None, model.commit_hash)
        )

    async def verify(
        self,
        model: LocalModel | str | Path,
        *,
        repair: bool = False,
        progress: Callable[[int, int], object] | None = None,
        repair_progress: ProgressCallback | None = None,
        on_notice: Callable[[str], object] = warnings.warn,
    ) -> Listing[VerifiedFile]:
        """Hash the files of a local model and compare them with the digests that the Hub lists.

        Parameters
        ----------
        model : LocalModel, str or Path
            A local model, its path, or ``"owner/name:LABEL"``. The label is optional if the cache has only one variant.
        repair : bool
            Have the engine fetch damaged parts again, and wait for it. If modeldeck downloaded or verified the file
            before, it knows which parts those are; otherwise it fetches the whole file and compares. The repair is in
            the engine's list of downloads, and can be paused, resumed and cancelled there.
        progress : callable, optional
            Called with the bytes hashed so far and the bytes of all files.
        repair_progress : callable, optional
            Called with a `DownloadSnapshot` while damaged parts are fetched.
        on_notice : callable
            Called with a sentence for each file that is left out because the user put it there, or whose digest cannot
            be known because the Hub refuses.

        Returns
        -------
        Listing[VerifiedFile]
            The result for each file. Look at ``is_valid``.

        Raises
        ------
        RemoteFileNotFoundError, AmbiguousVariantError
            If the cache has no such model, or more than one.
        StorageError
            If a file cannot be read or written.
        HubError, NetworkError
            If the Hub is needed for a repair, and refuses or cannot be reached.

        Examples
        --------
        >>> all(file.is_valid for file in await session.verify("owner/name:Q4_K_M"))  # doctest: +SKIP
        True
        """
        from modeldeck.engine.verify import repair_request, repaired_files, verify_files
        from modeldeck.service.discovery import find_blocks_directory, find_verified_directory

        found = await self._told_apart(await self._local(model), asks_hub=True)
        for filename in found.own_filenames:
            on_notice(f"{filename} is not verified. It is your own file, which the Hub does not list.")
        local = without_own_files(found)
        if local is None:
            return Listing(())
        files = await verify_files(
            local,
            hub=lambda: self.hub,
            on_refusal=lambda filename, error: on_notice(
                f"{filename} was read, but there is no digest to compare it with. {error.message}"
            ),
            progress=progress,
            blocks_dir=await anyio.to_thread.run_sync(find_blocks_directory, self.settings.cache_dir),
            verified_dir=await anyio.to_thread.run_sync(find_verified_directory, self.settings.cache_dir),
        )
        if not repair or all(file.is_valid is not False for file in files):
            return Listing(files)
        request = await anyio.to_thread.run_sync(partial(repair_request, local, files, endpoint=self.settings.endpoint))
        job = await self.start(request)
        return Listing(repaired_files(files, await job.finished(progress=repair_progress)))

    async def remove(self, model: LocalModel | str | Path) -> int:
        """Delete a local model from the cache.

        Files that another revision or variant also uses stay, and so do files that the user put there. The digests of
        its blocks stay for a while, in case the same file is downloaded again.

        Parameters
        ----------
        model : LocalModel, str or Path
            A local model, its path, or ``"owner/name:LABEL"``. The label is optional if the cache has only one variant.

        Returns
        -------
        int
            The bytes that were freed.

        Raises
        ------
        RemoteFileNotFoundError, AmbiguousVariantError
            If the cache has no such model, or more than one.
        StorageError
            If the files cannot be deleted.

        Examples
        --------
        >>> await session.remove("owner/name:Q4_K_M")  # doctest: +SKIP
        4920733824
        """
        from modeldeck.hub.cache import remove

        local = await self._told_apart(await self._local(model), asks_hub=False)
        if without_own_files(local) is None:
            raise InvalidRequestError(
                f"{local.filenames[0]} is your own file and was not downloaded, so modeldeck does not delete it. "
                f"Delete {local.path} yourself."
            )
        kept = {
            name
            for other in await self.local_models()
            if (other.repo_id, other.commit_hash) == (local.repo_id, local.commit_hash)
            and other.variant_id != local.variant_id
            for name in other.filenames
        }
        freed = await anyio.to_thread.run_sync(
            partial(
                remove,
                self.settings.cache_dir,
                repo_id=local.repo_id,
                commit_hash=local.commit_hash,
                filenames=[name for name in local.filenames if name not in (*kept, *local.own_filenames)],
            )
        )
        await self.forget_removed_files()
        return freed

    async def contents(self) -> CacheContents:
        """Look at the cache: its models with their use and proof, what is left over, and the room on its disk.

        Returns
        -------
        CacheContents
            What the cache holds, whichever program put it there.

        Examples
        --------
        >>> contents = await session.contents()  # doctest: +SKIP
        >>> [stored.model.label for stored in contents.models if stored.proof is None]  # doctest: +SKIP
        """
        from modeldeck.cache_contents import read_contents
        from modeldeck.engine.verification_store import VerificationStore
        from modeldeck.service.discovery import find_verified_directory

        cache_dir = self.settings.cache_dir
        wanted = await self._wanted_blobs()

        def look() -> CacheContents:
            directory = find_verified_directory(cache_dir)
            records = None if directory is None else VerificationStore(directory)
            return read_contents(cache_dir, verifications=records, wanted=wanted)

        return await anyio.to_thread.run_sync(look)

    async def _wanted_blobs(self) -> set[str]:
        """Return the names of the blobs that unfinished downloads go on with."""
        from modeldeck.engine.store import JobStore, listed_names
        from modeldeck.service.discovery import all_state_directories

        cache_dir = self.settings.cache_dir

        def stored() -> set[str]:
            jobs = [job for place in all_state_directories(cache_dir) for job in JobStore(place).read()]
            unfinished = [job for job in jobs if job.finish is None]
            return {name for job in unfinished for name in (*listed_names(job.request), *job.partial_names)}

        running: set[str] = set()
        if self._engine is not None and self._engine.done():
            with suppress(ModelDeckError):
                snapshots = [job for job in (await self.engine()).snapshots() if job.state is not DownloadState.READY]
                running = {name for job in snapshots for name in listed_names(job.request)}
        return running | await anyio.to_thread.run_sync(stored)

    async def remove_leftovers(self, leftovers: Iterable[Leftover]) -> int:
        """Delete leftovers of the cache. Those that are in use stay, also if they came into use since they were found.

        Parameters
        ----------
        leftovers : iterable of Leftover
            Some of what `contents` has found.

        Returns
        -------
        int
            The bytes that were freed.

        Raises
        ------
        StorageError
            If a file cannot be deleted.

        Examples
        --------
        >>> contents = await session.contents()  # doctest: +SKIP
        >>> await session.remove_leftovers(contents.leftovers)  # doctest: +SKIP
        1073741824
        """
        from modeldeck.cache_contents import remove_leftovers

        wanted = await self._wanted_blobs()
        return await anyio.to_thread.run_sync(
            partial(remove_leftovers, self.settings.cache_dir, tuple(leftovers), wanted=wanted)
        )

    async def forget_removed_files(self) -> None:
        """Tell a running engine, and through it every open widget, that files were removed. It never starts an
        engine."""
        from modeldeck.service.observe import forget_removed_files

        with suppress(ModelDeckError):  # the model is removed; an engine that cannot be asked looks when it is joined
            if self._engine is not None:
                await (await self.engine()).forget_removed_files()
            else:
                await forget_removed_files(self.settings)

    async def _told_apart(self, model: LocalModel, *, asks_hub: bool) -> LocalModel:
        """Return a model whose ``own_filenames`` are without the files that were downloaded, but left no link.

        A copied cache, or one of a time without links, has such files beside links. One that was compared with its
        digest was downloaded, and so was one that the Hub lists with this size. In doubt it is the user's own.
        """
        from modeldeck.engine.verification_store import VerificationStore
        from modeldeck.service.discovery import find_verified_directory

        paths = paths_by_name(model)

        def sizes_of_unknown() -> dict[str, int]:
            directory = find_verified_directory(self.settings.cache_dir)
            store = None if directory is None else VerificationStore(directory)
            own = {name: paths[name] for name in model.own_filenames if paths[name].is_file()}
            return {name: path.stat().st_size for name, path in own.items() if store is None or not store.knows(path)}

        unknown = await anyio.to_thread.run_sync(sizes_of_unknown) if model.own_filenames else {}
        if unknown and asks_hub:
            with suppress(HubError, NetworkError):  # they stay in doubt
                for file in (await self.hub.listing(model.repo_id, model.commit_hash)).files:
                    if unknown.get(file.filename) == file.size:
                        del unknown[file.filename]
        return replace(model, own_filenames=tuple(name for name in model.own_filenames if name in unknown))

    async def _local(self, model: LocalModel | str | Path) -> LocalModel:
        if isinstance(model, LocalModel):
            return model
        models = await self.local_models()
        found = await anyio.to_thread.run_sync(with_path, models, Path(model))
        if not found and names_model(str(model), endpoint=self.settings.endpoint):
            found = await self._select(models, parse_target(str(model), endpoint=self.settings.endpoint))
        choices = list(dict.fromkeys(local.variant_id for local in found))
        if len(choices) > 1:
            raise AmbiguousVariantError(
                f"The cache has {len(choices)} variants of {model}. Add the one you mean after a colon: "
                f"{', '.join(choices)}.",
                choices=choices,
            )
        only = _preferred(found)
        if only is None:
            raise RemoteFileNotFoundError(
                f"{model} is not in the cache at {self.settings.cache_dir}. Download it first; `modeldeck ls` lists "
                "what is there."
                f"{hint_at_encoding()}"
            )
        return only

    async def _select(self, models: Iterable[LocalModel], address: ModelAddress) -> list[LocalModel]:
        """Return the models that an address names, under whichever of its names the cache has the repository.

        Of a revision in the address, those of the commit that it meant when it was last seen. ``"main"`` may also mean
        those of a commit that no branch or tag means any more.
        """
        from modeldeck.hub.cache import read_ref

        names, revision = await self._names_of(address.repo_id), address.revision

        def is_meant(model: LocalModel) -> bool:
            is_old_main = revision == "main" and model.revision is None
            commit_hash = read_ref(self.settings.cache_dir, model.repo_id, revision) if revision else model.commit_hash
            return model.commit_hash == commit_hash or is_old_main

        def select() -> list[LocalModel]:
            return select_local(filter(is_meant, select_local(models, names)), names, address.selector)

        return await anyio.to_thread.run_sync(select)

    async def _names_of(self, repo_id: str) -> tuple[str, ...]:
        return await anyio.to_thread.run_sync(lambda: self._renames().names_of(repo_id))

    def _remember_name(self, asked: str, canonical: str) -> None:
        self._renames().remember(asked, canonical)

    def _renames(self) -> RenameStore:
        if self._rename_store is None:
            from modeldeck.service.discovery import find_state_directory

            self._rename_store = RenameStore(find_state_directory(self.settings.cache_dir))
        return self._rename_store

    # --- loading -----------------------------------------------------------------------------------------------------

    async def load(
        self,
        model: LocalModel | LockedModel | str | Path,
        *,
        n_ctx: int | None = None,
        mmproj: str | Path | Literal[False] | None = None,
        progress: Callable[[LoadProgress], object] | None = None,
        download_progress: ProgressCallback | None = None,
        on_notice: Callable[[str], object] = warnings.warn,
        **kwargs: Any,
    ) -> Llama:
        """Load a model and return it, ready to use. A model that is not in the cache is downloaded first.

        Cancelling the call cancels the load. A vision projector that was downloaded with the model is loaded with it if
        llama-cpp-python supports it.

        Parameters
        ----------
        model : LocalModel, LockedModel, str or Path
            A local model, the path of a GGUF file, or ``"owner/name:LABEL"``; without a label, the recommended variant.
            Of a locked model, exactly the locked files.
        n_ctx : int, optional
            The context length in tokens; 0 for the model's own. By default that of a locked model, or 4096, or less if
            the model or the memory ends there.
        mmproj : str or Path or False, optional
            The vision projector to load with the model, in place of the one that was downloaded with it. ``False``
            downloads and loads none.
        progress : callable, optional
            Called with a `LoadProgress` on a worker thread. An exception that it raises ends the load.
        download_progress : callable, optional
            Called with a `DownloadSnapshot` while the model is downloaded.
        on_notice : callable
            Called with a sentence that says why the model is loaded without its projector, or from the cache because
            the Hub could not be followed.
        **kwargs : Any
            More arguments of ``llama_cpp.Llama``. What you leave out is chosen for this machine.

        Returns
        -------
        Llama
            The model: a ``llama_cpp.Llama`` whose misuse raises an error instead of ending the process.

        Raises
        ------
        LlamaMissingError
            If llama-cpp-python is not installed.
        DoesNotFitError
            If the model needs more memory than is free. Nothing has been allocated.
        GGUFError, LoadFailedError
            If the file is damaged, or llama.cpp cannot load it.
        ModelDeckError
            If the download fails.

        Examples
        --------
        >>> llm = await session.load("owner/name:Q4_K_M", n_ctx=8192)  # doctest: +SKIP
        """
        from modeldeck import llama
        from modeldeck.llama.install import require_llama_cpp

        require_llama_cpp()  # before a download that nothing could load
        if isinstance(model, LockedModel):
            n_ctx = model.n_ctx if n_ctx is None else n_ctx
            model = await self._bring(model, download_progress)
        wants_projector = mmproj is not False
        found = await self._found(model, download_progress, on_notice, projector=wants_projector)
        path = found if isinstance(found, Path) else found.path
        sidecars = found.sidecar_paths if isinstance(found, LocalModel) and wants_projector else ()
        own_projector = next(iter(sidecars), None)
        measurements = await anyio.to_thread.run_sync(self._measurements)

        async def attempt(projector: str | Path | None) -> Llama:
            cancel = threading.Event()
            load = partial(
                llama.load,
                path,
                n_ctx=n_ctx,
                progress=progress,
                cancel=cancel,
                mmproj=projector,
                measurements=measurements,
                **kwargs,
            )
            return await run_cancellable(load, cancel, discard=lambda loaded: loaded.unload())

        try:
            with _telling_how_to_mend(found):
                return await attempt(mmproj or own_projector)
        except LoadFailedError as error:
            if mmproj is not None or own_projector is None:
                raise
            loaded = await attempt(None)
            on_notice(f"{WITHOUT_PROJECTOR_NOTICE} {error.message}")
            return loaded

    async def plan(self, model: LocalModel, *, projector: bool = True, **kwargs: Any) -> LoadPlan:
        """Say what `load` would do with a model of the cache, without loading it.

        Parameters
        ----------
        model : LocalModel
            The model.
        projector : bool
            Whether the vision projector that was downloaded with it is loaded too.
        **kwargs : Any
            The arguments of ``llama_cpp.Llama`` that `load` would get.

        Returns
        -------
        LoadPlan
            The options that would be taken, and the memory that they need.

        Raises
        ------
        InvalidRequestError
            If an option cannot be used.
        GGUFError, LoadFailedError
            If the file is damaged, or is not a model.

        Examples
        --------
        >>> (await session.plan(model, n_ctx=8192)).fit.needed_bytes  # doctest: +SKIP
        """
        from modeldeck import llama

        mmproj = next(iter(model.sidecar_paths), None) if projector else None
        return await anyio.to_thread.run_sync(partial(llama.plan, model.path, mmproj=mmproj, **kwargs))

    async def measured(self, models: Iterable[LocalModel]) -> dict[Path, Measurement]:
        """Return what loading and generating took on this machine the last time, by path, for the models that have
        it."""
        paths = [model.path for model in models]

        def find() -> dict[Path, Measurement]:
            store = self._measurements()
            return {} if store is None else store.find_all(paths)

        return await anyio.to_thread.run_sync(find)

    def _measurements(self) -> MeasurementStore | None:
        from modeldeck.llama import MeasurementStore
        from modeldeck.service.discovery import find_state_directory

        directory = find_state_directory(self.settings.cache_dir)
        return None if directory is None else MeasurementStore(directory)  # models load without it

    def _speed_history(self) -> SpeedHistory:
        """Return the speeds that were measured on this machine. Measures the bandwidth of its memory the first time."""
        from modeldeck.service.discovery import find_state_directory
        from modeldeck.sizing.memory_bandwidth import find_bandwidth
        from modeldeck.sizing.speed import SpeedHistory

        store = self._measurements()
        history = SpeedHistory() if store is None else store.speed_history()
        return replace(history, memory_bandwidth=find_bandwidth(find_state_directory(self.settings.cache_dir)))

    async def _found(
        self,
        model: LocalModel | str | Path,
        progress: ProgressCallback | None,
        on_notice: Callable[[str], object],
        *,
        projector: bool,
    ) -> LocalModel | Path:
        """Return the model of the cache that is meant, or the path of a file elsewhere."""
        if isinstance(model, str) and is_target(model, endpoint=self.settings.endpoint):
            try:
                return await self._obtain(model, progress, on_notice, projector=projector)
            except RepoNotFoundError as error:
                if not is_like_path(model):
                    raise
                raise _is_neither(model) from error
        if isinstance(model, LocalModel):
            return model
        path = _file_named(model)
        return await anyio.to_thread.run_sync(self._cached_at, path) or path

    def _cached_at(self, path: Path) -> LocalModel | None:
        """Return the model of the cache that has a file at this path."""
        from modeldeck.hub.cache import list_models

        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(self.settings.cache_dir)):
            return None
        return _preferred(with_path(group_local(list_models(self.settings.cache_dir)), path))

    async def _obtain(
        self,
        target: str,
        progress: ProgressCallback | None,
        on_notice: Callable[[str], object],
        *,
        projector: bool,
    ) -> LocalModel:
        """Download, or take an older one that is complete in the cache if the new one cannot be had."""
        download = await self.start_download(target, projector=projector, on_notice=on_notice)
        try:
            return await download.result(progress=progress)
        except (HubError, NetworkError, PermissionDeniedError) as error:
            address = parse_target(target, endpoint=self.settings.endpoint)
            local = _preferred(await self._select(await self.local_models(), address))
            if local is None or local.commit_hash == download.snapshot.request.commit_hash:
                raise
            on_notice(f"{target} is taken from the cache, at an older commit. {error.message}")
            return local


def _nothing_to_recommend(details: RepoDetails) -> ModelDeckError:
    if not details.variants:
        return RemoteFileNotFoundError(
            f"{details.repo_id} has no GGUF model at revision {details.revision!r}. "
            "Search for a repository that has one."
        )
    unusable = [fit.reason for fit in details.fits.values() if fit.verdict == "unusable" and fit.reason]
    if len(unusable) == len(details.variants):
        return GGUFError(unusable[0])
    return DoesNotFitError(
        f"This machine can load no variant of {details.repo_id}. To download one anyway, name it: "
        f"{', '.join(dict.fromkeys(choice.label for choice in details.variants))}."
    )


@contextmanager
def _telling_how_to_mend(model: LocalModel | str | Path) -> Iterator[None]:
    """Add to an error about a model of the cache how it is mended if its files are damaged."""
    try:
        yield
    except GGUFError as error:
        if not isinstance(model, LocalModel):
            raise
        advice = f"`modeldeck verify {model.name} --repair` mends it if it is damaged."
        raise GGUFError(f"{error.message} It is in the cache: {advice}", **error.details) from error


def _leave(engine: Future[EngineClient]) -> None:
    """Leave an engine that may still be starting. This blocks."""
    with suppress(ModelDeckError):  # it never started, and its caller has seen the error
        engine.result().close()


def hint_at_encoding() -> str:
    """Say that files may be overlooked because their names cannot be read."""
    encoding = sys.getfilesystemencoding()
    is_usual = encoding.replace("-", "").lower() == "utf8"
    return "" if is_usual else f" This Python reads names of files as {encoding}; with PYTHONUTF8=1 it may find more."


def _preferred(models: Iterable[LocalModel]) -> LocalModel | None:
    """One that ``main`` means, as a plain name does, before one that another branch or tag means, and that before the
    rest."""
    return min(models, key=lambda model: (model.revision != "main", model.revision is None), default=None)


def _revision_of(address: ModelAddress, revision: str) -> str:
    """Return the revision that is meant where an address may name one too."""
    if address.revision in (None, revision):
        return revision
    if revision == "main":
        return address.revision or revision
    raise InvalidRequestError(
        f"The address already names the revision {address.revision!r}. Leave out the revision {revision!r}."
    )


def _file_named(path: str | Path) -> Path:
    """The path. A text that does not name a file may also be a misspelled repository."""
    if isinstance(path, str) and not os.path.isfile(path):
        raise _is_neither(path)
    return Path(path)


def _is_neither(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{text!r} is neither a file nor a repository. Give the path of a GGUF file, or OWNER/NAME:LABEL."
    )
