"""The data that travels between the layers: frozen, with no behaviour beyond small derived properties.

Sizes are ``int`` bytes, durations ``float`` seconds, points in time ``float`` seconds since the epoch.
Unknown is ``None``, never 0. What crosses a border survives ``msgspec.to_builtins`` and ``msgspec.convert``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeAlias

Gated: TypeAlias = Literal["auto", "manual"] | bool | None
"""The Hub's ``gated``: ``False``, "auto" (one click), "manual" (wait for approval); ``None`` when not told."""

SortKey: TypeAlias = Literal["trending", "downloads", "likes", "modified", "created"]
SidecarKind: TypeAlias = Literal["mmproj", "drafter", "imatrix", "adapter"]
FitVerdict: TypeAlias = Literal["fits", "partial", "too_large", "unknown"]


# --- search -----------------------------------------------------------------------------------------------------------

MAX_PAGE_SIZE = 100
"""Each result comes with its whole chat template, so that larger pages are slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What to look for on the Hub. ``text`` matches repository ids and owners."""

    text: str = ""
    sort: SortKey = "downloads"
    limit: int = 20
    author: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """One repository as the Hub's list describes it. The list knows no file sizes."""

    repo_id: str
    downloads: int | None = None
    likes: int | None = None
    last_modified: str | None = None
    gated: Gated = None
    is_private: bool | None = None
    tags: tuple[str, ...] = ()
    license: str | None = None
    pipeline_tag: str | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    context_length: int | None = None
    has_chat_template: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """One page of results. ``next_cursor`` is opaque: hand it back to get the next page."""

    query: SearchQuery
    models: tuple[ModelSummary, ...]
    next_cursor: str | None = None


