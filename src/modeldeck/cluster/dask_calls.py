"""How the client's side reaches the cluster: the client itself, its loop, and messages to modeldeck on the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from modeldeck._errors import ClusterError, ModelDeckError, error_from_info
from modeldeck._loop import wait_for_future
from modeldeck._types import ErrorInfo
from modeldeck.cluster.addressing import HANDLER
from modeldeck.cluster.plugin_shell import make_agent_plugin

T = TypeVar("T")


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
        raise ClusterError(f"The client is to be one of Dask, not {type(client).__name__}. Pass Client(...).")
    if client.status not in ("running", "connecting", "newly-created"):
        raise ClusterError("This Dask client is closed. Make a new one: client = Client(...).")
    return client


def start_on_loop(client: Any, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the client's loop, from any thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, client.loop.asyncio_loop)


def run_as_dask_does(client: Any, coroutine: Coroutine[Any, Any, T]) -> Any:
    """Run a coroutine on the client's loop and wait for it, or return an awaitable with an asynchronous client."""
    future = start_on_loop(client, coroutine)
    return asyncio.wrap_future(future) if client.asynchronous else wait_for_future(future)


async def register_plugin(client: Any, plugin: Any) -> None:
    """Put a worker plugin on all workers, present and future."""
    await client._register_worker_plugin(plugin, name=plugin.name, idempotent=plugin.idempotent)


async def register_agent(client: Any) -> None:
    """Bring modeldeck's handler to all workers, present and future."""
    await register_plugin(client, make_agent_plugin())


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
