"""The handle of one download: what it is now, and how to steer it and wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from modeldeck._errors import DownloadCancelledError, ModelDeckError, error_from_info
from modeldeck._types import Action, DownloadSnapshot, DownloadState, LocalModel
from modeldeck.library import local_model_of

if TYPE_CHECKING:
    from modeldeck.service.engine_client import EngineClient

ProgressCallback: TypeAlias = Callable[[DownloadSnapshot], object]
Act: TypeAlias = Callable[[str, Action], Awaitable[DownloadSnapshot | None]]
"""Does an action of the download with this id, as `Session.act` does."""


class Download:
    """A download in the engine, as `Session.start` returns it.

    Get the model with `result` or ``await``. Deleting this object does not stop the download.

    Attributes
    ----------
    job_id : str
        The identity of the download in its engine.
    snapshot

    Examples
    --------
    >>> download = await session.start(request)  # doctest: +SKIP
    >>> download.snapshot.percent  # doctest: +SKIP
    42
    >>> model = await download  # doctest: +SKIP
    """

    def __init__(self, engine: EngineClient, snapshot: DownloadSnapshot, act: Act) -> None:
        self._engine = engine
        self._act_on = act
        self._latest = snapshot
        self.job_id = snapshot.job_id

    @property
    def snapshot(self) -> DownloadSnapshot:
        """The latest state of the download, a `DownloadSnapshot`. One that was dismissed keeps its last state."""
        for snapshot in self._engine.snapshots():
            if snapshot.job_id == self.job_id:
                self._latest = snapshot
        return self._latest

    async def pause(self) -> DownloadSnapshot:
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
        >>> await download.pause()  # doctest: +SKIP
        """
        return await self._act("pause")

    async def resume(self) -> DownloadSnapshot:
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
        >>> await download.resume()  # doctest: +SKIP
        """
        return await self._act("resume")

    async def cancel(self) -> DownloadSnapshot:
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
        >>> await download.cancel()  # doctest: +SKIP
        """
        return await self._act("cancel")

    async def retry(self) -> DownloadSnapshot:
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
        >>> await download.retry()  # doctest: +SKIP
        """
        return await self._act("retry")

    async def _act(self, action: Action) -> DownloadSnapshot:
        snapshot = await self._act_on(self.job_id, action)
        assert snapshot is not None, "only what was dismissed has none"
        return snapshot

    async def result(self, *, progress: ProgressCallback | None = None) -> LocalModel:
        """Wait until the model is downloaded and verified.

        Parameters
        ----------
        progress : callable, optional
            Called with a `DownloadSnapshot` at every change of state, and at most four times a second between. An
            exception that it raises ends the waiting; the download continues.

        Returns
        -------
        LocalModel
            The model in the cache.

        Raises
        ------
        DownloadCancelledError
            If the download was cancelled.
        ModelDeckError
            If the download failed; the class and the message say why.

        Examples
        --------
        >>> model = await download.result(progress=print)  # doctest: +SKIP
        """
        return await anyio.to_thread.run_sync(local_model_of, await self.finished(progress=progress))

    async def finished(self, *, progress: ProgressCallback | None = None) -> DownloadSnapshot:
        """Wait until the download is ready, and return its last snapshot.

        Parameters
        ----------
        progress : callable, optional
            Called with a `DownloadSnapshot` at every change of state, and at most four times a second between. An
            exception that it raises ends the waiting; the download continues.

        Returns
        -------
        DownloadSnapshot
            The finished download.

        Raises
        ------
        DownloadCancelledError
            If the download was cancelled.
        ModelDeckError
            If the download failed; the class and the message say why.

        Examples
        --------
        >>> snapshot = await download.finished()  # doctest: +SKIP
        """
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        scope = anyio.CancelScope()
        failures: list[BaseException] = []

        def take(snapshot: DownloadSnapshot) -> None:
            news.set()
            # The last snapshot is reported once, below, because it may arrive in both ways.
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


@asynccontextmanager
async def pausing_if_cancelled(download: Download) -> AsyncIterator[None]:
    """Pause a download if the task that waits for it is cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True), suppress(ModelDeckError):  # paused elsewhere, or just over
            await download.pause()
        raise
