"""modeldeck: a model browser that lives in a notebook cell.

>>> from modeldeck import ModelBrowser            # doctest: +SKIP
>>> browser = ModelBrowser("smollm2"); browser    # doctest: +SKIP

The same without a widget: `search`, `describe`, `download`, `load`, `local_models`, `verify`, `remove`, and `Session`
for ``async`` code. What needs the network or the notebook is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modeldeck._errors import (
    AmbiguousVariantError,
    ChatTemplateError,
    ContentChangedError,
    DiskFullError,
    DoesNotFitError,
    DownloadCancelledError,
    EngineLostError,
    GatedError,
    GenerationCancelledError,
    GGUFError,
    HubError,
    IntegrityError,
    InvalidRequestError,
    LlamaCrashedError,
    LlamaMissingError,
    LoadCancelledError,
    LoadFailedError,
    ModelDeckError,
    ModelUnloadedError,
    NetworkError,
    NetworkTimeoutError,
    NoFrontEndError,
    OfflineError,
    PermissionDeniedError,
    ProtocolError,
    ProxyError,
    RateLimitedError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    StalledError,
    StorageError,
    TLSError,
    UnauthorizedError,
)
from modeldeck._types import (
    DownloadSnapshot,
    DownloadState,
    EngineLimits,
    FitEstimate,
    LoadProgress,
    LocalModel,
    ModelSummary,
    RepoDetails,
    SearchPage,
    Variant,
    VerifiedFile,
)

if TYPE_CHECKING:
    from modeldeck.api import DownloadJob, describe, download, load, local_models, remove, search, verify
    from modeldeck.session import Session
    from modeldeck.widget.browser import ModelBrowser

__version__ = "0.1.0"

__all__ = [
    "AmbiguousVariantError",
    "ChatTemplateError",
    "ContentChangedError",
    "DiskFullError",
    "DoesNotFitError",
    "DownloadCancelledError",
    "DownloadJob",
    "DownloadSnapshot",
    "DownloadState",
    "EngineLimits",
    "EngineLostError",
    "FitEstimate",
    "GGUFError",
    "GatedError",
    "GenerationCancelledError",
    "HubError",
    "IntegrityError",
    "InvalidRequestError",
    "LlamaCrashedError",
    "LlamaMissingError",
    "LoadCancelledError",
    "LoadFailedError",
    "LoadProgress",
    "LocalModel",
    "ModelBrowser",
    "ModelDeckError",
    "ModelSummary",
    "ModelUnloadedError",
    "NetworkError",
    "NetworkTimeoutError",
    "NoFrontEndError",
    "OfflineError",
    "PermissionDeniedError",
    "ProtocolError",
    "ProxyError",
    "RateLimitedError",
    "RemoteFileNotFoundError",
    "RepoDetails",
    "RepoNotFoundError",
    "RevisionNotFoundError",
    "SearchPage",
    "ServerError",
    "Session",
    "StalledError",
    "StorageError",
    "TLSError",
    "UnauthorizedError",
    "Variant",
    "VerifiedFile",
    "__version__",
    "describe",
    "download",
    "load",
    "local_models",
    "remove",
    "search",
    "verify",
]

_LAZY = {
    "DownloadJob": "modeldeck.api",
    "ModelBrowser": "modeldeck.widget.browser",
    "Session": "modeldeck.session",
    "describe": "modeldeck.api",
    "download": "modeldeck.api",
    "load": "modeldeck.api",
    "local_models": "modeldeck.api",
    "remove": "modeldeck.api",
    "search": "modeldeck.api",
    "verify": "modeldeck.api",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
