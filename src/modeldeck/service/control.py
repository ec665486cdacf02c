"""Looking at a running engine and ending it, without starting one: what ``modeldeck engine`` does."""

from __future__ import annotations

from contextlib import closing
from typing import TypeVar

import msgspec
from filelock import FileLock, Timeout

from modeldeck import __version__
from modeldeck._errors import EngineLostError, error_from_info
from modeldeck._settings import Settings
from modeldeck._types import EngineStatus
from modeldeck.service import protocol
from modeldeck.service.discovery import EnginePlace, find_place
from modeldeck.service.transport import dial

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
    return _ask(find_place(settings.cache_dir), protocol.Status(id=1), EngineStatus)


def stop_engine(settings: Settings) -> bool:
    """End the engine and wait until it is gone. Running downloads are paused and keep their bytes.

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
    if engine_status(settings) is None:
        return False
    _ask(place, protocol.Stop(id=1), type(None))
    lock = FileLock(place.lock_path)
    try:
        lock.acquire(timeout=STOP_SECONDS)  # the engine holds it for as long as its process lives
    except Timeout:
        raise EngineLostError("The engine did not end. End its process by hand.") from None
    lock.release()
    return True


def _ask(place: EnginePlace, request: protocol.Request, kind: type[T]) -> T | None:
    """Ask as an observer, who does not count as a client. ``None`` when nobody is there or leaves before answering."""
    try:
        connection, secret = dial(place)
    except OSError:
        return None
    hello = protocol.Hello(id=0, protocol=protocol.PROTOCOL, version=__version__, secret=secret, is_observer=True)
    frames = protocol.FrameReader(protocol.MAX_REPLY_BYTES)
    with closing(connection):
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.sendall(protocol.encode(hello) + protocol.encode(request))
            while data := connection.recv(READ_BYTES):
                for reply in map(protocol.decode_reply, frames.feed(data)):
                    if isinstance(reply, protocol.Failure):
                        raise error_from_info(reply.error)
                    if isinstance(reply, protocol.Answer) and reply.id == request.id:
                        return msgspec.json.decode(reply.result, type=kind)
        except TimeoutError:
            raise EngineLostError("The engine does not answer. End its process by hand.") from None
        except OSError:
            return None
    return None
