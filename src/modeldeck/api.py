"""The public functions: `Session`'s methods for code without ``await``, run on one private loop thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._loop import LoopThread, shared_loop
from modeldeck._settings import Settings, resolve_settings
from modeldeck._types import (
    DownloadSnapshot,
    LoadProgress,
    LocalModel,
    RepoDetails,
    SearchPage,
    SortKey,
    VerifiedFile,
)
from modeldeck.session import DEFAULT_N_CTX, Download, ProgressCallback, Session, split_target

if TYPE_CHECKING:
    from modeldeck.llama import Llama


class DownloadJob:
    """A download that goes on in the background.

    Steer it with `pause`, `resume`, `cancel` and `retry`; get the `LocalModel` with ``result(timeout)`` or ``await``.
    Letting go of this object does not stop the download.
    """

    def __init__(self, download: Download) -> None:
        self._download = download

    @property
    def snapshot(self) -> DownloadSnapshot:
        """Where the download stands now."""
        return self._download.snapshot

    def pause(self) -> DownloadSnapshot:
        """Stop fetching and keep what is there."""
        return shared_loop().wait(self._download.pause())

    def resume(self) -> DownloadSnapshot:
        """Go on from the byte where it stopped."""
        return shared_loop().wait(self._download.resume())

    def cancel(self) -> DownloadSnapshot:
        """Stop for good and delete what was fetched."""
        return shared_loop().wait(self._download.cancel())

    def retry(self) -> DownloadSnapshot:
        """Try a failed download again, from what is already there."""
        return shared_loop().wait(self._download.retry())

    def result(self, timeout: float | None = None) -> LocalModel:
        """Wait for the verified model.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds; the download goes on.
        ModelDeckError
            What it failed with.
        """
        return shared_loop().wait(self._download.result(), timeout)

    def __await__(self) -> Generator[Any, None, LocalModel]:
        return asyncio.wrap_future(shared_loop().start(self._download.result())).__await__()

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return f"<DownloadJob {snapshot.request.repo_id}:{snapshot.request.label} {snapshot.state}>"


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
            session = _sessions[key] = Session.from_settings(settings, inline=inline)
        return session


def search(
    text: str = "",
    *,
    sort: SortKey = "downloads",
    limit: int = 20,
    author: str | None = None,
    cursor: str | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
) -> SearchPage:
    """Search the Hub for repositories with GGUF files. See `Session.search`."""
    session = _session(endpoint, None, token)
    return shared_loop().wait(session.search(text, sort=sort, limit=limit, author=author, cursor=cursor))


def describe(
    repo_id: str,
    revision: str = "main",
    *,
    n_ctx: int = DEFAULT_N_CTX,
    is_exact: bool = True,
    endpoint: str | None = None,
    token: str | bool | None = None,
) -> RepoDetails:
    """A repository's variants with sizes, sha256, fit on this machine, and the one to take. See `Session.describe`."""
    session = _session(endpoint, None, token)
    return shared_loop().wait(session.describe(repo_id, revision, n_ctx=n_ctx, is_exact=is_exact))


@overload
def download(
    repo_id: str,
    variant: str | None = ...,
    *,
    filename: str | None = ...,
    revision: str = ...,
    progress: ProgressCallback | None = ...,
    wait: Literal[True] = ...,
    endpoint: str | None = ...,
    cache_dir: str | Path | None = ...,
    token: str | bool | None = ...,
    inline: bool | None = ...,
) -> LocalModel: ...


@overload
def download(
    repo_id: str,
    variant: str | None = ...,
    *,
    filename: str | None = ...,
    revision: str = ...,
    wait: Literal[False],
    endpoint: str | None = ...,
    cache_dir: str | Path | None = ...,
    token: str | bool | None = ...,
    inline: bool | None = ...,
) -> DownloadJob: ...


@overload
def download(
    repo_id: str,
    variant: str | None = ...,
    *,
    filename: str | None = ...,
    revision: str = ...,
    wait: bool,
    endpoint: str | None = ...,
    cache_dir: str | Path | None = ...,
    token: str | bool | None = ...,
    inline: bool | None = ...,
) -> LocalModel | DownloadJob: ...


def download(
    repo_id: str,
    variant: str | None = None,
    *,
    filename: str | None = None,
    revision: str = "main",
    progress: ProgressCallback | None = None,
    wait: bool = True,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    inline: bool | None = None,
) -> LocalModel | DownloadJob:
    """Download a variant, verify it, and publish it into the Hugging Face cache. See `Session.download`.

    Parameters
    ----------
    wait : bool
        With ``False``, return a `DownloadJob` at once; its ``snapshot`` takes the place of ``progress``.

    Notes
    -----
    An interrupt while waiting pauses the download: what was fetched stays, and the same call goes on from there.
    """
    if progress is not None and not wait:
        raise InvalidRequestError("Nobody calls progress with wait=False: leave it out and look at the job's snapshot.")
    session = _session(endpoint, cache_dir, token, inline)

    async def start() -> Download:
        target, selector = split_target(repo_id, variant)
        return await session.start(await session.request(target, selector, filename=filename, revision=revision))

    started = shared_loop().wait(start())
    if not wait:
        return DownloadJob(started)
    try:
        return shared_loop().wait(started.result(progress=progress))
    except KeyboardInterrupt:
        with suppress(ModelDeckError):  # paused elsewhere, or just over
            shared_loop().wait(started.pause())
        raise


def load(
    model: LocalModel | str | Path,
    *,
    n_ctx: int | None = None,
    mmproj: str | Path | None = None,
    progress: Callable[[LoadProgress], object] | None = None,
    download_progress: ProgressCallback | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    inline: bool | None = None,
    **kwargs: Any,
) -> Llama:
    """Load a model, downloading it first when it is not there, and return a ready `Llama`. See `Session.load`."""
    session = _session(endpoint, cache_dir, token, inline)
    return shared_loop().wait(
        session.load(
            model, n_ctx=n_ctx, mmproj=mmproj, progress=progress, download_progress=download_progress, **kwargs
        )
    )


def local_models(*, cache_dir: str | Path | None = None) -> tuple[LocalModel, ...]:
    """The complete variants in the Hugging Face cache, whoever downloaded them."""
    return shared_loop().wait(_session(None, cache_dir, None).local_models())


def verify(
    model: LocalModel | str | Path,
    *,
    repair: bool = False,
    progress: Callable[[int, int], object] | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> tuple[VerifiedFile, ...]:
    """Hash a local model's files and compare with the digests they must have. See `Session.verify`."""
    session = _session(endpoint, cache_dir, token)
    return shared_loop().wait(session.verify(model, repair=repair, progress=progress))


def remove(model: LocalModel | str | Path, *, cache_dir: str | Path | None = None) -> int:
    """Delete a local model from the cache; returns the bytes freed. See `Session.remove`."""
    return shared_loop().wait(_session(None, cache_dir, None).remove(model))
