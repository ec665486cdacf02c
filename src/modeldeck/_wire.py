"""The JSON of downloads, variants and local models, as ``--json`` prints it and the widget's page gets it.

The structs are the JSON: `msgspec.to_builtins` gives their fields in this order. What only the widget shows is in
``modeldeck.widget.traits``.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import msgspec

from modeldeck._notices import NoticeCode, notice_code
from modeldeck._types import (
    Action,
    DownloadSnapshot,
    DownloadState,
    ErrorInfo,
    FitEstimate,
    Gated,
    LocalModel,
    ReasonCode,
    RecommendationReason,
    RepoDetails,
    Sidecar,
    SidecarKind,
    Variant,
    VerifiedFile,
)


class SidecarView(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is downloaded with a variant, such as a vision projector. ``size`` is in bytes."""

    kind: SidecarKind
    filename: str
    size: int | None

    @classmethod
    def of(cls, sidecar: Sidecar) -> Self:
        return cls(kind=sidecar.kind, filename=sidecar.file.filename, size=sidecar.file.size)


class VariantView(msgspec.Struct, frozen=True, kw_only=True):
    """A variant of a repository. ``size`` is in bytes and includes the sidecars."""

    variant_id: str
    label: str
    quantization: str | None
    filenames: tuple[str, ...]
    size: int | None
    sidecars: tuple[SidecarView, ...]
    fit: FitEstimate | None

    @classmethod
    def of(cls, variant: Variant, fit: FitEstimate | None, **more: Any) -> Self:
        """The view of ``variant``; ``more`` are the fields of a subclass."""
        return cls(
            variant_id=variant.variant_id,
            label=variant.label,
            quantization=variant.quantization,
            filenames=tuple(file.filename for file in variant.files),
            size=variant.size,
            sidecars=tuple(map(SidecarView.of, variant.sidecars)),
            fit=fit,
            **more,
        )


class VariantRecord(VariantView, frozen=True, kw_only=True):
    """A variant as ``modeldeck show --json`` prints it."""

    recommended: bool


class ReasonView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a variant is recommended: a code with its values, for translation, and the English sentence."""

    code: ReasonCode
    tokens_per_second: float | None
    reading_pace: float | None
    text: str

    @classmethod
    def of(cls, reason: RecommendationReason | None) -> Self | None:
        """The view of ``reason``; ``None`` without one."""
        if reason is None:
            return None
        return cls(
            code=reason.code,
            tokens_per_second=reason.tokens_per_second,
            reading_pace=reason.reading_pace,
            text=reason.text,
        )


class RepoRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A repository as ``modeldeck show --json`` prints it."""

    repo_id: str
    revision: str
    commit_hash: str
    gated: Gated
    license: str | None
    hub_error: ErrorInfo | None
    only_in_cache: tuple[str, ...]
    notice: str | None
    recommended_reason: ReasonView | None
    variants: tuple[VariantRecord, ...]

    @classmethod
    def of(cls, details: RepoDetails) -> Self:
        return cls(
            repo_id=details.repo_id,
            revision=details.revision,
            commit_hash=details.commit_hash,
            gated=details.gated,
            license=details.license,
            hub_error=details.hub_error,
            only_in_cache=details.only_in_cache,
            notice=details.notice,
            recommended_reason=ReasonView.of(details.recommended_reason),
            variants=tuple(
                VariantRecord.of(
                    variant,
                    details.fits.get(variant.variant_id),
                    recommended=variant.variant_id == details.recommended,
                )
                for variant in details.variants
            ),
        )


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A download or repair, without absolute paths and digests.

    Sizes are in bytes, ``rate`` is in bytes per second, ``finished_at`` in seconds since the epoch.
    """

    job_id: str
    repo_id: str
    variant_id: str
    label: str
    purpose: Literal["download", "repair"]
    state: DownloadState
    queue_position: int | None
    received: int
    total: int | None
    percent: int | None
    rate: float | None
    eta_seconds: float | None
    connections: int
    attempt: int
    retry_in_seconds: float | None
    is_stalled: bool
    error: ErrorInfo | None
    notice: str | None
    notice_code: NoticeCode | None
    finished_at: float | None
    actions: tuple[Action, ...]

    @classmethod
    def of(cls, snapshot: DownloadSnapshot) -> Self:
        return cls(
            job_id=snapshot.job_id,
            repo_id=snapshot.request.repo_id,
            variant_id=snapshot.request.variant_id,
            label=snapshot.request.label,
            purpose=snapshot.request.purpose,
            queue_position=snapshot.queue_position,
            finished_at=snapshot.finished_at,
            state=snapshot.state,
            received=snapshot.received,
            total=snapshot.total,
            percent=snapshot.percent,
            rate=snapshot.rate,
            eta_seconds=snapshot.eta_seconds,
            connections=snapshot.connections,
            attempt=snapshot.attempt,
            retry_in_seconds=snapshot.retry_in_seconds,
            is_stalled=snapshot.is_stalled,
            error=snapshot.error,
            notice=snapshot.notice,
            notice_code=notice_code(snapshot.notice),
            actions=snapshot.actions,
        )


class LocalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the cache as ``modeldeck ls --json`` prints it, absolute paths included."""

    repo_id: str
    commit_hash: str
    revision: str | None
    variant_id: str
    label: str
    filenames: tuple[str, ...]
    path: str
    paths: tuple[str, ...]
    sidecar_paths: tuple[str, ...]
    size: int
    sha256: str | None

    @classmethod
    def of(cls, model: LocalModel) -> Self:
        return cls(
            repo_id=model.repo_id,
            commit_hash=model.commit_hash,
            revision=model.revision,
            variant_id=model.variant_id,
            label=model.label,
            filenames=model.filenames,
            path=str(model.path),
            paths=tuple(str(path) for path in model.paths),
            sidecar_paths=tuple(str(path) for path in model.sidecar_paths),
            size=model.size,
            sha256=model.sha256,
        )


class VerifiedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file as ``modeldeck verify --json`` prints it; ``is_valid`` is ``None`` when no digest is known."""

    path: str
    expected: str | None
    actual: str
    is_valid: bool | None
    repaired_bytes: int

    @classmethod
    def of(cls, file: VerifiedFile) -> Self:
        return cls(
            path=str(file.path),
            expected=file.expected,
            actual=file.actual,
            is_valid=file.is_valid,
            repaired_bytes=file.repaired_bytes,
        )
