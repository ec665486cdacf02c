"""The memory of a cluster's hosts, by which a model is judged before it is pulled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from modeldeck._errors import DoesNotFitError
from modeldeck._types import FitEstimate
from modeldeck.cluster.dask_calls import agents_on_workers, ask_workers, on_client_loop
from modeldeck.cluster.hosts import Host, WorkerInfo, survey, workers_of
from modeldeck.cluster.worker_models import WorkerRoom, memory_problem
from modeldeck.sizing.hardware import Hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRoom:
    """A host with its memory, as the first of its workers that can load a model sees it.

    ``problem`` says why no model can be loaded there. Without ``hardware``, nothing is known of the memory.
    """

    name: str
    hardware: Hardware | None = None
    room: WorkerRoom | None = None
    problem: str | None = None

    def judge(self, fit: FitEstimate) -> DoesNotFitError | None:
        """Say why a model has no room here, by an estimate for this host."""
        return None if self.room is None else memory_problem(self.room, fit)

    def free_for(self, fit: FitEstimate) -> int:
        """Bytes that a model could have here."""
        free = fit.available_bytes or 0
        spare = None if self.room is None or fit.n_gpu_layers is not None else self.room.spare
        return free if spare is None else min(free, spare)


async def addresses_of(client: Any) -> frozenset[str]:
    """Return the addresses of all workers. Can be awaited on any loop.

    Raises
    ------
    ClusterError
        If the client is closed.
    """
    return frozenset(await on_client_loop(client, workers_of(client)))


async def look_at_hosts(client: Any) -> tuple[HostRoom, ...]:
    """Ask all hosts for their memory. Can be awaited on any loop.

    Raises
    ------
    ClusterError
        If there are no workers, or the client is closed.
    """
    return await on_client_loop(client, _look(client))


async def _look(client: Any) -> tuple[HostRoom, ...]:
    async with agents_on_workers(client):
        hosts = await survey(client, workers=None, cache_dir=None)
        leads = {host.name: min(host.workers, key=lambda worker: not worker.has_llama) for host in hosts}
        asked = [leads[host.name].address for host in hosts if host.problem is None]
        answers = await ask_workers(client, asked, "room")
    return tuple(_room_of(host, leads[host.name], answers.get(leads[host.name].address)) for host in hosts)


def _room_of(host: Host, lead: WorkerInfo, answer: Any) -> HostRoom:
    problem = host.problem
    if problem is None and isinstance(answer, Exception):
        problem = str(answer)
    if problem is None and not lead.has_llama:
        problem = 'It has no llama-cpp-python. Install it there with pip install "modeldeck[llama]".'
    is_known = isinstance(answer, dict)
    return HostRoom(
        name=host.name,
        hardware=msgspec.convert(answer["hardware"], Hardware) if is_known else None,
        room=msgspec.convert(answer["room"], WorkerRoom) if is_known else None,
        problem=problem,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsFit:
    """On how many hosts a variant fits, and how it is on the one with the least memory for it.

    ``problem`` says why it does not fit there.
    """

    fitting: int
    total: int
    smallest: str | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None
    problem: DoesNotFitError | None = None


def judge_hosts(rooms: Collection[HostRoom], fits: Collection[FitEstimate | None]) -> HostsFit:
    """Judge a variant on all hosts.

    Parameters
    ----------
    rooms
        The hosts.
    fits
        The estimate for each of them; ``None`` where the memory is not known.
    """
    known = [(room, fit) for room, fit in zip(rooms, fits, strict=True) if fit is not None]
    usable = [(room, fit) for room, fit in known if room.problem is None and fit.verdict not in ("unknown", "unusable")]
    fitting = sum(room.judge(fit) is None for room, fit in usable)
    if not usable:
        return HostsFit(fitting=0, total=len(rooms))
    smallest, fit = min(usable, key=lambda pair: pair[0].free_for(pair[1]))
    problem = smallest.judge(fit)
    details = {} if problem is None else problem.details
    return HostsFit(
        fitting=fitting,
        total=len(rooms),
        smallest=smallest.name,
        needed_bytes=details.get("needed_bytes", fit.needed_bytes),
        free_bytes=details.get("available_bytes", smallest.free_for(fit)),
        problem=problem,
    )
