"""The public functions: what `Session` does, for code without ``await``. They run on one private loop thread."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from modeldeck import bars
from modeldeck._errors import ModelDeckError
from modeldeck._listing import Listing
from modeldeck._loop import LoopThread, shared_loop
from modeldeck._settings import Settings, resolve_settings
from modeldeck._types import (
    DEFAULT_N_CTX,
    DownloadSnapshot,
    FitEstimate,
    LoadProgress,
    LocalModel,
    LockedModel,
    RepoDetails,
    SearchFilters,
    SearchPage,
    SortKey,
    VerifiedFile,
)
from modeldeck.download_handle import Download, ProgressCallback
from modeldeck.lockfile import LOCK_FILE_NAME
from modeldeck.session import Session

if TYPE_CHECKING:
    from modeldeck.llama import Llama


T = TypeVar("T")


class DownloadJob:
    """A download that runs in the background, as `start_download` returns it.

    Get the model with `result` or ``await``. Deleting this object does not stop the download.

    Attributes
    ----------
    snapshot

    Examples
    --------
    >>> job = modeldeck.start_download("owner/name", "Q4_K_M")  # doctest: +SKIP
    >>> job.snapshot.percent  # doctest: +SKIP
    42
    >>> model = job.result(timeout=600)  # doctest: +SKIP
    """

    def __init__(self, download: Download) -> None:
        self._download = download

    @property
    def snapshot(self) -> DownloadSnapshot:
        """The state of the download now, a `DownloadSnapshot`."""
        return self._download.snapshot

    def pause(self) -> DownloadSnapshot:
        """Stop receiving data and keep what is on disk.

        Returns
        -------
        DownloadSnapshot
            The download after this.

        Raises
        ------
        InvalidRequestError
            If the state of the download does not allow it.

        Examples
        --------
        >>> job.pause()  # doctest: +SKIP
        """
        return shared_loop().wait(self._download.pause())

    def resume(self) -> DownloadSnapshot:
        """Continue a paused download from the byte where it stopped.

        Returns
        -------
        DownloadSnapshot
            The download after this.

        Raises
        ------
        InvalidRequestError
            If the state of the download does not allow it.

        Examples
        --------
        >>> job.resume()  # doctest: +SKIP
        """
        return shared_loop().wait(self._download.resume())

    def cancel(self) -> DownloadSnapshot:
        """Stop the download and delete the data it has received.

        Returns
        -------
        DownloadSnapshot
            The download after this.

        Raises
        ------
        InvalidRequestError
            If the state of the download does not allow it.

        Examples
        --------
        >>> job.cancel()  # doctest: +SKIP
        """
        return shared_loop().wait(self._download.cancel())

    def retry(self) -> DownloadSnapshot:
        """Try a failed download again, with the data that is already on disk.

        Returns
        -------
        DownloadSnapshot
            The download after this.

        Raises
        ------
        InvalidRequestError
            If the state of the download does not allow it.

        Examples
        --------
        >>> job.retry()  # doctest: +SKIP
        """
        return shared_loop().wait(self._download.retry())

    def result(self, timeout: float | None = None) -> LocalModel:
        """Wait until the model is downloaded and verified.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. Without it, wait as long as it takes, also while the download is paused.

        Returns
        -------
        LocalModel
            The model in the cache.

        Raises
        ------
        TimeoutError
            If the timeout is over. The download continues.
        DownloadCancelledError
            If the download was cancelled.
        ModelDeckError
            If the download failed; the class and the message say why.

        Examples
        --------
        >>> job.result(timeout=600).path  # doctest: +SKIP
        """
        return shared_loop().wait(self._download.result(), timeout)

    def _result_with_progress(self, progress: ProgressCallback | bool | None) -> LocalModel:
        if callable(progress):
            return shared_loop().wait(self._download.result(progress=progress))
        return _wait(self._download.result(), progress, lambda: bars.download_progress(self.snapshot))

    def __await__(self) -> Generator[Any, None, LocalModel]:
        return asyncio.wrap_future(shared_loop().start(self._download.result())).__await__()

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return f"<DownloadJob {snapshot.request.name} {snapshot.state}>"


def _wait(coroutine: Coroutine[Any, Any, T], progress: bool | None, look: Callable[[], bars.Progress | None]) -> T:
    """Wait for the coroutine, with a progress bar if the caller wants one, or if nothing is said and a person looks."""
    if not (bars.is_wanted() if progress is None else progress):
        return shared_loop().wait(coroutine)
    with bars.ProgressBar(look) as bar:
        return shared_loop().wait(coroutine, meanwhile=bar.refresh)


@contextmanager
def _warnings() -> Iterator[Callable[[str], object]]:
    """Collect notices, and at the end warn with each of them, at the line of the user that called the function."""
    notices: list[str] = []
    try:
        yield notices.append
    finally:
        for notice in notices:
            warnings.warn(notice, stacklevel=4)


_sessions: dict[tuple[LoopThread, Settings, bool | None], Session] = {}
"""Each for its loop: a process that was forked has one of its own."""
_sessions_lock = threading.Lock()


def _session(
    endpoint: str | None, cache_dir: str | Path | None, token: str | bool | None, inline: bool | None = None
) -> Session:
    """The session for these settings. It stays open: downloads that nobody waits for need its engine."""
    settings = resolve_settings(endpoint=endpoint, cache_dir=cache_dir, token=token)
    key = (shared_loop(), settings, inline)
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = Session(endpoint=endpoint, cache_dir=cache_dir, token=token, inline=inline)
        return session


def search(
    text: str = "",
    *,
    sort: SortKey = "downloads",
    limit: int = 20,
    author: str | None = None,
    filters: SearchFilters | None = None,
    cursor: str | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
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
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.

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
    >>> page = modeldeck.search("qwen3", sort="likes", limit=5)  # doctest: +SKIP
    >>> [model.repo_id for model in page.models]  # doctest: +SKIP
    >>> small_chat_models = modeldeck.SearchFilters(task="chat", max_parameters=4_000_000_000)
    >>> page = modeldeck.search(sort="trending", filters=small_chat_models)  # doctest: +SKIP
    """
    session = _session(endpoint, None, token)
    search = session.search(text, sort=sort, limit=limit, author=author, filters=filters, cursor=cursor)
    return shared_loop().wait(search)


