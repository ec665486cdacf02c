"""The maps that run in this process, so that the widget can show and cancel them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from modeldeck.cluster.dask_calls import on_client_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpeed:
    """How many tokens per second the workers of a host generate; ``None`` before the first prompt is done."""

    host: str
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMap:
    """A map at one moment."""

    job_id: str
    target: str
    done: int
    failed: int
    total: int
    hosts: tuple[HostSpeed, ...]


class MapSource(Protocol):
    """What has maps: a crew."""

    def running_maps(self) -> list[RunningMap]: ...

    async def cancel_map(self, job_id: str) -> None: ...


class _Register:
    """The sources of one client, and those who want to know when a map begins."""

    def __init__(self) -> None:
        self.sources: list[MapSource] = []
        self.listeners: list[Callable[[], object]] = []


_registers: WeakKeyDictionary[Any, _Register] = WeakKeyDictionary()


def _register_of(client: Any) -> _Register:
    return _registers.setdefault(client, _Register())


def add_source(client: Any, source: MapSource) -> None:
    """Show the maps of a source, from now on."""
    _register_of(client).sources.append(source)


def remove_source(client: Any, source: MapSource) -> None:
    """Show the maps of a source no longer."""
    sources = _register_of(client).sources
    if source in sources:
        sources.remove(source)


def tell_listeners(client: Any) -> None:
    """Say that a map has begun."""
    for listener in list(_register_of(client).listeners):
        listener()


def listen_to_maps(client: Any, listener: Callable[[], object]) -> Callable[[], None]:
    """Call ``listener`` whenever a map begins, on the client's loop. Returns what ends this."""
    listeners = _register_of(client).listeners
    listeners.append(listener)
    return lambda: listeners.remove(listener)


def maps_of(client: Any) -> tuple[RunningMap, ...]:
    """Return the maps of a client that run now. Can be called on any thread."""
    return tuple(running for source in list(_register_of(client).sources) for running in source.running_maps())


async def cancel_map(client: Any, job_id: str) -> None:
    """Cancel a map, if it still runs. Can be awaited on any loop."""
    for source in list(_register_of(client).sources):
        await on_client_loop(client, source.cancel_map(job_id))
