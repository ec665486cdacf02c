// What travels between Python and this page. One spelling on both sides: snake_case, as Python writes it.
// Python is the only writer of the traits; this side only sends requests.

export type Gated = "auto" | "manual" | boolean | null;
export type SortKey = "trending" | "downloads" | "likes" | "modified" | "created";
export type FitVerdict = "fits" | "partial" | "too_large" | "unknown";

export interface ErrorInfo {
  code: string;
  message: string;
  details: Record<string, unknown>;
}

export interface Hardware {
  ram_total: number | null;
  ram_available: number | null;
  gpus: { name: string; total: number | null; free: number | null }[];
  /** Such as a GPU that the installed llama-cpp-python cannot use. */
  notice?: string | null;
}

export interface View {
  version: string;
  endpoint: string;
  is_default_endpoint: boolean;
  n_ctx: number;
  hardware: Hardware | null;
  llama: { is_available: boolean; message: string | null };
  engine: { mode: "inline" | "process" | null; notice: string | null };
  /** Id of the widget's comm, so that a request can also go by the control channel. */
  comm_id: string | null;
}

export interface ModelSummary {
  repo_id: string;
  downloads: number | null;
  likes: number | null;
  last_modified: string | null;
  gated: Gated;
  tags: string[];
  license: string | null;
  pipeline_tag: string | null;
  architecture: string | null;
  parameter_count: number | null;
  context_length: number | null;
  has_chat_template: boolean | null;
}

export interface Search {
  rev: number;
  text: string;
  sort: SortKey;
  state: "idle" | "searching" | "done" | "failed";
  models: ModelSummary[];
  has_more: boolean;
  error: ErrorInfo | null;
}

export interface FitEstimate {
  verdict: FitVerdict;
  n_ctx: number;
  needed_bytes: number | null;
  available_bytes: number | null;
  max_n_ctx: number | null;
  n_gpu_layers: number | null;
  method: "native" | "formula" | "size" | null;
  reason: string | null;
}

export type SidecarKind = "mmproj" | "drafter" | "imatrix" | "adapter";

export interface Sidecar {
  kind: SidecarKind;
  filename: string;
  size: number | null;
}

export type Action =
  | "download"
  | "pause"
  | "resume"
  | "cancel"
  | "retry"
  | "dismiss"
  | "load"
  | "unload"
  | "remove"
  | "cancel_load";

/** What the last load and its first generation took on this machine. */
export interface Measured {
  load_seconds: number;
  tokens_per_second: number;
  memory_bytes: number;
  n_ctx: number;
}

export interface Variant {
  variant_id: string;
  label: string;
  quantization: string | null;
  filenames: string[];
  size: number | null;
  sidecars: Sidecar[];
  fit: FitEstimate | null;
  state: "available" | "downloaded" | "loading" | "loaded";
  actions: Action[];
  measured?: Measured | null;
}

export interface Repo {
  state: "opening" | "open" | "failed";
  error: ErrorInfo | null;
  revision: string | null;
  commit_hash: string | null;
  gated: Gated;
  license: string | null;
  license_url: string | null;
  recommended: string | null;
  model: {
    architecture: string | null;
    name: string | null;
    context_length: number | null;
    is_embedding: boolean | null;
    has_chat_template: boolean | null;
  } | null;
  variants: Variant[];
}

export type JobState =
  | "queued"
  | "resolving"
  | "downloading"
  | "verifying"
  | "ready"
  | "paused"
  | "failed"
  | "cancelled";

export interface Job {
  job_id: string;
  repo_id: string;
  variant_id: string;
  label: string;
  state: JobState;
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
  actions: Action[];
}

export interface Downloads {
  rev: number;
  jobs: Job[];
}

export interface Load {
  state: "none" | "loading" | "ready" | "failed";
  repo_id: string | null;
  variant_id: string | null;
  label: string | null;
  stage: "reading" | "opening" | "loading" | "ready" | null;
  fraction: number | null;
  error: ErrorInfo | null;
  n_ctx: number | null;
}

/** The widget's state. Each part is a trait, named with an underscore before it. */
export interface State {
  view: View;
  search: Search;
  repos: Record<string, Repo>;
  downloads: Downloads;
  load: Load;
}

export type Traits = { [name: string]: unknown } & { [Part in keyof State as `_${Part}`]: State[Part] };

/** Each method with its parameters. */
export interface Methods {
  hello: Record<string, never>;
  search: { text: string; sort: SortKey };
  search_more: Record<string, never>;
  open_repo: { repo_id: string };
  close_repo: { repo_id: string };
  download: { repo_id: string; variant_id: string };
  pause: { job_id: string };
  resume: { job_id: string };
  cancel: { job_id: string };
  retry: { job_id: string };
  dismiss: { job_id: string };
  load: { repo_id: string; variant_id: string };
  cancel_load: Record<string, never>;
  unload: Record<string, never>;
  remove: { repo_id: string; variant_id: string };
  set_n_ctx: { n_ctx: number };
  refresh: Record<string, never>;
}

export type Method = keyof Methods;

export interface Request<M extends Method = Method> {
  kind: "modeldeck-request";
  id: string;
  method: M;
  params: Methods[M];
}

export type Answer =
  | { kind: "modeldeck-answer"; id: string; ok: true; result: unknown }
  | { kind: "modeldeck-answer"; id: string; ok: false; error: ErrorInfo };

/** Python asks whether somebody is there. */
export interface Ping {
  kind: "modeldeck-ping";
}

export interface ToastMessage {
  kind: "modeldeck-toast";
  id: string;
  level: "success" | "error" | "info";
  message: string;
}

/** The request has reached Python and is being carried out; the answer follows when that is done. */
export interface Acknowledgement {
  kind: "modeldeck-ack";
  id: string;
}

export type FromPython = Acknowledgement | Answer | ToastMessage | Ping;
