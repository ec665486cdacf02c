"""The data that travels between the layers: frozen, with no behaviour beyond small derived properties.

Sizes are ``int`` bytes, durations are ``float`` seconds, and points in time are ``float`` seconds since the epoch.
An unknown value is ``None``, never 0. Everything that crosses a process border survives ``msgspec.to_builtins`` and
``msgspec.convert``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias

from modeldeck._tables import (
    UNKNOWN,
    Readable,
    Row,
    Table,
    Tabular,
    format_count,
    format_duration,
    format_gib,
    format_memory,
    format_parameters,
    format_rate,
    format_size,
    table_of,
)

Gated: TypeAlias = Literal["auto", "manual"] | bool | None
"""Access: ``False`` (open), "auto" (accept the terms), "manual" (wait for approval), ``None`` (unknown)."""

TokenSource: TypeAlias = Literal["argument", "environment", "file", "colab", "endpoint"]
"""Where a token was found: given to modeldeck, in a variable such as HF_TOKEN, in the file that ``hf auth login``
writes, in Colab's secrets, or in the address of the endpoint."""
SortKey: TypeAlias = Literal["trending", "downloads", "likes", "modified", "created"]
BaseModelRelation: TypeAlias = Literal["quantized", "finetune", "adapter", "merge"]
SidecarKind: TypeAlias = Literal["mmproj", "drafter", "imatrix", "adapter"]
FitVerdict: TypeAlias = Literal["fits", "partial", "too_large", "unknown", "unusable"]
SpeedSource: TypeAlias = Literal["measured", "calibrated", "estimated"]
FitReasonCode: TypeAlias = Literal[
    "beyond_training",
    "damaged",
    "memory_unknown",
    "on_cpu",
    "partly_on_gpu",
    "refused",
    "size_unknown",
    "too_large",
]
ReasonCode: TypeAlias = Literal[
    "reading_pace", "small_model", "only_unquantized", "fastest", "slow", "best_that_fits", "partial", "unknown"
]

DEFAULT_N_CTX = 4096
"""The context length in tokens that a model is judged for and loaded with unless the caller gives another."""


# --- search -----------------------------------------------------------------------------------------------------------

