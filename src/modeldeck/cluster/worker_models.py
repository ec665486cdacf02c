"""The loaded models of a worker, and the task that answers a prompt."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modeldeck._errors import (
    ClusterError,
    DoesNotFitError,
    GenerationCancelledError,
    LlamaCrashedError,
    ModelDeckError,
    ModelUnloadedError,
)
from modeldeck._tables import format_memory
from modeldeck._types import FitEstimate, LocalModel
from modeldeck.cluster.addressing import RESOURCE, lease_key

if TYPE_CHECKING:
    from modeldeck.llama import Llama

CANCEL_SECONDS = 0.02
_TERMINATE_FRACTION = 0.95


@dataclass(eq=False)
class _LoadedModel:
    """A model that one fleet has on this worker."""

    fleet_id: str
    model: LocalModel
    options: dict[str, Any]
    llama: Llama
    incarnation: str = field(default_factory=lambda: uuid.uuid4().hex)
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: str | None = None
    dropped: set[str] = field(default_factory=set)


class WorkerModels:
    """The loaded models of one worker: one for each fleet. They answer one prompt at a time."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._loaded: dict[str, _LoadedModel] = {}
        self._loading: dict[str, threading.Event] = {}
        self._lock = asyncio.Lock()
        self._chores: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        for fleet_id in {*self._loaded, *self._loading}:
            await self.unload(fleet_id)
        await asyncio.gather(*self._chores)

    # --- loading ------------------------------------------------------------------------------------------------------

    async def load(
        self,
        fleet_id: str,
        repo_id: str,
        commit_hash: str,
        variant_id: str,
        cache_dir: str,
        n_ctx: int | None,
        n_threads: int,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """Load a model that was pulled, if it leaves the worker enough memory. The client's lease is here already.

        Raises
        ------
        DoesNotFitError
            If the model would not fit into the free memory, or would make Dask pause or end the worker.
        """
        from modeldeck import llama

        stop = self._loading.setdefault(fleet_id, threading.Event())
        try:
            async with self._lock:
                await self._unload(fleet_id)
                model = await asyncio.to_thread(_find_model, cache_dir, repo_id, commit_hash, variant_id)
                chosen = {"n_threads": n_threads, "n_threads_batch": n_threads, **options}
                await asyncio.to_thread(self._judge, model, n_ctx, chosen)

                def load() -> Llama:
                    return llama.load(model.path, n_ctx=n_ctx, cancel=stop, **chosen)

                loaded = _LoadedModel(fleet_id, model, {"n_ctx": n_ctx, **chosen}, await asyncio.to_thread(load))
                self._loaded[fleet_id] = loaded
                if stop.is_set() or lease_key(fleet_id, self._worker.address) not in self._worker.data:
                    await self._unload(fleet_id)
                    raise ClusterError("The client left while the model was being loaded, so it was unloaded.")
                await self._worker.set_resources(**{RESOURCE: 1})
                return {"incarnation": loaded.incarnation, "n_ctx": loaded.llama.n_ctx()}
        finally:
            self._loading.pop(fleet_id, None)

    def _judge(self, model: LocalModel, n_ctx: int | None, options: dict[str, Any]) -> None:
        """Judge the load as it will be done: with its options, and without the projector, which is not loaded."""
        from modeldeck import llama

        fit = llama.plan(model.path, n_ctx=n_ctx, **options).fit
        problem = memory_problem(WorkerRoom.of(self._worker), fit)
        if problem is not None:
            raise problem

    async def room(self) -> dict[str, Any]:
        """Say what memory and processors there are, and what of it Dask leaves to this worker."""
        from modeldeck.sizing.hardware import probe_hardware

        hardware = await asyncio.to_thread(probe_hardware)
        return {"hardware": msgspec.to_builtins(hardware), "room": msgspec.to_builtins(WorkerRoom.of(self._worker))}

    async def unload(self, fleet_id: str) -> None:
        """Free what a fleet has here. What is being answered goes back to the fleet, and a load ends."""
        if fleet_id in self._loading:
            self._loading[fleet_id].set()
        async with self._lock:
            await self._unload(fleet_id)

    async def _unload(self, fleet_id: str) -> None:
        loaded = self._loaded.pop(fleet_id, None)
        if loaded is None:
            return
        await asyncio.to_thread(loaded.llama.unload)
        if not self._loaded and self._worker.status.name == "running":
            await self._worker.set_resources(**{RESOURCE: 0})

    # --- answering ----------------------------------------------------------------------------------------------------

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer a prompt on the thread of its task, and return the text or the error as data: nothing is retried.

        ``is_stale`` says that the model which was to answer is gone.
        """
        loaded = self._loaded.get(message["fleet_id"])
        if loaded is None or loaded.incarnation != message["incarnation"]:
            return {"is_stale": True}
        key = message["key"]
        with loaded.lock:
            loaded.running = key
            try:
                if key in loaded.dropped:
                    raise GenerationCancelledError("This prompt was cancelled.")
                return _generate(loaded.llama, message)
            except ModelUnloadedError:
                return {"is_stale": True}
            except LlamaCrashedError as error:
                self._replace(loaded)
                return {"error": _portable(error)}
            except Exception as error:  # noqa: BLE001 - the client raises it, with the prompt's index
                return {"error": _portable(error)}
            finally:
                loaded.running = None
                loaded.dropped.discard(key)

    def _replace(self, loaded: _LoadedModel) -> None:
        """Load the model again after llama.cpp has met an internal error, for the other prompts."""
        from modeldeck import llama

        try:
            loaded.llama = llama.load(loaded.model.path, **loaded.options)
        except ModelDeckError:
            self._loaded.pop(loaded.fleet_id, None)

    def follow_task(self, fleet_id: str, key: str, start: str, finish: str) -> None:
        """Stop the answer to a prompt whose task was cancelled, and free the model when the client is gone."""
        if key == lease_key(fleet_id, self._worker.address) and finish in ("released", "forgotten"):
            self._do_chore(self.unload(fleet_id))
            return
        loaded = self._loaded.get(fleet_id)
        if loaded is None:
            return
        if start == "executing" and finish in ("released", "cancelled", "forgotten"):
            loaded.dropped.add(key)
            self._do_chore(self._cancel(loaded, key))

    async def _cancel(self, loaded: _LoadedModel, key: str) -> None:
        # The task's thread may be about to begin: only what runs can be cancelled.
        while loaded.running == key and not loaded.llama.cancel():  # noqa: ASYNC110
            await asyncio.sleep(CANCEL_SECONDS)

    def _do_chore(self, coroutine: Any) -> None:
        chore = asyncio.get_running_loop().create_task(coroutine)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """Answer a prompt. Runs in the task."""
    from distributed import get_worker

    agent = get_worker().extensions.get("modeldeck")
    if agent is None:
        return {"is_stale": True}
    result: dict[str, Any] = agent.models.answer(message)
    return result


def _generate(llama: Llama, message: dict[str, Any]) -> dict[str, Any]:
    prompt, parameters = message["prompt"], message["parameters"]
    begun_at = time.monotonic()
    llama.reset()  # else the text would depend on the prompt before, by the rounding of another batch
    if isinstance(prompt, str):
        full = llama.create_completion(prompt, **parameters)
        text = full["choices"][0]["text"]
    else:
        full = llama.create_chat_completion(prompt, **parameters)
        text = full["choices"][0]["message"]["content"]
    return {
        "value": full if message["full"] else text,
        "tokens": full["usage"]["completion_tokens"],
        "seconds": time.monotonic() - begun_at,
    }


def _portable(error: Exception) -> Exception:
    """Return the error, or one with its text if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does
        return ModelDeckError(f"{type(error).__name__}: {error}")
    return error


def _find_model(cache_dir: str, repo_id: str, commit_hash: str, variant_id: str) -> LocalModel:
    from modeldeck.hub.cache import list_models
    from modeldeck.library import group_local

    for model in group_local(list_models(Path(cache_dir), {repo_id})):
        if model.variant_id == variant_id and model.commit_hash == commit_hash:
            return model
    raise ClusterError(f"{variant_id} of {repo_id} is not in the cache at {cache_dir} any more. Pull it again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoom:
    """What Dask lets a worker's process take, in bytes.

    Beyond ``fraction`` of the limit, Dask does what ``setting`` says.
    """

    limit: int
    fraction: float
    setting: str
    used: int

    @classmethod
    def of(cls, worker: Any) -> WorkerRoom:
        import psutil

        pause = worker.memory_manager.memory_pause_fraction
        return cls(
            limit=getattr(worker.memory_manager, "memory_limit", None) or 0,
            fraction=pause or _TERMINATE_FRACTION,
            setting="pause" if pause else "terminate",
            used=psutil.Process().memory_info().rss,
        )

    @property
    def spare(self) -> int | None:
        """Bytes that the process may still take; ``None`` without a limit."""
        return max(0, int(self.limit * self.fraction) - self.used) if self.limit else None


def memory_problem(room: WorkerRoom, fit: FitEstimate) -> DoesNotFitError | None:
    """Return why a worker has no room for a model, by the free memory and by Dask's own limits, or ``None``."""
    needed = fit.needed_bytes or 0
    wanted = needed + fit.reserve_bytes
    if fit.verdict == "too_large" or wanted > (fit.available_bytes or wanted):
        needed_text, free_text = format_memory(wanted, fit.available_bytes or 0)
        return DoesNotFitError(
            f"The model needs {needed_text} of memory with n_ctx={fit.n_ctx}, but only {free_text} is free there. "
            "Take a smaller variant, a smaller n_ctx, or fewer workers on this host.",
            needed_bytes=wanted,
            available_bytes=fit.available_bytes,
        )
    spare, setting = room.spare, room.setting
    if spare is None or fit.n_gpu_layers is not None or needed <= spare:
        return None
    needed_text, spare_text = format_memory(needed, spare)
    return DoesNotFitError(
        f"The model needs {needed_text} of memory with n_ctx={fit.n_ctx}, but Dask would {setting} its worker after "
        f"{spare_text} more: memory_limit is {room.limit / 1e9:.2f} GB and distributed.worker.memory.{setting} "
        f"{room.fraction}. "
        "Raise memory_limit (dask worker --memory-limit), or take a smaller variant or n_ctx.",
        needed_bytes=needed,
        available_bytes=spare,
    )
