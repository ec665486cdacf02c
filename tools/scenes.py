"""Writes the states that the harness of the page shows, as the product's own code makes them.

    python -m tools.scenes

The result, ``js/harness/scenes.json``, is checked in and read by the harness, by its accessibility tests and by the
page's unit tests. A test fails when it is out of date. Names and figures are invented; the buttons, and everything else
that is computed, come from the code that the widget runs.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from modeldeck._errors import ClusterError, DiskFullError, GatedError, ModelDeckError, OfflineError
from modeldeck._types import (
    DownloadRequest,
    DownloadSnapshot,
    DownloadState,
    EngineLimits,
    FitEstimate,
    GGUFFile,
    IncompleteShards,
    LocalModel,
    ModelSummary,
    ModelTraits,
    RecommendationReason,
    RepoDetails,
    Sidecar,
    Variant,
)
from modeldeck._wire import JobView
from modeldeck.cache_contents import CacheContents, Leftover, LeftoverKind, Proof, StoredBlob, StoredModel
from modeldeck.cluster import HostPull, PullSnapshot
from modeldeck.cluster.host_rooms import HostRoom
from modeldeck.cluster.worker_models import WorkerRoom
from modeldeck.engine.state import actions_of
from modeldeck.hub.errors import refused_token_error
from modeldeck.llama import Measurement
from modeldeck.lockfile import lock_entry, pin
from modeldeck.sizing.hardware import Hardware
from modeldeck.snippets import llama_cpp_code, modeldeck_code
from modeldeck.widget.account import steps_to, tokens_url
from modeldeck.widget.model_card import parse_model_card
from modeldeck.widget.publisher import as_json
from modeldeck.widget.pulls import CLIENT_CLOSED, host_views, pull_view
from modeldeck.widget.repos import hosts_fits, recommended_for_hosts, repo_view, variant_view
from modeldeck.widget.shelf import library_view
from modeldeck.widget.traits import (
    AboutView,
    AccountView,
    ChatMessageView,
    ChatView,
    CheckView,
    ClusterView,
    CodeView,
    DeckState,
    DeckView,
    DownloadsView,
    EngineView,
    FiltersView,
    GpuView,
    HostsFitView,
    HostSpeedView,
    LibraryView,
    LlamaView,
    LoadChoices,
    LoadView,
    MachineView,
    MapView,
    ModelKey,
    PlanView,
    RepoView,
    SaidView,
    SearchView,
    SummaryView,
    UnusableHostView,
    VariantRowView,
)

PATH = Path(__file__).resolve().parent.parent / "js" / "harness" / "scenes.json"
_GIB = 2**30
_ENDPOINT = "https://huggingface.co"
_LOCAL_ENDPOINT = "http://127.0.0.1:8451"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"

QWEN = "bartowski/Qwen2.5-7B-Instruct-GGUF"
SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
GEMMA = "ggml-org/gemma-3-4b-it-GGUF"
MISTRAL = "TheBloke/Mistral-7B-Instruct-v0.2-GGUF"
LLAMA = "unsloth/Llama-3.2-3B-Instruct-GGUF"

_VIEW = DeckView(
    endpoint=_ENDPOINT,
    hardware=MachineView(ram_total=int(15.5 * _GIB), ram_available=int(7.2 * _GIB)),
    engine=EngineView(mode="process"),
)
_LOCAL_VIEW = replace(_VIEW, endpoint=_LOCAL_ENDPOINT, is_default_endpoint=False)
_GPU_VIEW = replace(
    _VIEW,
    hardware=MachineView(
        ram_total=64 * _GIB,
        ram_available=int(51.3 * _GIB),
        gpus=(GpuView(name="NVIDIA GeForce RTX 4090", total=24 * _GIB, free=int(22.1 * _GIB)),),
    ),
)


# --- search results ---------------------------------------------------------------------------------------------------


def _summary(repo_id: str, **changes: Any) -> ModelSummary:
    usual: dict[str, Any] = {
        "downloads": 48_211,
        "likes": 312,
        "last_modified": "2026-11-02T10:00:00.000Z",
        "gated": False,
        "license": "apache-2.0",
        "architecture": "llama",
        "parameter_count": 7_615_616_512,
        "context_length": 32_768,
        "pipeline_tag": "text-generation",
        "languages": ("en", "pt"),
    }
    return ModelSummary(repo_id=repo_id, **{**usual, **changes})


_MODELS = tuple(
    SummaryView.of(model, _ENDPOINT)
    for model in (
        _summary(
            QWEN,
            architecture="qwen2",
            downloads=1_204_332,
            likes=1830,
            base_model="Qwen/Qwen2.5-7B-Instruct",
            base_model_relation="quantized",
        ),
        _summary(
            SMOL,
            parameter_count=134_515_008,
            context_length=8192,
            downloads=9120,
            likes=41,
            last_modified="2025-02-17T08:30:00.000Z",
        ),
        _summary(
            GEMMA,
            architecture="gemma3",
            parameter_count=3_880_099_328,
            context_length=131_072,
            license="gemma",
            gated="manual",
            downloads=310_554,
            likes=207,
        ),
        _summary(
            "unsloth/Qwen3-VL-235B-A22B-Instruct-1M-UD-Imatrix-Extended-Context-Preview-GGUF",
            architecture="qwen3vlmoe",
            parameter_count=235_093_634_560,
            active_parameter_count=22 * 10**9,
            context_length=1_048_576,
            downloads=88_190,
            likes=96,
        ),
        _summary(
            "nomic-ai/nomic-embed-text-v1.5-GGUF",
            architecture="nomic-bert",
            parameter_count=136_727_040,
            context_length=2048,
            downloads=45_087,
            likes=99,
        ),
        _summary(
            MISTRAL,
            architecture=None,
            parameter_count=None,
            context_length=None,
            license=None,
            downloads=987,
            likes=0,
            last_modified="2023-12-11T22:18:00.000Z",
        ),
    )
)
_LLAMA_SUMMARY = SummaryView.of(_summary(LLAMA, parameter_count=8_030_261_248, license="llama3.1"), _ENDPOINT)
_RESULTS = SearchView(state="done", models=_MODELS, has_more=True)


# --- repositories -----------------------------------------------------------------------------------------------------


def _fit(needed_gib: float = 1.9, **changes: Any) -> FitEstimate:
    usual: dict[str, Any] = {
        "verdict": "fits",
        "n_ctx": 4096,
        "needed_bytes": int(needed_gib * _GIB),
        "available_bytes": int(7.2 * _GIB),
        "max_n_ctx": 32_768,
        "method": "native",
    }
    return FitEstimate(**{**usual, **changes})


def _variant(label: str, filename: str, size: int, *, shards: int = 1, sidecars: tuple[Sidecar, ...] = ()) -> Variant:
    names = [filename]
    if shards > 1:
        names = [f"{filename}-{number:05}-of-{shards:05}.gguf" for number in range(1, shards + 1)]
    files = tuple(GGUFFile(filename=name, size=size // shards) for name in names)
    return Variant(variant_id=names[0], label=label, quantization=label, files=files, sidecars=sidecars)


def _details(
    repo_id: str, variants: dict[Variant, FitEstimate | None], recommended: str | None, **more: Any
) -> RepoDetails:
    return RepoDetails(
        repo_id=repo_id,
        revision="main",
        commit_hash=_COMMIT,
        variants=tuple(variants),
        fits={variant.variant_id: fit for variant, fit in variants.items() if fit is not None},
        recommended=recommended,
        license="apache-2.0",
        gated=False,
        **more,
    )


def _qwen_file(label: str) -> str:
    return f"Qwen2.5-7B-Instruct-{label}.gguf"


_PROJECTOR = Sidecar(kind="mmproj", file=GGUFFile(filename="mmproj-F16.gguf", size=1_350_000_000))
_QWEN_DETAILS = _details(
    QWEN,
    {
        _variant("Q8_0", _qwen_file("Q8_0"), 8_098_525_888): _fit(8.6, verdict="too_large", max_n_ctx=None),
        _variant("Q6_K", _qwen_file("Q6_K"), 6_254_199_488): _fit(6.6, tokens_per_second=8.4, speed_source="estimated"),
        _variant("Q4_K_M", _qwen_file("Q4_K_M"), 4_683_074_240, sidecars=(_PROJECTOR,)): _fit(
            5.1, tokens_per_second=11.2, speed_source="estimated"
        ),
        _variant("IQ3_XS", _qwen_file("IQ3_XS"), 3_353_000_000): _fit(verdict="partial", n_gpu_layers=20),
        _variant("Q2_K", _qwen_file("Q2_K"), 3_015_940_000): FitEstimate(
            verdict="unknown", n_ctx=4096, reason="The header could not be read."
        ),
        _variant("F16", "F16/Qwen2.5-7B-Instruct-F16", 15_237_853_184, shards=4): _fit(
            14.9, verdict="too_large", max_n_ctx=None, method="size"
        ),
    },
    _qwen_file("Q6_K"),
    recommended_reason=RecommendationReason(code="reading_pace", tokens_per_second=8.4),
)
_LONG_SIZES = {
    "BF16": 16.1, "Q8_0": 8.5, "Q6_K_L": 6.9, "Q6_K": 6.6, "Q5_K_L": 6.1, "Q5_K_M": 5.7, "Q5_K_S": 5.6, "Q4_K_L": 5.3,
    "Q4_K_M": 4.9, "Q4_K_S": 4.7, "IQ4_NL": 4.7, "IQ4_XS": 4.4, "Q4_1": 5.1, "Q4_0": 4.7, "MXFP4": 4.4,
    "Q3_K_XL": 4.8, "Q3_K_L": 4.3, "Q3_K_M": 4.0, "IQ3_M": 3.8, "Q3_K_S": 3.7, "IQ3_XS": 3.5, "IQ3_XXS": 3.3,
    "UD-Q2_K_XL": 3.4, "Q2_K": 3.2, "IQ2_M": 2.9, "IQ2_S": 2.8, "IQ2_XS": 2.6, "IQ2_XXS": 2.4,
}  # fmt: skip
_LONG_DETAILS = _details(
    LLAMA,
    {
        _variant(label, f"Llama-3.1-8B-{label}.gguf", int(size * 1e9), sidecars=(_PROJECTOR,)): _fit(
            size * 0.93 + 0.6,
            verdict="fits" if size < 7 else "too_large",
            max_n_ctx=8192 if size < 7 else None,
            tokens_per_second=round(52 / size, 1),
            speed_source="estimated",
        )
        for label, size in _LONG_SIZES.items()
    },
    "Llama-3.1-8B-Q5_K_M.gguf",
    recommended_reason=RecommendationReason(code="reading_pace", tokens_per_second=9.1),
    incomplete=(IncompleteShards(prefix="F32/Llama-3.1-8B-F32", total=4, files=(GGUFFile(filename="a"),) * 3),),
)
_SMOL_DETAILS = _details(
    SMOL,
    {
        _variant("Q8_0", "model-Q8_0.gguf", 144_811_392): _fit(0.4),
        _variant("Q4_K_M", "model-Q4_K_M.gguf", 105_454_432): _fit(0.3),
        _variant("F16", "model-F16.gguf", 270_900_000): _fit(0.6),
    },
    "model-Q8_0.gguf",
    model=ModelTraits(architecture="llama", context_length=8192, has_chat_template=True, is_embedding=False),
)
_SMOL_LOCAL = {
    "model-Q8_0.gguf": Measurement(load_seconds=0.31, tokens_per_second=62.4, memory_bytes=2 * 10**8, n_ctx=4096),
    "model-Q4_K_M.gguf": None,
}
_SMOL_LOADING = LoadView(
    state="loading", repo_id=SMOL, variant_id="model-Q4_K_M.gguf", label="Q4_K_M", stage="loading", fraction=0.42
)
_SMOL_LOADED = replace(_SMOL_LOADING, state="ready", stage="ready", fraction=1.0, n_ctx=4096)


def _opened(details: RepoDetails, load: LoadView | None = None) -> RepoView:
    local = _SMOL_LOCAL if details is _SMOL_DETAILS else {}
    steps = steps_to(details, _ENDPOINT, has_token=True)
    return repo_view(details, steps=steps, local=local, load=load or LoadView())


def _pick(details: RepoDetails, load: LoadView | None = None) -> VariantRowView:
    local = _SMOL_LOCAL if details is _SMOL_DETAILS else {}
    variant = details.variant(details.recommended or "")
    assert variant is not None
    return variant_view(details, variant, local, load or LoadView())


_GATED = GatedError(
    "The licence of this model must be accepted first. Open its page, accept it, and set HF_TOKEN.",
    url=f"{_ENDPOINT}/{GEMMA}",
    status_code=403,
)
_GEMMA_DETAILS = dataclasses.replace(
    _details(
        GEMMA,
        {_variant("Q4_K_M", "gemma-3-4b-it-Q4_K_M.gguf", 2_489_757_760): _fit(3.1, method="size")},
        "gemma-3-4b-it-Q4_K_M.gguf",
    ),
    gated="manual",
    has_access=False,
    access_error=_GATED.to_info(),
)
_ACCOUNT = AccountView(
    state="known",
    name="ana-souza",
    lines=(
        SaidView(code="account_name", text="The token in use belongs to ana-souza."),
        SaidView.of("account_file"),
        SaidView.of("account_reads_gated"),
    ),
    url=tokens_url(_ENDPOINT),
)
_OFFLINE = OfflineError("Cannot reach 127.0.0.1:8451. Check the network or the endpoint, then try again.")
_DISK_FULL = DiskFullError(
    "Not enough room in the cache. Free some space, or choose another cache_dir, then retry. Downloaded data is kept.",
    needed_bytes=4_683_074_240,
    free_bytes=1_204_000_000,
)


# --- downloads --------------------------------------------------------------------------------------------------------


def _request(repo_id: str, variant_id: str, label: str) -> DownloadRequest:
    return DownloadRequest(
        repo_id=repo_id,
        revision="main",
        commit_hash=_COMMIT,
        variant_id=variant_id,
        label=label,
        files=(),
        endpoint=_ENDPOINT,
        cache_dir="",
    )


def _job(
    state: DownloadState,
    repo_id: str = QWEN,
    variant_id: str = "model-Q4_K_M.gguf",
    label: str = "Q4_K_M",
    *,
    received: float = 0,
    total: float | None = None,
    error: ModelDeckError | None = None,
    **changes: Any,
) -> JobView:
    snapshot = DownloadSnapshot(
        job_id=f"{state}-{repo_id}-{variant_id}",
        request=_request(repo_id, variant_id, label),
        state=state,
        received=int(received),
        total=None if total is None else int(total),
        error=None if error is None else error.to_info(),
        actions=actions_of(state),
        **changes,
    )
    return JobView.of(snapshot)


_MOVING: dict[str, Any] = {"rate": 31.4e6, "eta_seconds": 118.0, "connections": 4, "attempt": 1}
_S = DownloadState


def _job_in(state: DownloadState) -> JobView:
    """A download of Q4_K_M in one of the states."""
    received = {_S.QUEUED: 0.0, _S.RESOLVING: 0.0, _S.READY: 4.683_074_240e9}.get(state, 1.214e9)
    return _job(
        state,
        received=received,
        total=4.683_074_240e9,
        error=_DISK_FULL if state is _S.FAILED else None,
        **(_MOVING if state is _S.DOWNLOADING else {}),
    )


def _qwen_job(label: str, state: DownloadState, received: float, total: float, **changes: Any) -> JobView:
    return _job(state, QWEN, _qwen_file(label), label, received=received, total=total, **changes)


_DOWNLOADING = DownloadsView(
    jobs=(
        _qwen_job("Q4_K_M", _S.DOWNLOADING, 1.214e9, 4.683e9, **_MOVING),
        _qwen_job("Q6_K", _S.PAUSED, 3.8e9, 6.25e9),
        _qwen_job("Q2_K", _S.VERIFYING, 3.01e9, 3.015e9),
        _qwen_job("IQ3_XS", _S.DOWNLOADING, 0.4e9, 3.353e9, retry_in_seconds=3.4, attempt=2),
        _qwen_job("Q8_0", _S.QUEUED, 0, 8.1e9),
    )
)
_STRAYS = DownloadsView(
    jobs=(
        _job(_S.DOWNLOADING, MISTRAL, received=1.214e9, total=4.683e9, **_MOVING),
        _job(_S.QUEUED, LLAMA, "x.gguf", "Q8_0", total=3.42e9),
        _job(_S.READY, SMOL, "y.gguf", "F16", received=2.7e8, total=2.7e8),
    )
)
_FAILED = DownloadsView(
    jobs=(
        _qwen_job("Q4_K_M", _S.FAILED, 1.2e9, 4.683e9, error=_DISK_FULL),
        _job(_S.FAILED, MISTRAL, received=0, total=4.37e9, error=_OFFLINE),
    )
)

_MODEL_CARD = """\
---
license: apache-2.0
---
<div align="center"><img src="https://example.org/logo.png"><p>Made with care</p></div>

