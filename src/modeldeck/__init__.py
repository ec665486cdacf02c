"""modeldeck: a browser for GGUF models in a notebook cell.

>>> from modeldeck import ModelBrowser            # doctest: +SKIP
>>> browser = ModelBrowser("smollm2"); browser    # doctest: +SKIP

The functions `search`, `describe`, `download`, `start_download`, `load`, `local_models`, `verify` and `remove` do the
same without a widget, and `Session` does it for ``async`` code. `lock` and `sync` repeat an experiment elsewhere.
Modules that need the network or the notebook are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modeldeck._errors import (
    AmbiguousVariantError,
    ChatTemplateError,
    ClusterError,
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
    LlamaInstallingError,
    LlamaMissingError,
    LoadCancelledError,
    LoadFailedError,
    LockError,
    ModelDeckError,
    ModelUnloadedError,
    NetworkError,
    NetworkTimeoutError,
    NoFrontEndError,
    OfflineError,
    PeersLostError,
    PermissionDeniedError,
    PromptKilledWorkerError,
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
    WorkersLostError,
)
from modeldeck._listing import Listing
from modeldeck._types import (
    Account,
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    EngineLimits,
    ErrorInfo,
    FitEstimate,
    GGUFFile,
    IncompleteShards,
    LoadProgress,
    LocalModel,
    LockedModel,
    ModelSummary,
    ModelTraits,
    RecommendationReason,
    RepoDetails,
    SearchFilters,
    SearchPage,
    SearchQuery,
    Sidecar,
    Variant,
    VerifiedFile,
)
from modeldeck._version import __version__

if TYPE_CHECKING:
    from modeldeck.api import (
        DownloadJob,
        describe,
        download,
        fit,
        load,
        local_models,
        lock,
        locked,
        remove,
        search,
        start_download,
        sync,
        verify,
    )
    from modeldeck.cache_contents import CacheContents, Leftover, Proof, StoredBlob, StoredModel
    from modeldeck.download_handle import Download
    from modeldeck.llama.handle import Llama
    from modeldeck.llama.loading import LoadPlan
    from modeldeck.session import Session
    from modeldeck.widget.browser import ModelBrowser

__all__ = [
    "Account",
    "AmbiguousVariantError",
    "CacheContents",
    "ChatTemplateError",
    "ClusterError",
    "ContentChangedError",
    "DiskFullError",
    "DoesNotFitError",
    "Download",
    "DownloadCancelledError",
    "DownloadJob",
    "DownloadRequest",
    "DownloadSnapshot",
    "DownloadState",
    "EngineLimits",
    "EngineLostError",
    "ErrorInfo",
    "FitEstimate",
    "GGUFError",
    "GGUFFile",
    "GatedError",
    "GenerationCancelledError",
    "HubError",
    "IncompleteShards",
    "IntegrityError",
    "InvalidRequestError",
    "Leftover",
    "Listing",
    "Llama",
    "LlamaCrashedError",
    "LlamaInstallingError",
    "LlamaMissingError",
    "LoadCancelledError",
    "LoadFailedError",
    "LoadPlan",
    "LoadProgress",
    "LocalModel",
    "LockError",
    "LockedModel",
    "ModelBrowser",
    "ModelDeckError",
    "ModelSummary",
    "ModelTraits",
    "ModelUnloadedError",
    "NetworkError",
    "NetworkTimeoutError",
    "NoFrontEndError",
    "OfflineError",
    "PeersLostError",
    "PermissionDeniedError",
    "PromptKilledWorkerError",
    "Proof",
    "ProtocolError",
    "ProxyError",
    "RateLimitedError",
    "RecommendationReason",
    "RemoteFileNotFoundError",
    "RepoDetails",
    "RepoNotFoundError",
    "RevisionNotFoundError",
    "SearchFilters",
    "SearchPage",
    "SearchQuery",
    "ServerError",
    "Session",
    "Sidecar",
    "StalledError",
    "StorageError",
    "StoredBlob",
    "StoredModel",
    "TLSError",
    "UnauthorizedError",
    "Variant",
    "VerifiedFile",
    "WorkersLostError",
    "__version__",
    "describe",
    "download",
    "fit",
    "load",
    "local_models",
    "lock",
    "locked",
    "remove",
    "search",
    "start_download",
    "sync",
    "verify",
]

_LAZY = {
    "CacheContents": ("modeldeck.cache_contents", "CacheContents"),
    "Download": ("modeldeck.download_handle", "Download"),
    "DownloadJob": ("modeldeck.api", "DownloadJob"),
    "Leftover": ("modeldeck.cache_contents", "Leftover"),
    "Llama": ("modeldeck.llama.handle", "Llama"),
    "LoadPlan": ("modeldeck.llama.loading", "LoadPlan"),
    "ModelBrowser": ("modeldeck.widget.browser", "ModelBrowser"),
    "Proof": ("modeldeck.cache_contents", "Proof"),
    "Session": ("modeldeck.session", "Session"),
    "StoredBlob": ("modeldeck.cache_contents", "StoredBlob"),
    "StoredModel": ("modeldeck.cache_contents", "StoredModel"),
    "describe": ("modeldeck.api", "describe"),
    "download": ("modeldeck.api", "download"),
    "fit": ("modeldeck.api", "fit"),
    "load": ("modeldeck.api", "load"),
    "local_models": ("modeldeck.api", "local_models"),
    "lock": ("modeldeck.api", "lock"),
    "locked": ("modeldeck.api", "locked"),
    "remove": ("modeldeck.api", "remove"),
    "search": ("modeldeck.api", "search"),
    "start_download": ("modeldeck.api", "start_download"),
    "sync": ("modeldeck.api", "sync"),
    "verify": ("modeldeck.api", "verify"),
}
"""Where the names are that are imported on first use: module and attribute."""


def __getattr__(name: str) -> Any:
    if name == "cluster":
        return import_module("modeldeck.cluster")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """Return what users write, for completion. What they only receive or catch, most of `__all__`, would hide it."""
    functions = [name for name, (module, _) in _LAZY.items() if module == "modeldeck.api" and name.islower()]
    return ["EngineLimits", "ModelBrowser", "ModelDeckError", "SearchFilters", "Session", "cluster", *functions]
