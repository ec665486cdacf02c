"""The widget's state: what its traits hold, without tokens and without absolute paths.

The structs are the JSON that the page gets. Its TypeScript types and its defaults are written from them by
``python -m tools.wire``. Only Python writes a trait.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeAlias

import msgspec

from modeldeck._notices import NOTICES, NoticeCode, notice_code
from modeldeck._types import (
    DEFAULT_N_CTX,
    BaseModelRelation,
    DownloadState,
    EngineLimits,
    ErrorInfo,
    FitEstimate,
    Gated,
    ModelSummary,
    SearchFilters,
    SortKey,
)
from modeldeck._wire import JobView, ReasonView, SidecarView, VariantView
from modeldeck.widget.licences import LicenceKind, licence_kind, licence_url
from modeldeck.widget.model_card import CardToken

Locale: TypeAlias = Literal["en", "pt-BR"]
"""The languages of the page."""
_Word: TypeAlias = Annotated[str, msgspec.Meta(max_length=96)]
EngineMode: TypeAlias = Literal["inline", "process"]
VariantState: TypeAlias = Literal["available", "downloaded", "loading", "loaded"]
VariantAction: TypeAlias = Literal[
    "download", "get", "load", "cancel_load", "unload", "verify", "cancel_verify", "repair", "remove"
]
"""``get`` is a download that is loaded when it is verified; it belongs to the short way of a card, not to its rows."""

HostSource: TypeAlias = Literal["hub", "peer", "already there", "shared cache"]
"""Where a host of a Dask cluster has a model from."""
KVType: TypeAlias = Literal["f16", "q8_0", "q4_0"]
"""The types of the key-value cache that people choose between."""
ModelKind: TypeAlias = Literal["chat", "completion", "embedding"]
"""What a model is for: a conversation, going on with a text, or the meaning of texts as vectors."""

VARIANT_ACTIONS: Mapping[VariantState, tuple[VariantAction, ...]] = MappingProxyType(
    {
        "available": ("download",),
        "downloaded": ("load", "remove"),
        "loading": ("cancel_load",),
        "loaded": ("unload",),
    }
)
"""The buttons of a variant. Those of a download are in ``modeldeck.engine.state``."""

_LOAD_TO_VARIANT: Mapping[str, VariantState] = MappingProxyType({"loading": "loading", "ready": "loaded"})


class GpuView(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU and its memory in bytes."""

    name: str
    total: int | None = None
    free: int | None = None


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """This machine's memory in bytes. ``notice`` may tell of a GPU that cannot be used."""

    ram_total: int | None = None
    ram_available: int | None = None
    gpus: tuple[GpuView, ...] = ()
    notice: str | None = None
    notice_code: NoticeCode | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "notice_code", notice_code(self.notice))


class LlamaView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether models can be loaded here. ``message`` says what to do if not, and ``code`` is that of the error."""

    is_available: bool = True
    message: str | None = None
    code: str | None = None
    remaining_seconds: float | None = None


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """Where downloads run: in their own process, or on a thread of the kernel; and what they may use together."""

    mode: EngineMode | None = None
    notice: str | None = None
    limits: EngineLimits | None = None
    notice_code: NoticeCode | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "notice_code", notice_code(self.notice))


class DeckView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_view``: the endpoint, the context length in tokens, and what is known of the machine.

    ``locale`` is ``None`` where the page takes the language of its host.
    ``comm_id`` is what the page must name when it sends a message on the control channel.
    """

    comm_id: str | None = None
    endpoint: str = ""
    is_default_endpoint: bool = True
    n_ctx: int = DEFAULT_N_CTX
    locale: Locale | None = None
    hardware: MachineView | None = None
    llama: LlamaView = LlamaView()
    engine: EngineView = EngineView()


