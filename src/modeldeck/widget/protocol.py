"""The messages between the front end and Python: what may come in, and how it is answered.

A request is ``{"kind": "modeldeck-request", "id", "method", "params"}``. Each is answered once, also when it is wrong,
by ``{"kind": "modeldeck-answer", "id", "ok", "result" | "error"}``. An answer may take as long as the work; that the
request has arrived is told at once by ``{"kind": "modeldeck-ack", "id"}``. Everything that comes in is untrusted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from modeldeck._errors import ModelDeckError, ProtocolError
from modeldeck._types import SortKey

REQUEST_KIND = "modeldeck-request"
ACKNOWLEDGEMENT_KIND = "modeldeck-ack"
ANSWER_KIND = "modeldeck-answer"
TOAST_KIND = "modeldeck-toast"
PING_KIND = "modeldeck-ping"

_ID_CHARACTERS = 64
_TEXT_CHARACTERS = 512
_MAX_N_CTX = 2**24


class _Request(msgspec.Struct, frozen=True, tag_field="method", rename=None, forbid_unknown_fields=False):
    """Base of the requests; the tag is the method's name."""


class Hello(_Request, frozen=True, tag="hello"):
    """A view is there and can be heard."""


class Search(_Request, frozen=True, tag="search"):
    text: str
    sort: SortKey = "downloads"


class SearchMore(_Request, frozen=True, tag="search_more"):
    pass


class OpenRepo(_Request, frozen=True, tag="open_repo"):
    repo_id: str


class CloseRepo(_Request, frozen=True, tag="close_repo"):
    repo_id: str


class StartDownload(_Request, frozen=True, tag="download"):
    repo_id: str
    variant_id: str


class Pause(_Request, frozen=True, tag="pause"):
    job_id: str


class Resume(_Request, frozen=True, tag="resume"):
    job_id: str


class Cancel(_Request, frozen=True, tag="cancel"):
    job_id: str


class Retry(_Request, frozen=True, tag="retry"):
    job_id: str


class Dismiss(_Request, frozen=True, tag="dismiss"):
    job_id: str


class Load(_Request, frozen=True, tag="load"):
    repo_id: str
    variant_id: str


class CancelLoad(_Request, frozen=True, tag="cancel_load"):
    pass


class Unload(_Request, frozen=True, tag="unload"):
    pass


class Remove(_Request, frozen=True, tag="remove"):
    repo_id: str
    variant_id: str


class SetContext(_Request, frozen=True, tag="set_n_ctx"):
    n_ctx: int


class Refresh(_Request, frozen=True, tag="refresh"):
    pass


Request: TypeAlias = (
    Hello
    | Search
    | SearchMore
    | OpenRepo
    | CloseRepo
    | StartDownload
    | Pause
    | Resume
    | Cancel
    | Retry
    | Dismiss
    | Load
    | CancelLoad
    | Unload
    | Remove
    | SetContext
    | Refresh
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request with the id its answer must carry."""

    id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that cannot be carried out; ``id`` is empty when it had none to answer to."""

    id: str
    error: ModelDeckError = field(compare=False)


def parse(content: object) -> Envelope | Malformed | None:
    """Read one message of the front end. ``None`` when it is not for us."""
    if not isinstance(content, dict) or content.get("kind") != REQUEST_KIND:
        return None
    request_id = content.get("id")
    if not isinstance(request_id, str) or not 0 < len(request_id) <= _ID_CHARACTERS:
        return Malformed("", ProtocolError("The request has no usable id."))
    params = content.get("params", {})
    if not isinstance(params, dict):
        return Malformed(request_id, ProtocolError("The request's params are not an object."))
    try:
        request: Request = msgspec.convert({**params, "method": content.get("method")}, Request)
    except msgspec.ValidationError as error:
        return Malformed(request_id, ProtocolError(f"The request cannot be understood: {error}."))
    if any(isinstance(value, str) and len(value) > _TEXT_CHARACTERS for value in params.values()):
        return Malformed(request_id, ProtocolError("A text in the request is too long."))
    if isinstance(request, SetContext) and not 0 < request.n_ctx <= _MAX_N_CTX:
        return Malformed(request_id, ProtocolError(f"The context length must be between 1 and {_MAX_N_CTX} tokens."))
    return Envelope(request_id, request)


def acknowledgement(request_id: str) -> dict[str, Any]:
    return {"kind": ACKNOWLEDGEMENT_KIND, "id": request_id}


def success(request_id: str, result: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": ANSWER_KIND, "id": request_id, "ok": True, "result": result or {}}


def failure(request_id: str, error: ModelDeckError) -> dict[str, Any]:
    return {"kind": ANSWER_KIND, "id": request_id, "ok": False, "error": msgspec.to_builtins(error.to_info())}


def toast(toast_id: str, level: Literal["success", "error", "info"], message: str) -> dict[str, Any]:
    return {"kind": TOAST_KIND, "id": toast_id, "level": level, "message": message}


def ping() -> dict[str, Any]:
    """Ask every view to say hello again, by whatever way reaches Python now."""
    return {"kind": PING_KIND}
