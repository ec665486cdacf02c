"""A model that is loaded on the workers of a Dask cluster, and prompts over all of them."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modeldeck import bars
from modeldeck._errors import ClusterError, InvalidRequestError
from modeldeck._settings import resolve_settings
from modeldeck.cluster.crew import Crew, Per
from modeldeck.cluster.dask_calls import (
    CLOSED,
    check_may_wait,
    client_of,
    is_open,
    on_client_loop,
    run_as_dask_does,
    wait_on_client_loop,
)
from modeldeck.cluster.dispatch import Dispatch, check_parameters, read_prompts, read_seeds
from modeldeck.cluster.hosts import check_workers
from modeldeck.cluster.map_job import MapJob
from modeldeck.cluster.pull_job import pull_bar
from modeldeck.cluster.pulling import Pulling

_NOT_OPTIONS = frozenset({"cancel", "measurements", "mmproj", "model_path", "path"})
"""What `modeldeck.llama.load` takes, and a fleet does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMember:
    """A worker that has the model of a fleet.

    Attributes
    ----------
    worker : str
        The address of the worker.
    host : str
        The name of its host.
    n_threads : int
        The threads that llama.cpp uses there.
    done : int
        Prompts that it has answered.
    tokens : int
        Tokens that it has generated.
    tokens_per_second : float or None
        Its speed over all prompts; ``None`` before the first one is done.
    """

    worker: str
    host: str
    n_threads: int
    done: int
    tokens: int
    tokens_per_second: float | None