class SaidView(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence, with its code for translation."""

    code: NoticeCode
    text: str

    @classmethod
    def of(cls, code: NoticeCode, **more: Any) -> Self:
        """The sentence of a code; ``more`` are the fields of a subclass."""
        return cls(code=code, text=NOTICES[code], **more)


class StepView(SaidView, frozen=True, kw_only=True):
    """A step on the way to a gated model, with the page on which it is done."""

    state: Literal["done", "now", "later"] = "later"
    url: str | None = None


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_account``: whose token is in use, never the token. ``url`` is where tokens are made."""

    state: Literal["unknown", "asking", "known", "failed"] = "unknown"
    name: str | None = None
    lines: tuple[SaidView, ...] = ()
    url: str | None = None
    error: ErrorInfo | None = None


class FiltersView(msgspec.Struct, frozen=True, kw_only=True):
    """What the results of a search meet, see `modeldeck.SearchFilters`. The empty value stands for no condition."""

    task: _Word | None = None
    license: _Word | None = None
    language: _Word | None = None
    author: _Word | None = None
    quantization: _Word | None = None
    is_open: bool = False
    """Only models whose terms need not be accepted."""
    min_parameters: int | None = None
    max_parameters: int | None = None

    def to_query(self) -> SearchFilters:
        """The filters as the session takes them; the author is not one of them there."""
        return SearchFilters(
            task=self.task,
            license=self.license,
            language=self.language,
            quantization=self.quantization,
            gated=False if self.is_open else None,
            min_parameters=self.min_parameters,
            max_parameters=self.max_parameters,
        )


class SummaryView(msgspec.Struct, frozen=True, kw_only=True):
    """A repository among the results of a search."""

    repo_id: str
    downloads: int | None = None
    likes: int | None = None
    last_modified: str | None = None
    gated: Gated = None
    license: str | None = None
    license_kind: LicenceKind | None = None
    license_url: str | None = None
    pipeline_tag: str | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    active_parameter_count: int | None = None
    context_length: int | None = None
    base_model: str | None = None
    base_model_relation: BaseModelRelation | None = None
    languages: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: ModelSummary, endpoint: str) -> Self:
        view = msgspec.convert(model, cls, from_attributes=True)
        url = licence_url(model.license, f"{endpoint}/{model.repo_id}")
        return msgspec.structs.replace(view, license_kind=licence_kind(model.license), license_url=url)


class AboutView(msgspec.Struct, frozen=True, kw_only=True):
    """A model card that is shown. The trait ``_about`` maps ``OWNER/NAME`` to one of these."""

    state: Literal["opening", "open", "failed"] = "opening"
    error: ErrorInfo | None = None
    tokens: tuple[CardToken, ...] = ()
    is_cut: bool = False
    """The card is longer than what is shown."""


class SearchView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_search``: what was searched for, and the results so far.

    ``local`` are the repositories of which this machine has a variant, whether or not they are among the results.
    """

    text: str = ""
    sort: SortKey = "downloads"
    filters: FiltersView = FiltersView()
    state: Literal["idle", "searching", "done", "failed"] = "idle"
    models: tuple[SummaryView, ...] = ()
    has_more: bool = False
    local: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class MeasuredView(msgspec.Struct, frozen=True, kw_only=True):
    """What the last load of a variant and its first generation took on this machine."""

    load_seconds: float
    tokens_per_second: float


class HostsFitView(msgspec.Struct, frozen=True, kw_only=True):
    """On how many hosts of a Dask cluster a variant fits.

    The bytes are those that it needs and that it could have on the smallest host. ``problem`` says why it does not fit
    there.
    """

    fitting: int
    total: int
    smallest: str | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None
    problem: ErrorInfo | None = None


class VariantRowView(VariantView, frozen=True, kw_only=True):
    """A variant with its state on this machine and its buttons. ``hosts`` is there when a Dask cluster is used."""

    state: VariantState
    actions: tuple[VariantAction, ...]
    measured: MeasuredView | None
    hosts: HostsFitView | None = None


class HeaderView(msgspec.Struct, frozen=True, kw_only=True):
    """What the header of a repository's files tells of the model."""

    has_chat_template: bool | None = None
    is_embedding: bool | None = None


