// The state of one widget model, shared by all its views: the traits as signals, and the little that only this page
// knows (what it is asking for, which cards are unfolded, toasts).

import type { AnyModel } from "@anywidget/types";
import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { kernelOf, type Pending, type RequestError, Rpc, type RpcOptions } from "./rpc";
import { share } from "./share";
import type {
  Action,
  Downloads,
  ErrorInfo,
  FromPython,
  Job,
  JobState,
  Load,
  Method,
  Methods,
  Repo,
  Search,
  SortKey,
  ToastMessage,
  Traits,
  View,
} from "./wire";

/** `connecting`: hello is not answered yet. `static`: the page has no kernel. `lost`: it had one. */
export type Connection = "connecting" | "live" | "static" | "lost";

export interface Toast extends ToastMessage {
  count: number;
}

/** A request of this page that has not taken effect yet. */
export interface Asked {
  readonly what: string;
  readonly params?: Methods[Method];
  readonly isWaiting: ReadonlySignal<boolean>;
}

/** What the page knows of one variant of one repository. */
export interface Row {
  readonly key: string;
  readonly repoId: string;
  readonly variantId: string;
  readonly job: ReadonlySignal<Job | undefined>;
  readonly asked: Signal<Asked | null>;
  readonly error: Signal<ErrorInfo | null>;
}

/** No answer to hello for so long, and no kernel in sight: the page is a saved one. */
const STATIC_AFTER_MS = 5000;
/** An answer may overtake the state it leads to by this much. */
const SETTLE_MS = 1500;
const MAX_TOASTS = 3;

const NO_VIEW: View = {
  version: "",
  endpoint: "",
  is_default_endpoint: true,
  n_ctx: 4096,
  hardware: null,
  llama: { is_available: true, message: null },
  engine: { mode: "process", notice: null },
  comm_id: null,
};
const NO_SEARCH: Search = {
  rev: 0,
  text: "",
  sort: "downloads",
  state: "idle",
  models: [],
  has_more: false,
  error: null,
};
const NO_LOAD: Load = {
  state: "none",
  repo_id: null,
  variant_id: null,
  label: null,
  stage: null,
  fraction: null,
  error: null,
  n_ctx: null,
};

/** Of several jobs of one row the one with the highest rank is shown. What is cancelled is shown nowhere. */
const RANK: Record<JobState, number> = {
  cancelled: -1,
  ready: 0,
  failed: 1,
  paused: 2,
  queued: 3,
  resolving: 3,
  downloading: 3,
  verifying: 3,
};

/** The job, when it says more about its row than the variant does: it is running, paused or failed. */
export function openJob(job: Job | undefined): Job | undefined {
  return job && RANK[job.state] > 0 ? job : undefined;
}

/** Signals by key, made on demand; replacing all values wakes only those that changed. */
class Family<T> {
  readonly #cells = new Map<string, Signal<T | undefined>>();

  get(key: string): Signal<T | undefined> {
    let cell = this.#cells.get(key);
    if (!cell) {
      cell = signal(undefined);
      this.#cells.set(key, cell);
    }
    return cell;
  }

  [Symbol.iterator](): Iterator<[string, Signal<T | undefined>]> {
    return this.#cells[Symbol.iterator]();
  }

  replace(values: ReadonlyMap<string, T>): void {
    for (const [key, cell] of this.#cells) {
      if (!values.has(key)) {
        cell.value = undefined;
      }
    }
    for (const [key, value] of values) {
      const cell = this.get(key);
      cell.value = share(cell.peek(), value);
    }
  }
}

export class Store {
  readonly view = signal<View>(NO_VIEW);
  readonly search = signal<Search>(NO_SEARCH);
  readonly load = signal<Load>(NO_LOAD);
  readonly connection = signal<Connection>("connecting");
  readonly toasts = signal<Toast[]>([]);
  readonly fitsOnly = signal(false);

  /** Whether requests make sense: buttons are off when not. */
  readonly isUsable = computed(() => ["connecting", "live"].includes(this.connection.value));

