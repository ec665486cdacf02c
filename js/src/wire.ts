// What travels between Python and the page. Written by `python -m tools.wire` from src/modeldeck/widget/traits.py and
// requests.py; do not edit.

/** All of the widget's state. Each field is a trait, named with an underscore before it. */
export interface DeckState {
  view: DeckView;
  account: AccountView;
  search: SearchView;
  repos: Record<string, RepoView>;
  about: Record<string, AboutView>;
  picks: Record<string, VariantRowView>;
  downloads: DownloadsView;
  load: LoadView;
  library: LibraryView;
  plan: PlanView;
  chat: ChatView;
  cluster: ClusterView;
}

/** The trait `_view`: the endpoint, the context length in tokens, and what is known of the machine. */
export interface DeckView {
  comm_id: string | null;
  endpoint: string;
  is_default_endpoint: boolean;
  n_ctx: number;
  locale: Locale | null;
  hardware: MachineView | null;
  llama: LlamaView;
  engine: EngineView;
}

export type Locale = "en" | "pt-BR";

/** This machine's memory in bytes. `notice` may tell of a GPU that cannot be used. */
export interface MachineView {
  ram_total: number | null;
  ram_available: number | null;
  gpus: GpuView[];
  notice: string | null;
  notice_code: NoticeCode | null;
}

/** A GPU and its memory in bytes. */
export interface GpuView {
  name: string;
  total: number | null;
  free: number | null;
}

export type NoticeCode =
  | "account_argument"
  | "account_colab"
  | "account_endpoint"
  | "account_environment"
  | "account_file"
  | "account_name"
  | "account_none"
  | "account_reads_gated"
  | "account_reads_no_gated"
  | "download_shared"
  | "engine_inline"
  | "engine_lost"
  | "engine_restarted"
  | "engine_stopped"
  | "gated_accept"
  | "gated_granted"
  | "gated_log_in"
  | "gated_other_token"
  | "gated_wait"
  | "gpu_cpu_build"
  | "gpu_without_llama"
  | "without_projector";

/** Whether models can be loaded here. `message` says what to do if not, and `code` is that of the error. */
export interface LlamaView {
  is_available: boolean;
  message: string | null;
  code: string | null;
  remaining_seconds: number | null;
}

/** Where downloads run: in their own process, or on a thread of the kernel; and what they may use together. */
export interface EngineView {
  mode: EngineMode | null;
  notice: string | null;
  limits: EngineLimits | null;
  notice_code: NoticeCode | null;
}

export type EngineMode = "inline" | "process";

/** What the download engine may use at once, for all downloads together. */
export interface EngineLimits {
  max_active_jobs: number;
  max_connections: number;
  bandwidth_bytes_per_second: number | null;
}

/** The trait `_account`: whose token is in use, never the token. `url` is where tokens are made. */
export interface AccountView {
  state: "asking" | "failed" | "known" | "unknown";
  name: string | null;
  lines: SaidView[];
  url: string | null;
  error: ErrorInfo | null;
}

/** A sentence, with its code for translation. */
export interface SaidView {
  code: NoticeCode;
  text: string;
}

/** A `ModelDeckError` as plain data. */
export interface ErrorInfo {
  code: string;
  message: string;
  details: Record<string, unknown>;
}

/** The trait `_search`: what was searched for, and the results so far. */
export interface SearchView {
  text: string;
  sort: SortKey;
  filters: FiltersView;
  state: "done" | "failed" | "idle" | "searching";
  models: SummaryView[];
  has_more: boolean;
  local: string[];
  error: ErrorInfo | null;
}

export type SortKey = "created" | "downloads" | "likes" | "modified" | "trending";

/** What the results of a search meet, see `modeldeck.SearchFilters`. The empty value stands for no condition. */
export interface FiltersView {
  task: string | null;
  license: string | null;
  language: string | null;
  author: string | null;
  quantization: string | null;
  is_open: boolean;
  min_parameters: number | null;
  max_parameters: number | null;
}

/** A repository among the results of a search. */
export interface SummaryView {
  repo_id: string;
  downloads: number | null;
  likes: number | null;
  last_modified: string | null;
  gated: Gated;
  license: string | null;
  license_kind: LicenceKind | null;
  license_url: string | null;
  pipeline_tag: string | null;
  architecture: string | null;
  parameter_count: number | null;
  active_parameter_count: number | null;
  context_length: number | null;
  base_model: string | null;
  base_model_relation: BaseModelRelation | null;
  languages: string[];
}

export type Gated = "auto" | "manual" | boolean | null;

export type LicenceKind = "non_commercial" | "own_terms" | "permissive" | "share_alike";

export type BaseModelRelation = "adapter" | "finetune" | "merge" | "quantized";

/** A card that is unfolded. The trait `_repos` maps `OWNER/NAME` to one of these. */
export interface RepoView {
  state: "failed" | "open" | "opening";
  error: ErrorInfo | null;
  steps: StepView[];
  recommended: string | null;
  recommended_reason: ReasonView | null;
  model: HeaderView | null;
  hub_error: ErrorInfo | null;
  only_in_cache: string[];
  variants: VariantRowView[];
  common: SidecarView[];
  has_projector: boolean;
  incomplete: IncompleteView[];
}

/** A step on the way to a gated model, with the page on which it is done. */
export interface StepView {
  code: NoticeCode;
  text: string;
  state: "done" | "later" | "now";
  url: string | null;
}

/** Why a variant is recommended: a code with its values, for translation, and the English sentence. */
export interface ReasonView {
  code: ReasonCode;
  tokens_per_second: number | null;
  reading_pace: number | null;
  text: string;
}

export type ReasonCode =
  | "best_that_fits"
  | "fastest"
  | "only_unquantized"
  | "partial"
  | "reading_pace"
  | "slow"
  | "small_model"
  | "unknown";

/** What the header of a repository's files tells of the model. */
export interface HeaderView {
  has_chat_template: boolean | null;
  is_embedding: boolean | null;
}

/** A variant with its state on this machine and its buttons. `hosts` is there when a Dask cluster is used. */
export interface VariantRowView {
  variant_id: string;
  label: string;
  quantization: string | null;
  filenames: string[];
  size: number | null;
  sidecars: SidecarView[];
  fit: FitEstimate | null;
  state: VariantState;
  actions: VariantAction[];
  measured: MeasuredView | null;
  hosts: HostsFitView | null;
}

/** A file that is downloaded with a variant, such as a vision projector. `size` is in bytes. */
export interface SidecarView {
  kind: SidecarKind;
  filename: string;
  size: number | null;
}

export type SidecarKind = "adapter" | "drafter" | "imatrix" | "mmproj";

/** Whether a variant fits this machine with a context of `n_ctx` tokens, and how fast it will generate. */
export interface FitEstimate {
  verdict: FitVerdict;
  n_ctx: number;
  needed_bytes: number | null;
  available_bytes: number | null;
  max_n_ctx: number | null;
  n_gpu_layers: number | null;
  method: "formula" | "native" | "size" | null;
  reason: string | null;
  reason_code: FitReasonCode | null;
  trained_n_ctx: number | null;
  reserve_bytes: number;
  tokens_per_second: number | null;
  speed_source: "calibrated" | "estimated" | "measured" | null;
}

export type FitVerdict = "fits" | "partial" | "too_large" | "unknown" | "unusable";

export type FitReasonCode =
  | "beyond_training"
  | "damaged"
  | "memory_unknown"
  | "on_cpu"
  | "partly_on_gpu"
  | "refused"
  | "size_unknown"
  | "too_large";

export type VariantState = "available" | "downloaded" | "loaded" | "loading";

export type VariantAction =
  | "cancel_load"
  | "cancel_verify"
  | "download"
  | "get"
  | "load"
  | "remove"
  | "repair"
  | "unload"
  | "verify";

/** What the last load of a variant and its first generation took on this machine. */
export interface MeasuredView {
  load_seconds: number;
  tokens_per_second: number;
}

/** On how many hosts of a Dask cluster a variant fits. */
export interface HostsFitView {
  fitting: number;
  total: number;
  smallest: string | null;
  needed_bytes: number | null;
  free_bytes: number | null;
  problem: ErrorInfo | null;
}

/** A split model of which only `count` of `total` parts are on the Hub. */
export interface IncompleteView {
  name: string;
  count: number;
  total: number;
}

/** A model card that is shown. The trait `_about` maps `OWNER/NAME` to one of these. */
export interface AboutView {
  state: "failed" | "open" | "opening";
  error: ErrorInfo | null;
  tokens: CardToken[];
  is_cut: boolean;
}

/** A piece of a model card. `nesting` is 1 where an element begins, -1 where it ends, and 0 for one with text. */
export interface CardToken {
  tag: CardTag;
  nesting: -1 | 0 | 1;
  text: string;
  url: string | null;
}