class IncompleteView(msgspec.Struct, frozen=True, kw_only=True):
    """A split model of which only ``count`` of ``total`` parts are on the Hub."""

    name: str
    count: int
    total: int


class RepoView(msgspec.Struct, frozen=True, kw_only=True):
    """A card that is unfolded. The trait ``_repos`` maps ``OWNER/NAME`` to one of these."""

    state: Literal["opening", "open", "failed"] = "opening"
    error: ErrorInfo | None = None
    steps: tuple[StepView, ...] = ()
    """What to do for a gated model, in order."""
    recommended: str | None = None
    recommended_reason: ReasonView | None = None
    model: HeaderView | None = None
    hub_error: ErrorInfo | None = None
    only_in_cache: tuple[str, ...] = ()
    variants: tuple[VariantRowView, ...] = ()
    common: tuple[SidecarView, ...] = ()
    """What goes with every variant."""
    has_projector: bool = True
    """Whether it is downloaded and loaded with them."""
    incomplete: tuple[IncompleteView, ...] = ()


class HostPullView(msgspec.Struct, frozen=True, kw_only=True):
    """A host of a Dask cluster that gets a model. Sizes are in bytes, ``rate`` is in bytes per second.

    ``peer`` is the host that it takes the model from, if the source is one.
    """

    host: str
    state: DownloadState
    source: HostSource | None
    peer: str | None
    received: int
    total: int | None
    rate: float | None
    error: ErrorInfo | None


class UnusableHostView(msgspec.Struct, frozen=True, kw_only=True):
    """A host on which no model can be loaded, and why."""

    host: str
    problem: str


