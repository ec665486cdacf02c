"""How the client's side reaches the cluster: the client itself, its loop, and messages to modeldeck on the workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import msgspec

from modeldeck._errors import ClusterError, InvalidRequestError, ModelDeckError, error_from_info
from modeldeck._loop import wait_for_future
from modeldeck._types import ErrorInfo
from modeldeck.cluster.addressing import HANDLER
from modeldeck.cluster.plugin_shell import make_agent_plugin, make_search_for_orphans

T = TypeVar("T")

CLOSED = "This Dask client is closed. Make a new one: client = Client(...)."
LOOK_SECONDS = 0.25
"""How long a client may be closed before what waits for it notices."""


def client_of(client: Any) -> Any:
    """Return the client, or Dask's current one for ``None``.

    Raises
    ------
    ClusterError
        If Dask is not installed, or there is no client.
    """
    try:
        import distributed
    except ImportError:
        raise ClusterError(
            'Dask is not installed here. Install it with pip install "modeldeck[dask]", here and on the workers.'
        ) from None
    if client is None:
        try:
            client = distributed.get_client()
        except ValueError:
            raise ClusterError(
                "There is no Dask client. Make one first: from distributed import Client; client = Client()."
            ) from None
    if not isinstance(client, distributed.Client):
        raise ClusterError(f"A Dask client is needed, not {type(client).__name__}. Pass Client(...).")
    if not is_open(client):
        raise ClusterError(CLOSED)
    return client


def is_open(client: Any) -> bool:
    """Tell whether a client is connected, or will be."""
    return client.status in ("running", "connecting", "newly-created")


async def on_client_loop(client: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the client's loop and wait for it on any loop, but not longer than the client is open.

    Raises
    ------
    ClusterError
        If the client is closed, or is being closed meanwhile.
    """
    waiting = asyncio.wrap_future(start_on_loop(client, coroutine))
    waiting.add_done_callback(lambda _: waiting.cancelled() or waiting.exception())  # whoever waited may be gone
    while not (await asyncio.wait([waiting], timeout=LOOK_SECONDS))[0]:
        if not is_open(client):
            raise ClusterError(CLOSED)
    with _blaming_the_end_of(client):
        return waiting.result()


@contextmanager
def _blaming_the_end_of(client: Any) -> Iterator[None]:
    """Tell what fails with a closed client that the client is closed."""
    try:
        yield
    except ModelDeckError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if is_open(client):
            raise
        raise ClusterError(CLOSED) from error


def wait_on_client_loop(
    client: Any,
    coroutine: Coroutine[Any, Any, T],
    timeout: float | None = None,
    *,
    meanwhile: Callable[[], object] = lambda: None,
) -> T:
    """Run a coroutine on the client's loop and block until it is done, but not longer than the client is open.

    An interrupt cancels it. ``meanwhile`` is called four times a second on the caller's thread.

    Raises
    ------
    ClusterError
        If the client is closed, or is being closed meanwhile.
    InvalidRequestError
        If this is the thread of the client's loop, where it could only wait for itself.
    TimeoutError
        When ``timeout`` seconds have passed; the coroutine is cancelled.
    """

    def look() -> None:
        meanwhile()
        if not is_open(client):
            raise ClusterError(CLOSED)

    try:
        check_may_wait(client)
    except InvalidRequestError:
        coroutine.close()
        raise
    future = start_on_loop(client, coroutine)
    with _blaming_the_end_of(client):
        return wait_for_future(future, timeout, meanwhile=look)


def check_may_wait(client: Any) -> None:
    """Raise `InvalidRequestError` on the thread of the client's loop: what waits there for the loop waits forever."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return
    if running is client.loop.asyncio_loop:
        raise InvalidRequestError(
            "This call would wait for itself, because it runs on the loop of the Dask client. With an asynchronous "
            "client, use async with, async for and await here."
        )


def start_on_loop(client: Any, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the client's loop, from any thread.

    Raises
    ------
    ClusterError
        If the client is closed.
    """
    if not is_open(client):
        coroutine.close()
        raise ClusterError(CLOSED)
    return asyncio.run_coroutine_threadsafe(coroutine, client.loop.asyncio_loop)


def run_as_dask_does(client: Any, make: Callable[[], Coroutine[Any, Any, T]]) -> Any:
    """Run a coroutine on the client's loop and wait for it, or return an awaitable with an asynchronous client.

    The coroutine that ``make`` makes ends something, so it runs to its end also when a second interrupt ends the wait.

    Raises
    ------
    ClusterError, InvalidRequestError
        As for `wait_on_client_loop`.
    """

    async def run() -> T:
        return await to_the_end(make())

    return (
        asyncio.wrap_future(start_on_loop(client, run())) if client.asynchronous else wait_on_client_loop(client, run())
    )


async def to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine. It ends before this does, also when this is cancelled."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@asynccontextmanager
async def plugin_on_workers(client: Any, plugin: Any) -> AsyncIterator[None]:
    """Have a worker plugin on all workers, present and future, until the block ends."""
    try:
        await to_the_end(client._register_worker_plugin(plugin, name=plugin.name, idempotent=False))
        yield
    finally:
        await to_the_end(_unregister(client, plugin.name))


@asynccontextmanager
async def agents_on_workers(client: Any) -> AsyncIterator[None]:
    """Have modeldeck's handler on all workers, present and future, until the block ends.

    What clients that have died left there is removed first.
    """
    for name in await client.run_on_scheduler(make_search_for_orphans()):
        await to_the_end(_unregister(client, name))
    async with plugin_on_workers(client, make_agent_plugin(client.id)):
        yield


async def _unregister(client: Any, name: str) -> None:
    if client.status == "running":
        with suppress(ValueError, OSError):  # it was never registered, or a worker is about to leave the cluster
            await client._unregister_worker_plugin(name)


async def ask_workers(
    client: Any, workers: Collection[str], method: str, **arguments: Any
) -> Mapping[str, Any | ModelDeckError | OSError]:
    """Send a message to modeldeck on some workers, past their task queues, and return the answers or errors."""
    from distributed.protocol.pickle import loads

    if not workers:
        return {}
    message = {"op": HANDLER, "method": method, **arguments}
    replies = await client.scheduler.broadcast(msg=message, workers=list(workers), on_error="return_pickle")
    return {
        worker: _answer_in(loads(reply) if isinstance(reply, bytes) else reply) for worker, reply in replies.items()
    }


async def ask_worker(client: Any, worker: str, method: str, **arguments: Any) -> Any:
    """Send a message to modeldeck on one worker, and return the answer or raise the error."""
    (answer,) = (await ask_workers(client, [worker], method, **arguments)).values()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer_in(reply: Any) -> Any:
    if isinstance(reply, OSError | ModelDeckError):
        return reply
    if isinstance(reply, Exception):
        return ClusterError(f"modeldeck failed on a worker: {type(reply).__name__}: {reply}")
    if "import_error" in reply:
        return ClusterError(
            f"modeldeck cannot be imported there ({reply['import_error']}). "
            'Install "modeldeck[dask,llama]" on the workers.'
        )
    if "error" in reply:
        return error_from_info(msgspec.convert(reply["error"], ErrorInfo))
    return reply["answer"]
