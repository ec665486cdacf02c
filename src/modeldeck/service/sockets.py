"""Sockets of an engine: a Unix socket, or loopback TCP with a secret where there are no Unix sockets.

A Unix socket (0600 in a 0700 directory, and both ends check the peer's user id) proves by itself which user connects.
TCP is what Windows uses. It was tested on Linux only, with MODELDECK_ENGINE_TRANSPORT=tcp.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from contextlib import suppress

import msgspec

from modeldeck._errors import EngineLostError
from modeldeck._files import replace_file
from modeldeck.service.discovery import RUNTIME_VARIABLE, EnginePlace, lock_place, remove_files

DIAL_SECONDS = 5.0
_BACKLOG = 64
_PRIVATE = 0o600


class TcpAddress(msgspec.Struct, frozen=True):
    """The content of the private file beside a TCP engine."""

    port: int
    secret: str


def listen(place: EnginePlace) -> tuple[socket.socket, str | None]:
    """Open the engine's listening socket; the caller holds the place's lock. Returns the secret for clients, too."""
    remove_address(place)  # a killed engine leaves it behind
    if place.transport == "tcp":
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        secret = secrets.token_urlsafe(32)
        content = msgspec.json.encode(TcpAddress(port=listener.getsockname()[1], secret=secret))
        replace_file(place.address_path, content, mode=_PRIVATE)
        return listener, secret
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(place.socket_path))
        place.socket_path.chmod(_PRIVATE)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener, None


def remove_address(place: EnginePlace) -> None:
    """Remove the files that lead clients to the engine."""
    for path in (place.socket_path, place.address_path):
        with suppress(FileNotFoundError):
            path.unlink()


def dial(place: EnginePlace) -> tuple[socket.socket, str | None]:
    """Connect to a running engine. Returns the secret for the hello, too.

    Raises
    ------
    OSError
        When no engine listens there.
    EngineLostError
        When another user's process listens there.
    """
    if place.transport == "tcp":
        try:
            address = msgspec.json.decode(place.address_path.read_bytes(), type=TcpAddress)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ConnectionRefusedError(None, f"{place.address_path} is damaged") from None
        if (lock := lock_place(place)) is not None:  # a killed engine's port may be another program's by now
            remove_files(place)
            lock.release()
            raise ConnectionRefusedError(None, "the engine has ended")
        return socket.create_connection(("127.0.0.1", address.port), timeout=DIAL_SECONDS), address.secret
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(DIAL_SECONDS)
        connection.connect(os.fspath(place.socket_path))
        if not is_own_peer(connection):
            raise EngineLostError(
                f"The engine at {place.socket_path.name} in the folder of {RUNTIME_VARIABLE} belongs to another user. "
                "Remove that file."
            )
    except BaseException:
        connection.close()
        raise
    return connection, None


def is_own_peer(connection: socket.socket) -> bool:
    """Whether the other end is this user's. Where the system cannot tell, the directory's mode protects the socket."""
    credentials = _peer_credentials(connection)
    return credentials is None or credentials[1] == os.getuid()


def peer_pid(connection: socket.socket) -> int | None:
    """Return the process id of the other end, where the system can tell. Unlike a number in a file, it is current."""
    credentials = _peer_credentials(connection)
    return credentials and credentials[0]


def _peer_credentials(connection: socket.socket) -> tuple[int, int] | None:
    """Return process and user id of a Unix socket's other end (``struct ucred`` of unix(7), Linux)."""
    if connection.family != getattr(socket, "AF_UNIX", None) or not hasattr(socket, "SO_PEERCRED"):
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid
