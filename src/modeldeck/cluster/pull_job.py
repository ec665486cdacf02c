"""Pulls a model to a Dask cluster: the public function, and the job that it returns."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from modeldeck import bars
from modeldeck._errors import ClusterError, InvalidRequestError
from modeldeck._settings import resolve_settings
from modeldeck.cluster.dask_calls import (
    CLOSED,
    client_of,
    is_open,
    on_client_loop,
    run_as_dask_does,
    start_on_loop,
    wait_on_client_loop,
)
from modeldeck.cluster.hosts import check_workers
from modeldeck.cluster.pulled import PulledModel, PullSnapshot
from modeldeck.cluster.pulling import Pulling


class PullJob:
    """A pull that runs in the background, as `pull` returns it with ``wait=False``.

    Get the model with `result` or ``await``.

    Attributes
    ----------
    snapshot

    Examples
    --------
    >>> job = cluster.pull(client, "owner/name:Q4_K_M", wait=False)  # doctest: +SKIP
    >>> job.snapshot.received, job.snapshot.total  # doctest: +SKIP
    >>> model = job.result()  # doctest: +SKIP
    """

    def __init__(self, client: Any, make: Callable[[], Pulling]) -> None:
        self._client = client
        self._make = make
        self._start()

    def _start(self) -> None:
        self._pulling = self._make()
        self._future: Future[PulledModel] = start_on_loop(self._client, self._pulling.run())

    @property
    def snapshot(self) -> PullSnapshot:
        """The state of the pull now, a `PullSnapshot` with one entry for each host."""
        return self._pulling.snapshot

    def done(self) -> bool:
        """Tell whether the pull has ended, well or not.

        Returns
        -------
        bool
            ``True`` when `result` returns or raises at once.

        Examples
        --------
        >>> job.done()  # doctest: +SKIP
        False
        """
        return self._future.done()

    def cancel(self) -> Any:
        """Stop the pull on all hosts, and delete what the unfinished ones have received.

        Returns
        -------
        PullSnapshot
            The pull after this. With an asynchronous client, an awaitable of it.

        Examples
        --------
        >>> job.cancel()  # doctest: +SKIP
        """
        return self._stop("cancel")

    def retry(self) -> None:
        """Pull again on the hosts that failed. The others have the model, which takes no time.

        Examples
        --------
        >>> job.retry()  # doctest: +SKIP
        >>> job.result().failed  # doctest: +SKIP
        ()
        """
        if self._future.done():
            self._start()

    def result(self, timeout: float | None = None) -> PulledModel:
        """Wait until the model is on all hosts, and verified there.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. Without it, wait as long as it takes.

        Returns
        -------
        PulledModel
            The model on the hosts. ``failed`` lists the hosts that do not have it.

        Raises
        ------
        TimeoutError
            If the timeout is over. The pull continues.
        ClusterError
            If no worker can be used, or the client was closed before the pull had ended.
        InvalidRequestError
            If the client is asynchronous, and this is its loop. Use ``await`` there.
        ModelDeckError
            If no host could get the model; the class and the message say why.

        Examples
        --------
        >>> job.result(timeout=600).hosts  # doctest: +SKIP
        """
        return self._outcome() if self.done() else wait_on_client_loop(self._client, self._finished(), timeout)

    def _outcome(self) -> PulledModel:
        """Return what came of a pull that has ended. It can be had without the client, which may be closed."""
        if self._future.cancelled():  # the client's loop has ended with it
            raise ClusterError(CLOSED)
        return self._future.result()

    async def _finished(self) -> PulledModel:
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def __await__(self) -> Generator[Any, None, PulledModel]:
        return self._awaited().__await__()

    async def _awaited(self) -> PulledModel:
        return self._outcome() if self.done() else await on_client_loop(self._client, self._finished())

    def _stop(self, action: str) -> Any:
        async def stop() -> PullSnapshot:
            await self._pulling.stop(action)
            await asyncio.gather(asyncio.wrap_future(self._future), return_exceptions=True)
            return self._pulling.snapshot

        return run_as_dask_does(self._client, stop)

    def __repr__(self) -> str:
        snapshot = self.snapshot
        ready = sum(host.state.value == "ready" for host in snapshot.hosts)
        return f"<PullJob {snapshot.target}, {ready} of {len(snapshot.hosts)} hosts ready>"


def pull(
    client: Any,
    target: str,
    *,
    progress: Callable[[PullSnapshot], object] | bool | None = None,
    wait: bool = True,
    revision: str = "main",
    projector: bool = True,
    workers: Sequence[str] | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> Any:
    """Bring a model to every host of a Dask cluster: one download from the Hub, and copies from host to host.

    Each host verifies the files as a download does, before they get their final names in its Hugging Face cache. Hosts
    that have the model are not sent it, workers that share a cache get one copy, and a host that has a part of it goes
    on from there. An interrupt (Ctrl-C) pauses the pull; the same call continues it.

    Parameters
    ----------
    client : distributed.Client or None
        The client of the cluster; ``None`` for Dask's current one. With an asynchronous client, the call returns an
        awaitable.
    target : str
        ``"owner/name:LABEL"``. Without a label, the variant that suits the first host best.
    progress : bool or callable, optional
        Whether to show a progress bar; by default, as for `modeldeck.download`. A callable is called with a
        `PullSnapshot` instead, on the client's loop.
    wait : bool
        ``False`` returns a `PullJob` at once.
    revision : str
        A branch, a tag or a commit.
    projector : bool
        Whether the vision projector that goes with the variant is pulled too.
    workers : sequence of str, optional
        The addresses of the workers whose hosts get the model, instead of all.
    endpoint : str, optional
        The address of the Hub, instead of huggingface_hub's setting (``HF_ENDPOINT``) here. It must be reachable from
        the workers.
    cache_dir : str or Path, optional
        The directory of the cache on each worker, instead of the worker's own setting (``HF_HUB_CACHE``).
    token : str or bool, optional
        The token to use, instead of the one that huggingface_hub knows here. ``False`` sends none.

    Returns
    -------
    PulledModel
        The model on the hosts. If some of them failed, ``failed`` says why, and a warning names them. If the Hub does
        not give the model and a host has it in its cache, the others take it from there, and a warning says so.

    Raises
    ------
    ClusterError
        If Dask is not installed, there is no client, or no worker can be used.
    RemoteFileNotFoundError, AmbiguousVariantError
        If no variant, or more than one, has this name. The message lists the choices.
    ModelDeckError
        If no host could get the model.

    Examples
    --------
    >>> model = cluster.pull(client, "owner/name:Q4_K_M")  # doctest: +SKIP
    >>> [(host.host, host.source) for host in model.hosts]  # doctest: +SKIP
    [('node1', 'hub'), ('node2', 'peer node1'), ('node3', 'peer node2')]
    """
    if callable(progress) and not wait:
        raise InvalidRequestError("With wait=False, progress is never called. Leave it out, and read job.snapshot.")
    check_workers(workers)
    client = client_of(client)
    settings = resolve_settings(endpoint=endpoint, token=token)

    def make() -> Pulling:
        return Pulling(
            client,
            target,
            revision=revision,
            workers=None if workers is None else list(workers),
            cache_dir=None if cache_dir is None else str(cache_dir),
            settings=settings,
            projector=projector,
            on_change=progress if callable(progress) else lambda snapshot: None,
        )

    job = PullJob(client, make)
    if not wait:
        return job
    return _waited(job, progress)


def _waited(job: PullJob, progress: Callable[[PullSnapshot], object] | bool | None) -> Any:
    if job._client.asynchronous:
        return _warned(job)
    is_shown = not callable(progress) and (bars.is_wanted() if progress is None else progress)
    try:
        if not is_shown:
            return _with_warning(wait_on_client_loop(job._client, job._finished()))
        with bars.ProgressBar(lambda: pull_bar(job.snapshot)) as bar:
            return _with_warning(wait_on_client_loop(job._client, job._finished(), meanwhile=bar.refresh))
    except KeyboardInterrupt:
        if is_open(job._client):
            job._stop("pause")
        raise


async def _warned(job: PullJob) -> PulledModel:
    try:
        return _with_warning(await job)
    except asyncio.CancelledError:
        await asyncio.shield(job._pulling.stop("pause"))
        raise


def _with_warning(model: PulledModel) -> PulledModel:
    if model.notice is not None:
        warnings.warn(model.notice, stacklevel=3)
    if model.failed:
        problems = " ".join(f"{host.host}: {host.error.message}" for host in model.failed if host.error is not None)
        warnings.warn(
            f"{len(model.failed)} of {len(model.hosts)} hosts do not have {model.target}. {problems}", stacklevel=3
        )
    return model


def pull_bar(snapshot: PullSnapshot) -> bars.Progress:
    """Return what a bar shows of a pull."""
    ready = sum(host.state.value == "ready" for host in snapshot.hosts)
    text = f"{snapshot.target} on {ready} of {len(snapshot.hosts)} hosts"
    return bars.Progress(text, snapshot.received, snapshot.total)
