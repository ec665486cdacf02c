"""One tree of errors. Each class has a ``code`` (the wire's spelling) and a message that says what to do next.

::

    ModelDeckError
    ├── InvalidRequestError         invalid_request
    ├── HubError
    │   ├── RepoNotFoundError       repo_not_found
    │   ├── RevisionNotFoundError   revision_not_found
    │   ├── RemoteFileNotFoundError file_not_found
    │   ├── AmbiguousVariantError   ambiguous_variant   (choices)
    │   ├── UnauthorizedError       unauthorized
    │   ├── GatedError              gated               (url)
    │   ├── RateLimitedError        rate_limited        (retry_after_seconds)
    │   └── ServerError             server_error        (status_code)
    ├── NetworkError
    │   ├── OfflineError            offline
    │   ├── NetworkTimeoutError     timeout
    │   ├── TLSError                tls
    │   ├── ProxyError              proxy
    │   └── StalledError            stalled
    ├── StorageError
    │   ├── DiskFullError           disk_full           (needed_bytes, free_bytes)
    │   └── PermissionDeniedError   permission_denied
    ├── IntegrityError              integrity           (expected, actual)
    ├── ContentChangedError         content_changed
    ├── DownloadCancelledError      cancelled
    ├── GGUFError                   not_gguf
    ├── DoesNotFitError             does_not_fit        (needed_bytes, available_bytes)
    ├── LoadFailedError             load_failed
    ├── LoadCancelledError          load_cancelled
    ├── LlamaMissingError           llama_missing
    ├── LlamaCrashedError           llama_crashed
    ├── ModelUnloadedError          model_unloaded
    ├── GenerationCancelledError    generation_cancelled
    ├── ChatTemplateError           chat_template
    ├── NoFrontEndError             no_front_end
    ├── EngineLostError             engine_lost
    └── ProtocolError               protocol
"""

from __future__ import annotations

from typing import Any, ClassVar

from modeldeck._types import ErrorInfo

_CLASS_BY_CODE: dict[str, type[ModelDeckError]] = {}


class ModelDeckError(Exception):
    """Base of everything modeldeck raises on purpose.

    Parameters
    ----------
    message : str
        What happened and what to do next, in one or two sentences.
    **details
        JSON values that a program may want, such as ``url`` or ``choices``. They become attributes too.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            _CLASS_BY_CODE[cls.code] = cls

    def __getattr__(self, name: str) -> Any:
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def to_info(self) -> ErrorInfo:
        """The error as it travels to the widget, the engine's client and ``--json``."""
        return ErrorInfo(code=self.code, message=self.message, details=dict(self.details))


def _rebuild(cls: type[ModelDeckError], message: str, details: dict[str, Any]) -> ModelDeckError:
    return cls(message, **details)


def error_from_info(info: ErrorInfo) -> ModelDeckError:
    """The exception an ``ErrorInfo`` was made from; the base class for a code this version does not know."""
    return _CLASS_BY_CODE.get(info.code, ModelDeckError)(info.message, **info.details)


class InvalidRequestError(ModelDeckError):
    """The caller's own values cannot be right: a malformed repo id, an unknown option."""

    code = "invalid_request"


class HubError(ModelDeckError):
    """The Hub answered, and the answer is no."""


class RepoNotFoundError(HubError):
    code = "repo_not_found"


class RevisionNotFoundError(HubError):
    code = "revision_not_found"


class RemoteFileNotFoundError(HubError):
    code = "file_not_found"


class AmbiguousVariantError(HubError):
    """A label fits several variants; ``choices`` lists their ids."""

    code = "ambiguous_variant"


class UnauthorizedError(HubError):
    code = "unauthorized"


class GatedError(HubError):
    """The licence must be accepted first, at ``url``."""

    code = "gated"


class RateLimitedError(HubError):
    """Too many requests; ``retry_after_seconds`` where the Hub said it."""

    code = "rate_limited"


class ServerError(HubError):
    """The server failed or spoke nonsense; ``status_code`` where there was one."""

    code = "server_error"


class NetworkError(ModelDeckError):
    """The server could not be reached."""


class OfflineError(NetworkError):
    code = "offline"


class NetworkTimeoutError(NetworkError):
    code = "timeout"


class TLSError(NetworkError):
    code = "tls"


class ProxyError(NetworkError):
    code = "proxy"


class StalledError(NetworkError):
    code = "stalled"


class StorageError(ModelDeckError):
    """The disk could not take the bytes."""


class DiskFullError(StorageError):
    """Not enough room; ``needed_bytes`` and ``free_bytes`` say how much."""

    code = "disk_full"


class PermissionDeniedError(StorageError):
    code = "permission_denied"


class IntegrityError(ModelDeckError):
    """The bytes are not what the Hub promised; ``expected`` and ``actual`` are digests."""

    code = "integrity"


class ContentChangedError(ModelDeckError):
    """The file at the pinned commit is no longer the one this download began with."""

    code = "content_changed"


class DownloadCancelledError(ModelDeckError):
    code = "cancelled"


class GGUFError(ModelDeckError):
    """The bytes are not a GGUF file that llama.cpp could read."""

    code = "not_gguf"


class DoesNotFitError(ModelDeckError):
    code = "does_not_fit"


class LoadFailedError(ModelDeckError):
    code = "load_failed"


class LoadCancelledError(ModelDeckError):
    code = "load_cancelled"


class LlamaMissingError(ModelDeckError):
    code = "llama_missing"


class LlamaCrashedError(ModelDeckError):
    """llama.cpp found itself in an impossible state and would have ended the process."""

    code = "llama_crashed"


class ModelUnloadedError(ModelDeckError):
    """A `Llama` was used after its memory had been given back."""

    code = "model_unloaded"


class GenerationCancelledError(ModelDeckError):
    code = "generation_cancelled"


class ChatTemplateError(ModelDeckError):
    """The model's own chat template is wrong, took too long or grew too large."""

    code = "chat_template"


class NoFrontEndError(ModelDeckError):
    """Something waits for a click, and no notebook page shows the widget."""

    code = "no_front_end"


class EngineLostError(ModelDeckError):
    code = "engine_lost"


class ProtocolError(ModelDeckError):
    """A message between modeldeck's own parts was malformed or of another version."""

    code = "protocol"