export type CardTag =
  | "a"
  | "blockquote"
  | "br"
  | "code"
  | "em"
  | "h1"
  | "h2"
  | "h3"
  | "h4"
  | "h5"
  | "h6"
  | "hr"
  | "img"
  | "li"
  | "ol"
  | "p"
  | "pre"
  | "s"
  | "strong"
  | "table"
  | "tbody"
  | "td"
  | "text"
  | "th"
  | "thead"
  | "tr"
  | "ul";

/** The trait `_downloads`. Those to a Dask cluster are among them. */
export interface DownloadsView {
  jobs: JobView[];
}

/** A download or repair, without absolute paths and digests. */
export interface JobView {
  job_id: string;
  repo_id: string;
  variant_id: string;
  label: string;
  purpose: "download" | "repair";
  state: DownloadState;
  queue_position: number | null;
  received: number;
  total: number | null;
  percent: number | null;
  rate: number | null;
  eta_seconds: number | null;
  connections: number;
  attempt: number;
  retry_in_seconds: number | null;
  is_stalled: boolean;
  error: ErrorInfo | null;
  notice: string | null;
  notice_code: NoticeCode | null;
  finished_at: number | null;
  actions: Action[];
}

export type DownloadState =
  | "queued"
  | "resolving"
  | "downloading"
  | "verifying"
  | "ready"
  | "paused"
  | "failed"
  | "cancelled";

export type Action = "cancel" | "dismiss" | "move_down" | "move_up" | "pause" | "resume" | "retry";

/** The trait `_load`: the model that is loaded, that is being loaded, or that could not be loaded. */
export interface LoadView {
  state: "failed" | "loading" | "none" | "ready";
  repo_id: string | null;
  variant_id: string | null;
  label: string | null;
  stage: "installing" | "loading" | "opening" | "reading" | "ready" | null;
  fraction: number | null;
  error: ErrorInfo | null;
  commit_hash: string | null;
  kind: ModelKind | null;
  n_ctx: number | null;
  code: CodeView | null;
  actions: VariantAction[];
}

export type ModelKind = "chat" | "completion" | "embedding";

/** Texts to copy that repeat a load elsewhere, pinned to the commit. */
export interface CodeView {
  modeldeck: string;
  llama_cpp: string;
  lock_entry: string | null;
}

/** The trait `_library`: what is in the cache, and the room on its disk in bytes. */
export interface LibraryView {
  is_known: boolean;
  models: LibraryRowView[];
  leftovers: LeftoverView[];
  free_bytes: number | null;
  total_bytes: number | null;
}

/** A complete model of the cache, whoever put it there. `last_used` is in seconds since the epoch. */
export interface LibraryRowView {
  repo_id: string;
  variant_id: string;
  commit_hash: string;
  label: string;
  revision: string | null;
  filenames: string[];
  own_filenames: string[];
  size: number;
  blobs: BlobView[];
  last_used: number | null;
  proof: ProofView | null;
  check: CheckView | null;
  error: ErrorInfo | null;
  state: VariantState;
  actions: VariantAction[];
  measured: MeasuredView | null;
}

/** Bytes on the disk. They come free when the last of their `users` is removed. `size` is in bytes. */
export interface BlobView {
  key: string;
  size: number;
  users: number;
}

/** When, in seconds since the epoch, and by what a model's files were compared with their digests. */
export interface ProofView {
  at: number;
  by: "download" | "repair" | "verify";
  is_valid: boolean;
}

/** A verification or repair that runs or waits for its turn. `fraction` is the part that was read, 0 to 1. */
export interface CheckView {
  is_repair: boolean;
  fraction: number | null;
}

/** A file of the cache that is of no use as it is. `modified_at` is in seconds since the epoch. */
export interface LeftoverView {
  leftover_id: string;
  repo_id: string;
  kind: "fragment" | "incomplete" | "partial" | "unlinked";
  name: string;
  size: number;
  modified_at: number;
  is_in_use: boolean;
}

/** The trait `_plan`: what a load with some choices would take, before the click. */
export interface PlanView {
  repo_id: string | null;
  variant_id: string | null;
  commit_hash: string | null;
  choices: LoadChoices;
  taken: LoadChoices | null;
  fit: FitEstimate | null;
  max_n_ctx: number | null;
  max_gpu_layers: number | null;
  max_threads: number | null;
  code: CodeView | null;
  error: ErrorInfo | null;
}

