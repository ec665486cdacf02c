"""What the traits hold: the widget's state as JSON, without tokens and without absolute paths."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from modeldeck import __version__
from modeldeck._errors import ModelDeckError
from modeldeck._types import DownloadSnapshot, LoadProgress, ModelSummary, RepoDetails, SearchQuery
from modeldeck._wire import Json, error_wire, job_wire, variant_wire

if TYPE_CHECKING:
    from modeldeck.llama import LlamaAvailability, Measurement
    from modeldeck.sizing.hardware import Hardware

DEFAULT_ENDPOINT = "https://huggingface.co"

SearchStatus = Literal["idle", "searching", "done", "failed"]
LoadStatus = Literal["none", "loading", "ready", "failed"]
VariantState = Literal["available", "downloaded", "loading", "loaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchView:
    """What the list of results shows."""

    query: SearchQuery
    status: SearchStatus = "idle"
    models: tuple[ModelSummary, ...] = ()
    next_cursor: str | None = None
    error: ModelDeckError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadView:
    """Which model is in memory, or on its way there."""

    status: LoadStatus = "none"
    repo_id: str | None = None
    variant_id: str | None = None
    label: str | None = None
    progress: LoadProgress | None = None
    n_ctx: int | None = None
    error: ModelDeckError | None = None

    def is_about(self, repo_id: str, variant_id: str) -> bool:
        return (self.repo_id, self.variant_id) == (repo_id, variant_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineView:
    """What is known of this machine, of llama-cpp-python and of the engine; ``None`` until it has been looked at.

    ``comm_id`` is what the front end must name when it sends a message on the control channel.
    """

    comm_id: str | None = None
    hardware: Hardware | None = None
    llama: LlamaAvailability | None = None
    engine_mode: Literal["inline", "process"] | None = None
    engine_notice: str | None = None


def view_wire(endpoint: str, n_ctx: int, machine: MachineView) -> Json:
    hardware, llama = machine.hardware, machine.llama
    return {
        "version": __version__,
        "comm_id": machine.comm_id,
        "endpoint": endpoint,
        "is_default_endpoint": endpoint == DEFAULT_ENDPOINT,
        "n_ctx": n_ctx,
        "hardware": None if hardware is None else msgspec.to_builtins(hardware),
        "llama": {"is_available": llama is None or llama.is_available, "message": llama and llama.message},
        "engine": {"mode": machine.engine_mode, "notice": machine.engine_notice},
    }


def search_wire(rev: int, view: SearchView) -> Json:
    return {
        "rev": rev,
        "text": view.query.text,
        "sort": view.query.sort,
        "state": view.status,
        "models": [msgspec.to_builtins(model) for model in view.models],
        "has_more": view.next_cursor is not None,
        "error": _error(view.error),
    }


def opening_wire() -> Json:
    return _repo_wire("opening")


def failed_repo_wire(error: ModelDeckError) -> Json:
    return _repo_wire("failed", error=_error(error))


def open_repo_wire(
    details: RepoDetails,
    *,
    endpoint: str,
    local: Collection[str],
    measured: Mapping[str, Measurement],
    load: LoadView,
) -> Json:
    """An opened repository.

    ``local`` holds the ``variant_id`` that are complete in the cache at this commit, ``measured`` what loading and
    generating took the last time.
    """
    return _repo_wire(
        "open",
        revision=details.revision,
        commit_hash=details.commit_hash,
        gated=details.gated,
        license=details.license,
        license_url=f"{endpoint}/{details.repo_id}" if details.gated else None,
        recommended=details.recommended,
        model=None if details.model is None else msgspec.to_builtins(details.model),
        variants=[
            {
                **variant_wire(variant, details.fits.get(variant.variant_id)),
                "state": (state := _variant_state(details.repo_id, variant.variant_id, local, load)),
                "actions": _VARIANT_ACTIONS[state],
                "measured": msgspec.to_builtins(measured.get(variant.variant_id)),
            }
            for variant in details.variants
        ],
    )


_VARIANT_ACTIONS: dict[VariantState, list[str]] = {
    "available": ["download"],
    "downloaded": ["load", "remove"],
    "loading": ["cancel_load"],
    "loaded": ["unload"],
}


def _variant_state(repo_id: str, variant_id: str, local: Collection[str], load: LoadView) -> VariantState:
    if load.is_about(repo_id, variant_id):
        if load.status == "loading":
            return "loading"
        if load.status == "ready":
            return "loaded"
    return "downloaded" if variant_id in local else "available"


def _repo_wire(state: Literal["opening", "open", "failed"], **known: Any) -> Json:
    unknown = dict.fromkeys(
        ("error", "revision", "commit_hash", "gated", "license", "license_url", "recommended", "model")
    )
    return {"state": state, **unknown, "variants": [], **known}


def downloads_wire(rev: int, snapshots: Iterable[DownloadSnapshot]) -> Json:
    return {"rev": rev, "jobs": [job_wire(snapshot) for snapshot in snapshots]}


def load_wire(load: LoadView) -> Json:
    return {
        "state": load.status,
        "repo_id": load.repo_id,
        "variant_id": load.variant_id,
        "label": load.label,
        "stage": None if load.progress is None else load.progress.stage,
        "fraction": None if load.progress is None else load.progress.fraction,
        "error": _error(load.error),
        "n_ctx": load.n_ctx,
    }


def _error(error: ModelDeckError | None) -> Json | None:
    return None if error is None else error_wire(error.to_info())
