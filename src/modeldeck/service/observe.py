"""Look at a running engine and end it, without starting one: what ``modeldeck engine`` does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from typing import TypeVar

from modeldeck._errors import EngineLostError, ProtocolError
from modeldeck._settings import Settings
from modeldeck._types import EngineStatus
from modeldeck.service import messages
from modeldeck.service.discovery import EnginePlace, find_place, lock_place, remove_files
from modeldeck.service.engine_connection import STOP_HINT, ConnectionEnded, EngineConnection
from modeldeck.service.sockets import dial, peer_pid

T = TypeVar("T")

ANSWER_SECONDS = 10.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02


async def engine_status(settings: Settings) -> EngineStatus | None:
    """Return what the engine of these settings' cache directory says of itself; ``None`` when none runs.

    Raises
    ------
    EngineLostError
        When it runs but does not answer.
    ProtocolError
        When it refuses this client.
    """
    return await _ask_running(settings, messages.Status(id=1), EngineStatus)


async def forget_removed_files(settings: Settings) -> None:
    """Have the engine, if one runs, and its clients forget finished downloads whose files were deleted.

    Raises
    ------
    EngineLostError
        When it runs but does not answer.
    ProtocolError
        When it refuses this client.
    """
    await _ask_running(settings, messages.ForgetRemovedFiles(id=1), type(None))


async def stop_engine(settings: Settings) -> bool:
    """End the engine and wait until it is gone. Running downloads are paused and keep their bytes.

    An engine that no longer answers is killed; its downloads keep their bytes too, and the next engine continues them.
    An engine that refuses this client, because it runs other code of the same version, is ended as well.

    Returns
    -------
    bool
        Whether there was one.

    Raises
    ------
    EngineLostError
        When it does not end.
    """
    place = find_place(settings.cache_dir)
    try:
        connected, secret = await asyncio.to_thread(dial, place)
    except OSError:
        return False
    pid = peer_pid(connected)
    try:
        with suppress(OSError):  # it was about to end
            await _ask(connected, secret, messages.Stop(id=1), type(None))
    except (EngineLostError, ProtocolError) as error:
        if pid is None:
            raise
        with suppress(ProcessLookupError):
            # An engine that speaks another protocol still obeys this signal, and pauses what runs.
            os.kill(pid, signal.SIGTERM if isinstance(error, ProtocolError) else signal.SIGKILL)
    await asyncio.to_thread(_wait_for_end, place, pid)
    return True


def _wait_for_end(place: EnginePlace, pid: int | None) -> None:
    """Wait for the engine's lock, which it holds until its process ends, and remove what a killed one has left."""
    deadline = time.monotonic() + STOP_SECONDS
    while (lock := lock_place(place)) is None:
        if time.monotonic() > deadline:
            raise EngineLostError(f"The engine did not end. End its process ({pid or 'see the log'}) yourself.")
        time.sleep(POLL_SECONDS)
    remove_files(place)
    lock.release()


async def _ask_running(settings: Settings, request: messages.Request, kind: type[T]) -> T | None:
    """Ask the engine of these settings' cache directory. ``None`` when none runs, or it leaves before it answers."""
    with suppress(OSError):
        connected, secret = await asyncio.to_thread(dial, find_place(settings.cache_dir))
        return await _ask(connected, secret, request, kind)
    return None


async def _ask(connected: socket.socket, secret: str | None, request: messages.Request, kind: type[T]) -> T | None:
    """Ask as an observer, which does not count as a client. ``None`` when the engine leaves before it answers."""
    try:
        connection = await EngineConnection.open(connected, secret, is_observer=True)
    except EOFError:
        return None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await connection.ask(request, kind)
    except ConnectionEnded:
        return None
    except TimeoutError:
        raise EngineLostError(f"The engine does not answer. {STOP_HINT}") from None
    finally:
        await connection.aclose()
