"""A map that runs: its progress, its results, and the means to cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from modeldeck import bars
from modeldeck.cluster.crew import Crew
from modeldeck.cluster.dask_calls import is_open, on_client_loop, run_as_dask_does, start_on_loop, wait_on_client_loop
from modeldeck.cluster.dispatch import Dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class MapProgress:
    """How far a map is.

    Attributes
    ----------
    done : int
        Prompts that have a result, those with an error included.
    failed : int
        Prompts that raised an error.
    total : int
        All prompts.
    tokens : int
        Tokens generated for the prompts that are done.
    is_over : bool
        Whether the map has ended.
    """

    done: int
    failed: int
    total: int
    tokens: int
    is_over: bool


class MapJob:
    """A map that runs in the background, as `Fleet.submit` returns it.

    Get the results with `result` or ``await``.

    Attributes
    ----------
    progress

    Examples
    --------
    >>> job = fleet.submit(prompts, max_tokens=64)  # doctest: +SKIP
    >>> job.progress.done, job.progress.total  # doctest: +SKIP
    (12, 100)
    >>> texts = job.result()  # doctest: +SKIP
    """

    def __init__(self, client: Any, crew: Crew, dispatch: Dispatch) -> None:
        self._client = client
        self._crew = crew
        self._dispatch = dispatch
        client.loop.add_callback(crew.add, dispatch)

    @property
    def progress(self) -> MapProgress:
        """How far the map is, a `MapProgress`."""
        dispatch = self._dispatch
        return MapProgress(
            done=len(dispatch.finished),
            failed=dispatch.failed,
            total=dispatch.total,
            tokens=dispatch.tokens,
            is_over=dispatch.is_over,
        )

    def cancel(self) -> Any:
        """Stop the map: what is generated ends within a fraction of a second, and what waits never begins.

        Returns
        -------
        MapProgress
            How far the map came. With an asynchronous client, an awaitable of it.

        Examples
        --------
        >>> job.cancel()  # doctest: +SKIP
        """

        async def cancel() -> MapProgress:
            await self._crew.cancel(self._dispatch)
            return self.progress

        return run_as_dask_does(self._client, cancel)

    def result(self, timeout: float | None = None) -> list[Any]:
        """Wait for all results. An interrupt (Ctrl-C) cancels the map.

        A map that was cancelled raises ``concurrent.futures.CancelledError``.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. Without it, wait as long as it takes.

        Returns
        -------
        list
            The results in the order of the prompts.

        Raises
        ------
        TimeoutError
            If the timeout is over. The map continues.
        PromptKilledWorkerError
            If a prompt ended its worker's process twice.
        WorkersLostError
            If all workers are gone and none has joined.
        ClusterError
            If the client was closed before the map had ended.
        InvalidRequestError
            If the client is asynchronous, and this is its loop. Use ``await`` there.
        Exception
            What a prompt raised, with ``prompt_index``, unless errors were asked for as results.

        Examples
        --------
        >>> texts = job.result(timeout=600)  # doctest: +SKIP
        """
        return self._wait(timeout, is_bar_wanted=False)

    def _wait(self, timeout: float | None = None, *, is_bar_wanted: bool) -> list[Any]:
        if self._dispatch.is_over:  # what has ended can be had without the client, which may be closed
            try:
                return self._dispatch.over.result()
            except asyncio.CancelledError:
                raise CancelledError from None
        try:
            if not is_bar_wanted:
                return wait_on_client_loop(self._client, self._finished(), timeout)
            with bars.ProgressBar(self._bar) as bar:
                return wait_on_client_loop(self._client, self._finished(), timeout, meanwhile=bar.refresh)
        except KeyboardInterrupt:
            if is_open(self._client):
                self.cancel()
            raise

    def _bar(self) -> bars.Progress:
        progress = self.progress
        return bars.Progress(f"{progress.done} of {progress.total} prompts", progress.done, progress.total, False)

    async def _finished(self) -> list[Any]:
        return await asyncio.shield(self._dispatch.over)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._awaited().__await__()

    async def _awaited(self) -> list[Any]:
        if self._dispatch.is_over:
            return self._dispatch.over.result()
        try:
            return await on_client_loop(self._client, self._finished())
        except asyncio.CancelledError:
            self._cancel_soon()
            raise

    def _cancel_soon(self) -> None:
        if not self._dispatch.is_over and is_open(self._client):
            start_on_loop(self._client, self._crew.cancel(self._dispatch))

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield each index with its result, as they come. Leaving the loop early cancels the map."""
        position = 0
        try:
            while (found := wait_on_client_loop(self._client, self._dispatch.nth(position))) is not None:
                yield found
                position += 1
        finally:
            if not self._dispatch.is_over and is_open(self._client):
                self.cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        """Yield each index with its result, as they come. Leaving the loop early cancels the map."""
        position = 0
        try:
            while True:
                found = await on_client_loop(self._client, self._dispatch.nth(position))
                if found is None:
                    return
                yield found
                position += 1
        finally:
            self._cancel_soon()

    def __repr__(self) -> str:
        progress = self.progress
        return f"<MapJob {progress.done} of {progress.total} prompts done>"
