"""What answers the client and other workers on a worker."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from modeldeck._errors import ModelDeckError
from modeldeck._settings import Settings, resolve_settings
from modeldeck._version import __version__
from modeldeck.cluster.copies import HostCopies
from modeldeck.cluster.worker_models import WorkerModels

MARKER_PREFIX = ".modeldeck-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Agent:
    """modeldeck on one worker. Its methods run on the worker's event loop.

    Parameters
    ----------
    worker
        The ``distributed.Worker``.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.copies = HostCopies(worker)
        self.models = WorkerModels(worker)
        self._methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "hello": self._hello,
            "look": self._look,
            "clean": self._clean,
            "resolve": self._resolve,
            "find": self.copies.find,
            "expect": self.copies.expect,
            "pull": self.copies.pull,
            "stop": self.copies.stop,
            "chunk": self.copies.chunk,
            "room": self.models.room,
            "load": self.models.load,
            "unload": self.models.unload,
        }
        self._markers: set[Path] = set()

    def make_handler(self) -> Callable[..., Awaitable[Any]]:
        """Make what answers messages. Dask remembers each handler that it ever called, so this one is not the agent's.

        An error of modeldeck is part of the answer, so that Dask does not log the arguments.
        """
        agent = weakref.ref(self)

        async def handle(comm: Any, method: str, **arguments: Any) -> Any:
            present = agent()
            assert present is not None
            if method == "stream":
                return await present._stream(comm, **arguments)
            try:
                return {"answer": await present._methods[method](**arguments)}
            except ModelDeckError as error:
                return {"error": msgspec.to_builtins(error.to_info())}

        return handle

    async def _stream(self, comm: Any, start: int, stop: int, block_bytes: int, window_blocks: int, **file: Any) -> Any:
        """Send the blocks of a range in order, each as soon as it is here, until the other side closes the connection.

        One connection for all of them keeps their order: blocks on several connections would share the link, so that
        all of them arrived late, and the next host in the chain would wait for the first one.

        The other side confirms each block. Dask does not wait until what it writes has left, so without that a fast
        disk would fill the memory ahead of a slow link.
        """
        from distributed.comm import CommClosedError
        from distributed.core import Status

        position, unconfirmed = start, 0
        try:
            while position < stop or unconfirmed:
                if unconfirmed >= window_blocks or position >= stop:
                    await comm.read()
                    unconfirmed -= 1
                    continue
                end = min(stop, (position // block_bytes + 1) * block_bytes)
                answer = await self._methods["chunk"](start=position, stop=end, **file)
                await comm.write(answer)
                if answer["state"] == "gone":
                    stop = position
                elif answer["state"] == "here":
                    position = end
                    unconfirmed += 1
        except CommClosedError:
            pass  # the other side has what it wants, or is gone
        return Status.dont_reply

    async def aclose(self) -> None:
        for path in self._markers:
            path.unlink(missing_ok=True)
        await self.models.aclose()
        await self.copies.aclose()

    async def _hello(self, cache_dir: str | None) -> dict[str, Any]:
        """Say what this worker is, and leave a marker in its cache that workers with the same cache can see."""
        from modeldeck.llama.install import availability
        from modeldeck.sizing.hardware import cpu_count

        folder = resolve_settings(cache_dir=cache_dir, token=False).cache_dir
        marker, problem = "", None
        path = folder / f"{MARKER_PREFIX}{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
            self._markers.add(path)
            marker = path.name
        except OSError as error:
            problem = f"Its cache at {folder} cannot be written: {error.strerror}."
        return {
            "version": __version__,
            "name": str(self._worker.name),
            "hostname": platform.node(),
            "boot_id": _boot_id(),
            "cache_dir": str(folder),
            "marker": marker,
            "problem": problem,
            "has_llama": availability().is_available,
            "processors": cpu_count(),
            "pid": os.getpid(),
        }

    async def _look(self, cache_dir: str, markers: list[str]) -> list[str]:
        """Return the markers that are in the cache. Each is asked for by name, because listings may be old on NFS."""
        return await asyncio.to_thread(lambda: [name for name in markers if Path(cache_dir, name).exists()])

    async def _clean(self, markers: list[str]) -> None:
        for path in {path for path in self._markers if path.name in markers}:
            self._markers.discard(path)
            path.unlink(missing_ok=True)

    async def _resolve(
        self, target: str, revision: str, settings: Settings, cache_dir: str, *, projector: bool, is_cache_only: bool
    ) -> dict[str, Any]:
        """Ask the Hub, or the cache of this host alone, what to bring to the hosts."""
        from modeldeck.session import Session

        notices: list[str] = []
        session = Session(endpoint=settings.endpoint, cache_dir=cache_dir, token=settings.token or False)
        if is_cache_only:
            session.settings = replace(session.settings, is_offline=True)
        async with session:
            request = await session.request(target, revision=revision, projector=projector, on_notice=notices.append)
        request = replace(request, is_offline=False)  # the hosts differ in it; each asks the Hub only if it has to
        return {"request": msgspec.to_builtins(request), "notice": " ".join(notices) or None}


def _boot_id() -> str:
    """Return what tells this start of this machine from all others, where Linux says it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