class Fleet:
    """A model that is loaded on the workers of a Dask cluster: use it in a ``with`` block.

    Entering the block pulls the model, judges the memory of each host, and loads the model where it fits. Workers that
    join later take the model from a host and load it, too. Leaving the block frees everything on the workers.

    Parameters
    ----------
    client : distributed.Client or None
        The client of the cluster; ``None`` for Dask's current one. With an asynchronous client, use ``async with``, and
        await the methods.
    target : str
        ``"owner/name:LABEL"``.
    n_ctx : int, optional
        The context length in tokens, as for `modeldeck.load`.
    per : {"host", "worker"}
        Load the model once on each host, with all its processors, or once on each worker. Then each worker has its
        share of the processors of its host.
    progress : bool, optional
        Whether to show a progress bar for the pull; by default, as for `modeldeck.download`.
    revision : str
        A branch, a tag or a commit.
    workers : sequence of str, optional
        The addresses of the workers to use, instead of all.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``) here.
    cache_dir : str or Path, optional
        The directory of the cache on each worker, instead of the worker's own setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows here. ``False`` sends none.
    **options : Any
        More arguments of ``llama_cpp.Llama``.

    Attributes
    ----------
    members

    Examples
    --------
    >>> with cluster.Fleet(client, "owner/name:Q4_K_M", n_ctx=4096) as fleet:  # doctest: +SKIP
    ...     texts = fleet.map(prompts, max_tokens=64, seed=7)
    """

    def __init__(
        self,
        client: Any,
        target: str,
        *,
        n_ctx: int | None = None,
        per: Per = "host",
        progress: bool | None = None,
        revision: str = "main",
        workers: Sequence[str] | None = None,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> None:
        if per not in ("host", "worker"):
            raise InvalidRequestError(f'per must be "host" or "worker", not {per!r}.')
        check_workers(workers)
        if refused := sorted(_NOT_OPTIONS & set(options)):
            raise InvalidRequestError(f"A fleet has no option {', '.join(refused)}. Leave it out.")
        self._client = client_of(client)
        self._target = target
        self._progress = progress
        settings = resolve_settings(endpoint=endpoint, token=token)

        def make_pulling(joined: list[str] | None) -> Pulling:
            chosen = None if workers is None else list(workers)
            return Pulling(
                self._client,
                target,
                revision=revision,
                workers=chosen if joined is None else joined,
                cache_dir=None if cache_dir is None else str(cache_dir),
                settings=settings,
            )

        self._make_pulling = make_pulling
        self._allows = None if workers is None else set(workers)
        self._per: Per = per
        self._n_ctx = n_ctx
        self._options = options
        self._crew: Crew | None = None

    def __enter__(self) -> Self:
        check_may_wait(self._client)
        crew = self._new_crew()
        try:
            if bars.is_wanted() if self._progress is None else self._progress:
                with bars.ProgressBar(self._bar) as bar:
                    wait_on_client_loop(self._client, crew.start(), meanwhile=bar.refresh)
            else:
                wait_on_client_loop(self._client, crew.start())
        except KeyboardInterrupt:
            self.close()
            raise
        self._warn()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        crew = self._new_crew()
        try:
            await on_client_loop(self._client, crew.start())
        except asyncio.CancelledError:
            await asyncio.shield(self._closed())
            raise
        self._warn()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._closed())

    def _new_crew(self) -> Crew:
        if not is_open(self._client):
            raise ClusterError(CLOSED)
        if self._crew is not None and not self._crew.is_closed:
            raise InvalidRequestError("This fleet is open already. Make another one, or leave its with block first.")
        crew = self._crew = Crew(
            self._client,
            self._make_pulling,
            per=self._per,
            n_ctx=self._n_ctx,
            options=self._options,
            allows=self._allows,
        )
        return crew

    async def _close(self) -> None:
        if self._crew is not None:
            await self._crew.close()

    async def _closed(self) -> None:
        try:
            await on_client_loop(self._client, self._close())
        except ClusterError:
            if is_open(self._client):  # else the workers have freed what was the client's
                raise

    def _bar(self) -> bars.Progress | None:
        pulling = None if self._crew is None else self._crew.pulling
        return None if pulling is None else pull_bar(pulling.snapshot)

    def _warn(self) -> None:
        left_out = {} if self._crew is None else self._crew.left_out
        if left_out:
            problems = " ".join(error.message for error in left_out.values())
            warnings.warn(f"{len(left_out)} of the cluster's workers or hosts are left out. {problems}", stacklevel=3)

    def close(self) -> Any:
        """Cancel what runs, and free the model on all workers. Nothing is left to do when the client is closed.

        Returns
        -------
        None
            With an asynchronous client, an awaitable.

        Examples
        --------
        >>> fleet.close()  # doctest: +SKIP
        """
        try:
            return run_as_dask_does(self._client, self._close)
        except ClusterError:
            if is_open(self._client):
                raise
        return asyncio.sleep(0) if self._client.asynchronous else None

    @property
    def members(self) -> tuple[FleetMember, ...]:
        """The workers that have the model now, with what they have done, as `FleetMember`."""
        members = [] if self._crew is None else list(self._crew.members.values())
        return tuple(
            FleetMember(
                worker=member.info.address,
                host=member.host,
                n_threads=member.n_threads,
                done=member.done,
                tokens=member.tokens,
                tokens_per_second=member.tokens / member.busy_seconds if member.busy_seconds else None,
            )
            for member in members
        )

    def submit(
        self, prompts: Sequence[Any], *, full: bool = False, return_exceptions: bool = False, **parameters: Any
    ) -> MapJob:
        """Start to answer prompts and return at once.

        Parameters
        ----------
        prompts : sequence of str or list
            Texts to continue, or chats: lists of messages, each with ``role`` and ``content``.
        full : bool
            Whether the results are llama-cpp-python's dictionaries instead of texts.
        return_exceptions : bool
            Whether an error takes the place of its prompt's result. Otherwise the first one ends the map.
        **parameters : Any
            Arguments of ``create_completion`` or ``create_chat_completion``, such as ``max_tokens``. With an int as
            ``seed``, prompt ``i`` gets ``seed + i``; a sequence has one seed for each prompt. The text of a prompt
            depends on its seed alone, not on the worker.

        Returns
        -------
        MapJob
            The running map.

        Raises
        ------
        InvalidRequestError
            If a prompt is neither a text nor a chat, or the fleet is closed.

        Examples
        --------
        >>> job = fleet.submit(prompts, max_tokens=64, seed=7)  # doctest: +SKIP
        """
        crew = self._crew
        if crew is None or crew.is_closed:
            raise InvalidRequestError(
                "The fleet is not open. Use it in a with block: with cluster.Fleet(...) as fleet."
            )
        if not is_open(self._client):
            raise ClusterError(CLOSED)
        dispatch = Dispatch(
            prompts,
            parameters=parameters,
            full=full,
            return_exceptions=return_exceptions,
            loop=self._client.loop.asyncio_loop,
        )
        return MapJob(self._client, crew, dispatch)

    def map(
        self,
        prompts: Sequence[Any],
        *,
        full: bool = False,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **parameters: Any,
    ) -> Any:
        """Answer prompts on all workers, and return the results in order. An interrupt (Ctrl-C) cancels it.

        If a worker dies, only the prompt that it was answering runs again, and one whose answer was lost on its way. A
        prompt that raises an error is not repeated.

        Parameters
        ----------
        prompts : sequence of str or list
            Texts to continue, or chats: lists of messages, each with ``role`` and ``content``.
        full : bool
            Whether the results are llama-cpp-python's dictionaries instead of texts.
        return_exceptions : bool
            Whether an error takes the place of its prompt's result. Otherwise the first one ends the map.
        progress : bool, optional
            Whether to show a progress bar; by default, as for `modeldeck.download`.
        **parameters : Any
            Arguments of ``create_completion`` or ``create_chat_completion``, such as ``max_tokens``. With an int as
            ``seed``, prompt ``i`` gets ``seed + i``; a sequence has one seed for each prompt.

        Returns
        -------
        list
            A text or dictionary for each prompt. With an asynchronous client, an awaitable of it.

        Raises
        ------
        InvalidRequestError
            If a prompt is neither a text nor a chat, or the fleet is closed.
        PromptKilledWorkerError
            If a prompt ended its worker's process twice.
        WorkersLostError
            If all workers are gone and none has joined.
        Exception
            What a prompt raised, with ``prompt_index``.

        Examples
        --------
        >>> fleet.map(["The capital of France is"], max_tokens=8)  # doctest: +SKIP
        [' Paris.']
        """
        job = self.submit(prompts, full=full, return_exceptions=return_exceptions, **parameters)
        if self._client.asynchronous:
            return job._awaited()
        return job._wait(is_bar_wanted=bars.is_wanted() if progress is None else progress)

    def as_completed(
        self, prompts: Sequence[Any], *, full: bool = False, return_exceptions: bool = False, **parameters: Any
    ) -> MapJob:
        """Answer prompts on all workers, and iterate over indices with results as they come.

        Parameters
        ----------
        prompts : sequence of str or list
            Texts to continue, or chats: lists of messages, each with ``role`` and ``content``.
        full : bool
            Whether the results are llama-cpp-python's dictionaries instead of texts.
        return_exceptions : bool
            Whether an error takes the place of its prompt's result. Otherwise the first one ends the map.
        **parameters : Any
            Arguments of ``create_completion`` or ``create_chat_completion``, as for `Fleet.map`.

        Returns
        -------
        MapJob
            Iterate over it, with ``for`` or ``async for``. Leaving the loop early cancels the map.

        Raises
        ------
        InvalidRequestError
            If a prompt is neither a text nor a chat, or the fleet is closed.

        Examples
        --------
        >>> for index, text in fleet.as_completed(prompts, max_tokens=64):  # doctest: +SKIP
        ...     print(index, text)
        """
        return self.submit(prompts, full=full, return_exceptions=return_exceptions, **parameters)

    def __repr__(self) -> str:
        return f"<Fleet {self._target} on {len(self.members)} workers>"