def describe(
    repo_id: str,
    revision: str = "main",
    *,
    n_ctx: int = DEFAULT_N_CTX,
    exact: bool = True,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> RepoDetails:
    """List the variants of a repository, with sizes, digests, how each fits this machine, and which one to take.

    If the Hub refuses or cannot be reached, the variants are those that are complete in the cache, with a warning.

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
        formula that is used otherwise.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.

    Returns
    -------
    RepoDetails
        The variants, the estimate for each, and the recommended one.

    Raises
    ------
    InvalidRequestError
        If a value cannot be right, such as a malformed ``repo_id``.
    RepoNotFoundError, RevisionNotFoundError
        If neither the Hub nor the cache has it.
    GatedError, UnauthorizedError
        If the Hub asks for a token, or for accepted terms, and the cache does not have it.
    HubError, NetworkError
        If the Hub refuses for another reason, or cannot be reached, and the cache does not have it.

    Examples
    --------
    >>> repo = modeldeck.describe("owner/name", n_ctx=8192)  # doctest: +SKIP
    >>> [(variant.label, repo.fits[variant.variant_id].verdict) for variant in repo.variants]  # doctest: +SKIP
    """
    session = _session(endpoint, cache_dir, token)
    with _warnings() as on_notice:
        describe = session.describe(repo_id, revision, n_ctx=n_ctx, exact=exact, on_notice=on_notice)
        return shared_loop().wait(describe)


def fit(
    model: LocalModel | str | Path,
    *,
    n_ctx: int = DEFAULT_N_CTX,
    exact: bool = True,
    cache_dir: str | Path | None = None,
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
    cache_dir : str or Path, optional
        The Hugging Face cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).

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
    >>> modeldeck.fit("model.gguf", n_ctx=8192).verdict  # doctest: +SKIP
    """
    return shared_loop().wait(_session(None, cache_dir, None).fit(model, n_ctx=n_ctx, exact=exact))


def start_download(
    repo_id: str,
    variant: str | None = None,
    *,
    filename: str | None = None,
    revision: str = "main",
    projector: bool = True,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    inline: bool | None = None,
) -> DownloadJob:
    """Start downloading a variant and return at once. A download that already runs for it is joined.

    The download runs in the engine's own process and continues after this one ends, unless it runs ``inline``.

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
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.
    inline : bool, optional
        Download on a thread of this process, instead of in the engine's own process.

    Returns
    -------
    DownloadJob
        The running download: its state, and the means to pause, resume, cancel and wait for it.

    Raises
    ------
    RemoteFileNotFoundError, AmbiguousVariantError
        If no variant, or more than one, has this name. The message lists the choices.
    DoesNotFitError
        If no variant is given and none fits this machine.
    InvalidRequestError
        If the values contradict each other.
    HubError, NetworkError
        If the Hub refuses or cannot be reached, and the cache does not have the variant.

    Examples
    --------
    >>> job = modeldeck.start_download("owner/name", "Q4_K_M")  # doctest: +SKIP
    >>> job.pause()  # doctest: +SKIP
    >>> job.resume()  # doctest: +SKIP
    >>> model = job.result()  # doctest: +SKIP
    """
    with _warnings() as on_notice:
        session = _session(endpoint, cache_dir, token, inline)
        return _start(
            session,
            repo_id,
            variant,
            filename=filename,
            revision=revision,
            projector=projector,
            on_notice=on_notice,
        )


def _start(session: Session, repo_id: str, variant: str | None, **options: Any) -> DownloadJob:
    return DownloadJob(shared_loop().wait(session.start_download(repo_id, variant, **options)))


def download(
    repo_id: str,
    variant: str | None = None,
    *,
    filename: str | None = None,
    revision: str = "main",
    projector: bool = True,
    progress: ProgressCallback | bool | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    inline: bool | None = None,
) -> LocalModel:
    """Download a variant into the Hugging Face cache, verify it, and return it.

    The call resumes what an earlier one left, and returns at once if the cache has the model. An interrupt (Ctrl-C, or
    Stop in a notebook) pauses the download; the same call continues it.

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
    progress : bool or callable, optional
        Whether to show a progress bar; by default, if a person looks (in a notebook or at a terminal) and
        ``HF_HUB_DISABLE_PROGRESS_BARS`` is not set. A callable is called with a `DownloadSnapshot` instead, at every
        change of state and at most four times a second between. An exception that it raises ends the waiting; the
        download continues.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.
    inline : bool, optional
        Download on a thread of this process, instead of in the engine's own process.

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
    InvalidRequestError
        If the values contradict each other.
    HubError, NetworkError
        If the Hub refuses or cannot be reached, and the cache does not have the variant.
    StorageError, IntegrityError
        If the disk or the data is faulty. Received data is kept.

    Examples
    --------
    >>> model = modeldeck.download("owner/name", "Q4_K_M", progress=print)  # doctest: +SKIP
    >>> model.path  # doctest: +SKIP
    """
    with _warnings() as on_notice:
        session = _session(endpoint, cache_dir, token, inline)
        job = _start(
            session,
            repo_id,
            variant,
            filename=filename,
            revision=revision,
            projector=projector,
            on_notice=on_notice,
        )
    try:
        return job._result_with_progress(progress)
    except KeyboardInterrupt:
        with suppress(ModelDeckError):  # paused elsewhere, or just over
            job.pause()
        raise


def load(
    model: LocalModel | LockedModel | str | Path,
    *,
    n_ctx: int | None = None,
    mmproj: str | Path | Literal[False] | None = None,
    progress: Callable[[LoadProgress], object] | bool | None = None,
    download_progress: ProgressCallback | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    inline: bool | None = None,
    **kwargs: Any,
) -> Llama:
    """Load a model and return it, ready to use. A model that is not in the cache is downloaded first.

    A vision projector that was downloaded with the model is loaded with it if llama-cpp-python supports it.

    Parameters
    ----------
    model : LocalModel, LockedModel, str or Path
        A local model, the path of a GGUF file, or ``"owner/name:LABEL"``; without a label, the recommended variant.
        Of a locked model, exactly the locked files.
    n_ctx : int, optional
        The context length in tokens; 0 for the model's own. By default that of a locked model, or 4096, or less if the
        model or the memory ends there.
    mmproj : str or Path or False, optional
        The vision projector to load with the model, in place of the one that was downloaded with it. ``False``
        downloads and loads none.
    progress : bool or callable, optional
        Whether to show a progress bar, also for the download; by default, as for `download`. A callable is called
        with a `LoadProgress` on a worker thread instead. An exception that it raises ends the load.
    download_progress : callable, optional
        Called with a `DownloadSnapshot` while the model is downloaded.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.
    inline : bool, optional
        Download on a thread of this process, instead of in the engine's own process.
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
    >>> llm = modeldeck.load("owner/name:Q4_K_M", n_ctx=8192)  # doctest: +SKIP
    >>> llm.create_chat_completion(messages=[{"role": "user", "content": "Hello"}])  # doctest: +SKIP
    """
    session = _session(endpoint, cache_dir, token, inline)
    latest = bars.Latest()
    is_bar = not callable(progress) and download_progress is None
    with _warnings() as on_notice:
        return _wait(
            session.load(
                model,
                n_ctx=n_ctx,
                mmproj=mmproj,
                progress=progress if callable(progress) else latest.note_load,
                download_progress=download_progress or latest.note_download,
                on_notice=on_notice,
                **kwargs,
            ),
            progress if is_bar and not callable(progress) else False,
            latest,
        )


def lock(
    *targets: str,
    path: str | Path = LOCK_FILE_NAME,
    revision: str = "main",
    n_ctx: int | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> Listing[LockedModel]:
    """Write which files models are, at the commits of now, into a lock file. Nothing is downloaded.

    Models that the file already has stay. The named ones are added, or locked again at the present commit. Programs of
    one user that lock models in the same file take turns.

    Parameters
    ----------
    *targets : str
        ``"owner/name:LABEL"`` of each model; without a label, the recommended variant.
    path : str or Path
        The lock file.
    revision : str
        A branch, a tag or a commit.
    n_ctx : int, optional
        The context length in tokens to load the models with. By default 4096, or less if a model was trained for less.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.

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
    >>> modeldeck.lock("owner/name:Q4_K_M", n_ctx=8192)  # doctest: +SKIP
    """
    session = _session(endpoint, cache_dir, token)
    with _warnings() as on_notice:
        return shared_loop().wait(
            session.lock(*targets, path=path, revision=revision, n_ctx=n_ctx, on_notice=on_notice)
        )


def locked(name: str, path: str | Path = LOCK_FILE_NAME) -> LockedModel:
    """Find a model in a lock file, to load exactly its files.

    Parameters
    ----------
    name : str
        ``"owner/name:LABEL"``, or an address of the model. The owner and the label are optional where the rest means
        one model. A repository is found by an old name too, if it was asked for by that name before.
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
    >>> llm = modeldeck.load(modeldeck.locked("owner/name:Q4_K_M"))  # doctest: +SKIP
    """
    return shared_loop().wait(_session(None, None, None).locked(name, path))


def sync(
    path: str | Path = LOCK_FILE_NAME,
    *,
    check: bool = False,
    progress: ProgressCallback | bool | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    inline: bool | None = None,
) -> Listing[LocalModel]:
    """Bring exactly the files of a lock file into the cache, verified; or only check whether they are there.

    What the cache has is not fetched again, at whichever commit it has it.

    Parameters
    ----------
    path : str or Path
        The lock file.
    check : bool
        Fetch nothing and ask nobody. Read the files of the cache and compare them.
    progress : bool or callable, optional
        Whether to show a progress bar; by default, as for `download`. A callable is called with a `DownloadSnapshot`
        instead.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.
    inline : bool, optional
        Download on a thread of this process, instead of in the engine's own process.

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
    >>> models = modeldeck.sync()  # doctest: +SKIP
    """
    session = _session(endpoint, cache_dir, token, inline)
    latest = bars.Latest()
    with _warnings() as on_notice:
        if callable(progress):
            return shared_loop().wait(session.sync(path, check=check, progress=progress, on_notice=on_notice))
        syncing = session.sync(path, check=check, progress=latest.note_download, on_notice=on_notice)
        return _wait(syncing, progress, latest)


def local_models(*, cache_dir: str | Path | None = None) -> Listing[LocalModel]:
    """List the complete variants in the Hugging Face cache, whichever program downloaded them.

    Parameters
    ----------
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).

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
    >>> [(model.repo_id, model.label, model.size) for model in modeldeck.local_models()]  # doctest: +SKIP
    """
    return shared_loop().wait(_session(None, cache_dir, None).local_models())


def verify(
    model: LocalModel | str | Path,
    *,
    repair: bool = False,
    progress: Callable[[int, int], object] | bool | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> Listing[VerifiedFile]:
    """Hash the files of a local model and compare them with the digests that the Hub lists.

    Parameters
    ----------
    model : LocalModel, str or Path
        A local model, its path, or ``"owner/name:LABEL"``. The label is optional if the cache has only one variant.
    repair : bool
        Fetch damaged parts again. If modeldeck downloaded or verified the file before, it knows which parts those
        are; otherwise it fetches the whole file and compares.
    progress : bool or callable, optional
        Whether to show a progress bar; by default, as for `download`. A callable is called with the bytes hashed so
        far and the bytes of all files instead.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``).
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows (``HF_TOKEN``, login). ``False`` sends none.

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
    >>> all(file.is_valid for file in modeldeck.verify("owner/name:Q4_K_M"))  # doctest: +SKIP
    True
    """
    session = _session(endpoint, cache_dir, token)
    latest = bars.Latest()
    with _warnings() as on_notice:
        if callable(progress):
            verify = session.verify(model, repair=repair, progress=progress, on_notice=on_notice)
            return shared_loop().wait(verify)
        verify = session.verify(
            model,
            repair=repair,
            progress=latest.note_verification,
            repair_progress=latest.note_download,
            on_notice=on_notice,
        )
        return _wait(verify, progress, latest)


def remove(model: LocalModel | str | Path, *, cache_dir: str | Path | None = None) -> int:
    """Delete a local model from the cache.

    Files that another revision or variant also uses stay.

    Parameters
    ----------
    model : LocalModel, str or Path
        A local model, its path, or ``"owner/name:LABEL"``. The label is optional if the cache has only one variant.
    cache_dir : str or Path, optional
        The directory of the cache, instead of huggingface_hub's setting (``HF_HUB_CACHE``).

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
    >>> modeldeck.remove("owner/name:Q4_K_M")  # doctest: +SKIP
    4920733824
    """
    return shared_loop().wait(_session(None, cache_dir, None).remove(model))