/** How to load a model. What is `None` is chosen for this machine. */
export interface LoadChoices {
  n_ctx: number | null;
  n_gpu_layers: number | null;
  n_threads: number | null;
  flash_attn: boolean | null;
  kv_type: KVType | null;
}

export type KVType = "f16" | "q4_0" | "q8_0";

/** The trait `_chat`: trying the loaded model. */
export interface ChatView {
  state: "answering" | "idle" | "waiting";
  messages: ChatMessageView[];
  was_stopped: boolean;
  first_token_seconds: number | null;
  tokens_per_second: number | null;
  similarity: number | null;
  error: ErrorInfo | null;
}

/** A message of the conversation. */
export interface ChatMessageView {
  role: "assistant" | "user";
  content: string;
}

/** The trait `_cluster`: what is known of a Dask cluster. `pulls` has the hosts of each download to it. */
export interface ClusterView {
  is_used: boolean;
  host_count: number | null;
  unusable: UnusableHostView[];
  error: ErrorInfo | null;
  pulls: Record<string, HostPullView[]>;
  maps: MapView[];
}

/** A host on which no model can be loaded, and why. */
export interface UnusableHostView {
  host: string;
  problem: string;
}

/** A host of a Dask cluster that gets a model. Sizes are in bytes, `rate` is in bytes per second. */
export interface HostPullView {
  host: string;
  state: DownloadState;
  source: HostSource | null;
  peer: string | null;
  received: number;
  total: number | null;
  rate: number | null;
  error: ErrorInfo | null;
}

export type HostSource = "already there" | "hub" | "peer" | "shared cache";

/** Prompts that a cluster answers: how many are done, `failed` ones included, and how fast each host is. */
export interface MapView {
  job_id: string;
  target: string;
  done: number;
  failed: number;
  total: number;
  hosts: HostSpeedView[];
}

/** How many tokens per second a host generates. */
export interface HostSpeedView {
  host: string;
  tokens_per_second: number | null;
}

/** The request has arrived. The answer follows when it is carried out. */
export interface AckMessage {
  kind: "modeldeck-ack";
  id: string;
}

/** The request was carried out, or failed with `error`. */
export interface AnswerMessage {
  kind: "modeldeck-answer";
  id: string;
  ok: boolean;
  error: ErrorInfo | null;
}

/** A message to show for some seconds. Its code, names, error and count of models are for translation. */
export interface ToastMessage {
  kind: "modeldeck-toast";
  id: string;
  level: "error" | "info" | "success";
  message: string;
  code: ToastCode | NoticeCode | null;
  label: string | null;
  repo_id: string | null;
  error: ErrorInfo | null;
  models: number | null;
}

export type ToastCode =
  | "damaged"
  | "download_failed"
  | "downloaded"
  | "load_failed"
  | "loaded"
  | "repaired"
  | "uncompared"
  | "verified"
  | "verified_several";

/** Ask every page to say hello again, by whatever way reaches Python now. */
export interface PingMessage {
  kind: "modeldeck-ping";
}

/** A model of the cache. */
export interface ModelKey {
  repo_id: string;
  variant_id: string;
  commit_hash: string;
}

/** The state of a widget of which nothing is known. */
export const EMPTY_STATE: DeckState = {
  view: {
    comm_id: null,
    endpoint: "",
    is_default_endpoint: true,
    n_ctx: 4096,
    locale: null,
    hardware: null,
    llama: {
      is_available: true,
      message: null,
      code: null,
      remaining_seconds: null,
    },
    engine: {
      mode: null,
      notice: null,
      limits: null,
      notice_code: null,
    },
  },
  account: {
    state: "unknown",
    name: null,
    lines: [],
    url: null,
    error: null,
  },
  search: {
    text: "",
    sort: "downloads",
    filters: {
      task: null,
      license: null,
      language: null,
      author: null,
      quantization: null,
      is_open: false,
      min_parameters: null,
      max_parameters: null,
    },
    state: "idle",
    models: [],
    has_more: false,
    local: [],
    error: null,
  },
  repos: {},
  about: {},
  picks: {},
  downloads: {
    jobs: [],
  },
  load: {
    state: "none",
    repo_id: null,
    variant_id: null,
    label: null,
    stage: null,
    fraction: null,
    error: null,
    commit_hash: null,
    kind: null,
    n_ctx: null,
    code: null,
    actions: [],
  },
  library: {
    is_known: false,
    models: [],
    leftovers: [],
    free_bytes: null,
    total_bytes: null,
  },
  plan: {
    repo_id: null,
    variant_id: null,
    commit_hash: null,
    choices: {
      n_ctx: null,
      n_gpu_layers: null,
      n_threads: null,
      flash_attn: null,
      kv_type: null,
    },
    taken: null,
    fit: null,
    max_n_ctx: null,
    max_gpu_layers: null,
    max_threads: null,
    code: null,
    error: null,
  },
  chat: {
    state: "idle",
    messages: [],
    was_stopped: false,
    first_token_seconds: null,
    tokens_per_second: null,
    similarity: null,
    error: null,
  },
  cluster: {
    is_used: false,
    host_count: null,
    unusable: [],
    error: null,
    pulls: {},
    maps: [],
  },
};

