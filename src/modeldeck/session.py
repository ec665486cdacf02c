"""The headless façade: search, describe, download, load, verify, remove, over one engine and one Hub client."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from modeldeck._errors import (
    AmbiguousVariantError,
    DoesNotFitError,
    DownloadCancelledError,
    InvalidRequestError,
    LoadFailedError,
    ModelDeckError,
    NetworkError,
    RemoteFileNotFoundError,
    error_from_info,
)
from modeldeck._loop import in_daemon_thread
from modeldeck._settings import Settings, resolve_settings
from modeldeck._types import (
    DEFAULT_N_CTX,
    MAX_PAGE_SIZE,
    Action,
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    LoadProgress,
    LocalModel,
    RepoDetails,
    SearchPage,
    SearchQuery,
    SortKey,
    Variant,
    VerifiedFile,
)
from modeldeck.library import group_local, is_meant, local_model_of, select_local, with_path

if TYPE_CHECKING:
    from concurrent.futures import Future

    from modeldeck.appraisal import Appraiser
    from modeldeck.hub.client import HubClient
    from modeldeck.llama import Llama, Measurement, MeasurementStore
    from modeldeck.service.client import Engine

ProgressCallback = Callable[[DownloadSnapshot], object]


class Session:
    """Everything modeldeck does, asynchronously.

    Parameters
    ----------
    endpoint, cache_dir, token
        As huggingface_hub knows them (HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN) unless given. ``token=False`` sends none.
    inline : bool, optional
        Run the download engine on a thread of this process instead of in its own.

    Examples
    --------
    >>> async with Session() as session:                       # doctest: +SKIP
    ...     model = await session.download("owner/name", "Q4_K_M")
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        inline: bool | None = None,
    ) -> None:
        self._open(resolve_settings(endpoint=endpoint, cache_dir=cache_dir, token=token), inline)

    @classmethod
    def from_settings(cls, settings: Settings, *, inline: bool | None = None) -> Self:
        """A session for settings that are already resolved."""
        session = cls.__new__(cls)
        session._open(settings, inline)
        return session

    def _open(self, settings: Settings, inline: bool | None) -> None:
        self.settings = settings
        self._inline = inline
        self._hub: HubClient | None = None
        self._engine: Future[Engine] | None = None
        self._appraiser: Appraiser | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the Hub and the engine. Downloads in an engine process go on."""
        with anyio.CancelScope(shield=True):
            hub, self._hub = self._hub, None
            engine, self._engine = self._engine, None
            if hub is not None:
                await hub.aclose()
            if engine is not None:
                with suppress(ModelDeckError):  # it never came, and who asked for it was told, or had given up
                    await (await asyncio.wrap_future(engine)).aclose()

    @property
    def hub(self) -> HubClient:
        if self._hub is None:
            from modeldeck.hub.client import HubClient

            self._hub = HubClient(self.settings)
        return self._hub

    async def engine(self) -> Engine:
        """The download engine, started or joined on first use."""
        engine = self._engine
        if engine is None:
            from modeldeck.service.client import connect_engine

            engine = self._engine = in_daemon_thread(partial(connect_engine, self.settings, inline=self._inline))
        try:
            # Shielded: a caller that is cancelled leaves the client, its thread and its connection to the session.
            return await asyncio.shield(asyncio.wrap_future(engine))
        except Exception:
            if self._engine is engine:
                self._engine = None  # the next call tries again
            raise

    # --- looking -----------------------------------------------------------------------------------------------------

    async def search(
        self,
        text: str = "",
        *,
        sort: SortKey = "downloads",
        limit: int = 20,
        author: str | None = None,
        cursor: str | None = None,
    ) -> SearchPage:
        """Search the Hub for repositories with GGUF files.

        Parameters
        ----------
        limit : int
            Results of one page, 1 to 100; the page's ``next_cursor`` leads to more.
        cursor : str, optional
            ``next_cursor`` of the page before.
        """
        if not 1 <= limit <= MAX_PAGE_SIZE:
            raise InvalidRequestError(f"limit must be between 1 and {MAX_PAGE_SIZE}.")
        return await self.hub.search(SearchQuery(text=text, sort=sort, limit=limit, author=author), cursor)

    async def describe(
        self, repo_id: str, revision: str = "main", *, n_ctx: int = DEFAULT_N_CTX, exact: bool = True
    ) -> RepoDetails:
        """A repository's variants with sizes, sha256, fit on this machine, and the one to take.

        Parameters
        ----------
        n_ctx : int
            Context length in tokens to judge for.
        exact : bool
            Ask llama.cpp itself about the model's header, where llama-cpp-python is installed: takes about a second
            more. Otherwise a formula decides, on average within 1 % of llama.cpp.
        """
        from modeldeck.gguf.names import group_variants

        if n_ctx < 1:
            raise InvalidRequestError("n_ctx must be at least 1 token.")
        listing = await self.hub.listing(repo_id, revision)
        details = RepoDetails(
            repo_id=listing.repo_id,
            revision=listing.revision,
            commit_hash=listing.commit_hash,
            variants=group_variants(listing.files).variants,
            gated=listing.gated,
            license=listing.license,
        )
        return await self.reassess(details, n_ctx=n_ctx, exact=exact)

    async def reassess(self, details: RepoDetails, *, n_ctx: int, exact: bool = False) -> RepoDetails:
        """The same repository judged for another context length, or exactly. What was fetched once is not again."""
        if self._appraiser is None:
            from modeldeck.appraisal import Appraiser

            self._appraiser = Appraiser(self.hub)
        judge = self._appraiser.appraise_exactly if exact else self._appraiser.appraise
        return await judge(details, n_ctx=n_ctx)

    # --- downloading -------------------------------------------------------------------------------------------------

    async def request(
        self, repo_id: str, variant: str | None = None, *, filename: str | None = None, revision: str = "main"
    ) -> DownloadRequest:
        """Make the request for one variant: by label, by ``variant_id``, or the recommended one.

        Raises
        ------
        InvalidRequestError
            When both a variant and a filename are given.
        AmbiguousVariantError
            When the label fits several variants; ``choices`` lists them.
        RemoteFileNotFoundError
            When nothing fits; the message lists what there is.
        DoesNotFitError
            When no variant is given and none can be recommended.
        """
        from modeldeck.gguf.names import find_variant

        if variant is not None and filename is not None:
            raise InvalidRequestError(f"Give the variant {variant!r} or the filename {filename!r}, not both.")
        details = await self.describe(repo_id, revision, exact=False)
        wanted = variant if filename is None else filename
        selector = details.recommended if wanted is None else wanted
        if selector is None and details.variants:
            raise DoesNotFitError(
                f"This machine can load no variant of {details.repo_id}. To download one all the same, name it: "
                f"{', '.join(dict.fromkeys(choice.label for choice in details.variants))}."
            )
        if selector is None:
            raise RemoteFileNotFoundError(
                f"{details.repo_id} has no GGUF model at revision {revision!r}. Search for a repository that has one."
            )
        return self.request_for(details, find_variant(details.variants, selector))

    def request_for(self, details: RepoDetails, variant: Variant) -> DownloadRequest:
        """The request for a variant of a repository that is already described, pinned to its commit."""
        return DownloadRequest(
            repo_id=details.repo_id,
            revision=details.revision,
            commit_hash=details.commit_hash,
            variant_id=variant.variant_id,
            label=variant.label,
            files=variant.all_files,
            endpoint=self.settings.endpoint,
            cache_dir=str(self.settings.cache_dir),
        )

    async def start(self, request: DownloadRequest) -> Download:
        """Hand a request to the engine, or join the download that already runs for it."""
        engine = await self.engine()
        snapshot = await engine.submit(request, token=self.settings.token)
        return Download(self, engine, snapshot)

    async def download(
        self,
        repo_id: str,
        variant: str | None = None,
        *,
        filename: str | None = None,
        revision: str = "main",
        progress: ProgressCallback | None = None,
    ) -> LocalModel:
        """Download a variant, verify it, and publish it into the Hugging Face cache.

        Parameters
        ----------
        repo_id : str
            ``"owner/name"`` or ``"owner/name:LABEL"``.
        variant : str, optional
            A label such as ``"Q4_K_M"`` or a ``variant_id``; the recommended variant when neither this nor
            ``filename`` is given.
        progress : callable, optional
            Called with a `DownloadSnapshot` at every change of state and at most four times a second between. An
            exception it raises ends the waiting; the download goes on.

        Raises
        ------
        ModelDeckError
            With a ``code`` and a message that says what to do next.
        """
        repo_id, variant = split_target(repo_id, variant)
        job = await self.start(await self.request(repo_id, variant, filename=filename, revision=revision))
        return await job.result(progress=progress)

    async def downloads(self) -> tuple[DownloadSnapshot, ...]:
        """What the engine runs, holds paused, and remembers as failed or finished."""
        return (await self.engine()).snapshots()

    async def act(self, job_id: str, action: Action) -> DownloadSnapshot | None:
        """Do one of a download's ``actions``: pause, resume, cancel, retry or dismiss it.

        Parameters
        ----------
        job_id : str
            The download's ``job_id``, as its snapshots tell it.
        action : str
            One of the latest snapshot's ``actions``.

        Returns
        -------
        DownloadSnapshot or None
            The download afterwards; ``None`` when it was dismissed.

        Raises
        ------
        InvalidRequestError
            When there is no such download, or its state does not allow the action.
        """
        token = self.settings.token if action in ("resume", "retry") else None
        return await (await self.engine()).act(job_id, action, token)

    async def subscribe(
        self,
        callback: Callable[[DownloadSnapshot], None],
        *,
        on_removed: Callable[[str], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
    ) -> Callable[[], None]:
        """Be told of every new snapshot of every download of the engine. See `Engine.subscribe`."""
        return (await self.engine()).subscribe(callback, on_removed=on_removed, on_notice=on_notice)

    async def cancel(self, target: str) -> int:
        """Give up the unfinished downloads of a repository, or of one variant, and delete what came of them.

        Without a variant this includes what is left of downloads that no engine remembers, such as those of a kernel
        that was killed.

        Parameters
        ----------
        target
            ``"owner/name"`` or ``"owner/name:LABEL"``.

        Returns
        -------
        int
            Bytes freed.

        Raises
        ------
        RemoteFileNotFoundError
            When nothing is unfinished.
        """
        from modeldeck.engine.leftovers import discard_partials, list_partials
        from modeldeck.hub.cache import repo_dir

        repo_id, selector = split_target(target)
        engine = await self.engine()
        unfinished = [job for job in engine.snapshots() if "cancel" in job.actions]
        jobs = [job for job in unfinished if is_meant(job.request, repo_id, selector)]
        blobs = repo_dir(self.settings.cache_dir, repo_id) / "blobs"

        def allocated() -> int:
            return sum(info.allocated_bytes for info in list_partials(blobs))

        before = await anyio.to_thread.run_sync(allocated)
        for job in jobs:
            await engine.act(job.job_id, "cancel")
        if selector is None:
            await anyio.to_thread.run_sync(discard_partials, blobs)
        freed = before - await anyio.to_thread.run_sync(allocated)
        if not jobs and not freed:
            raise RemoteFileNotFoundError(
                f"Nothing of {target} is unfinished. `modeldeck downloads` lists what is; "
                "`modeldeck rm` deletes what is complete."
            )
        return freed

    # --- what is here ------------------------------------------------------------------------------------------------

    async def local_models(self) -> tuple[LocalModel, ...]:
        """The complete variants in the Hugging Face cache, whoever downloaded them."""
        from modeldeck.hub.cache import list_models

        return tuple(group_local(await anyio.to_thread.run_sync(list_models, self.settings.cache_dir)))

    async def find_local(self, repo_id: str, variant_id: str, *, commit_hash: str | None = None) -> LocalModel | None:
        """A variant of a repository, when it is in the cache.

        Of several commits the given one counts, else one that a branch or tag means.
        """
        return _preferred(
            model
            for model in select_local(await self.local_models(), repo_id)
            if model.variant_id == variant_id and commit_hash in (None, model.commit_hash)
        )

    async def verify(
        self,
        model: LocalModel | str | Path,
        *,
        repair: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[VerifiedFile, ...]:
        """Hash a local model's files and compare with the digests they must have.

        Parameters
        ----------
        model
            A `LocalModel`, its path, or ``"owner/name:LABEL"``; the only variant that is there needs no label.
        repair : bool
            Have the engine fetch again what is damaged, and wait for it. It fetches only that if modeldeck has
            downloaded or verified the file before and so knows its blocks. Otherwise it fetches the whole file to
            compare it. The repair is a download in the engine's list, and can be paused, resumed and cancelled there.
        progress : callable, optional
            Called with bytes hashed and bytes in all.
        """
        from modeldeck.engine.verify import repair_request, repaired_files, verify_files
        from modeldeck.service.discovery import find_blocks_directory

        local = await self._local(model)
        files = await verify_files(
            local,
            hub=self.hub,
            progress=progress,
            blocks_dir=await anyio.to_thread.run_sync(find_blocks_directory, self.settings.cache_dir),
        )
        if not repair or all(file.is_valid is not False for file in files):
            return files
        request = await anyio.to_thread.run_sync(partial(repair_request, local, files, endpoint=self.settings.endpoint))
        job = await self.start(request)
        return repaired_files(files, await job.finished())

    async def remove(self, model: LocalModel | str | Path) -> int:
        """Delete a local model from the cache. Returns the bytes freed: blobs other revisions share stay.

        What is known of its blocks stays for a while too, in case the same file comes again.
        """
        from modeldeck.hub.cache import remove

        local = await self._local(model)
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
                filenames=[name for name in local.filenames if name not in kept],
            )
        )
        await self.forget_removed_files()
        return freed

    async def forget_removed_files(self) -> None:
        """Tell a running engine, and through it every open widget, that files were removed. Never starts an engine."""
        from modeldeck.service.control import look_again

        with suppress(ModelDeckError):  # the model is removed; an engine that cannot be asked looks when it is joined
            if self._engine is not None:
                await (await self.engine()).look_again()
            else:
                await anyio.to_thread.run_sync(look_again, self.settings)

    async def _local(self, model: LocalModel | str | Path) -> LocalModel:
        if isinstance(model, LocalModel):
            return model
        models = await self.local_models()
        found = with_path(models, Path(model)) or select_local(models, *split_target(str(model)))
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
                f"{model} is not in the cache at {self.settings.cache_dir}. Download it first; `modeldeck ls` lists it."
            )
        return only

    # --- loading -----------------------------------------------------------------------------------------------------

    async def load(
        self,
        model: LocalModel | str | Path,
        *,
        n_ctx: int | None = None,
        mmproj: str | Path | None = None,
        progress: Callable[[LoadProgress], object] | None = None,
        download_progress: ProgressCallback | None = None,
        on_notice: Callable[[str], object] = warnings.warn,
        **kwargs: Any,
    ) -> Llama:
        """Load a model and return it as a ready `Llama`; cancelling the call cancels the load.

        A vision projector that was downloaded with the model is loaded with it where llama-cpp-python can.

        Parameters
        ----------
        model
            A `LocalModel`, the path of a GGUF file, or ``"owner/name[:LABEL]"``, which is downloaded when it is not
            in the cache.
        n_ctx : int, optional
            Context length in tokens.
        mmproj : str or Path, optional
            The vision projector to load with it: for a path, or in place of the one that was downloaded with the model.
        progress : callable, optional
            Called with a `LoadProgress`, on a worker thread.
        on_notice : callable
            Called with a sentence when the model is loaded without the projector downloaded with it, and why.
        **kwargs
            Passed on to ``llama_cpp.Llama``.
        """
        from modeldeck import llama
        from modeldeck.llama.install import require_llama_cpp

        require_llama_cpp()  # before a download that nothing could load
        path, own_projector = await self._model_paths(model, download_progress)
        measurements = await anyio.to_thread.run_sync(self._measurements)

        async def attempt(projector: str | Path | None) -> Llama:
            cancel = threading.Event()
            return await _run_cancellable(
                partial(
                    llama.load,
                    path,
                    n_ctx=n_ctx,
                    progress=progress,
                    cancel=cancel,
                    mmproj=projector,
                    measurements=measurements,
                    **kwargs,
                ),
                cancel,
            )

        try:
            return await attempt(mmproj or own_projector)
        except LoadFailedError as error:
            if mmproj is not None or own_projector is None:
                raise
            loaded = await attempt(None)
            on_notice(f"Loaded without its vision projector, for text only. {error.message}")
            return loaded

    async def measured(self, models: Iterable[LocalModel]) -> dict[Path, Measurement]:
        """What loading and generating took on this machine the last time, by path, for those models that know."""
        paths = [model.path for model in models]

        def find() -> dict[Path, Measurement]:
            store = self._measurements()
            return {} if store is None else store.find_all(paths)

        return await anyio.to_thread.run_sync(find)

    def _measurements(self) -> MeasurementStore | None:
        from modeldeck.llama import MeasurementStore
        from modeldeck.service.discovery import find_state_directory

        directory = find_state_directory(self.settings.cache_dir)
        return None if directory is None else MeasurementStore(directory)  # loading works all the same

    async def _model_paths(
        self, model: LocalModel | str | Path, progress: ProgressCallback | None
    ) -> tuple[Path, Path | None]:
        if isinstance(model, str) and is_target(model):
            model = await self._obtain(model, progress)
        if isinstance(model, LocalModel):
            return model.path, next(iter(model.sidecar_paths), None)
        return _file_named(model), None

    async def _obtain(self, target: str, progress: ProgressCallback | None) -> LocalModel:
        """Download, or take what the cache has when the Hub cannot be reached."""
        repo_id, selector = split_target(target)
        try:
            return await self.download(repo_id, selector, progress=progress)
        except NetworkError:
            local = _preferred(select_local(await self.local_models(), repo_id, selector))
            if local is None:
                raise
            return local


class Download:
    """A download in the engine: what it is now, and how to steer it.

    Await it, or `result`, for the `LocalModel`. Letting go of it does not stop the download.
    """

    def __init__(self, session: Session, engine: Engine, snapshot: DownloadSnapshot) -> None:
        self._session = session
        self._engine = engine
        self._latest = snapshot
        self.job_id = snapshot.job_id

    @property
    def snapshot(self) -> DownloadSnapshot:
        """Where the download stands, as last heard; the last snapshot of one that was dismissed."""
        for snapshot in self._engine.snapshots():
            if snapshot.job_id == self.job_id:
                self._latest = snapshot
        return self._latest

    async def pause(self) -> DownloadSnapshot:
        """Stop fetching and keep what is there."""
        return await self._act("pause")

    async def resume(self) -> DownloadSnapshot:
        """Go on from the byte where it stopped."""
        return await self._act("resume")

    async def cancel(self) -> DownloadSnapshot:
        """Stop for good and delete what was fetched."""
        return await self._act("cancel")

    async def retry(self) -> DownloadSnapshot:
        """Try a failed download again, from what is already there."""
        return await self._act("retry")

    async def _act(self, action: Action) -> DownloadSnapshot:
        snapshot = await self._session.act(self.job_id, action)
        assert snapshot is not None, "only what was dismissed has none"
        return snapshot

    async def result(self, *, progress: ProgressCallback | None = None) -> LocalModel:
        """Wait until the download is ready, and return its model. See `finished`."""
        return local_model_of(await self.finished(progress=progress))

    async def finished(self, *, progress: ProgressCallback | None = None) -> DownloadSnapshot:
        """Wait until the download is ready, and return its last snapshot.

        Raises
        ------
        DownloadCancelledError
            If the download was cancelled.
        ModelDeckError
            If it failed, the error that it failed with.
        """
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        scope = anyio.CancelScope()
        failures: list[BaseException] = []

        def take(snapshot: DownloadSnapshot) -> None:
            news.set()
            # The last one is told once, below: it may come both ways.
            if progress is None or snapshot.state.is_final or failures:
                return
            try:
                progress(snapshot)
            except BaseException as error:  # noqa: BLE001 - the loop would print it, or end by it
                failures.append(error)
                scope.cancel()

        def on_snapshot(snapshot: DownloadSnapshot) -> None:
            if snapshot.job_id == self.job_id:
                loop.call_soon_threadsafe(take, snapshot)

        unsubscribe = self._engine.subscribe(on_snapshot)
        try:
            with scope:
                while True:
                    news.clear()
                    snapshot = await self._engine.wait(self.job_id)
                    if snapshot.state is not DownloadState.PAUSED or snapshot.error is not None:
                        break
                    await news.wait()
        finally:
            unsubscribe()
        if failures:
            raise failures[0]
        if progress is not None:
            progress(snapshot)
        if snapshot.error is not None:
            raise error_from_info(snapshot.error)
        if snapshot.state is not DownloadState.READY:
            raise DownloadCancelledError("The download was cancelled. Start it again when you want it.")
        return snapshot

    def __await__(self) -> Generator[Any, None, LocalModel]:
        return self.result().__await__()


def _preferred(models: Iterable[LocalModel]) -> LocalModel | None:
    """One that a branch or tag means before one of a commit that nothing means any more."""
    return min(models, key=lambda model: model.revision is None, default=None)


_TARGET = re.compile(r"[\w.-]+/[\w.-]+(:.+)?", re.ASCII)


def is_target(text: str) -> bool:
    """Whether a text names a repository (``OWNER/NAME[:LABEL]``) and not a file."""
    return bool(_TARGET.fullmatch(text)) and not text.endswith(".gguf") and not Path(text).exists()


def split_target(target: str, variant: str | None = None) -> tuple[str, str | None]:
    """``"owner/name:LABEL"`` taken apart; a ``variant`` given beside it must not contradict it."""
    if "://" in target:
        raise InvalidRequestError(
            f"{target!r} is a web address. Give the repository as OWNER/NAME, and a file of it as OWNER/NAME:FILENAME."
        )
    repo_id, colon, selector = target.partition(":")
    if not colon:
        return repo_id, variant
    if variant is not None and variant != selector:
        raise InvalidRequestError(f"{target!r} already names the variant {selector!r}: leave out {variant!r}.")
    if not selector:
        raise InvalidRequestError(f"{target!r} ends with a colon: write OWNER/NAME or OWNER/NAME:LABEL.")
    return repo_id, selector


def _file_named(path: str | Path) -> Path:
    """The path; a text that is no file may also be a misspelled repository."""
    if isinstance(path, str) and not os.path.isfile(path):
        raise InvalidRequestError(
            f"{path!r} is neither a file nor a repository. Give the path of a GGUF file, or OWNER/NAME:LABEL."
        )
    return Path(path)


async def _run_cancellable(run: Callable[[], Llama], cancel: threading.Event) -> Llama:
    """Run on a worker thread; when the caller is cancelled, tell the thread and wait until it has let go."""
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, run)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel.set()
        with anyio.CancelScope(shield=True):
            done, _ = await asyncio.wait([future])
        for finished in done:
            if finished.exception() is None:
                finished.result().unload()
        raise
