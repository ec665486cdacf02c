"""How variants, repositories, downloads and local models look as JSON, in the widget and in ``--json`` alike."""

from __future__ import annotations

from typing import Any

import msgspec

from modeldeck._types import (
    DownloadSnapshot,
    ErrorInfo,
    FitEstimate,
    LocalModel,
    RepoDetails,
    Variant,
    VerifiedFile,
)

Json = dict[str, Any]


def error_wire(error: ErrorInfo | None) -> Json | None:
    return None if error is None else msgspec.to_builtins(error)


def variant_wire(variant: Variant, fit: FitEstimate | None) -> Json:
    return {
        "variant_id": variant.variant_id,
        "label": variant.label,
        "quantization": variant.quantization,
        "filenames": [file.filename for file in variant.files],
        "size": variant.size,
        "sidecars": [
            {"kind": sidecar.kind, "filename": sidecar.file.filename, "size": sidecar.file.size}
            for sidecar in variant.sidecars
        ],
        "fit": None if fit is None else msgspec.to_builtins(fit),
    }


def repo_wire(details: RepoDetails) -> Json:
    """A repository as ``modeldeck show --json`` prints it."""
    return {
        "repo_id": details.repo_id,
        "revision": details.revision,
        "commit_hash": details.commit_hash,
        "gated": details.gated,
        "license": details.license,
        "variants": [
            {
                **variant_wire(variant, details.fits.get(variant.variant_id)),
                "recommended": variant.variant_id == details.recommended,
            }
            for variant in details.variants
        ],
    }


def job_wire(snapshot: DownloadSnapshot) -> Json:
    """A download without absolute paths and without the digests nobody looks at four times a second."""
    return {
        "job_id": snapshot.job_id,
        "repo_id": snapshot.request.repo_id,
        "variant_id": snapshot.request.variant_id,
        "label": snapshot.request.label,
        "state": snapshot.state.value,
        "received": snapshot.received,
        "total": snapshot.total,
        "percent": snapshot.percent,
        "rate": snapshot.rate,
        "eta_seconds": snapshot.eta_seconds,
        "connections": snapshot.connections,
        "attempt": snapshot.attempt,
        "retry_in_seconds": snapshot.retry_in_seconds,
        "is_stalled": snapshot.is_stalled,
        "error": error_wire(snapshot.error),
        "notice": snapshot.notice,
        "actions": list(snapshot.actions),
    }


def local_wire(model: LocalModel) -> Json:
    """A model of the cache as ``modeldeck ls --json`` prints it, absolute paths included."""
    return {
        "repo_id": model.repo_id,
        "commit_hash": model.commit_hash,
        "revision": model.revision,
        "variant_id": model.variant_id,
        "label": model.label,
        "filenames": list(model.filenames),
        "path": str(model.path),
        "paths": [str(path) for path in model.paths],
        "sidecar_paths": [str(path) for path in model.sidecar_paths],
        "size": model.size,
        "sha256": model.sha256,
    }


def verified_wire(file: VerifiedFile) -> Json:
    return {
        "path": str(file.path),
        "expected": file.expected,
        "actual": file.actual,
        "is_valid": file.is_valid,
        "repaired_bytes": file.repaired_bytes,
    }
