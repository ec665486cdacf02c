"""The messages between an engine and its clients: length-prefixed frames of JSON, typed and checked on both sides.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON. A client says ``Hello`` first; the engine sends
an ``Update`` for every download it knows, then the answer to the hello, then updates as they happen. Each request
carries an ``id`` and gets exactly one ``Answer`` or ``Failure`` with that id. A message that cannot be decoded gets a
``Failure``, with its id where that could be read, and changes nothing.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from modeldeck._errors import ProtocolError
from modeldeck._types import Action, DownloadRequest, DownloadSnapshot, EngineLimits, ErrorInfo

PROTOCOL = 5
"""Increase it when a message changes. Each modeldeck version has its own engine, so this protects development trees."""

MAX_REQUEST_BYTES = 1024 * 1024
MAX_REPLY_BYTES = 8 * MAX_REQUEST_BYTES
"""A snapshot holds its request, so every snapshot of an accepted request fits."""
_LENGTH_BYTES = 4

BAD_CONTENT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not a message."""

RequestId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""Small enough to be exact in every JSON reader."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """Base of all messages. Its ``repr`` shows no fields, because some messages hold a token."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# --- from the client --------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """The first message. ``secret`` is needed where the socket itself does not prove which user connects.

    An observer is not counted as a client and gets no updates.
    """

    id: RequestId
    protocol: int
    version: str
    secret: str | None = None
    is_observer: bool = False


class Submit(Message, frozen=True, tag="submit"):
    id: RequestId
    request: DownloadRequest
    token: str | None = None


class Act(Message, frozen=True, tag="act"):
    """Do one of a download's ``actions``. A token is needed where the download is to run again."""

    id: RequestId
    job_id: str
    action: Action
    token: str | None = None


class ForgetRemovedFiles(Message, frozen=True, tag="forget_removed_files"):
    """Take finished downloads whose files were deleted off the list. Observers may send this too."""

    id: RequestId


class SetLimits(Message, frozen=True, tag="set_limits"):
    """Change the engine's limits, for all its clients. Observers may send this too."""

    id: RequestId
    limits: EngineLimits


class Status(Message, frozen=True, tag="status"):
    id: RequestId


class Stop(Message, frozen=True, tag="stop"):
    """End the engine, after pausing the downloads that run or wait."""

    id: RequestId


Request: TypeAlias = Hello | Submit | Act | ForgetRemovedFiles | SetLimits | Status | Stop


# --- from the engine --------------------------------------------------------------------------------------------------


class Answer(Message, frozen=True, tag="answer"):
    """What the request with this ``id`` asked for: a snapshot, a status, or null."""

    id: RequestId
    result: msgspec.Raw


class Failure(Message, frozen=True, tag="failure"):
    id: RequestId | None
    error: ErrorInfo


class Update(Message, frozen=True, tag="update"):
    snapshot: DownloadSnapshot


class Removed(Message, frozen=True, tag="removed"):
    job_id: str


class Farewell(Message, frozen=True, tag="farewell"):
    """The engine ends because it was told to. Clients start another one only when they next need it."""


Reply: TypeAlias = Answer | Failure | Update | Removed | Farewell


# --- frames -----------------------------------------------------------------------------------------------------------


class FrameReader:
    """Cuts a stream into frames. It does no I/O: feed it the bytes that arrived, and it returns the complete frames."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add ``data`` and return the complete frames' contents.

        Raises
        ------
        ProtocolError
            When a frame claims to be longer than allowed. The rest of the stream cannot be decoded.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > self._max_bytes:
                raise ProtocolError(f"A message of {length} bytes is longer than the {self._max_bytes} allowed.")
            stop = _LENGTH_BYTES + length
            if len(self._buffer) < stop:
                break
            frames.append(bytes(self._buffer[_LENGTH_BYTES:stop]))
            del self._buffer[:stop]
        return frames


def encode(message: Request | Reply) -> bytes:
    """Return the frame that carries ``message``. Details of an error that JSON cannot hold become text."""
    content = msgspec.json.encode(message, enc_hook=str)
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def decode_request(content: bytes) -> Request:
    """Decode a client's message.

    Raises
    ------
    ProtocolError
        When it cannot be decoded. ``id`` is the message's id where that could be read. msgspec's errors name the place
        and the types, never the value, so a token cannot get into the message.
    """
    try:
        return _requests.decode(content)
    except BAD_CONTENT as error:
        raise ProtocolError(f"The engine cannot decode this message: {error}.", id=_id_of(content)) from None


def decode_reply(content: bytes) -> Reply:
    """Decode the engine's message, or raise ``ProtocolError``."""
    try:
        return _replies.decode(content)
    except BAD_CONTENT as error:
        raise ProtocolError(f"The engine's message cannot be decoded: {error}.") from None


class _Identified(msgspec.Struct):
    id: RequestId | None = None


def _id_of(content: bytes) -> int | None:
    try:
        return msgspec.json.decode(content, type=_Identified).id
    except BAD_CONTENT:
        return None
