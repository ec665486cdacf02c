"""The messages between the page and Python: what may arrive, and how it is answered.

A request is ``{"kind": "modeldeck-request", "id", "method", "params"}``; the structs of `Request` are its methods with
their parameters. Python acknowledges a request as soon as it arrives, and answers it once, when the work is done or
the request has turned out to be wrong. Everything that arrives is untrusted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from modeldeck._context_length import read_n_ctx
from modeldeck._errors import InvalidRequestError, ModelDeckError, ProtocolError
from modeldeck._notices import NoticeCode
from modeldeck._types import Action, ErrorInfo, SortKey
from modeldeck.widget.traits import FiltersView, LoadChoices, ModelKey, VariantAction

REQUEST_KIND = "modeldeck-request"

ToastCode: TypeAlias = Literal[
    "damaged",
    "download_failed",
    "downloaded",
    "load_failed",
    "loaded",
    "repaired",
    "uncompared",
    "verified",
    "verified_several",
]

_ID_CHARACTERS = 64
_TEXT_CHARACTERS = 512
_PROMPT_CHARACTERS = 100_000


# --- from the page ----------------------------------------------------------------------------------------------------


class HelloRequest(msgspec.Struct, frozen=True, tag_field="method", tag="hello"):
    """A page shows the widget and can be heard."""


class SearchRequest(msgspec.Struct, frozen=True, tag_field="method", tag="search"):
    """Search the Hub."""

    text: str
    sort: SortKey = "downloads"
    filters: FiltersView = FiltersView()


class SearchMoreRequest(msgspec.Struct, frozen=True, tag_field="method", tag="search_more"):
    """Append the next page of results."""


class OpenRepoRequest(msgspec.Struct, frozen=True, tag_field="method", tag="open_repo"):
    """Unfold the card of a repository."""

    repo_id: str


class PeekRequest(msgspec.Struct, frozen=True, tag_field="method", tag="peek"):
    """Find out what is recommended of a repository, for the button of its card."""

    repo_id: str


class CloseRepoRequest(msgspec.Struct, frozen=True, tag_field="method", tag="close_repo"):
    """Fold the card of a repository."""

    repo_id: str


class SetProjectorRequest(msgspec.Struct, frozen=True, tag_field="method", tag="set_projector"):
    """Download and load the variants of a repository with their vision projector, or without it."""

    repo_id: str
    is_wanted: bool


class OpenAboutRequest(msgspec.Struct, frozen=True, tag_field="method", tag="open_about"):
    """Show the model card of a repository."""

    repo_id: str


class CloseAboutRequest(msgspec.Struct, frozen=True, tag_field="method", tag="close_about"):
    """Hide the model card of a repository."""

    repo_id: str


class LookAtAccountRequest(msgspec.Struct, frozen=True, tag_field="method", tag="look_at_account"):
    """Find out whose token is in use."""


class ActRequest(msgspec.Struct, frozen=True, tag_field="method", tag="act"):
    """Do what a button of a download says."""

    job_id: str
    action: Action


class ActOnVariantRequest(msgspec.Struct, frozen=True, tag_field="method", tag="act_on_variant"):
    """Do what a button of a variant says."""

    repo_id: str
    variant_id: str
    action: VariantAction
    commit_hash: str | None = None
    choices: LoadChoices = LoadChoices()
    is_retry: bool = False
    """Load once more as the last time, whatever the other fields say."""


class SetContextRequest(msgspec.Struct, frozen=True, tag_field="method", tag="set_n_ctx"):
    """Judge and load models for another context length, in tokens."""

    n_ctx: int


class PlanLoadRequest(msgspec.Struct, frozen=True, tag_field="method", tag="plan_load"):
    """Say what a load with these choices would take."""

    repo_id: str
    variant_id: str
    commit_hash: str | None = None
    choices: LoadChoices = LoadChoices()


class ActOnLibraryRequest(msgspec.Struct, frozen=True, tag_field="method", tag="act_on_library"):
    """Look at the cache again, or do something with several of its models or leftovers."""

    action: Literal["refresh", "verify", "cancel_verify", "repair", "remove", "remove_leftovers"]
    models: tuple[ModelKey, ...] = ()
    leftovers: tuple[str, ...] = ()


class ActOnDownloadsRequest(msgspec.Struct, frozen=True, tag_field="method", tag="act_on_downloads"):
    """Pause or resume all downloads, or take all finished ones off the list."""

    action: Literal["pause", "resume", "dismiss"]


class SetLimitsRequest(msgspec.Struct, frozen=True, tag_field="method", tag="set_limits"):
    """Change what all downloads together may use."""

    max_active_jobs: int
    bandwidth_bytes_per_second: int | None = None


class TryRequest(msgspec.Struct, frozen=True, tag_field="method", tag="try"):
    """Have the loaded model answer a message, or go on with a text."""

    text: str
    system: str = ""
    temperature: float | None = None


class CompareRequest(msgspec.Struct, frozen=True, tag_field="method", tag="compare"):
    """Have the loaded embedding model tell how similar two texts are."""

    first: str
    second: str


class ActOnChatRequest(msgspec.Struct, frozen=True, tag_field="method", tag="act_on_chat"):
    """Stop the answer, or begin a new conversation."""

    action: Literal["stop", "clear"]


Request: TypeAlias = (
    HelloRequest
    | SearchRequest
    | SearchMoreRequest
    | OpenRepoRequest
    | PeekRequest
    | CloseRepoRequest
    | SetProjectorRequest
    | OpenAboutRequest
    | CloseAboutRequest
    | LookAtAccountRequest
    | ActRequest
    | ActOnVariantRequest
    | SetContextRequest
    | PlanLoadRequest
    | ActOnLibraryRequest
    | ActOnDownloadsRequest
    | SetLimitsRequest
    | TryRequest
    | CompareRequest
    | ActOnChatRequest
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request with the id that its answer must carry."""

    id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that cannot be carried out. ``id`` is empty if the message had none."""

    id: str
    error: ModelDeckError = field(compare=False)


def parse(content: object) -> Envelope | Malformed | None:
    """Read a message of the page. Returns ``None`` if it is not one of modeldeck's requests."""
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
    limit = _PROMPT_CHARACTERS if isinstance(request, TryRequest | CompareRequest) else _TEXT_CHARACTERS
    if any(isinstance(value, str) and len(value) > limit for value in params.values()):
        return Malformed(request_id, InvalidRequestError(f"The text is too long: at most {limit:,} characters."))
    try:
        msgspec.json.encode(params)
    except UnicodeEncodeError:  # no trait and no address could hold it
        return Malformed(
            request_id,
            InvalidRequestError("The text has half a character in it, as of an emoji. Type it again."),
        )
    if isinstance(request, SetContextRequest):
        try:
            read_n_ctx(request.n_ctx)
        except InvalidRequestError as error:
            return Malformed(request_id, error)
    return Envelope(request_id, request)


