"""The engine on a thread of this process: for tests, and for places where no process may be started."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar, Literal

from modeldeck._loop import LoopThread
from modeldeck.service.engine_server import EngineServer
from modeldeck.service.shared_manager import SharedManager, open_manager


class InlineHome:
    """Runs the engine on a daemon thread of this process.

    All clients of one cache directory share it, so that a second widget in the notebook shows what the first one
    started. It ends with its last client; unfinished downloads keep their bytes.
    """

    mode: Literal["inline"] = "inline"
    log_hint = ""

    def __init__(self, cache_dir: Path) -> None:
        self._cache_dir = cache_dir
        self._thread: _EngineThread | None = None

    def connect(self) -> tuple[socket.socket, str | None]:
        if self._thread is None:
            self._thread = _EngineThread.take(self._cache_dir.resolve())
        return self._thread.connect(), None

    def leave(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.leave()


class _EngineThread:
    """A server and its manager on a thread of their own."""

    _all: ClassVar[dict[tuple[int, Path], _EngineThread]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def take(cls, cache_dir: Path) -> _EngineThread:
        """Return the running one, or a new one once the last one has let go of its files."""
        key = (os.getpid(), cache_dir)  # a forked process has a copy of this object, but not its thread
        while True:
            with cls._lock:
                thread = cls._all.get(key)
                if thread is None:
                    thread = cls._all[key] = cls(key)
                if thread._users is not None:
                    thread._users += 1
                    return thread
            thread._has_ended.wait()

    def __init__(self, key: tuple[int, Path]) -> None:
        self._key = key
        self._users: int | None = 0
        """``None`` once it ends."""
        self._has_ended = threading.Event()
        self._thread = LoopThread("modeldeck-engine")
        self._is_leaving = asyncio.Event()
        server: Future[EngineServer] = Future()
        self._serving = self._thread.start(self._serve(key[1], server))
        try:
            self._server = server.result()
        except BaseException:
            self._thread.stop()
            raise

    def connect(self) -> socket.socket:
        """Return one end of a pair of sockets; the server has the other."""
        client_end, server_end = socket.socketpair()
        try:
            self._thread.start(self._server.attach(server_end)).result()
        except BaseException:
            client_end.close()
            server_end.close()
            raise
        return client_end

    def leave(self) -> None:
        """Count one user less. The last one ends the engine and blocks until it has let go of its files."""
        with self._lock:
            assert self._users
            self._users -= 1
            if self._users:
                return
            self._users = None
        try:
            self._thread.post(self._is_leaving.set)
            self._serving.result()
            self._thread.stop()
        finally:
            with self._lock:
                del self._all[self._key]
            self._has_ended.set()

    async def _serve(self, cache_dir: Path, ready: Future[EngineServer]) -> None:
        try:
            async with open_manager(cache_dir) as manager:
                server = EngineServer(SharedManager(manager, "inline"))
                ready.set_result(server)
                await self._is_leaving.wait()
                await server.aclose()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise
