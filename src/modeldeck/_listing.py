"""Results that are several local or locked models, downloads or files: a tuple that shows itself as a table."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from modeldeck._tables import Table, Tabular, format_count, format_duration, format_rate, format_size
from modeldeck._types import DownloadSnapshot, LocalModel, LockedModel, VerifiedFile, fields_of

T = TypeVar("T")


class Listing(tuple[T, ...], Tabular, Generic[T]):
    """A tuple of local or locked models, downloads or verified files that shows itself as a table."""

    __slots__ = ()

    def _records(self) -> list[dict[str, Any]]:
        return [_record(item) for item in self]

    def _table(self) -> Table:
        first = self[0] if self else None
        if isinstance(first, DownloadSnapshot):
            return _downloads_table([item for item in self if isinstance(item, DownloadSnapshot)])
        if isinstance(first, VerifiedFile):
            return _verified_table([item for item in self if isinstance(item, VerifiedFile)])
        if isinstance(first, LockedModel):
            return _locked_table([item for item in self if isinstance(item, LockedModel)])
        return _models_table([item for item in self if isinstance(item, LocalModel)])


def _record(item: Any) -> dict[str, Any]:
    """Return an item as plain values, without other objects in it."""
    values = fields_of(item)
    if isinstance(item, DownloadSnapshot):
        request, error = values.pop("request"), values.pop("error")
        about = {"repo_id": request.repo_id, "label": request.label, "variant_id": request.variant_id}
        return {**about, **values, "percent": item.percent, "error": error.message if error else None}
    if isinstance(item, VerifiedFile):
        return {**values, "is_valid": item.is_valid}
    if isinstance(item, LockedModel):
        del values["files"]
        return {**values, "variant_id": item.variant_id, "size": item.size}
    if isinstance(item, LocalModel):
        for name in ("paths", "sidecar_paths"):
            values[name] = tuple(map(str, values[name]))
    return values


def _models_table(models: list[LocalModel]) -> Table:
    return Table(
        headings=("Model", "Size", "Commit", "Path"),
        rows=[
            (f"{model.repo_id}:{model.label}", format_size(model.size), model.commit_hash[:8], str(model.path))
            for model in models
        ],
        numeric=frozenset({"Size"}),
    )


def _locked_table(models: list[LockedModel]) -> Table:
    return Table(
        headings=("Model", "Size", "Context", "Commit"),
        rows=[
            (f"{model.repo_id}:{model.label}", format_size(model.size), format_count(model.n_ctx), model.commit_hash)
            for model in models
        ],
        numeric=frozenset({"Size", "Context"}),
    )


def _verified_table(files: list[VerifiedFile]) -> Table:
    verdicts = {True: "ok", False: "DAMAGED", None: "no digest known"}
    return Table(
        headings=("Result", "Repaired", "Path"),
        rows=[
            (verdicts[file.is_valid], format_size(file.repaired_bytes) if file.repaired_bytes else "", str(file.path))
            for file in files
        ],
        numeric=frozenset({"Repaired"}),
    )


def _downloads_table(jobs: list[DownloadSnapshot]) -> Table:
    return Table(
        headings=("Download", "State", "Done", "Size", "Speed", "Left"),
        rows=[
            (
                f"{job.request.repo_id}:{job.request.label}",
                job.state.value,
                "?" if job.percent is None else f"{job.percent} %",
                format_size(job.total),
                "" if job.rate is None else format_rate(job.rate),
                "" if job.eta_seconds is None else format_duration(job.eta_seconds),
            )
            for job in jobs
        ],
        numeric=frozenset({"Done", "Size", "Speed", "Left"}),
    )
