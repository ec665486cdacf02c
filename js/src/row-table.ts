// What the page knows of single variants: their downloads, and the clicks that have not taken effect yet.

import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { type ButtonAction, isOfDownload } from "./buttons";
import type { Connection } from "./connection";
import { Family } from "./family";
import type { RequestError } from "./rpc";
import { share } from "./share";
import type { DownloadState, ErrorInfo, JobView, Method, Methods } from "./wire";

/** A request of this page that has not taken effect yet. */
export interface Asked {
  readonly what: string;
  readonly params?: Methods[Method];
  readonly isWaiting: ReadonlySignal<boolean>;
  cancel?(): void;
}

/** One variant of one repository. */
export interface Row {
  readonly key: string;
  readonly repoId: string;
  readonly variantId: string;
  readonly job: ReadonlySignal<JobView | undefined>;
  readonly asked: Signal<Asked | null>;
  readonly error: Signal<ErrorInfo | null>;
}

/** What a request about a variant can say beside its action. */
export type ActMore = Pick<Methods["act_on_variant"], "commit_hash" | "choices" | "is_retry">;

/** An answer may overtake the state that it leads to by this much. */
const SETTLE_MS = 1500;

/** Of several jobs of one row the one with the highest rank is shown. Cancelled jobs are not shown. */
const RANK: Record<DownloadState, number> = {
  cancelled: -1,
  ready: 0,
  failed: 1,
  paused: 2,
  queued: 3,
  resolving: 3,
  downloading: 3,
  verifying: 3,
};

/** The job, if it says more about its row than the variant does: it is running, paused or failed. */
export function openJob(job: JobView | undefined): JobView | undefined {
  return job && RANK[job.state] > 0 ? job : undefined;
}

export function rowKey(repoId: string, variantId: string): string {
  return `${repoId}\n${variantId}`;
}

export class RowTable {
  readonly #rows = new Map<string, Row>();
  readonly #jobs = new Family<JobView>();
  readonly #openKeys = signal<string[]>([]);
  readonly #readyKeys = signal<string[]>([]);

  /** Rows of downloads that are running, paused or failed. */
  get open(): Row[] {
    return this.#withKeys(this.#openKeys.value);
  }

  /** Rows of finished downloads. */
  get finished(): Row[] {
    return this.#withKeys(this.#readyKeys.value);
  }

  get(repoId: string, variantId: string): Row {
    const key = rowKey(repoId, variantId);
    let row = this.#rows.get(key);
    if (!row) {
      row = { key, repoId, variantId, job: this.#jobs.get(key), asked: signal(null), error: signal(null) };
      this.#rows.set(key, row);
    }
    return row;
  }

  [Symbol.iterator](): Iterator<Row> {
    return this.#rows.values();
  }

  /** Show the downloads that Python knows now. */
  showJobs(all: JobView[]): void {
    const jobs = new Map<string, JobView>();
    for (const job of all) {
      const { key } = this.get(job.repo_id, job.variant_id);
      const rival = jobs.get(key);
      if (RANK[job.state] >= 0 && (!rival || RANK[job.state] >= RANK[rival.state])) {
        jobs.set(key, job);
      }
    }
    for (const row of this) {
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

  /** Do what a button of a row says. */
  act(connection: Connection, row: Row, action: ButtonAction, more: ActMore): void {
    row.error.value = null;
    const pending = isOfDownload(action)
      ? connection.request("act", { job_id: row.job.peek()?.job_id ?? "", action })
      : connection.request("act_on_variant", {
          repo_id: row.repoId,
          variant_id: row.variantId,
          action,
          ...more,
        });
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

  #withKeys(keys: string[]): Row[] {
    return keys.map((key) => this.#rows.get(key) as Row);
  }
}