class HostSpeedView(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens per second a host generates."""

    host: str
    tokens_per_second: float | None


class MapView(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts that a cluster answers: how many are done, ``failed`` ones included, and how fast each host is."""

    job_id: str
    target: str
    done: int
    failed: int
    total: int
    hosts: tuple[HostSpeedView, ...]


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_cluster``: what is known of a Dask cluster. ``pulls`` has the hosts of each download to it."""

    is_used: bool = False
    host_count: int | None = None
    unusable: tuple[UnusableHostView, ...] = ()
    error: ErrorInfo | None = None
    pulls: dict[str, tuple[HostPullView, ...]] = {}
    maps: tuple[MapView, ...] = ()


class DownloadsView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_downloads``. Those to a Dask cluster are among them."""

    jobs: tuple[JobView, ...] = ()


class ModelKey(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the cache."""

    repo_id: str
    variant_id: str
    commit_hash: str


class BlobView(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on the disk. They come free when the last of their ``users`` is removed. ``size`` is in bytes."""

    key: str
    size: int
    users: int


class ProofView(msgspec.Struct, frozen=True, kw_only=True):
    """When, in seconds since the epoch, and by what a model's files were compared with their digests."""

    at: float
    by: Literal["download", "repair", "verify"]
    is_valid: bool


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """A verification or repair that runs or waits for its turn. ``fraction`` is the part that was read, 0 to 1."""

    is_repair: bool
    fraction: float | None = None


class LibraryRowView(ModelKey, frozen=True, kw_only=True):
    """A complete model of the cache, whoever put it there. ``last_used`` is in seconds since the epoch."""

    label: str
    revision: str | None
    filenames: tuple[str, ...]
    own_filenames: tuple[str, ...]
    size: int
    blobs: tuple[BlobView, ...]
    last_used: float | None
    proof: ProofView | None
    check: CheckView | None
    error: ErrorInfo | None
    state: VariantState
    actions: tuple[VariantAction, ...]
    measured: MeasuredView | None


class LeftoverView(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the cache that is of no use as it is. ``modified_at`` is in seconds since the epoch."""

    leftover_id: str
    repo_id: str
    kind: Literal["partial", "incomplete", "unlinked", "fragment"]
    name: str
    size: int
    modified_at: float
    is_in_use: bool


class LibraryView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_library``: what is in the cache, and the room on its disk in bytes."""

    is_known: bool = False
    models: tuple[LibraryRowView, ...] = ()
    leftovers: tuple[LeftoverView, ...] = ()
    free_bytes: int | None = None
    total_bytes: int | None = None


class LoadChoices(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a model. What is ``None`` is chosen for this machine."""

    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    n_threads: int | None = None
    flash_attn: bool | None = None
    kv_type: KVType | None = None


class CodeView(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to copy that repeat a load elsewhere, pinned to the commit.

    ``lock_entry`` is ``None`` if the digest of a file is not known.
    """

    modeldeck: str
    llama_cpp: str
    lock_entry: str | None = None


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_plan``: what a load with some choices would take, before the click.

    ``taken`` are the values that would be taken. The maxima are those of the model and of this machine;
    ``max_gpu_layers`` is ``None`` without a GPU. ``code`` repeats the load elsewhere.
    """

    repo_id: str | None = None
    variant_id: str | None = None
    commit_hash: str | None = None
    choices: LoadChoices = LoadChoices()
    taken: LoadChoices | None = None
    fit: FitEstimate | None = None
    max_n_ctx: int | None = None
    max_gpu_layers: int | None = None
    max_threads: int | None = None
    code: CodeView | None = None
    error: ErrorInfo | None = None


class ChatMessageView(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the conversation."""

    role: Literal["user", "assistant"]
    content: str


class ChatView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_chat``: trying the loaded model.

    While it is ``waiting``, something else is using the model, such as a running cell. ``similarity`` is the cosine of
    two texts, from an embedding model.
    """

    state: Literal["idle", "waiting", "answering"] = "idle"
    messages: tuple[ChatMessageView, ...] = ()
    was_stopped: bool = False
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    similarity: float | None = None
    error: ErrorInfo | None = None


class LoadView(msgspec.Struct, frozen=True, kw_only=True):
    """The trait ``_load``: the model that is loaded, that is being loaded, or that could not be loaded.

    ``code`` repeats the load elsewhere. ``actions`` follow from ``state``. The stage ``"installing"`` waits until
    llama-cpp-python is installed.
    """

    state: Literal["none", "loading", "ready", "failed"] = "none"
    repo_id: str | None = None
    variant_id: str | None = None
    label: str | None = None
    stage: Literal["installing", "reading", "opening", "loading", "ready"] | None = None
    fraction: float | None = None
    error: ErrorInfo | None = None
    commit_hash: str | None = None
    kind: ModelKind | None = None
    n_ctx: int | None = None
    code: CodeView | None = None
    actions: tuple[VariantAction, ...] = ()

    def __post_init__(self) -> None:
        state = _LOAD_TO_VARIANT.get(self.state)
        msgspec.structs.force_setattr(self, "actions", () if state is None else VARIANT_ACTIONS[state])

    def variant_state(self, repo_id: str, variant_id: str, commit_hash: str | None = None) -> VariantState | None:
        """The state that this load gives a variant; ``None`` if it is about another one, or has ended.

        A commit tells apart what the cache has of several.
        """
        is_about = (self.repo_id, self.variant_id) == (repo_id, variant_id)
        is_its_commit = commit_hash is None or self.commit_hash in (None, commit_hash)
        return _LOAD_TO_VARIANT.get(self.state) if is_about and is_its_commit else None


class DeckState(msgspec.Struct, frozen=True, kw_only=True):
    """All of the widget's state. Each field is a trait, named with an underscore before it."""

    view: DeckView = DeckView()
    account: AccountView = AccountView()
    search: SearchView = SearchView()
    repos: dict[str, RepoView] = {}
    about: dict[str, AboutView] = {}
    picks: dict[str, VariantRowView] = {}
    """The recommended variant of each repository that has been looked at, for the button of its card."""
    downloads: DownloadsView = DownloadsView()
    load: LoadView = LoadView()
    library: LibraryView = LibraryView()
    plan: PlanView = PlanView()
    chat: ChatView = ChatView()
    cluster: ClusterView = ClusterView()
