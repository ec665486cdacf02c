"""The workers of a fleet: loads the model there, keeps them busy with prompts, and follows who comes and goes."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from modeldeck._errors import ClusterError, InvalidRequestError, LlamaMissingError, ModelDeckError, WorkersLostError
from modeldeck._types import DownloadState
from modeldeck.cluster.addressing import RESOURCE, lease_key, prompt_key
from modeldeck.cluster.dask_calls import (
    CLOSED,
    LOOK_SECONDS,
    agents_on_workers,
    ask_worker,
    is_open,
    plugin_on_workers,
    to_the_end,
)
from modeldeck.cluster.dispatch import Dispatch
from modeldeck.cluster.hosts import Host, WorkerInfo, workers_of
from modeldeck.cluster.plugin_shell import make_fleet_plugin, make_prompt_task
from modeldeck.cluster.pulling import Pulling
from modeldeck.cluster.running_maps import HostSpeed, RunningMap, add_source, remove_source, tell_listeners
from modeldeck.cluster.topics import listen

WINDOW = 2
"""Prompts that a worker has at once: one runs, and the next one waits there, so that no time passes between them."""
JOIN_SECONDS = 60.0
"""How long a map waits for a worker after the last one has gone. A nanny starts its worker again within seconds."""

Per = Literal["host", "worker"]


@dataclass(eq=False)
class Member:
    """A worker that has the model."""

    info: WorkerInfo
    host: str
    n_threads: int
    incarnation: str
    lease: Any
    stop_listening: Callable[[], None] = lambda: None
    window: dict[str, _Assignment] = field(default_factory=dict)
    done: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0


@dataclass(eq=False)
class _Assignment:
    dispatch: Dispatch
    index: int
    future: Any
    task: asyncio.Task[None] | None = None


class Crew:
    """The workers of one fleet. Everything happens on the client's loop.

    Parameters
    ----------
    client
        The Dask client.
    make_pulling
        Makes the pull of the model, to some workers or, with ``None``, to all that the fleet may use.
    per, n_ctx, options
        As for `Fleet`.
    allows
        The addresses of the workers that may be used; ``None`` for all, also those that join.
    """

    def __init__(
        self,
        client: Any,
        make_pulling: Callable[[list[str] | None], Pulling],
        *,
        per: Per,
        n_ctx: int | None,
        options: dict[str, Any],
        allows: set[str] | None,
    ) -> None:
        self.fleet_id = uuid.uuid4().hex[:8]
        self.members: dict[str, Member] = {}
        self.left_out: dict[str, ModelDeckError] = {}
        self._client = client
        self._make_pulling = make_pulling
        self._per = per
        self._n_ctx = n_ctx
        self._options = options
        self._allows = allows
        self._topic = f"modeldeck-fleet-{self.fleet_id}"
        self._plugin = make_fleet_plugin(client.id, self.fleet_id, self._topic)
        self._on_workers = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._task = make_prompt_task()
        self._dispatches: list[Dispatch] = []
        self._drainer: str | None = None
        self._known: set[str] = set()
        self._joining: set[str] = set()
        self._join_lock = asyncio.Lock()
        self._chores: set[asyncio.Task[Any]] = set()
        self._gathers: set[asyncio.Future[Any]] = set()
        self._stop_listening: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self.is_closed = False
        self.pulling: Pulling | None = None
        add_source(client, self)

    # --- beginning and end --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Pull the model and load it.

        Raises
        ------
        ModelDeckError
            If no worker can load it. The first worker's error says why.
        """
        self._starting = asyncio.ensure_future(self._start())
        try:
            await asyncio.shield(self._starting)
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        self._stop_listening = listen(self._client, self._topic, self._take_event)
        await self._on_workers.enter_async_context(agents_on_workers(self._client))
        self.pulling = self._make_pulling(None)
        model = await self.pulling.run(has_agents=True)
        self._known = {worker.address for host in self.pulling.hosts for worker in host.workers}
        await self._on_workers.enter_async_context(plugin_on_workers(self._client, self._plugin))
        ready = {address for host in model.hosts if host.state is DownloadState.READY for address in host.workers}
        for failed in model.failed:
            if failed.error is not None:
                self.left_out[failed.host] = ClusterError(failed.error.message)
        await self._load_all(_choose(self.pulling.hosts, ready, self._per, set()))
        if not self.members:
            raise next(iter(self.left_out.values()))
        self._do(self._watch())

    async def close(self) -> None:
        """Cancel what runs, and free the model on all workers. Whoever calls it, it is done once and to its end."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        self.is_closed = True
        remove_source(self._client, self)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for dispatch in list(self._dispatches):
            await self.cancel(dispatch)
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        for member in self.members.values():
            member.stop_listening()
            member.lease.release()
        self.members.clear()
        await self._on_workers.aclose()

    async def _load_all(self, chosen: list[tuple[Host, WorkerInfo, int]]) -> None:
        """Load on the machines at the same time, and on the workers of one machine one after the other.

        So each worker's free memory is judged after its neighbour has taken its own.
        """
        machines: defaultdict[tuple[str, str], list[tuple[Host, WorkerInfo, int]]] = defaultdict(list)
        for choice in chosen:
            machines[choice[1].machine].append(choice)

        async def load(choices: list[tuple[Host, WorkerInfo, int]]) -> None:
            for host, info, n_threads in choices:
                await self._load(host, info, n_threads)

        await asyncio.gather(*(load(choices) for choices in machines.values()))

    async def _load(self, host: Host, info: WorkerInfo, n_threads: int) -> None:
        assert self.pulling is not None
        assert self.pulling.request is not None
        request = self.pulling.request
        if not info.has_llama:
            self.left_out[info.name] = LlamaMissingError(
                f"The worker {info.name} on {host.name} has no llama-cpp-python. "
                'Install it there with pip install "modeldeck[llama]".'
            )
            return
        key = lease_key(self.fleet_id, info.address)
        lease = None
        try:
            lease = (await to_the_end(self._client.scatter({key: 1}, workers=[info.address], hash=False)))[key]
            answer = await ask_worker(
                self._client,
                info.address,
                "load",
                fleet_id=self.fleet_id,
                repo_id=request.repo_id,
                commit_hash=request.commit_hash,
                variant_id=request.variant_id,
                cache_dir=info.cache_dir,
                n_ctx=self._n_ctx,
                n_threads=n_threads,
                options=self._options,
            )
        except BaseException as error:
            if lease is not None:
                lease.release()
            if isinstance(error, ModelDeckError):
                self.left_out[info.name] = type(error)(f"{host.name}: {error.message}", **error.details)
            elif isinstance(error, OSError | TimeoutError):
                self.left_out[info.name] = ClusterError(f"The worker {info.name} on {host.name} left the cluster.")
            else:
                raise
            return
        member = Member(info, host.name, n_threads, answer["incarnation"], lease)
        member.stop_listening = listen(
            self._client, info.address, lambda event: self._take_worker_event(info.address, event)
        )
        self.members[info.address] = member
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.fill()

    # --- who comes and goes -------------------------------------------------------------------------------------------

    def _take_event(self, event: dict[str, Any]) -> None:
        address = event.get("joined")
        is_allowed = self._allows is None or address in self._allows
        if address is not None and is_allowed and address not in self._known and not self.is_closed:
            self._known.add(address)
            self._joining.add(address)
            self._do(self._join(address))

    async def _join(self, address: str) -> None:
        try:
            async with self._join_lock:
                pulling = self._make_pulling([*self.members, address])
                model = await pulling.run(has_agents=True)
                self.pulling = pulling
                ready = {worker for host in model.hosts if host.state is DownloadState.READY for worker in host.workers}
                taken = {member.info.machine for member in self.members.values()} if self._per == "host" else set()
                present = set(self.members)
                chosen = _choose(pulling.hosts, ready, self._per, taken)
                await self._load_all([choice for choice in chosen if choice[1].address not in present])
        except (ModelDeckError, OSError) as error:
            if is_open(self._client) and address in await workers_of(self._client):
                self.left_out[address] = error if isinstance(error, ModelDeckError) else ClusterError(str(error))
        finally:
            self._joining.discard(address)
            self._look_for_members()

    def _take_worker_event(self, address: str, event: dict[str, Any]) -> None:
        if event.get("action") == "remove-worker":
            self._lose(address, is_expected=bool(event.get("expected")))

    def _lose(self, address: str, *, is_expected: bool) -> None:
        self._known.discard(address)
        member = self.members.pop(address, None)
        if member is None:
            return
        if self._drainer == address:
            self._drainer = None
        member.stop_listening()
        member.lease.release()
        assignments, member.window = list(member.window.values()), {}
        for assignment in assignments:
            self._drop(assignment)
            assignment.dispatch.give_back(assignment.index, died_on=None if is_expected else address)
        self._look_for_members()
        self.fill()

    def _look_for_members(self) -> None:
        """Wait for a while if there are no workers left, then say so."""
        if not self.members and not self._joining and self._timer is None and not self.is_closed:
            self._timer = asyncio.get_running_loop().call_later(JOIN_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        problems = "".join(f" {error.message}" for error in self.left_out.values())
        for dispatch in self._dispatches:
            dispatch.end(
                WorkersLostError(
                    f"All workers that had the model are gone, and none joined for {JOIN_SECONDS:g} s.{problems}"
                )
            )

    # --- prompts ------------------------------------------------------------------------------------------------------

    def add(self, dispatch: Dispatch) -> None:
        """Begin a map."""
        if not dispatch.is_over:
            self._dispatches.append(dispatch)
            tell_listeners(self._client)
            dispatch.over.add_done_callback(lambda _: self._do(self.cancel(dispatch)))
            self._look_for_members()
            self.fill()

    async def _watch(self) -> None:
        """End the maps when the client is closed, and perhaps its loop with it: no answer comes then."""
        try:
            while is_open(self._client):  # noqa: ASYNC110 - Dask tells nobody of it
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            if not is_open(self._client):
                for dispatch in list(self._dispatches):
                    dispatch.end(ClusterError(CLOSED))
                await self._on_workers.aclose()

    async def cancel(self, dispatch: Dispatch) -> None:
        """End a map: what runs for it is stopped."""
        if dispatch in self._dispatches:
            self._dispatches.remove(dispatch)
        if not dispatch.is_over:
            dispatch.over.cancel()
        dropped = []
        for member in self.members.values():
            for key, assignment in list(member.window.items()):
                if assignment.dispatch is dispatch:
                    del member.window[key]
                    dropped.append(self._drop(assignment))
        self.fill()
        await asyncio.gather(*dropped)

    def running_maps(self) -> list[RunningMap]:
        """Return how far the maps are, from any thread."""
        target = "" if self.pulling is None else self.pulling.snapshot.target
        speeds: dict[str, list[float]] = {}
        for member in list(self.members.values()):
            of_host = speeds.setdefault(member.host, [])
            if member.busy_seconds:
                of_host.append(member.tokens / member.busy_seconds)
        hosts = tuple(HostSpeed(host=host, tokens_per_second=sum(each) or None) for host, each in speeds.items())
        return [
            RunningMap(
                job_id=dispatch.job_id,
                target=target,
                done=len(dispatch.finished),
                failed=dispatch.failed,
                total=dispatch.total,
                hosts=hosts,
            )
            for dispatch in list(self._dispatches)
        ]

    async def cancel_map(self, job_id: str) -> None:
        """End the map with this identity, if it runs."""
        for dispatch in list(self._dispatches):
            if dispatch.job_id == job_id:
                await self.cancel(dispatch)

    def fill(self) -> None:
        """Give prompts to all workers that have room for them."""
        if not is_open(self._client):
            return
        for level in range(WINDOW):  # one to each worker before any gets a second one
            for member in self.members.values():
                if len(member.window) == level:
                    self._assign_next(member)

    def _assign_next(self, member: Member) -> None:
        if any(each.dispatch.is_suspect(each.index) for each in member.window.values()):
            return
        if not any(dispatch.has_suspects for dispatch in self._dispatches):
            self._drainer = None
        elif member.window and self._drainer in (None, member.info.address):
            self._drainer = member.info.address  # soon it has nothing else to do, and can run a suspect alone
            return
        for dispatch in self._dispatches:
            while (index := dispatch.take(is_free=not member.window)) is not None:
                if self._assign(member, dispatch, index):
                    return

    def _assign(self, member: Member, dispatch: Dispatch, index: int) -> bool:
        """Give a prompt to a worker, and return whether it could be sent."""
        key = prompt_key(self.fleet_id, dispatch.job_id, index, dispatch.count_attempt(index))
        message = {
            **dispatch.message(index),
            "fleet_id": self.fleet_id,
            "incarnation": member.incarnation,
            "key": key,
        }
        try:
            future = self._client.submit(
                self._task,
                message,
                key=key,
                workers=[member.info.address],
                resources={RESOURCE: 1},
                pure=False,
                retries=0,
            )
        except Exception as error:  # noqa: BLE001 - whatever pickle says of the values that the caller gave
            dispatch.fail(
                index,
                InvalidRequestError(
                    f"Prompt {index} or a parameter cannot be sent to the workers: {error.__cause__ or error}."
                ),
            )
            return False
        assignment = _Assignment(dispatch, index, future)
        member.window[key] = assignment
        assignment.task = self._do(self._collect(member, key, assignment))
        return True

    async def _collect(self, member: Member, key: str, assignment: _Assignment) -> None:
        dispatch, index = assignment.dispatch, assignment.index
        # Never cancelled, because it then leaves complaints in the log. It ends when its future is cancelled.
        gathering = asyncio.ensure_future(self._client.gather(assignment.future, asynchronous=True))
        self._gathers.add(gathering)
        gathering.add_done_callback(self._forget_gather)
        await asyncio.wait([gathering])
        is_lost = False
        answer: dict[str, Any] = {}
        try:
            answer = gathering.result()
        except CancelledError:
            is_lost = True  # the cluster is being restarted, or somebody cancelled the task
        except Exception as error:  # noqa: BLE001 - whatever Dask found, the prompt's place in the results has it
            answer = {"error": error}
            # The connection to the cluster may be lost, which is not an error of the prompt's task.
            is_lost = isinstance(error, OSError) and assignment.future.status != "error"
        if member.window.pop(key, None) is None:
            return
        if is_lost:
            self._drop(assignment)  # a restart forgets it here, but not always on the scheduler
            dispatch.give_back(index)
            self.fill()
            return
        assignment.future.release()
        if answer.get("is_stale"):
            dispatch.give_back(index)
            if self.members.get(member.info.address) is member:
                self._lose(member.info.address, is_expected=True)
                self._do(self._rejoin(member.info.address))
        elif "error" in answer:
            dispatch.fail(index, answer["error"])
        else:
            member.done += 1
            member.tokens += answer["tokens"]
            member.busy_seconds += answer["seconds"]
            dispatch.succeed(index, answer["value"], answer["tokens"])
        self.fill()

    def _forget_gather(self, gathering: asyncio.Future[Any]) -> None:
        self._gathers.discard(gathering)
        if not gathering.cancelled():
            gathering.exception()

    async def _rejoin(self, address: str) -> None:
        """Load again on a worker that has lost its model, if it is still there."""
        self._known.add(address)
        self._joining.add(address)
        await self._join(address)

    def _drop(self, assignment: _Assignment) -> asyncio.Task[None]:
        """Cancel the task of a prompt. The chore that is returned ends when the scheduler has heard of it."""
        if assignment.task is not None and assignment.task is not asyncio.current_task():
            assignment.task.cancel()
        return self._do(self._forget(assignment.future))

    async def _forget(self, future: Any) -> None:
        if self._client.status == "running":
            with suppress(OSError):  # the connection is lost, and the scheduler forgets the task with its client
                await self._client.cancel([future], asynchronous=True, force=True)
        future.release()

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        chore = asyncio.get_running_loop().create_task(coroutine)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore


def _choose(
    hosts: list[Host], ready: set[str], per: Per, taken: set[tuple[str, str]]
) -> list[tuple[Host, WorkerInfo, int]]:
    """Choose the workers to load on, with the threads for each: the processors of a machine divided by its workers."""
    machines: defaultdict[tuple[str, str], list[tuple[Host, WorkerInfo]]] = defaultdict(list)
    for host in hosts:
        for info in host.workers:
            if info.address in ready and info.machine not in taken:
                machines[info.machine].append((host, info))
    chosen = []
    for workers in machines.values():
        workers.sort(key=lambda pair: not pair[1].has_llama)
        if per == "host":
            del workers[1:]
        for host, info in workers:
            chosen.append((host, info, max(1, info.processors // len(workers))))
    return chosen