# --- a repository -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFile:
    """A file as the Hub lists it. ``sha256`` is of the content; ``oid`` is git's sha1 (of the pointer for LFS)."""

    filename: str
    size: int | None = None
    sha256: str | None = None
    oid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A file that belongs to models without being one, such as a vision projector."""

    kind: SidecarKind
    file: GGUFFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model a user can pick: a file or a family of shards, with the sidecars that are downloaded with it.

    ``variant_id`` is the identity: the path of the only file, or of the first shard. ``label`` is text for people and
    need not be unique.
    """

    variant_id: str
    label: str
    quantization: str | None
    files: tuple[GGUFFile, ...]
    sidecars: tuple[Sidecar, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes of all files including sidecars, or ``None`` when any is unknown."""
        return total_size(self.all_files)

    @property
    def model_size(self) -> int | None:
        """Bytes of the model's own files, without sidecars."""
        return total_size(self.files)

    @property
    def all_files(self) -> tuple[GGUFFile, ...]:
        return self.files + tuple(sidecar.file for sidecar in self.sidecars)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoListing:
    """A repository at one commit, as the Hub lists it, before its files are grouped into variants."""

    repo_id: str
    revision: str
    commit_hash: str
    files: tuple[GGUFFile, ...]
    gated: Gated = None
    license: str | None = None
    tags: tuple[str, ...] = ()
    downloads: int | None = None
    likes: int | None = None
    last_modified: str | None = None
    parameter_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitEstimate:
    """Whether a variant fits this machine with a context of ``n_ctx`` tokens.

    ``needed_bytes`` and ``available_bytes`` speak of the memory the verdict was made on: RAM without a GPU.
    ``n_gpu_layers`` is the suggestion for a partial fit. ``method`` says where the numbers come from: "native"
    (llama.cpp was asked), "formula" (from the header), "size" (from the file's size alone).
    """

    verdict: FitVerdict
    n_ctx: int
    needed_bytes: int | None = None
    available_bytes: int | None = None
    max_n_ctx: int | None = None
    n_gpu_layers: int | None = None
    method: Literal["native", "formula", "size"] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What a header tells of a model before its download."""

    architecture: str | None = None
    name: str | None = None
    context_length: int | None = None
    block_count: int | None = None
    vocab_size: int | None = None
    has_chat_template: bool | None = None
    is_embedding: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoDetails:
    """A repository opened: its variants, each with its fit, and what is recommended."""

    repo_id: str
    revision: str
    commit_hash: str
    variants: tuple[Variant, ...]
    gated: Gated = None
    license: str | None = None
    fits: dict[str, FitEstimate] = field(default_factory=dict)
    recommended: str | None = None
    model: ModelTraits | None = None

    def variant(self, variant_id: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.variant_id == variant_id), None)


# --- downloads --------------------------------------------------------------------------------------------------------


class DownloadState(StrEnum):
    """Where a download stands. The legal moves are in ``modeldeck.engine.state``."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    READY = "ready"
    PAUSED = "paused"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Nothing will happen any more unless somebody asks for it. ``paused`` is not final."""
        return self in (DownloadState.READY, DownloadState.FAILED, DownloadState.CANCELLED)

    @property
    def is_active(self) -> bool:
        return self in (DownloadState.RESOLVING, DownloadState.DOWNLOADING, DownloadState.VERIFYING)


Action: TypeAlias = Literal["pause", "resume", "cancel", "retry", "dismiss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """What to download, and where to. The token is never part of it: it travels beside it and stays in memory.

    ``files`` carry the listing's size and sha256 where known; what the Hub answers at download time must agree.
    """

    repo_id: str
    revision: str
    commit_hash: str | None
    variant_id: str
    label: str
    files: tuple[GGUFFile, ...]
    endpoint: str
    cache_dir: str

    @property
    def key(self) -> tuple[str, ...]:
        """Requests with one key are one download."""
        return (self.endpoint, self.cache_dir, self.repo_id, self.commit_hash or self.revision, self.variant_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """A ``ModelDeckError`` on the wire: its code, its message, and what the error class keeps beside them."""

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadSnapshot:
    """One download at one moment.

    ``received`` counts bytes that are on disk, earlier attempts' included, over all files of the variant.
    ``bytes_fetched`` counts what came over the network for this job, repeated bytes included. ``actions`` are the
    requests that make sense now. ``rev`` grows with every snapshot of the engine.
    """

    job_id: str
    request: DownloadRequest
    state: DownloadState
    commit_hash: str | None = None
    received: int = 0
    total: int | None = None
    rate: float | None = None
    eta_seconds: float | None = None
    connections: int = 0
    attempt: int = 0
    retry_in_seconds: float | None = None
    is_stalled: bool = False
    bytes_fetched: int = 0
    error: ErrorInfo | None = None
    notice: str | None = None
    actions: tuple[Action, ...] = ()
    created_at: float = 0.0
    updated_at: float = 0.0
    rev: int = 0

    @property
    def percent(self) -> int | None:
        """Whole percent, 100 only when the download is ready."""
        if self.state is DownloadState.READY:
            return 100
        if not self.total:
            return None
        return min(99, self.received * 100 // self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the engine may use at once. ``bandwidth_bytes_per_second`` of ``None`` means no limit."""

    max_active_jobs: int = 3
    max_connections: int = 16
    bandwidth_bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What an engine says of itself."""

    mode: Literal["inline", "process"]
    version: str
    pid: int
    started_at: float
    active: int
    waiting: int
    clients: int
    limits: EngineLimits


# --- on disk and in memory --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A variant in the Hugging Face cache. ``path`` is what ``Llama(model_path=…)`` wants: the first model file.

    ``filenames`` are the repository's names of ``paths`` and ``sidecar_paths``, in that order.
    """

    repo_id: str
    commit_hash: str
    variant_id: str
    label: str
    filenames: tuple[str, ...]
    path: Path
    paths: tuple[Path, ...]
    sidecar_paths: tuple[Path, ...] = ()
    size: int = 0
    sha256: str | None = None
    revision: str | None = None
    bytes_fetched: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFile:
    """The outcome of hashing one file of the cache. ``expected`` is ``None`` when no digest is known."""

    path: Path
    expected: str | None
    actual: str
    repaired_bytes: int = 0

    @property
    def is_valid(self) -> bool | None:
        return None if self.expected is None else self.expected == self.actual


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """Where loading a model stands. ``fraction`` is of the stage, 0 to 1, or ``None`` when it cannot be known."""

    stage: Literal["reading", "opening", "loading", "ready"]
    fraction: float | None = None


def total_size(files: tuple[GGUFFile, ...]) -> int | None:
    """Sum of the sizes, or ``None`` when any is unknown."""
    total = 0
    for file in files:
        if file.size is None:
            return None
        total += file.size
    return total
