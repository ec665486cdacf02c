"""The engine on a thread of this process: for tests, and for places where no process may be started."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from modeldeck._errors import EngineLostError
from modeldeck._loop import LoopThread, in_daemon_thread
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, EngineLimits, EngineStatus
from modeldeck.service.client import Engine
from modeldeck.service.host import Host, ManagerFactory, Seat, manager_factory

P = ParamSpec("P")
S = TypeVar("S", bound=DownloadSnapshot | None)
T = TypeVar("T")


class _Runner:
    """A manager on its own thread, shared by all inline engines of one cache directory in this process."""

    _all: ClassVar[dict[tuple[int, Path], _Runner]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def take(cls, cache_dir: Path, create: ManagerFactory) -> _Runner:
        """The running one, or a new one once the last one has let go of its files."""
        key = (os.getpid(), cache_dir)  # a forked process has the object, but not its thread
        while True:
            with cls._lock:
                runner = cls._all.get(key)
                if runner is None:
                    runner = cls._all[key] = cls(key, create)
                if runner._users is not None:
                    runner._users += 1
                    return runner
            runner._is_gone.wait()

    def __init__(self, key: tuple[int, Path], create: ManagerFactory) -> None:
        self._key = key
        self._users: int | None = 0
        """``None`` once it ends."""
        self._is_gone = threading.Event()
        self.thread = LoopThread("modeldeck-engine")
        try:
            self.host = self.thread.start(self._open(create)).result()
        except BaseException:
            self.thread.stop()
            raise

    def leave(self) -> Future[None] | None:
        """One user less. The last one gets a future to wait for."""
        with self._lock:
            assert self._users
            self._users -= 1
            if self._users:
                return None
            self._users = None
        return in_daemon_thread(self._end)

    def _end(self) -> None:
        try:
            self.thread.start(self._close()).result()
            self.thread.stop()
        finally:
            with self._lock:
                del self._all[self._key]
            self._is_gone.set()

    async def _open(self, create: ManagerFactory) -> Host:
        self._manager = create(None)
        return Host(await self._manager.__aenter__(), "inline")

    async def _close(self) -> None:
        self.host.close()
        await self._manager.__aexit__(None, None, None)


class InlineEngine(Engine):
    """An engine on a daemon thread of this process.

    The inline engines of one cache directory share one download manager, so that a second widget in the notebook shows
    what the first one started. The last one that is closed ends it; unfinished downloads keep their bytes.
    """

    mode = "inline"

    def __init__(
        self, cache_dir: Path, *, notice: str | None = None, create_manager: ManagerFactory | None = None
    ) -> None:
        super().__init__()
        self._notice = notice
        self._is_closed = False
        self._runner = _Runner.take(cache_dir.resolve(), create_manager or manager_factory(cache_dir))
        self._seat = self._runner.thread.start(self._attach()).result()

    async def submit(self, request: DownloadRequest, *, token: str | None = None) -> DownloadSnapshot:
        return await self._ask(self._seat.submit, request, token)

    async def act(self, job_id: str, action: Action, token: str | None = None) -> DownloadSnapshot | None:
        return await self._ask(self._seat.act, job_id, action, token)

    async def look_again(self) -> None:
        await self._run(self._runner.host.look_again)

    async def set_limits(self, limits: EngineLimits) -> None:
        await self._run(self._runner.host.set_limits, limits)

    async def status(self) -> EngineStatus:
        return await self._run(self._runner.host.status)

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._runner.thread.post(self._seat.close)
        ending = self._runner.leave()
        if ending is not None:
            await asyncio.wrap_future(ending)
        self._fail_waiters(EngineLostError("This engine was closed. Connect a new one."))

    async def _attach(self) -> Seat:
        await self._runner.host.look_again()
        seat = self._runner.host.attach(self._publish, self._remove)
        for snapshot in seat.snapshots():
            self._publish(snapshot)
        return seat

    async def _ask(self, method: Callable[P, Coroutine[Any, Any, S]], *args: P.args, **kwargs: P.kwargs) -> S:
        async def act() -> S:
            snapshot = await method(*args, **kwargs)
            if snapshot is not None:
                self._publish(snapshot)  # before the caller goes on: what it reads next is not older than its answer
            return snapshot

        return await self._run(act)

    async def _run(self, method: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._is_closed:
            raise EngineLostError("This engine was closed. Connect a new one.")
        return await self._runner.thread.run(method(*args, **kwargs))