MAX_PAGE_SIZE = 100
"""Larger pages are slow, because the Hub sends the whole chat template with each result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilters:
    """Conditions that the results of a search meet.

    The Hub itself applies all but ``quantization``, so that pages stay full.

    Attributes
    ----------
    task : str or None
        ``"chat"``, ``"embedding"``, ``"vision"``, ``"code"``, or a task of the Hub, such as ``"text-generation"``.
    license : str or None
        The identifier of a licence, such as ``"apache-2.0"``.
    language : str or None
        The two-letter code of a language, such as ``"pt"``.
    gated : bool or None
        ``False``: only models whose terms need not be accepted. ``True``: only models whose terms must be.
    min_parameters : int or None
        The smallest number of weights.
    max_parameters : int or None
        The largest number of weights.
    app : str or None
        An application that can run the model, such as ``"llama.cpp"``.
    quantization : str or None
        A quantization that the repository must have, such as ``"Q4_K_M"``. The Hub cannot filter by it: modeldeck
        leaves out the repositories without it, so a page can have fewer results than its limit, or none.

    Examples
    --------
    >>> filters = SearchFilters(task="chat", license="apache-2.0", max_parameters=9_000_000_000)
    """

    task: str | None = None
    license: str | None = None
    language: str | None = None
    gated: bool | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    app: str | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What was searched for on the Hub.

    Attributes
    ----------
    text : str
        Text that the names of repositories and owners must contain.
    sort : {"trending", "downloads", "likes", "modified", "created"}
        The order of the results, highest or newest first.
    limit : int
        Results on a page, 1 to 100.
    author : str or None
        Only repositories of this user or organization.
    filters : SearchFilters
        What else the repositories meet.
    """

    text: str = ""
    sort: SortKey = "downloads"
    limit: int = 20
    author: str | None = None
    filters: SearchFilters = SearchFilters()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary(Row):
    """One repository in the results of a search.

    A search does not tell file sizes; `modeldeck.describe` does. A value the Hub does not tell is ``None``.

    Attributes
    ----------
    repo_id : str
        ``"owner/name"``.
    downloads : int or None
        Downloads in the last 30 days.
    likes : int or None
        Likes of all time.
    last_modified : str or None
        Time of the last change, as ISO 8601 in UTC.
    gated : {False, "auto", "manual"} or None
        Whether the terms must be accepted first: ``False`` no, "auto" yes, "manual" yes with an approval by the owner.
    is_private : bool or None
        Whether only its owner can see the repository.
    tags : tuple[str, ...]
        The tags of the repository.
    license : str or None
        The identifier of its licence, such as ``"apache-2.0"``.
    pipeline_tag : str or None
        The task of the model, such as ``"text-generation"``.
    architecture : str or None
        The architecture that llama.cpp knows it by, such as ``"qwen3"``.
    parameter_count : int or None
        Number of weights.
    active_parameter_count : int or None
        Number of weights that are used for each token, where the name tells it, as in ``"30B-A3B"``. The header tells
        it better: see `ModelTraits`.
    context_length : int or None
        Tokens that the model was trained for.
    has_chat_template : bool or None
        Whether the model has a template for chats.
    base_model : str or None
        The repository of the model that this one was made from.
    base_model_relation : {"quantized", "finetune", "adapter", "merge"} or None
        How it was made from that model.
    languages : tuple[str, ...]
        The two-letter codes of the model's languages.
    filenames : tuple[str, ...]
        The names of its files, where the search filters by quantization; otherwise empty.
    """

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
    active_parameter_count: int | None = None
    context_length: int | None = None
    has_chat_template: bool | None = None
    base_model: str | None = None
    base_model_relation: BaseModelRelation | None = None
    languages: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()

    _HEADINGS = ("Repository", "Downloads", "Likes", "Parameters", "Context")
    _NUMERIC = frozenset({"Downloads", "Likes", "Parameters", "Context"})

    def _cells(self) -> Sequence[str]:
        return (
            self.repo_id,
            format_count(self.downloads),
            format_count(self.likes),
            format_parameters(self.parameter_count),
            format_count(self.context_length),
        )

    def _record(self) -> dict[str, Any]:
        return fields_of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage(Tabular):
    """One page of the results of a search.

    Attributes
    ----------
    query : SearchQuery
        What was searched for.
    models : tuple[ModelSummary, ...]
        The results, best first.
    next_cursor : str or None
        Pass it to `modeldeck.search` as ``cursor`` to get the next page; ``None`` on the last page.

    Examples
    --------
    >>> page = modeldeck.search("qwen3", limit=2)
    >>> [model.repo_id for model in page.models]  # doctest: +SKIP
    """

    query: SearchQuery
    models: tuple[ModelSummary, ...]
    next_cursor: str | None = None

    def _records(self) -> list[dict[str, Any]]:
        return [model._record() for model in self.models]

    def _table(self) -> Table:
        return table_of(self.models, ModelSummary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose token is in use. The token itself is not part of it.

    Attributes
    ----------
    name : str or None
        The name of the user or organization; ``None`` without a token.
    source : {"argument", "environment", "file", "colab", "endpoint"} or None
        Where the token was found; ``None`` without one.
    can_read_gated : bool or None
        Whether the token's own permissions include gated models. The account needs access to each of them besides.
        ``None`` if the Hub does not tell it.
    """

    name: str | None = None
    source: TokenSource | None = None
    can_read_gated: bool | None = None


# --- a repository -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFile:
    """One file of a repository, as the Hub lists it.

    Attributes
    ----------
    filename : str
        Its path in the repository.
    size : int or None
        Size in bytes.
    sha256 : str or None
        SHA-256 of the content, in hexadecimal.
    oid : str or None
        SHA-1 that git knows the file by; of a large file, it is the SHA-1 of its pointer.
    """

    filename: str
    size: int | None = None
    sha256: str | None = None
    oid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A file that belongs to a model without being one, such as a vision projector.

    Attributes
    ----------
    kind : {"mmproj", "drafter", "imatrix", "adapter"}
        What the file is: a vision projector, a small model that drafts tokens, an importance matrix, or a LoRA adapter.
    file : GGUFFile
        The file.
    """

    kind: SidecarKind
    file: GGUFFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model to choose in a repository: a file or a set of shards, with the sidecars that are downloaded with it.

    Attributes
    ----------
    variant_id : str
        The identity of the variant: the path of its file, or of its first shard.
    label : str
        A short name such as ``"Q4_K_M"``. Several variants of a repository can have the same label.
    quantization : str or None
        The quantization that the file name tells, such as ``"Q4_K_M"``.
    files : tuple[GGUFFile, ...]
        The files of the model itself, in the order of the shards.
    sidecars : tuple[Sidecar, ...]
        Files that are downloaded with it.
    size
    model_size
    all_files
    """

    variant_id: str
    label: str
    quantization: str | None
    files: tuple[GGUFFile, ...]
    sidecars: tuple[Sidecar, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes of all files with the sidecars, or ``None`` if any size is unknown."""
        return total_size(self.all_files)

    @property
    def model_size(self) -> int | None:
        """Bytes of the model's own files, without sidecars."""
        return total_size(self.files)

    @property
    def all_files(self) -> tuple[GGUFFile, ...]:
        """The files of the model, then its sidecars."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FitEstimate(Readable):
    """Whether a variant fits this machine with a context of ``n_ctx`` tokens, and how fast it will generate.

    Attributes
    ----------
    verdict : {"fits", "partial", "too_large", "unknown", "unusable"}
        "fits": in the GPU's memory, or in RAM on a machine without a GPU. "partial": only some layers fit the GPU.
        "unusable": the file is damaged, or not a model that llama.cpp can load; ``reason`` says why.
    n_ctx : int
        The context length in tokens that was judged.
    needed_bytes : int or None
        Bytes needed of the memory that decided: the GPU's, or RAM on a machine without a GPU.
    available_bytes : int or None
        Bytes free in that memory.
    max_n_ctx : int or None
        The largest context length in tokens that fits, and that the model was trained for.
    n_gpu_layers : int or None
        Layers to put on the GPU, for a partial fit.
    method : {"native", "formula", "size"} or None
        Where the figures come from: llama.cpp itself, a formula over the file's header, or the file's size alone.
    reason : str or None
        The verdict in words, where it needs an explanation.
    reason_code : str or None
        Names the sentence of ``reason``, for translation. Its values are ``n_gpu_layers`` and ``trained_n_ctx``.
    trained_n_ctx : int or None
        The context length in tokens that the model was trained for, where ``n_ctx`` exceeds it.
    reserve_bytes : int
        Bytes that must stay free beside ``needed_bytes``. The model fits when both together are available.
    tokens_per_second : float or None
        The expected speed of generation with a short context; ``None`` when it cannot be told.
    speed_source : {"measured", "calibrated", "estimated"} or None
        "measured": this file was run on this machine. "calibrated": from the bytes read for each token, at the rate
        that was measured here with other models. "estimated": from these bytes and the bandwidth of the memory.
    """

    verdict: FitVerdict
    n_ctx: int
    needed_bytes: int | None = None
    available_bytes: int | None = None
    max_n_ctx: int | None = None
    n_gpu_layers: int | None = None
    method: Literal["native", "formula", "size"] | None = None
    reason: str | None = None
    reason_code: FitReasonCode | None = None
    trained_n_ctx: int | None = None
    reserve_bytes: int = 0
    tokens_per_second: float | None = None
    speed_source: SpeedSource | None = None

    @property
    def _shown_bytes(self) -> int | None:
        """The memory that people are told. What must stay free counts where it decides, so that the figures differ."""
        if self.needed_bytes is None:
            return None
        return self.needed_bytes + (self.reserve_bytes if self.verdict == "too_large" else 0)

    def __str__(self) -> str:
        lines = [self.verdict.replace("_", " ").capitalize() + "."]
        if (shown := self._shown_bytes) is not None and self.available_bytes is not None:
            needed, available = format_memory(shown, self.available_bytes)
            lines = [f"{lines[0]} It needs {needed} with a context of {self.n_ctx} tokens, and {available} is free."]
        if self.max_n_ctx is not None:
            lines.append(f"The context can be up to {self.max_n_ctx} tokens long.")
        if self.tokens_per_second is not None:
            lines.append(f"Speed: {speed_text(self.tokens_per_second)} ({self.speed_source}).")
        if self.reason is not None:
            lines.append(self.reason)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What the header of a model tells about it before the download.

    Attributes
    ----------
    architecture : str or None
        The architecture, such as ``"llama"``.
    name : str or None
        The name that the authors gave the model.
    context_length : int or None
        Tokens that the model was trained for.
    block_count : int or None
        Number of layers.
    vocab_size : int or None
        Number of tokens in the vocabulary.
    has_chat_template : bool or None
        Whether the model has a template for chats.
    is_embedding : bool or None
        Whether the model makes embeddings and not text.
    active_parameter_count : int or None
        Number of weights that are read for each token, of a mixture of experts; ``None`` for other models.
    """

    architecture: str | None = None
    name: str | None = None
    context_length: int | None = None
    block_count: int | None = None
    vocab_size: int | None = None
    has_chat_template: bool | None = None
    is_embedding: bool | None = None
    active_parameter_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationReason:
    """Why a variant is recommended: a code and the values that its sentence contains, so that it can be translated.

    Attributes
    ----------
    code : str
        Names the sentence.
    tokens_per_second : float or None
        The expected speed of the variant, where it is known.
    reading_pace : float or None
        The speed in tokens per second that counts as reading pace.
    text

    Examples
    --------
    >>> RecommendationReason(code="reading_pace", tokens_per_second=12.3).text
    'The best quality that still answers at reading pace on this machine: about 12 tokens/s.'
    """

    code: ReasonCode
    tokens_per_second: float | None = None
    reading_pace: float | None = None

    @property
    def text(self) -> str:
        """The English sentence."""
        speed = "" if self.tokens_per_second is None else f": {speed_text(self.tokens_per_second)}"
        return _REASON_TEXTS[self.code].format(speed=speed, pace=f"{self.reading_pace or 0:g} tokens/s")


_REASON_TEXTS: dict[ReasonCode, str] = {
    "reading_pace": "The best quality that still answers at reading pace on this machine{speed}.",
    "small_model": "The model is small enough to run without quantization{speed}.",
    "only_unquantized": "No quantized variant fits or exists, so this is the only choice.",
    "fastest": "No variant answers at reading pace ({pace}) on this machine. This one is the fastest of good quality"
    "{speed}.",
    "slow": "No variant answers at reading pace ({pace}) on this machine. This one is the best quality that fits"
    "{speed}.",
    "best_that_fits": "The best quality that fits into this machine's memory.",
    "partial": "No variant fits on the GPU as a whole. This one is a good compromise and runs partly on the CPU.",
    "unknown": "It is unknown which variants fit. This one is a good compromise between size and quality.",
}


def speed_text(tokens_per_second: float) -> str:
    """Write an expected speed for people, such as ``"about 12 tokens/s"``."""
    return f"about {rounded_speed(tokens_per_second):g} tokens/s"


def rounded_speed(tokens_per_second: float) -> float:
    """Round a speed as it is shown: to whole tokens per second, or to a tenth below one."""
    return round(tokens_per_second, 0 if tokens_per_second >= 1 else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncompleteShards:
    """A split model of which parts are missing on the Hub.

    Attributes
    ----------
    prefix : str
        What the names of its parts begin with.
    total : int
        The number of parts that there should be.
    files : tuple[GGUFFile, ...]
        The parts that are there.
    """

    prefix: str
    total: int
    files: tuple[GGUFFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoDetails(Tabular):
    """A repository with its variants, how each fits this machine, and the recommended one.

    Attributes
    ----------
    repo_id : str
        ``"owner/name"``.
    revision : str
        The branch, tag or commit that was asked for.
    commit_hash : str
        The commit that the revision means.
    variants : tuple[Variant, ...]
        The models to choose from.
    gated : {False, "auto", "manual"} or None
        Whether the terms must be accepted first.
    license : str or None
        The identifier of the licence.
    fits : dict[str, FitEstimate]
        The estimate for each variant, by ``variant_id``.
    recommended : str or None
        The ``variant_id`` to take on this machine; ``None`` if none fits.
    recommended_reason : RecommendationReason or None
        Why it is recommended.
    model : ModelTraits or None
        What the header of the model tells.
    hub_error : ErrorInfo or None
        Why the Hub could not be followed. Then ``variants`` are those that are complete in the cache, at the commit
        that they belong to.
    only_in_cache : tuple[str, ...]
        The labels of variants that are complete in the cache and that the Hub no longer lists.
    incomplete : tuple[IncompleteShards, ...]
        Split models of which parts are missing on the Hub. They cannot be used, so they are not among the variants.
    has_access : bool or None
        Whether the Hub lets this token read the files; ``None`` if that is not known.
    access_error : ErrorInfo or None
        Why it does not. In ``details``, ``is_pending`` tells that access was asked for and not decided yet.
    is_from_cache
    notice

    Examples
    --------
    >>> repo = modeldeck.describe("owner/name")  # doctest: +SKIP
    >>> repo.fits[repo.recommended].needed_bytes  # doctest: +SKIP
    """

    repo_id: str
    revision: str
    commit_hash: str
    variants: tuple[Variant, ...]
    gated: Gated = None
    license: str | None = None
    fits: dict[str, FitEstimate] = field(default_factory=dict)
    recommended: str | None = None
    recommended_reason: RecommendationReason | None = None
    model: ModelTraits | None = None
    hub_error: ErrorInfo | None = None
    only_in_cache: tuple[str, ...] = ()
    incomplete: tuple[IncompleteShards, ...] = ()
    has_access: bool | None = None
    access_error: ErrorInfo | None = None

    @property
    def is_from_cache(self) -> bool:
        """Whether only the cache was looked at, because the Hub could not be followed."""
        return self.hub_error is not None

    @property
    def notice(self) -> str | None:
        """A sentence for the user: why the Hub was not followed, or what only the cache has."""
        if self.hub_error is not None:
            return f"{self.repo_id} is taken from the cache; the Hub was not followed. {self.hub_error.message}"
        if self.only_in_cache:
            labels = ", ".join(self.only_in_cache)
            return f"The cache also has {labels}, which the Hub no longer lists at {self.revision!r}."
        return None

    def variant(self, variant_id: str) -> Variant | None:
        """Find a variant by its identity.

        Parameters
        ----------
        variant_id : str
            The identity of the variant.

        Returns
        -------
        Variant or None
            The variant; ``None`` if the repository has no such variant.

        Examples
        --------
        >>> repo.variant(repo.recommended).size  # doctest: +SKIP
        """
        return next((variant for variant in self.variants if variant.variant_id == variant_id), None)

    def without_projectors(self) -> RepoDetails:
        """Return the repository as if its variants had no vision projectors.

        Returns
        -------
        RepoDetails
            The same with other variants. Its estimates are those of before; `Session.reassess` makes new ones.

        Examples
        --------
        >>> repo.without_projectors().variants[0].size  # doctest: +SKIP
        """
        return replace(
            self,
            variants=tuple(
                replace(variant, sidecars=tuple(sidecar for sidecar in variant.sidecars if sidecar.kind != "mmproj"))
                for variant in self.variants
            ),
        )

    def _records(self) -> list[dict[str, Any]]:
        records = []
        for variant in self.variants:
            fit = self.fits.get(variant.variant_id) or FitEstimate(verdict="unknown", n_ctx=0)
            records.append(
                {
                    "variant_id": variant.variant_id,
                    "label": variant.label,
                    "quantization": variant.quantization,
                    "size": variant.size,
                    "is_recommended": variant.variant_id == self.recommended,
                    "verdict": fit.verdict,
                    "needed_bytes": fit.needed_bytes,
                    "available_bytes": fit.available_bytes,
                    "max_n_ctx": fit.max_n_ctx,
                    "tokens_per_second": fit.tokens_per_second,
                }
            )
        return records

    def _table(self) -> Table:
        rows = []
        for variant in self.variants:
            fit = self.fits.get(variant.variant_id)
            speed = None if fit is None else fit.tokens_per_second
            rows.append(
                (
                    "*" if variant.variant_id == self.recommended else "",
                    variant.label,
                    format_size(variant.size),
                    fit.verdict.replace("_", " ") if fit else "unknown",
                    format_gib(fit._shown_bytes if fit else None),
                    UNKNOWN if speed is None else f"{rounded_speed(speed):g} tokens/s",
                    variant.variant_id,
                )
            )
        groups = [_bits_text(variant) for variant in self.variants] if len(rows) > _LONG_LIST else []
        order = sorted(range(len(rows)), key=lambda index: groups.index(groups[index])) if groups else range(len(rows))
        return Table(
            headings=("", "Variant", "Size", "Fit", "Memory", "Speed", "File"),
            rows=[rows[index] for index in order],
            groups=[groups[index] for index in order] if groups else (),
            numeric=frozenset({"Size", "Memory", "Speed"}),
            caption=f"{self.repo_id} at {self.commit_hash}{', from the cache' if self.is_from_cache else ''}",
            notes=list(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        """Yield what the table's columns cannot say."""
        if self.recommended is not None and self.recommended_reason is not None:
            n_ctx = self.fits[self.recommended].n_ctx
            yield f"* recommended for this machine with a context of {n_ctx} tokens. {self.recommended_reason.text}"
        for variant in self.variants:
            fit = self.fits.get(variant.variant_id)
            if fit is not None and fit.verdict == "unusable" and fit.reason:
                yield f"{variant.label}: {fit.reason}"
        for shards in self.incomplete:
            here = len(shards.files)
            yield f"{shards.prefix} cannot be used. The Hub has {here} of its {shards.total} parts."


_LONG_LIST = 8
"""A table with more variants is grouped by their bits."""


def _bits_text(variant: Variant) -> str:
    """Name the group of a variant by the bits of each weight that its label tells."""
    name = (variant.quantization or variant.label).upper().removeprefix("UD-")
    if re.match(r"BF16|FP?16|FP?32", name):
        return "16 or 32 bits"
    match = re.match(r"(?:I?Q|TQ|MXFP|NVFP)(\d)", name)
    if match is None:
        return "Unknown bits"
    return "1 bit" if match[1] == "1" else f"{match[1]} bits"


# --- downloads --------------------------------------------------------------------------------------------------------


class DownloadState(StrEnum):
    """The state of a download.

    A download moves from "queued" through "resolving" (the Hub is asked for the files), "downloading" and "verifying"
    to "ready". It can also be "paused", "failed" or "cancelled".

    Attributes
    ----------
    is_final
    is_active
    """

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
        """Nothing more happens unless you ask for it. A paused download is not final."""
        return self in (DownloadState.READY, DownloadState.FAILED, DownloadState.CANCELLED)

    @property
    def is_active(self) -> bool:
        """The download is at work."""
        return self in (DownloadState.RESOLVING, DownloadState.DOWNLOADING, DownloadState.VERIFYING)


Action: TypeAlias = Literal["move_up", "move_down", "pause", "resume", "cancel", "retry", "dismiss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """What to download or repair, and where to put it.

    The token is not part of it: it travels separately and stays in memory.

    Attributes
    ----------
    repo_id : str
        ``"owner/name"``.
    revision : str
        The branch, tag or commit that was asked for.
    commit_hash : str or None
        The commit that the revision means.
    variant_id : str
        The identity of the variant.
    label : str
        The short name of the variant.
    files : tuple[GGUFFile, ...]
        The files, with the sizes and digests that the Hub lists. What the Hub sends must agree with them.
    endpoint : str
        The address of the Hub.
    cache_dir : str
        The directory of the Hugging Face cache.
    purpose : {"download", "repair"}
        A repair reads the files that are in the cache, and fetches only what is damaged or missing.
    is_offline : bool
        Whether offline mode is on, so that the engine only verifies what the cache has and sends nothing.
    is_frugal : bool
        Whether the Hub must not send a byte twice, because many hosts share it. The end of a download may take longer
        then: no connection takes over part of what another one has requested.
    name
    real_cache_dir
    key
    """

    repo_id: str
    revision: str
    commit_hash: str | None
    variant_id: str
    label: str
    files: tuple[GGUFFile, ...]
    endpoint: str
    cache_dir: str
    purpose: Literal["download", "repair"] = "download"
    is_offline: bool = False
    is_frugal: bool = False

    @property
    def name(self) -> str:
        """What people call it: ``"owner/name:LABEL"``."""
        return f"{self.repo_id}:{self.label}"

    @property
    def real_cache_dir(self) -> str:
        """The directory of the cache with its links followed, so that two paths to one cache are equal."""
        return _real_path(self.cache_dir)

    @property
    def key(self) -> tuple[str, ...]:
        """Requests with the same key are one job of the engine. Those with and without a projector are two."""
        commit = self.commit_hash or self.revision
        filenames = tuple(file.filename for file in self.files)
        key = (self.purpose, self.endpoint, self.real_cache_dir, self.repo_id, commit, self.variant_id, *filenames)
        return (*key, "offline") if self.is_offline else key


@cache
def _real_path(path: str) -> str:
    """Follow the links of a path. It is remembered, because a key is asked for often and must stay the same."""
    return os.path.realpath(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """A `ModelDeckError` as plain data.

    Attributes
    ----------
    code : str
        The code of the error class, such as ``"disk_full"``.
    message : str
        What happened and what to do next.
    details : dict[str, Any]
        The values that the error class has beside the message.
    """

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadSnapshot(Row):
    """One download at one moment.

    Attributes
    ----------
    job_id : str
        The identity of the download in its engine.
    request : DownloadRequest
        What is downloaded, and where to.
    state : DownloadState
        The state it is in.
    commit_hash : str or None
        The commit that is downloaded; ``None`` until the Hub has told it.
    received : int
        Bytes on disk, over all files of the variant, with those of earlier attempts.
    total : int or None
        Bytes of all files of the variant.
    rate : float or None
        Speed in bytes per second; ``None`` when nothing is being received.
    eta_seconds : float or None
        Estimated seconds until the end.
    connections : int
        Connections that are open for it.
    attempt : int
        How often it has been tried again since the last progress; 0 in the first attempt.
    retry_in_seconds : float or None
        Seconds until the next attempt, while it waits for one.
    is_stalled : bool
        Whether it is connected but receives no data.
    bytes_fetched : int
        Bytes received over the network for this download. Bytes that were received twice count twice.
    repaired_bytes : tuple[int, ...]
        For each file of a repair, how many of its bytes were in the cache but wrong.
    error : ErrorInfo or None
        Why it failed, or why it was paused without being asked to.
    notice : str or None
        A sentence for the user about something that happened, such as a restart of the engine.
    actions : tuple[str, ...]
        What can be done with it now: "pause", "resume", "cancel", "retry", "dismiss"; in the queue also "move_up" and
        "move_down".
    queue_position : int or None
        Its place in the queue, from 0; ``None`` when it does not wait there.
    finished_at : float or None
        Time at which it became ready, in seconds since the epoch.
    created_at : float
        Time of its start, in seconds since the epoch.
    updated_at : float
        Time of this snapshot, in seconds since the epoch.
    rev : int
        A number that grows with every snapshot of the engine, so that the newer of two can be told.
    percent
    phase
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
    repaired_bytes: tuple[int, ...] = ()
    error: ErrorInfo | None = None
    notice: str | None = None
    actions: tuple[Action, ...] = ()
    queue_position: int | None = None
    finished_at: float | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    rev: int = 0

    @property
    def percent(self) -> int | None:
        """Whole percent received; 100 only when every file is verified and in its place."""
        if self.state is DownloadState.READY:
            return 100
        if not self.total:
            return None
        return min(99, self.received * 100 // self.total)

    @property
    def phase(self) -> str:
        """What it is doing now, in a word or two: its state, ``"retrying in 5 s"``, or ``"stalled"``."""
        if self.retry_in_seconds is not None:
            return f"retrying in {format_duration(self.retry_in_seconds)}"
        return "stalled" if self.is_stalled else self.state.value

    _HEADINGS = ("Download", "State", "Done", "Size", "Speed", "Left")
    _NUMERIC = frozenset({"Done", "Size", "Speed", "Left"})

    def _cells(self) -> Sequence[str]:
        return (
            self.request.name,
            self.phase if self.error is None else f"{self.phase} ({self.error.code})",
            UNKNOWN if self.percent is None else f"{self.percent} %",
            format_size(self.total),
            "" if self.rate is None else format_rate(self.rate),
            "" if self.eta_seconds is None else format_duration(self.eta_seconds),
        )

    def _record(self) -> dict[str, Any]:
        values = fields_of(self)
        request, error = values.pop("request"), values.pop("error")
        about = {"repo_id": request.repo_id, "label": request.label, "variant_id": request.variant_id}
        return {**about, **values, "percent": self.percent, "error": error.message if error else None}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the download engine may use at once, for all downloads together.

    Attributes
    ----------
    max_active_jobs : int
        Downloads that run at once. The others wait in the queue. If it is lowered, those that run go on, and the next
        one starts when fewer are left.
    max_connections : int
        Connections that are open at once.
    bandwidth_bytes_per_second : int or None
        Bytes per second that all downloads together may receive; ``None`` for no limit.
    """

    max_active_jobs: int = 3
    max_connections: int = 16
    bandwidth_bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What a running download engine reports about itself.

    Attributes
    ----------
    mode : {"inline", "process"}
        Whether it runs on a thread of this process or in a process of its own.
    version : str
        The version of modeldeck it runs.
    pid : int
        The id of its process.
    started_at : float
        Time of its start, in seconds since the epoch.
    active : int
        Downloads that run.
    waiting : int
        Downloads in the queue.
    clients : int
        Programs that are connected to it.
    limits : EngineLimits
        What it may use.
    """

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
class LocalModel(Row):
    """A complete variant in the Hugging Face cache.

    Attributes
    ----------
    repo_id : str
        ``"owner/name"``.
    commit_hash : str
        The commit it belongs to.
    variant_id : str
        The identity of the variant.
    label : str
        The short name of the variant, such as ``"Q4_K_M"``.
    filenames : tuple[str, ...]
        The names in the repository of ``paths`` and then of ``sidecar_paths``.
    path : Path
        The first file of the model: what ``Llama(model_path=...)`` needs.
    paths : tuple[Path, ...]
        The files of the model itself.
    sidecar_paths : tuple[Path, ...]
        The files that belong to it, such as a vision projector.
    size : int
        Bytes of all files.
    sha256 : str or None
        SHA-256 of the first file, in hexadecimal.
    revision : str or None
        A branch or tag that means this commit, ``"main"`` if it does; ``None`` if none does.
    bytes_fetched : int or None
        Bytes received over the network to get it; ``None`` if it was not downloaded by this call.
    own_filenames : tuple[str, ...]
        Those of ``filenames`` that the user put there. They are loaded, but neither verified nor deleted.
    sha256s : tuple[str or None, ...]
        For each of ``filenames`` its SHA-256, as the cache's file names tell it.
    name
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
    own_filenames: tuple[str, ...] = ()
    sha256s: tuple[str | None, ...] = ()

    @property
    def name(self) -> str:
        """What people call it: ``"owner/name:LABEL"``."""
        return f"{self.repo_id}:{self.label}"

    _HEADINGS = ("Model", "Size", "Commit", "Path")
    _NUMERIC = frozenset({"Size"})

    def _cells(self) -> Sequence[str]:
        return self.name, format_size(self.size), self.commit_hash[:8], str(self.path)

    def _record(self) -> dict[str, Any]:
        values = fields_of(self)
        for name in ("paths", "sidecar_paths"):
            values[name] = tuple(map(str, values[name]))
        return values

    def hub_files(self) -> list[tuple[str, Path, str | None]]:
        """Return the files, without those that the user put there.

        Returns
        -------
        list[tuple[str, Path, str or None]]
            For each file its name in the repository, its path, and its SHA-256 if the cache tells it.

        Examples
        --------
        >>> [filename for filename, path, sha256 in model.hub_files()]  # doctest: +SKIP
        """
        paths = (*self.paths, *self.sidecar_paths)
        return [
            (filename, path, sha256)
            for filename, path, sha256 in zip(self.filenames, paths, self.sha256s or repeat(None), strict=False)
            if filename not in self.own_filenames
        ]

    def has_content_of(self, variant: Variant) -> bool:
        """Tell whether its files are those that the Hub lists for a variant, whatever the commit.

        Parameters
        ----------
        variant : Variant
            A variant of the repository.

        Returns
        -------
        bool
            Whether all digests are known and equal. Sidecars do not count.

        Examples
        --------
        >>> model.has_content_of(repo.variants[0])  # doctest: +SKIP
        True
        """
        digests = self.sha256s[: len(self.paths)]
        return None not in digests and digests == tuple(file.sha256 for file in variant.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedModel(Row):
    """One model of a lock file: exactly these files, which `modeldeck.load` and `modeldeck.sync` demand.

    Attributes
    ----------
    repo_id : str
        ``"owner/name"``.
    commit_hash : str
        The commit it was locked at.
    label : str
        The short name of the variant, such as ``"Q4_K_M"``.
    n_ctx : int
        The context length in tokens to load it with.
    files : tuple[GGUFFile, ...]
        The files of the model and then its sidecars, each with its size and SHA-256.
    name
    variant_id
    size

    Examples
    --------
    >>> model = modeldeck.locked("owner/name")  # doctest: +SKIP
    >>> model.commit_hash  # doctest: +SKIP
    """

    repo_id: str
    commit_hash: str
    label: str
    n_ctx: int
    files: tuple[GGUFFile, ...]

    _HEADINGS = ("Model", "Size", "Context", "Commit")
    _NUMERIC = frozenset({"Size", "Context"})

    def _cells(self) -> Sequence[str]:
        return self.name, format_size(self.size), format_count(self.n_ctx), self.commit_hash

    def _record(self) -> dict[str, Any]:
        values = fields_of(self)
        del values["files"]
        return {**values, "variant_id": self.variant_id, "size": self.size}

    @property
    def name(self) -> str:
        """What people call it: ``"owner/name:LABEL"``."""
        return f"{self.repo_id}:{self.label}"

    @property
    def variant_id(self) -> str:
        """The identity of the variant: the path of its file, or of its first shard."""
        return self.files[0].filename

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return total_size(self.files) or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFile(Row):
    """The result of hashing one file of the cache.

    Attributes
    ----------
    path : Path
        The file.
    expected : str or None
        The digest it must have, in hexadecimal; ``None`` if none is known.
    actual : str
        The digest it has.
    repaired_bytes : int
        Bytes that a repair replaced.
    is_valid
    """

    path: Path
    expected: str | None
    actual: str
    repaired_bytes: int = 0

    _HEADINGS = ("Result", "Repaired", "Path")
    _NUMERIC = frozenset({"Repaired"})

    def _cells(self) -> Sequence[str]:
        verdict = {True: "ok", False: "DAMAGED", None: "no digest known"}[self.is_valid]
        return verdict, format_size(self.repaired_bytes) if self.repaired_bytes else "", str(self.path)

    def _record(self) -> dict[str, Any]:
        return {**fields_of(self), "is_valid": self.is_valid}

    @property
    def is_valid(self) -> bool | None:
        """Whether the file is intact; ``None`` if no digest is known to compare with."""
        return None if self.expected is None else self.expected == self.actual


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """The progress of loading a model.

    Attributes
    ----------
    stage : {"reading", "opening", "loading", "ready"}
        What is being done: reading the file, opening it, or loading the weights.
    fraction : float or None
        The part of this stage that is done, 0 to 1; ``None`` if it cannot be known.
    """

    stage: Literal["reading", "opening", "loading", "ready"]
    fraction: float | None = None


def fields_of(item: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, with paths as text."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def total_size(files: tuple[GGUFFile, ...]) -> int | None:
    """Add up the sizes; ``None`` if any is unknown."""
    total = 0
    for file in files:
        if file.size is None:
            return None
        total += file.size
    return total