# --- to the page ------------------------------------------------------------------------------------------------------


class AckMessage(msgspec.Struct, frozen=True, tag_field="kind", tag="modeldeck-ack"):
    """The request has arrived. The answer follows when it is carried out."""

    id: str


class AnswerMessage(msgspec.Struct, frozen=True, tag_field="kind", tag="modeldeck-answer"):
    """The request was carried out, or failed with ``error``."""

    id: str
    ok: bool
    error: ErrorInfo | None = None


class ToastMessage(msgspec.Struct, frozen=True, tag_field="kind", tag="modeldeck-toast"):
    """A message to show for some seconds. Its code, names, error and count of models are for translation."""

    id: str
    level: Literal["success", "error", "info"]
    message: str
    code: ToastCode | NoticeCode | None = None
    label: str | None = None
    repo_id: str | None = None
    error: ErrorInfo | None = None
    models: int | None = None


class PingMessage(msgspec.Struct, frozen=True, tag_field="kind", tag="modeldeck-ping"):
    """Ask every page to say hello again, by whatever way reaches Python now."""


Message: TypeAlias = AckMessage | AnswerMessage | ToastMessage | PingMessage


def answer(request_id: str, error: ModelDeckError | None = None) -> AnswerMessage:
    """The answer to a request."""
    return AnswerMessage(request_id, error is None, None if error is None else error.to_info())