def map(
    client: Any,
    target: str,
    prompts: Sequence[Any],
    *,
    n_ctx: int | None = None,
    per: Per = "host",
    full: bool = False,
    return_exceptions: bool = False,
    progress: bool | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    **parameters: Any,
) -> Any:
    """Pull a model to a Dask cluster, load it, answer prompts on all workers, and free everything again.

    Parameters
    ----------
    client : distributed.Client or None
        The client of the cluster; ``None`` for Dask's current one.
    target : str
        ``"owner/name:LABEL"``.
    prompts : sequence of str or list
        Texts to continue, or chats: lists of messages, each with ``role`` and ``content``.
    n_ctx : int, optional
        The context length in tokens, as for `modeldeck.load`.
    per : {"host", "worker"}
        Load the model once on each host, or once on each worker.
    full : bool
        Whether the results are llama-cpp-python's dictionaries instead of texts.
    return_exceptions : bool
        Whether an error takes the place of its prompt's result. Otherwise the first one ends the map.
    progress : bool, optional
        Whether to show progress bars; by default, as for `modeldeck.download`.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``) here.
    cache_dir : str or Path, optional
        The directory of the cache on each worker, instead of the worker's own setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows here. ``False`` sends none.
    **parameters : Any
        Arguments of ``create_completion`` or ``create_chat_completion``, as for `Fleet.map`.

    Returns
    -------
    list
        A text or dictionary for each prompt. With an asynchronous client, an awaitable of it.

    Raises
    ------
    ClusterError
        If Dask is not installed, there is no client, or no worker can be used.
    DoesNotFitError
        If no worker has enough memory. The message names the host, the figures and the setting.
    Exception
        What a prompt raised, with ``prompt_index``.

    Examples
    --------
    >>> cluster.map(client, "owner/name:Q4_K_M", prompts, max_tokens=64, seed=7)  # doctest: +SKIP
    """
    prompts = read_prompts(prompts)
    read_seeds(parameters.get("seed"), len(prompts))
    check_parameters(parameters)
    fleet = Fleet(
        client,
        target,
        n_ctx=n_ctx,
        per=per,
        progress=progress,
        endpoint=endpoint,
        cache_dir=cache_dir,
        token=token,
    )
    options: dict[str, Any] = {"full": full, "return_exceptions": return_exceptions, **parameters}
    if fleet._client.asynchronous:
        return _map_awaited(fleet, prompts, options)
    with fleet:
        return fleet.map(prompts, progress=progress, **options)


async def _map_awaited(fleet: Fleet, prompts: Sequence[Any], options: dict[str, Any]) -> Any:
    async with fleet:
        return await fleet.map(prompts, **options)
