// The state of one widget model, shared by all its views: the traits as signals, and the little that only this page
// knows (what it is asking for, which cards are unfolded).

import type { AnyModel } from "@anywidget/types";
import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { ButtonAction } from "./buttons";
import { Connection } from "./connection";
import { Family } from "./family";
import { modelKey } from "./library";
import { isBoolean, isTexts, remembered } from "./remembered";
import { type ActMore, type Asked, type Row, RowTable, rowKey } from "./row-table";
import type { RequestError } from "./rpc";
import { share } from "./share";
import { addTranslations, hostLanguage, languageOf } from "./texts/language";
import { ToastList } from "./toast-list";
import {
  type AboutView,
  type DeckState,
  EMPTY_STATE,
  type ErrorInfo,
  type FiltersView,
  type LeftoverView,
  type Method,
  type Methods,
  type ModelKey,
  type PlanView,
  type RepoView,
  type SortKey,
  type Traits,
  type VariantRowView,
} from "./wire";

/** What a search is made of. */
export interface SearchChoices {
  text: string;
  sort: SortKey;
  filters: FiltersView;
}

const RECENT_SEARCHES = 6;

export type Tab = "discover" | "library" | "downloads";

/** The traits that are shown as they are. */
const PLAIN = ["view", "account", "search", "load", "library", "plan", "chat", "cluster"] as const;
type Plain = (typeof PLAIN)[number];

export class Store {
  readonly view = signal(EMPTY_STATE.view);
  readonly account = signal(EMPTY_STATE.account);
  readonly search = signal(EMPTY_STATE.search);
  readonly load = signal(EMPTY_STATE.load);
  readonly library = signal(EMPTY_STATE.library);
  readonly plan = signal(EMPTY_STATE.plan);
  readonly chat = signal(EMPTY_STATE.chat);
  readonly cluster = signal(EMPTY_STATE.cluster);
  readonly tab = signal<Tab>("discover");
  readonly fitsOnly = signal(false);
  /** Whether only models that are on this machine are shown. */
  readonly localOnly = signal(false);
  /** The texts of the last searches that led somewhere, newest first. */
  readonly recentSearches = remembered<string[]>("modeldeck-recent-searches", [], isTexts);
  /** Whether "Get" also loads the model. The browser remembers it. */
  readonly loadWhenReady = remembered("modeldeck-load-when-ready", true, isBoolean);
  readonly toasts = new ToastList();
  readonly connection: Connection;
  /** Whether requests make no sense, so that buttons are disabled. */
  readonly isOff = computed(() => !this.connection.isUsable.value);
  /** The language that Python asks for, else that of the page around the widget. */
  readonly language = computed(() => languageOf(this.view.value.locale ?? hostLanguage()));

  readonly #model: AnyModel<Traits>;
  readonly #rows = new RowTable();
  readonly #repos = new Family<RepoView>();
  readonly #picks = new Family<VariantRowView>();
  readonly #peeked = new Set<string>();
  readonly #abouts = new Family<AboutView>();
  readonly #folds = new Family<boolean>();
  readonly #asked = new Family<Asked>();
  #isSortChosen = false;
  readonly #dismissedLoad = signal<ErrorInfo | null>(null);

