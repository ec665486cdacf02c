"""Looking at a running engine and ending it, without starting one: what ``modeldeck engine`` does."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from filelock import FileLock, Timeout

from modeldeck import __version__
from modeldeck._errors import EngineLostError, ProtocolError, error_from_info
from modeldeck._settings import Settings
from modeldeck._types import EngineStatus
from modeldeck.service import protocol
from modeldeck.service.discovery import EnginePlace, find_place
from modeldeck.service.transport import dial, peer_pid

T = TypeVar("T")

ANSWER_SECONDS = 10.0
STOP_SECONDS = 15.0
READ_BYTES = 64 * 1024


def engine_status(settings: Settings) -> EngineStatus | None:
    """What the engine of these settings' cache directory says of itself; ``None`` when none runs.

    Raises
    ------
    EngineLostError
        When it runs but does not answer.
    """
    with _dialled(find_place(settings.cache_dir)) as line:
        return _ask(line, protocol.Status(id=1), EngineStatus) if line else None


def look_again(settings: Settings) -> None:
    """Have the engine, if one runs, and its clients forget finished downloads whose files were deleted.

    Raises
    ------
    EngineLostError
        When it runs but does not answer.
    """
    with _dialled(find_place(settings.cache_dir)) as line:
        if line is not None:
            _ask(line, protocol.LookAgain(id=1), type(None))


def stop_engine(settings: Settings) -> bool:
    """End the engine and wait until it is gone. Running downloads are paused and keep their bytes.

    One that does not answer any more is killed; its downloads keep their bytes too, and the next engine goes on with
    them. One of a development tree that has changed since, which refuses this client, is ended as well.

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
    with _dialled(place) as line:
        if line is None:
            return False
        try:
            _ask(line, protocol.Stop(id=1), type(None))
        except (EngineLostError, ProtocolError) as error:
            pid = peer_pid(line.connection)
            if pid is None:
                raise
            with suppress(ProcessLookupError):
                # One that speaks another protocol still knows this signal, and pauses what runs.
                os.kill(pid, signal.SIGTERM if isinstance(error, ProtocolError) else signal.SIGKILL)
    lock = FileLock(place.lock_path)
    try:
        lock.acquire(timeout=STOP_SECONDS)  # the engine holds it for as long as its process lives
    except Timeout:
        raise EngineLostError("The engine did not end. End its process by hand.") from None
    lock.release()
    return True


@dataclass(frozen=True, slots=True)
class _Line:
    connection: socket.socket
    secret: str | None


@contextmanager
def _dialled(place: EnginePlace) -> Iterator[_Line | None]:
    """A line to the engine, or ``None`` when there is none."""
    try:
        connection, secret = dial(place)
    except OSError:
        yield None
        return
    with closing(connection):
        connection.settimeout(ANSWER_SECONDS)
        yield _Line(connection, secret)


def _ask(line: _Line, request: protocol.Request, kind: type[T]) -> T | None:
    """Ask as an observer, who does not count as a client. ``None`` when the engine leaves before it answers."""
    hello = protocol.Hello(id=0, protocol=protocol.PROTOCOL, version=__version__, secret=line.secret, is_observer=True)
    frames = protocol.FrameReader(protocol.MAX_REPLY_BYTES)
    try:
        line.connection.sendall(protocol.encode(hello) + protocol.encode(request))
        while data := line.connection.recv(READ_BYTES):
            for reply in map(protocol.decode_reply, frames.feed(data)):
                if isinstance(reply, protocol.Failure):
                    raise error_from_info(reply.error)
                if isinstance(reply, protocol.Answer) and reply.id == request.id:
                    return msgspec.json.decode(reply.result, type=kind)
    except TimeoutError:
        raise EngineLostError("The engine does not answer. End it with 'modeldeck engine stop'.") from None
    except OSError:
        pass
    return None