  readonly #model: AnyModel<Traits>;
  readonly #abort: AbortSignal;
  readonly #rpc: Rpc;
  readonly #repos = new Family<Repo>();
  readonly #folds = new Family<boolean>();
  readonly #jobs = new Family<Job>();
  readonly #asked = new Family<Asked>();
  readonly #rows = new Map<string, Row>();
  readonly #openKeys = signal<string[]>([]);
  readonly #readyKeys = signal<string[]>([]);
  readonly #dismissedLoad = signal<ErrorInfo | null>(null);

  constructor(model: AnyModel<Traits>, abort: AbortSignal) {
    this.#model = model;
    this.#abort = abort;
    this.#rpc = new Rpc({
      channel: model as RpcOptions["channel"],
      commId: () => this.view.peek().comm_id,
      onLost: () => this.#lose(),
    });
    const readers = {
      view: () => this.#readView(),
      search: () => this.#readSearch(),
      repos: () => this.#readRepos(),
      downloads: () => this.#readDownloads(),
      load: () => this.#readLoad(),
    };
    for (const [name, read] of Object.entries(readers)) {
      read();
      this.#on(`change:_${name}`, () =>
        batch(() => {
          this.#revive();
          read();
        }),
      );
    }
    this.#on("msg:custom", (message: FromPython) => this.#receive(message));
    this.#on("comm:close", () => this.#lose());
    this.#on("comm_live_update", () => {
      // Sent when the kernel restarts, and in some hosts when it is back: an answer to hello tells which.
      this.#lose();
      this.#greet();
    });
    this.#watchKernel();
    this.#greet();
    const timer = setTimeout(() => {
      if (!kernelOf(model)) {
        this.markStatic();
      }
    }, STATIC_AFTER_MS);
    abort.addEventListener("abort", () => {
      clearTimeout(timer);
      this.#rpc.abandon("The widget was removed.");
    });
  }

  // --- what views read ------------------------------------------------------------------------------------------------

  repo(repoId: string): ReadonlySignal<Repo | undefined> {
    return this.#repos.get(repoId);
  }

  /** Whether the card shows its files: what the user has just asked for, else what Python says. */
  isUnfolded(repoId: string): boolean {
    return this.#folds.get(repoId).value ?? this.#repos.get(repoId).value !== undefined;
  }

  row(repoId: string, variantId: string): Row {
    const key = rowKey(repoId, variantId);
    let row = this.#rows.get(key);
    if (!row) {
      row = { key, repoId, variantId, job: this.#jobs.get(key), asked: signal(null), error: signal(null) };
      this.#rows.set(key, row);
    }
    return row;
  }

  /** The unanswered request about a subject: "search", "more", "n_ctx", "repo OWNER/NAME", "load". */
  asked(subject: string): ReadonlySignal<Asked | undefined> {
    return this.#asked.get(subject);
  }

  /** Keys of the variants that the results show right now. */
  readonly shownKeys: ReadonlySignal<ReadonlySet<string>> = computed(() => {
    const keys = new Set<string>();
    for (const { repo_id } of this.search.value.models) {
      const repo = this.#repos.get(repo_id).value;
      if (repo?.state === "open" && this.isUnfolded(repo_id)) {
        for (const variant of repo.variants) {
          keys.add(rowKey(repo_id, variant.variant_id));
        }
      }
    }
    return keys;
  });

  /** Unfinished downloads whose row is not among the results: of other searches and sessions, of folded cards. */
  readonly strayRows = computed(() => this.#rowsNotShown(this.#openKeys.value));

  /** Finished downloads whose row is not among the results. */
  readonly finishedRows = computed(() => this.#rowsNotShown(this.#readyKeys.value));

  /** The error of the last load, until it is dismissed or another load begins. */
  readonly loadError = computed(() => {
    const { state, error } = this.load.value;
    return state === "failed" && error !== this.#dismissedLoad.value ? error : null;
  });

  /** Key of the row that is being loaded, is loaded, or could not be loaded. */
  readonly loadKey = computed(() => {
    const { state, repo_id, variant_id } = this.load.value;
    return state === "none" || repo_id === null || variant_id === null ? null : rowKey(repo_id, variant_id);
  });

  #rowsNotShown(keys: string[]): Row[] {
    const shown = this.shownKeys.value;
    return keys.filter((key) => !shown.has(key)).map((key) => this.#rows.get(key) as Row);
  }

  // --- what users do --------------------------------------------------------------------------------------------------

  searchFor(text: string, sort: SortKey): void {
    void this.#ask("search", "search", { text, sort });
  }

  searchMore(): void {
    void this.#ask("more", "search_more", {});
  }

  setContext(n_ctx: number): void {
    void this.#ask("n_ctx", "set_n_ctx", { n_ctx });
  }

  /** Show or hide the files of a card. Without a kernel only what is already here can be shown. */
  async setUnfolded(repoId: string, isUnfolded: boolean): Promise<void> {
    const fold = this.#folds.get(repoId);
    fold.value = isUnfolded;
    if (this.isUsable.peek()) {
      const method = isUnfolded ? "open_repo" : "close_repo";
      const isDone = await this.#ask(`repo ${repoId}`, method, { repo_id: repoId });
      if (!isDone && isUnfolded) {
        fold.value = undefined;
      }
    }
  }

  /** Do what a button of a row says. */
  act(row: Row, action: Action): void {
    row.error.value = null;
    const pending = this.#request(row, action);
    const asked: Asked = { what: action, isWaiting: pending.isWaiting };
    row.asked.value = asked;
    const settle = () => {
      if (row.asked.peek() === asked) {
        row.asked.value = null;
      }
    };
    pending.answer.then(
      () => setTimeout(settle, SETTLE_MS),
      (error: RequestError) => {
        settle();
        row.error.value = error.info.code === "disconnected" ? null : error.info;
      },
    );
  }

  dismissError(row: Row): void {
    batch(() => {
      row.error.value = null;
      if (this.loadKey.peek() === row.key) {
        this.#dismissedLoad.value = this.load.peek().error;
      }
    });
  }

  dismissToast(id: string): void {
    this.toasts.value = this.toasts.peek().filter((toast) => toast.id !== id);
  }

  /** The host has marked the widget as having no kernel, or nobody answers. */
  markStatic(): void {
    if (this.connection.peek() === "connecting") {
      this.connection.value = "static";
    }
  }

  // --- requests -------------------------------------------------------------------------------------------------------

  #request(row: Row, action: Action): Pending {
    switch (action) {
      case "download":
      case "load":
      case "remove":
        return this.#rpc.request(action, { repo_id: row.repoId, variant_id: row.variantId });
      case "unload":
      case "cancel_load":
        return this.#rpc.request(action, {});
      default:
        return this.#rpc.request(action, { job_id: row.job.peek()?.job_id ?? "" });
    }
  }

  /** Send a request about a subject; tells whether it was granted. Why not is told where the subject is, else as toast. */
  async #ask<M extends Method>(subject: string, method: M, params: Methods[M]): Promise<boolean> {
    const cell = this.#asked.get(subject);
    const pending = this.#rpc.request(method, params);
    const asked: Asked = { what: method, params, isWaiting: pending.isWaiting };
    cell.value = asked;
    try {
      await pending.answer;
      return true;
    } catch (error) {
      const { info } = error as RequestError;
      if (info.code !== "disconnected" && !this.#isTold(info)) {
        this.#show({ kind: "modeldeck-toast", id: pending.id, level: "error", message: info.message });
      }
      return false;
    } finally {
      if (cell.peek() === asked) {
        cell.value = undefined;
      }
    }
  }

  /** Whether an error is in the state too, and so already on the page. */
  #isTold({ message }: ErrorInfo): boolean {
    const errors = [
      this.search.peek().error,
      ...Object.values(this.#model.get("_repos") ?? {}).map(({ error }) => error),
    ];
    return errors.some((error) => error?.message === message);
  }

  #greet(): void {
    this.#rpc.request("hello", {}).answer.then(
      () => this.#revive(),
      () => {},
    );
  }

  // --- what Python sends ----------------------------------------------------------------------------------------------

  #on<T>(event: string, listener: (argument: T) => void): void {
    this.#model.on(event, listener);
    this.#abort.addEventListener("abort", () => this.#model.off(event as "msg:custom", listener));
  }

  /** A kernel that is shut down tells its connection, but not the comm. */
  #watchKernel(): void {
    const disposed = kernelOf(this.#model)?.disposed;
    const lose = () => this.#lose();
    disposed?.connect(lose);
    this.#abort.addEventListener("abort", () => disposed?.disconnect(lose));
  }

  #receive(message: FromPython): void {
    if (message?.kind === "modeldeck-answer") {
      this.#revive();
      this.#rpc.settle(message);
    } else if (message?.kind === "modeldeck-ack") {
      this.#revive();
      this.#rpc.acknowledge(message.id);
    } else if (message?.kind === "modeldeck-toast") {
      this.#revive();
      this.#show(message);
    } else if (message?.kind === "modeldeck-ping") {
      this.#greet();
    }
  }

  #revive(): void {
    this.connection.value = "live";
  }

  #lose(): void {
    if (this.connection.peek() !== "static") {
      this.connection.value = "lost";
    }
    this.#rpc.abandon("The kernel is gone.");
  }

  /** Add a toast; one that says the same as a visible one is counted there. */
  #show(message: ToastMessage): void {
    const toasts = this.toasts.peek().filter(({ id }) => id !== message.id);
    const twin = toasts.find((toast) => toast.level === message.level && toast.message === message.message);
    this.toasts.value = twin
      ? toasts.map((toast) => (toast === twin ? { ...twin, count: twin.count + 1 } : toast))
      : [...toasts, { ...message, count: 1 }].slice(-MAX_TOASTS);
  }

  #readView(): void {
    this.view.value = share(this.view.peek(), { ...NO_VIEW, ...this.#model.get("_view") });
  }

  #readSearch(): void {
    this.search.value = share(this.search.peek(), { ...NO_SEARCH, ...this.#model.get("_search") });
  }

  #readLoad(): void {
    this.load.value = share(this.load.peek(), { ...NO_LOAD, ...this.#model.get("_load") });
  }

  #readRepos(): void {
    const repos = new Map(Object.entries(this.#model.get("_repos") ?? {}));
    const before = new Map([...this.#rows.values()].map((row) => [row, this.#variant(row)]));
    this.#repos.replace(repos);
    for (const [repoId, fold] of this.#folds) {
      if (fold.peek() === repos.has(repoId)) {
        fold.value = undefined;
      }
    }
    for (const [row, variant] of before) {
      if (this.#variant(row) !== variant) {
        row.asked.value = null;
      }
    }
  }

  #variant({ repoId, variantId }: Row) {
    return this.#repos
      .get(repoId)
      .peek()
      ?.variants.find((variant) => variant.variant_id === variantId);
  }

  #readDownloads(): void {
    const downloads: Partial<Downloads> = this.#model.get("_downloads") ?? {};
    const jobs = new Map<string, Job>();
    for (const job of downloads.jobs ?? []) {
      const key = this.row(job.repo_id, job.variant_id).key;
      const rival = jobs.get(key);
      if (RANK[job.state] >= 0 && (!rival || RANK[job.state] >= RANK[rival.state])) {
        jobs.set(key, job);
      }
    }
    for (const row of this.#rows.values()) {
      const [before, after] = [row.job.peek(), jobs.get(row.key)];
      if (before?.job_id !== after?.job_id || before?.state !== after?.state) {
        row.asked.value = null;
      }
    }
    this.#jobs.replace(jobs);
    const keys = [...jobs.keys()];
    const isOpen = (key: string) => openJob(jobs.get(key)) !== undefined;
    this.#openKeys.value = share(this.#openKeys.peek(), keys.filter(isOpen));
    this.#readyKeys.value = share(
      this.#readyKeys.peek(),
      keys.filter((key) => !isOpen(key)),
    );
  }
}

function rowKey(repoId: string, variantId: string): string {
  return `${repoId}\n${variantId}`;
}