/** The code of each error that Python knows. */
export type ErrorCode =
  | "ambiguous_variant"
  | "cancelled"
  | "chat_template"
  | "cluster"
  | "content_changed"
  | "disk_full"
  | "does_not_fit"
  | "engine_lost"
  | "error"
  | "file_not_found"
  | "gated"
  | "generation_cancelled"
  | "hub"
  | "integrity"
  | "invalid_request"
  | "llama_crashed"
  | "llama_installing"
  | "llama_missing"
  | "load_cancelled"
  | "load_failed"
  | "lock"
  | "model_unloaded"
  | "network"
  | "no_front_end"
  | "not_gguf"
  | "offline"
  | "peers_lost"
  | "permission_denied"
  | "prompt_killed_worker"
  | "protocol"
  | "proxy"
  | "rate_limited"
  | "repo_not_found"
  | "revision_not_found"
  | "server_error"
  | "stalled"
  | "storage"
  | "timeout"
  | "tls"
  | "unauthorized"
  | "workers_lost";

export type Message = AckMessage | AnswerMessage | ToastMessage | PingMessage;

/** Each method with its parameters. */
export interface Methods {
  /** A page shows the widget and can be heard. */
  hello: Record<string, never>;
  /** Search the Hub. */
  search: { text: string; sort?: SortKey; filters?: FiltersView };
  /** Append the next page of results. */
  search_more: Record<string, never>;
  /** Unfold the card of a repository. */
  open_repo: { repo_id: string };
  /** Find out what is recommended of a repository, for the button of its card. */
  peek: { repo_id: string };
  /** Fold the card of a repository. */
  close_repo: { repo_id: string };
  /** Download and load the variants of a repository with their vision projector, or without it. */
  set_projector: { repo_id: string; is_wanted: boolean };
  /** Show the model card of a repository. */
  open_about: { repo_id: string };
  /** Hide the model card of a repository. */
  close_about: { repo_id: string };
  /** Find out whose token is in use. */
  look_at_account: Record<string, never>;
  /** Do what a button of a download says. */
  act: { job_id: string; action: Action };
  /** Do what a button of a variant says. */
  act_on_variant: {
    repo_id: string;
    variant_id: string;
    action: VariantAction;
    commit_hash?: string | null;
    choices?: LoadChoices;
    is_retry?: boolean;
  };
  /** Judge and load models for another context length, in tokens. */
  set_n_ctx: { n_ctx: number };
  /** Say what a load with these choices would take. */
  plan_load: { repo_id: string; variant_id: string; commit_hash?: string | null; choices?: LoadChoices };
  /** Look at the cache again, or do something with several of its models or leftovers. */
  act_on_library: {
    action: "cancel_verify" | "refresh" | "remove" | "remove_leftovers" | "repair" | "verify";
    models?: ModelKey[];
    leftovers?: string[];
  };
  /** Pause or resume all downloads, or take all finished ones off the list. */
  act_on_downloads: { action: "dismiss" | "pause" | "resume" };
  /** Change what all downloads together may use. */
  set_limits: { max_active_jobs: number; bandwidth_bytes_per_second?: number | null };
  /** Have the loaded model answer a message, or go on with a text. */
  try: { text: string; system?: string; temperature?: number | null };
  /** Have the loaded embedding model tell how similar two texts are. */
  compare: { first: string; second: string };
  /** Stop the answer, or begin a new conversation. */
  act_on_chat: { action: "clear" | "stop" };
}

export type Traits = { [name: string]: unknown } & { [Part in keyof DeckState as `_${Part}`]: DeckState[Part] };

export type Method = keyof Methods;

export interface Request<M extends Method = Method> {
  kind: "modeldeck-request";
  id: string;
  method: M;
  params: Methods[M];
}