  constructor(model: AnyModel<Traits>, abort: AbortSignal) {
    this.#model = model;
    addTranslations(model.get("_texts") as Parameters<typeof addTranslations>[0]);
    this.connection = new Connection({
      model,
      abort,
      commId: () => this.view.peek().comm_id,
      onToast: (message) => this.toasts.add(message),
    });
    const others: Record<Exclude<keyof DeckState, Plain>, () => void> = {
      repos: () => this.#readRepos(),
      picks: () => this.#readPicks(),
      downloads: () => this.#readDownloads(),
      about: () => this.#abouts.replace(new Map(Object.entries(this.#model.get("_about") ?? {}))),
    };
    const readers = { ...Object.fromEntries(PLAIN.map((part) => [part, () => this.#read(part)])), ...others };
    for (const [name, read] of Object.entries(readers)) {
      read();
      this.connection.on(`change:_${name}`, () =>
        batch(() => {
          this.connection.revive();
          read();
        }),
      );
    }
    this.connection.open();
  }

  // --- what views read ------------------------------------------------------------------------------------------------

  repo(repoId: string): ReadonlySignal<RepoView | undefined> {
    return this.#repos.get(repoId);
  }

  /** The recommended variant of a repository, once Python has looked at it. */
  pick(repoId: string): ReadonlySignal<VariantRowView | undefined> {
    return this.#picks.get(repoId);
  }

  /** The variant of a repository about which a request was refused. By now another one may be recommended. */
  refusedRow(repoId: string): Row | undefined {
    const pick = this.pick(repoId).value;
    if (pick) {
      this.row(repoId, pick.variant_id);
    }
    return [...this.#rows].find((row) => row.repoId === repoId && row.error.value);
  }

  /** The model card of a repository, while it is shown. */
  about(repoId: string): ReadonlySignal<AboutView | undefined> {
    return this.#abouts.get(repoId);
  }

  row(repoId: string, variantId: string): Row {
    return this.#rows.get(repoId, variantId);
  }

  /** Whether the card shows its files: what the user has just asked for, else what Python says. */
  isUnfolded(repoId: string): boolean {
    return this.#folds.get(repoId).value ?? this.#repos.get(repoId).value !== undefined;
  }

  /** The unanswered request about a subject: "search", "more", "n_ctx", "repo OWNER/NAME". */
  asked(subject: string): ReadonlySignal<Asked | undefined> {
    return this.#asked.get(subject);
  }

  /** What is searched for: what was asked last, which Python may not know yet. */
  readonly choices: ReadonlySignal<SearchChoices> = computed(() => {
    const { text, sort, filters } = this.search.value;
    const asked = this.#asked.get("search").value?.params as Partial<SearchChoices> | undefined;
    return { text, sort, filters, ...asked };
  });

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

  /** Keys of the variants that the cards themselves have a button for. */
  readonly pickKeys: ReadonlySignal<ReadonlySet<string>> = computed(() => {
    const ids = this.search.value.models.map(({ repo_id }) => repo_id);
    return new Set(ids.map((id) => rowKey(id, this.#picks.get(id).value?.variant_id ?? "")));
  });

  /** Unfinished downloads that no card of the results shows: of other searches and sessions. */
  readonly strayRows = computed(() => {
    const { models } = this.search.value;
    const isFolded = (id: string) => models.some(({ repo_id }) => repo_id === id) && !this.isUnfolded(id);
    return this.#rows.open.filter(({ key, repoId }) => !this.shownKeys.value.has(key) && !isFolded(repoId));
  });

  /** Unfinished downloads of a repository, for its folded card. */
  rowsOf(repoId: string): Row[] {
    return this.#rows.open.filter((row) => row.repoId === repoId);
  }

  /** Unfinished downloads in their order: those that run, those that wait, and those that are stopped. */
  readonly openRows = computed(() => {
    const place = ({ job }: Row) => {
      const { queue_position, state } = job.value ?? {};
      return queue_position ?? (state === "paused" || state === "failed" ? Number.MAX_SAFE_INTEGER : -1);
    };
    return [...this.#rows.open].sort((a, b) => place(a) - place(b));
  });

  /** Finished downloads, the newest first. */
  readonly historyRows = computed(() => {
    const end = ({ job }: Row) => job.value?.finished_at ?? 0;
    return [...this.#rows.finished].sort((a, b) => end(b) - end(a));
  });

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

  // --- what users do --------------------------------------------------------------------------------------------------

  /** Search again with something changed. Without a text the page shows what is trending, unless an order was chosen. */
  refine(changes: Partial<SearchChoices>): void {
    const before = this.choices.peek();
    const choices = { ...before, ...changes };
    this.#isSortChosen ||= changes.sort !== undefined;
    if (!this.#isSortChosen && choices.text !== before.text) {
      choices.sort = choices.text ? "downloads" : "trending";
    }
    // Copies of the older request that are still under way must not begin the older search again.
    this.#asked.get("search").peek()?.cancel?.();
    void this.ask("search", "search", choices);
  }

  /** Keep the text of a search that led somewhere. */
  rememberSearch(): void {
    const { text } = this.choices.peek();
    if (text) {
      const others = this.recentSearches.peek().filter((recent) => recent !== text);
      this.recentSearches.value = [text, ...others].slice(0, RECENT_SEARCHES);
    }
  }

  searchMore(): void {
    void this.ask("more", "search_more", {});
  }

  setContext(n_ctx: number): void {
    void this.ask("n_ctx", "set_n_ctx", { n_ctx });
  }

  /** Show or hide the files of a card. Without a kernel only files that are already on the page can be shown. */
  async setUnfolded(repoId: string, isUnfolded: boolean): Promise<void> {
    const fold = this.#folds.get(repoId);
    fold.value = isUnfolded;
    if (isUnfolded) {
      this.rememberSearch();
    }
    if (this.connection.isUsable.peek()) {
      const method = isUnfolded ? "open_repo" : "close_repo";
      const isDone = await this.ask(`repo ${repoId}`, method, { repo_id: repoId });
      if (!isDone && isUnfolded) {
        fold.value = undefined;
      }
    }
  }

  /** Show or hide the model card of a repository. */
  setAbout(repoId: string, isShown: boolean): void {
    void this.ask(`about ${repoId}`, isShown ? "open_about" : "close_about", { repo_id: repoId });
  }

  /** Somebody may want this repository: have Python find out what is recommended of it. */
  peek(repoId: string): void {
    if (this.connection.isUsable.peek() && !this.#picks.get(repoId).peek() && !this.#peeked.has(repoId)) {
      this.#peeked.add(repoId);
      // Without an answer the card has no button, and its files can be shown all the same.
      this.connection.request("peek", { repo_id: repoId }).answer.catch(() => this.#peeked.delete(repoId));
    }
  }

  /** Do what a button of a row says. */
  act(row: Row, action: ButtonAction, more: ActMore = {}): void {
    this.#rows.act(this.connection, row, action, more);
  }

  /** Show another tab. The library is looked at again, as other programs may have changed the cache. */
  open(tab: Tab): void {
    this.tab.value = tab;
    if (tab === "library" && this.connection.isUsable.peek()) {
      this.keep("refresh");
    }
  }

  /** Do something with models of the cache, or with what is left over in it. */
  keep(
    action: Methods["act_on_library"]["action"],
    models: readonly ModelKey[] = [],
    leftovers: readonly LeftoverView[] = [],
  ): void {
    void this.ask("library", "act_on_library", {
      action,
      models: models.map(modelKey),
      leftovers: leftovers.map(({ leftover_id }) => leftover_id),
    });
  }

  /** Ask what a load of a variant would take. Returns that, if it was found out. */
  async askPlan(row: Row, commit_hash: string | null, choices = EMPTY_STATE.plan.choices): Promise<PlanView | null> {
    const params = { repo_id: row.repoId, variant_id: row.variantId, commit_hash, choices };
    return (await this.ask("plan", "plan_load", params)) ? this.planOf(row, commit_hash) : null;
  }

  /** What a load of a variant would take, if that was asked last. */
  planOf({ key }: Row, commitHash: string | null): PlanView | null {
    const plan = this.plan.value;
    return rowKey(`${plan.repo_id}`, `${plan.variant_id}`) === key && plan.commit_hash === commitHash ? plan : null;
  }

  dismissError(row: Row): void {
    batch(() => {
      row.error.value = null;
      if (this.loadKey.peek() === row.key) {
        this.#dismissedLoad.value = this.load.peek().error;
      }
    });
  }

  /** Send a request about a subject. Returns whether it was granted. Errors are shown where the subject is, or as a toast. */
  async ask<M extends Method>(subject: string, method: M, params: Methods[M]): Promise<boolean> {
    const cell = this.#asked.get(subject);
    const pending = this.connection.request(method, params);
    const asked: Asked = { what: method, params, isWaiting: pending.isWaiting, cancel: pending.cancel };
    cell.value = asked;
    try {
      await pending.answer;
      return true;
    } catch (error) {
      const { info } = error as RequestError;
      if (info.code !== "disconnected" && !this.#isShown(info)) {
        this.toasts.add({
          code: null,
          label: null,
          models: null,
          repo_id: null,
          kind: "modeldeck-toast",
          id: pending.id,
          level: "error",
          message: info.message,
          error: info,
        });
      }
      return false;
    } finally {
      if (cell.peek() === asked) {
        cell.value = undefined;
      }
    }
  }

  /** Whether an error is in the state too, and so already on the page. */
  #isShown({ message }: ErrorInfo): boolean {
    const errors = [
      this.search.peek().error,
      ...Object.values(this.#model.get("_repos") ?? {}).map(({ error }) => error),
      ...Object.values(this.#model.get("_about") ?? {}).map(({ error }) => error),
    ];
    return errors.some((error) => error?.message === message);
  }

  // --- the traits -----------------------------------------------------------------------------------------------------

  #read<Part extends Plain>(part: Part): void {
    const cell = this[part] as Signal<DeckState[Part]>;
    cell.value = share(cell.peek(), { ...EMPTY_STATE[part], ...this.#model.get(`_${part}`) });
  }

  #readDownloads(): void {
    this.#rows.showJobs(this.#model.get("_downloads")?.jobs ?? []);
  }

  #readRepos(): void {
    const repos = new Map(Object.entries(this.#model.get("_repos") ?? {}));
    this.#replaceVariants(() => this.#repos.replace(repos));
    for (const [repoId, fold] of this.#folds) {
      if (fold.peek() === repos.has(repoId)) {
        fold.value = undefined;
      }
    }
  }

  #readPicks(): void {
    const picks = new Map(Object.entries(this.#model.get("_picks") ?? {}));
    this.#replaceVariants(() => this.#picks.replace(picks));
  }

  /** What was asked of a variant has taken effect when its state changes. */
  #replaceVariants(replace: () => void): void {
    const before = new Map([...this.#rows].map((row) => [row, this.#variant(row)]));
    replace();
    for (const [row, variant] of before) {
      if (this.#variant(row) !== variant) {
        row.asked.value = null;
      }
    }
  }

  #variant({ repoId, variantId }: Row): VariantRowView | undefined {
    const variants = [...(this.#repos.get(repoId).peek()?.variants ?? []), this.#picks.get(repoId).peek()];
    return variants.find((variant) => variant?.variant_id === variantId);
  }
}
