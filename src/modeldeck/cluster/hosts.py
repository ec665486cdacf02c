"""Which workers a cluster has, which of them are on one machine, and which share a cache."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeldeck._errors import ClusterError, InvalidRequestError
from modeldeck._version import __version__
from modeldeck.cluster.dask_calls import ask_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a worker has told about itself. ``problem`` says why it cannot be used."""

    address: str
    name: str
    hostname: str = ""
    boot_id: str = ""
    cache_dir: str = ""
    marker: str = ""
    has_llama: bool = False
    processors: int = 1
    problem: str | None = None

    @property
    def machine(self) -> tuple[str, str]:
        return self.hostname, self.boot_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Workers of one machine that use one cache. Hosts with equal ``cache`` share it."""

    name: str
    workers: tuple[WorkerInfo, ...]
    cache: int
    problem: str | None = None

    @property
    def lead(self) -> WorkerInfo:
        """The worker that acts for the host."""
        return self.workers[0]


def check_workers(workers: Sequence[str] | None) -> None:
    """Raise `InvalidRequestError` unless these are addresses of workers, or ``None``."""
    if workers is not None and (isinstance(workers, str) or not all(isinstance(each, str) for each in workers)):
        raise InvalidRequestError(
            f"The workers must be a list of addresses, such as ['tcp://10.0.0.1:40000'], not {workers!r}. "
            "client.scheduler_info() lists them."
        )


async def survey(client: Any, *, workers: Sequence[str] | None, cache_dir: str | None) -> list[Host]:
    """Ask all workers, or some, what they are, and find out which of them share a cache. They have agents already.

    Raises
    ------
    ClusterError
        If there are no workers.
    """
    present = await workers_of(client)
    chosen = present if workers is None else [address for address in present if address in set(workers)]
    if not chosen:
        raise ClusterError(
            "The cluster has no workers yet. Start some, for example with cluster.scale(2), and wait for them with "
            "client.wait_for_workers(1)."
            if workers is None
            else f"None of the workers {', '.join(workers)} is in the cluster."
        )
    hellos = await ask_workers(client, chosen, "hello", cache_dir=cache_dir)
    infos = [_info(address, answer) for address, answer in hellos.items()]
    try:
        caches = await _caches(client, infos)
    finally:
        await ask_workers(client, chosen, "clean", markers=[info.marker for info in infos])
    return _hosts(infos, caches)


async def workers_of(client: Any) -> list[str]:
    """Return the addresses of all workers of the cluster."""
    return list((await client.scheduler.identity(n_workers=-1))["workers"])


def _info(address: str, answer: Any) -> WorkerInfo:
    if isinstance(answer, Exception):
        return WorkerInfo(address=address, name=address, hostname=address, problem=str(answer))
    problem = answer["problem"]
    if answer["version"] != __version__:
        problem = (
            f"It has modeldeck {answer['version']}, and this client {__version__}. Install the same version on both."
        )
    known = {name: answer[name] for name in ("name", "hostname", "boot_id", "cache_dir", "marker", "has_llama")}
    return WorkerInfo(address=address, processors=answer["processors"], problem=problem, **known)


async def _caches(client: Any, infos: Collection[WorkerInfo]) -> dict[str, int]:
    """Number the caches: workers that see the same markers have the same one."""
    markers = [info.marker for info in infos if info.marker]
    folders = sorted({info.cache_dir for info in infos if info.marker})
    numbers: dict[tuple[str, ...], int] = {}
    caches = {}

    async def look(folder: str) -> Mapping[str, Any]:
        there = [info.address for info in infos if info.marker and info.cache_dir == folder]
        return await ask_workers(client, there, "look", cache_dir=folder, markers=markers)

    for answers in await asyncio.gather(*map(look, folders)):
        for address, seen in answers.items():
            key = (address,) if isinstance(seen, Exception) else tuple(seen)
            caches[address] = numbers.setdefault(key, len(numbers))
    return caches


def _hosts(infos: Collection[WorkerInfo], caches: dict[str, int]) -> list[Host]:
    groups: dict[tuple[object, ...], list[WorkerInfo]] = defaultdict(list)
    for info in infos:
        groups[info.machine, caches.get(info.address, info.address), info.problem].append(info)
    names = [members[0].hostname for members in groups.values()]
    hosts = []
    for members in groups.values():
        hostname = members[0].hostname
        name = hostname if names.count(hostname) == 1 else f"{hostname} ({members[0].name})"
        hosts.append(
            Host(
                name=name,
                workers=tuple(members),
                cache=caches.get(members[0].address, -1),
                problem=members[0].problem,
            )
        )
    return hosts