# Qwen2.5-7B-Instruct

Quantized with **llama.cpp** from [Qwen/Qwen2.5-7B-Instruct](https://huggingface.co/Qwen/Qwen2.5-7B-Instruct).
See [the notes](NOTES.md), not [this](javascript:alert(1)).

![A chart of perplexity](chart.png)

| Filename | Quant type | File size |
| --- | --- | --- |
| Qwen2.5-7B-Instruct-Q8_0.gguf | `Q8_0` | 8.10GB |
| Qwen2.5-7B-Instruct-Q4_K_M.gguf | `Q4_K_M` | 4.68GB |

## Prompt format

```
<|im_start|>system
{system_prompt}<|im_end|>
```

1. Pick a file that fits.
2. Download it.

> The larger the file, the better the answers.
"""


def _about(text: str) -> AboutView:
    tokens, is_cut = parse_model_card(text, f"{_ENDPOINT}/{QWEN}/blob/main/")
    return AboutView(state="open", tokens=tokens, is_cut=is_cut)


_QUEUE = DownloadsView(
    jobs=(
        _job(_S.DOWNLOADING, MISTRAL, received=1.214e9, total=4.683e9, **_MOVING),
        _job(_S.QUEUED, LLAMA, "x.gguf", "Q8_0", total=3.42e9, queue_position=0),
        _job(_S.QUEUED, GEMMA, "y.gguf", "Q4_K_M", total=2.49e9, queue_position=1),
        _job(_S.PAUSED, QWEN, _qwen_file("Q6_K"), "Q6_K", received=3.8e9, total=6.25e9),
        _job(_S.READY, SMOL, "y.gguf", "F16", received=2.7e8, total=2.7e8, finished_at=1_795_000_000.0),
    )
)


# --- a Dask cluster ---------------------------------------------------------------------------------------------------


def _host(name: str, state: DownloadState, source: str | None, received: float, **changes: Any) -> HostPull:
    return HostPull(
        host=name,
        workers=(f"tcp://{name}:40001",),
        state=state,
        source=source,
        received=int(received),
        total=4_683_074_240,
        **changes,
    )


_PULLING = PullSnapshot(
    target=f"{QWEN}:Q4_K_M",
    hosts=(
        _host("node1", _S.DOWNLOADING, "hub", 2.914e9, rate=98.2e6),
        _host("node2", _S.DOWNLOADING, "peer node1", 2.901e9, rate=97.4e6),
        _host("node3", _S.READY, "already there", 4.683_074_240e9),
        _host("node4", _S.READY, "shared cache", 4.683_074_240e9),
    ),
)
_PARTLY_PULLED = PullSnapshot(
    target=f"{QWEN}:Q6_K",
    hosts=(
        _host("node1", _S.READY, "hub", 4.683_074_240e9),
        _host("node2", _S.FAILED, "peer node1", 1.204e9, error=_DISK_FULL.to_info()),
    ),
)
_PULL_REQUESTS = {label: _request(QWEN, _qwen_file(label), label) for label in ("Q4_K_M", "Q6_K")}
_PULLS = DownloadsView(
    jobs=(
        pull_view("pull-1", _PULL_REQUESTS["Q4_K_M"], _PULLING),
        pull_view("pull-2", _PULL_REQUESTS["Q6_K"], _PARTLY_PULLED, end=_S.FAILED),
    )
)
_NO_MODELDECK = "modeldeck cannot be imported there (No module named 'modeldeck')."


def _room(name: str, free_gib: float, **changes: Any) -> HostRoom:
    total, free = int(64 * _GIB), int(free_gib * _GIB)
    usual: dict[str, Any] = {
        "hardware": Hardware(ram_total=total, ram_available=free, cpu_count=16),
        "room": WorkerRoom(limit=0, fraction=0.8, setting="pause", used=0),
    }
    return HostRoom(name=name, **{**usual, **changes})


_ROOMS = (
    _room("node1", 15.2),
    _room("node2", 15.1),
    _room("node3", 6.3),
    _room("node4", 0, hardware=None, room=None, problem=_NO_MODELDECK),
)


def _on_hosts(details: RepoDetails) -> dict[str, HostsFitView]:
    """How the variants fit the hosts, each by what it needs on this machine."""

    def fits_on(free: int) -> dict[str, FitEstimate]:
        return {
            variant_id: FitEstimate(
                verdict="fits", n_ctx=fit.n_ctx, needed_bytes=fit.needed_bytes or 4 * _GIB, available_bytes=free
            )
            for variant_id, fit in details.fits.items()
        }

    return hosts_fits(
        details, _ROOMS, [None if room.hardware is None else fits_on(room.hardware.ram_available) for room in _ROOMS]
    )


def _opened_on_hosts(details: RepoDetails) -> RepoView:
    hosts = _on_hosts(details)
    details = recommended_for_hosts(details, hosts)
    return repo_view(details, steps=(), local={}, load=LoadView(), hosts=hosts)


_CLUSTER = ClusterView(
    is_used=True,
    host_count=len(_ROOMS),
    unusable=(UnusableHostView(host="node4", problem=_NO_MODELDECK),),
    maps=(
        MapView(
            job_id="map-1",
            target=f"{SMOL}:Q8_0",
            done=37,
            failed=1,
            total=100,
            hosts=(
                HostSpeedView(host="node1", tokens_per_second=41.6),
                HostSpeedView(host="node2", tokens_per_second=8.53),
                HostSpeedView(host="node3", tokens_per_second=None),
            ),
        ),
    ),
    pulls={"pull-1": host_views(_PULLING.hosts), "pull-2": host_views(_PARTLY_PULLED.hosts)},
)
_QUEUE_VIEW = replace(
    _VIEW, engine=EngineView(mode="process", limits=EngineLimits(bandwidth_bytes_per_second=20_000_000))
)


# --- the library ------------------------------------------------------------------------------------------------------


def _stored(
    repo_id: str, variant_id: str, label: str, size: int, proof: Proof | None, *, users: int = 1
) -> StoredModel:
    path = Path("/cache", repo_id, variant_id)
    return StoredModel(
        model=LocalModel(
            repo_id=repo_id,
            commit_hash=_COMMIT,
            variant_id=variant_id,
            label=label,
            filenames=(variant_id,),
            path=path,
            paths=(path,),
            size=size,
            revision="main",
        ),
        blobs=(StoredBlob(key=variant_id, size=size, users=users),),
        last_used=1_795_200_000.0,
        proof=proof,
    )


def _leftover(kind: LeftoverKind, repo_id: str, name: str, size: int, *, is_in_use: bool = False) -> Leftover:
    return Leftover(
        path=Path("/cache", name),
        repo_id=repo_id,
        kind=kind,
        name=name,
        size=size,
        modified_at=1_794_000_000.0,
        is_in_use=is_in_use,
    )


_PROVEN = Proof(at=1_795_100_000.0, by="download", is_valid=True)
_DAMAGED = Proof(at=1_795_100_000.0, by="verify", is_valid=False)
_CONTENTS = CacheContents(
    models=(
        _stored(
            SMOL, "model-Q4_K_M.gguf", "Q4_K_M", 105_454_432, Proof(at=1_795_100_000.0, by="download", is_valid=True)
        ),
        _stored(QWEN, _qwen_file("Q4_K_M"), "Q4_K_M", 4_683_074_240, None),
        _stored(
            LLAMA, "Llama-3.2-3B-Q8_0.gguf", "Q8_0", 3_421_898_816, Proof(at=1_795.1e6, by="verify", is_valid=False)
        ),
        _stored(MISTRAL, "mistral-7b-Q4_K_M.gguf", "Q4_K_M", 4_368_439_584, None, users=2),
    ),
    leftovers=(
        _leftover("partial", QWEN, _qwen_file("Q6_K"), 3_800_000_000, is_in_use=True),
        _leftover("incomplete", MISTRAL, f"{'3e0c' * 16}.incomplete", 912_000_000),
    ),
    free_bytes=81_200_000_000,
    total_bytes=494_000_000_000,
)


def _library(load: LoadView | None = None) -> LibraryView:
    key = ModelKey(repo_id=MISTRAL, variant_id="mistral-7b-Q4_K_M.gguf", commit_hash=_COMMIT)
    checks = {key: CheckView(is_repair=False, fraction=0.37)}
    return library_view(_CONTENTS, cache_dir=Path("/cache"), load=load, checks=checks)


_PINNED = pin(
    SMOL,
    _COMMIT,
    "Q4_K_M",
    [GGUFFile(filename="model-Q4_K_M.gguf", size=105_454_432, sha256="5" * 64)],
    n_ctx=4096,
)
_PLAN = PlanView(
    repo_id=SMOL,
    variant_id="model-Q4_K_M.gguf",
    commit_hash=_COMMIT,
    taken=LoadChoices(n_ctx=4096, n_gpu_layers=31, n_threads=8, flash_attn=True, kv_type="f16"),
    fit=_fit(0.3),
    max_n_ctx=8192,
    max_gpu_layers=31,
    max_threads=8,
    code=CodeView(modeldeck=modeldeck_code(_PINNED), llama_cpp=llama_cpp_code(_PINNED), lock_entry=lock_entry(_PINNED)),
)
_TALK = ChatView(
    messages=(
        ChatMessageView(role="user", content="Why is the sky blue?"),
        ChatMessageView(
            role="assistant",
            content="Air scatters short waves of light more than long ones, so blue light reaches us from everywhere.",
        ),
    ),
    first_token_seconds=0.31,
    tokens_per_second=42.0,
)
_CHATTING = replace(_SMOL_LOADED, kind="chat", code=_PLAN.code)

_UNFOLDED = DeckState(
    view=_VIEW,
    search=_RESULTS,
    repos={QWEN: _opened(_QWEN_DETAILS)},
    picks={QWEN: _pick(_QWEN_DETAILS), SMOL: _pick(_SMOL_DETAILS)},
)

SCENES: dict[str, DeckState] = {
    "start": DeckState(view=_VIEW),
    "results": DeckState(view=_VIEW, search=_RESULTS, picks={QWEN: _pick(_QWEN_DETAILS), SMOL: _pick(_SMOL_DETAILS)}),
    "variants": _UNFOLDED,
    "downloading": replace(_UNFOLDED, downloads=_DOWNLOADING),
    "strays": DeckState(view=_VIEW, search=_RESULTS, downloads=_STRAYS),
    "error": DeckState(
        view=_GPU_VIEW,
        search=_RESULTS,
        repos={QWEN: _opened(_QWEN_DETAILS), GEMMA: RepoView(state="failed", error=_GATED.to_info())},
        downloads=_FAILED,
    ),
    "search-failed": DeckState(
        view=_LOCAL_VIEW, search=SearchView(text="llama", state="failed", error=_OFFLINE.to_info())
    ),
    "gated": DeckState(
        view=_VIEW,
        account=_ACCOUNT,
        search=SearchView(text="gemma", state="done", models=_MODELS[2:3]),
        repos={GEMMA: _opened(_GEMMA_DETAILS)},
        picks={GEMMA: _pick(_GEMMA_DETAILS)},
    ),
    "account": DeckState(
        view=_VIEW,
        account=AccountView(
            state="failed",
            lines=(SaidView.of("account_environment"),),
            url=tokens_url(_ENDPOINT),
            error=refused_token_error(_ENDPOINT).to_info(),
        ),
        search=_RESULTS,
    ),
    "no-account": DeckState(
        view=_VIEW,
        account=AccountView(lines=(SaidView.of("account_none"),), url=tokens_url(_ENDPOINT)),
        search=_RESULTS,
    ),
    "about": replace(_UNFOLDED, about={QWEN: _about(_MODEL_CARD)}),
    "long": DeckState(
        view=_VIEW,
        search=SearchView(text="llama", state="done", models=(_LLAMA_SUMMARY,)),
        repos={LLAMA: _opened(_LONG_DETAILS)},
        picks={LLAMA: _pick(_LONG_DETAILS)},
    ),
    "filtered": DeckState(
        view=_VIEW,
        search=SearchView(
            text="qwen",
            state="done",
            filters=FiltersView(
                task="chat",
                license="apache-2.0",
                language="pt",
                quantization="Q4_K_M",
                max_parameters=10**9,
                is_open=True,
            ),
            models=_MODELS[:2],
            local=(SMOL,),
        ),
    ),
    "empty": DeckState(view=_VIEW, search=SearchView(text="no such model", state="done")),
    "searching": DeckState(view=_VIEW, search=SearchView(text="qwen", state="searching")),
    "opening": DeckState(view=_VIEW, search=_RESULTS, repos={QWEN: RepoView()}),
    "loading": DeckState(
        view=_VIEW, search=_RESULTS, repos={SMOL: _opened(_SMOL_DETAILS, _SMOL_LOADING)}, load=_SMOL_LOADING
    ),
    "loaded": DeckState(
        view=_LOCAL_VIEW, search=_RESULTS, repos={SMOL: _opened(_SMOL_DETAILS, _SMOL_LOADED)}, load=_SMOL_LOADED
    ),
    "chat": DeckState(view=_VIEW, search=_RESULTS, load=_CHATTING, chat=_TALK),
    "chat-waiting": DeckState(
        view=_VIEW, search=_RESULTS, load=_CHATTING, chat=replace(_TALK, state="waiting", messages=_TALK.messages[:1])
    ),
    "embedding": DeckState(
        view=_VIEW, search=_RESULTS, load=replace(_SMOL_LOADED, kind="embedding"), chat=ChatView(similarity=0.83)
    ),
    "library": DeckState(view=_VIEW, search=_RESULTS, library=_library()),
    "library-options": DeckState(view=_GPU_VIEW, search=_RESULTS, library=_library(), plan=_PLAN),
    "library-empty": DeckState(view=_VIEW, library=LibraryView(is_known=True, free_bytes=81_200_000_000)),
    "offline": DeckState(
        view=_VIEW, search=SearchView(text="llama", state="failed", error=_OFFLINE.to_info()), library=_library()
    ),
    "cluster": replace(_UNFOLDED, repos={QWEN: _opened_on_hosts(_QWEN_DETAILS)}, downloads=_PULLS, cluster=_CLUSTER),
    "cluster-closed": DeckState(
        view=_VIEW, search=_RESULTS, cluster=ClusterView(is_used=True, error=ClusterError(CLIENT_CLOSED).to_info())
    ),
    "queue": DeckState(view=_QUEUE_VIEW, search=_RESULTS, downloads=_QUEUE),
    "notices": DeckState(
        view=replace(
            _VIEW,
            llama=LlamaView(is_available=False, message="Loading needs llama-cpp-python: pip install modeldeck[llama]"),
            engine=EngineView(
                mode="inline",
                notice="The download process could not be started. Downloads run in this kernel and end with it.",
            ),
        ),
        search=_RESULTS,
    ),
}
"""What each scene of the harness shows. Some scenes repeat one of these, see ``js/harness/scenes.ts``."""

_SAMPLES = {
    "view": _VIEW,
    "models": _MODELS,
    "fit": _fit(),
    "repo": _opened(_QWEN_DETAILS),
    "variants": {
        "available": _opened(_SMOL_DETAILS).variants[2],
        "downloaded": _opened(_SMOL_DETAILS).variants[1],
        "loading": _opened(_SMOL_DETAILS, _SMOL_LOADING).variants[1],
        "loaded": _opened(_SMOL_DETAILS, _SMOL_LOADED).variants[1],
    },
    "jobs": {state.value: _job_in(state) for state in DownloadState},
    "loads": {
        "none": LoadView(),
        "loading": _SMOL_LOADING,
        "ready": _SMOL_LOADED,
        "failed": LoadView(state="failed", repo_id=SMOL, variant_id="model-Q4_K_M.gguf", label="Q4_K_M"),
    },
}
"""One thing in each of its states, for the page's unit tests to vary."""


def scenes_text() -> str:
    """The whole of ``js/harness/scenes.json``."""
    return json.dumps({"scenes": as_json(SCENES), "samples": as_json(_SAMPLES)}, indent=1) + "\n"


def main() -> None:
    PATH.write_text(scenes_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
