// Plays Python for the harness: answers requests and moves the traits as the real one does, with made-up timing.

import type { Action, Job, Repo, Request, State, Variant } from "../src/wire";
import { estimate, load, MODELS, model, QWEN_REPO, repo, search, variant, view } from "./data";
import type { FakeModel } from "./fake-model";

const TICK_MS = 250;
const ACTIONS: Record<Job["state"], Action[]> = {
  queued: ["cancel"],
  resolving: ["cancel"],
  downloading: ["pause", "cancel"],
  verifying: ["cancel"],
  ready: [],
  paused: ["resume", "cancel"],
  failed: ["retry", "dismiss"],
  cancelled: ["retry", "dismiss"],
};

export class FakePython {
  readonly #model: FakeModel;
  readonly #jobs: Job[] = [];
  #repos: Record<string, Repo> = {};
  #rev = 0;

  constructor(model: FakeModel) {
    this.#model = model;
    model.onRequest = (request) => {
      setTimeout(() => this.#handle(request), 20);
    };
    setInterval(() => this.#tick(), TICK_MS);
  }

  /** Put jobs into the world; they run on from there. */
  addJobs(jobs: Job[]): void {
    this.#jobs.push(...jobs);
    this.#publishJobs();
  }

  open(repos: Record<string, Repo>): void {
    this.#repos = { ...this.#repos, ...structuredClone(repos) };
    this.#model.write({ repos: this.#repos });
  }

  #handle(request: Request): void {
    const params = request.params as Record<string, string>;
    const current = (name: keyof State) => this.#model.get(name as string) as never;
    this.#model.answer(request, request.method === "hello" ? { version: "0.1.0" } : {});
    switch (request.method) {
      case "search": {
        const text = params.text ?? "";
        this.#model.write({ search: { ...(current("search") as object), state: "searching", text } as never });
        setTimeout(() => {
          const found = MODELS.filter(({ repo_id }) => repo_id.toLowerCase().includes(text.toLowerCase()));
          this.#model.write({
            search: search(found, { text, sort: params.sort as never, has_more: text === "" }),
          });
        }, 400);
        break;
      }
      case "search_more": {
        const before = this.#model.get("search") as ReturnType<typeof search>;
        const more = Array.from({ length: 20 }, (_, index) =>
          model(`someone/Model-${before.models.length + index}-GGUF`),
        );
        this.#model.write({ search: { ...before, models: [...before.models, ...more] } });
        break;
      }
      case "open_repo":
        this.open({ [params.repo_id as string]: repo([], { state: "opening" }) });
        setTimeout(() => {
          const isKnown = params.repo_id?.includes("Qwen2.5");
          const opened = isKnown ? QWEN_REPO : repo([variant("Q8_0"), variant("Q4_K_M", { fit: estimate() })]);
          this.open({ [params.repo_id as string]: opened });
        }, 500);
        break;
      case "close_repo": {
        const { [params.repo_id as string]: _closed, ...rest } = this.#repos;
        this.#repos = rest;
        this.#model.write({ repos: rest });
        break;
      }
      case "download": {
        const found = this.#variant(params);
        this.addJobs([
          {
            job_id: `job-${this.#jobs.length}`,
            repo_id: params.repo_id as string,
            variant_id: params.variant_id as string,
            label: found?.label ?? "",
            state: "downloading",
            received: 0,
            total: found?.size ?? null,
            percent: 0,
            rate: null,
            eta_seconds: null,
            connections: 4,
            attempt: 1,
            retry_in_seconds: null,
            is_stalled: false,
            error: null,
            notice: null,
            actions: ["pause", "cancel"],
          },
        ]);
        break;
      }
      case "pause":
        this.#move(params.job_id, "paused");
        break;
      case "resume":
      case "retry":
        this.#move(params.job_id, "downloading");
        break;
      case "cancel":
      case "dismiss":
        this.#move(params.job_id, "cancelled");
        break;
      case "load":
        this.#load(params);
        break;
      case "unload":
      case "cancel_load":
        this.#model.write({ load: load() });
        this.#setVariants((each) =>
          each.state === "available" ? {} : { state: "downloaded", actions: ["load", "remove"] },
        );
        break;
      case "remove":
        this.#setVariants((each) =>
          each.variant_id === params.variant_id ? { state: "available", actions: ["download"] } : {},
        );
        break;
      case "set_n_ctx":
        this.#model.write({ view: view({ n_ctx: Number(params.n_ctx) }) });
        break;
    }
  }

  #variant({ repo_id, variant_id }: Record<string, string>): Variant | undefined {
    return this.#repos[repo_id as string]?.variants.find((each) => each.variant_id === variant_id);
  }

  #setVariants(change: (variant: Variant) => Partial<Variant>): void {
    for (const each of Object.values(this.#repos)) {
      each.variants = each.variants.map((variant) => ({ ...variant, ...change(variant) }));
    }
    this.#model.write({ repos: this.#repos });
  }

  #load(params: Record<string, string>): void {
    const label = this.#variant(params)?.label ?? null;
    const names = { repo_id: params.repo_id ?? null, variant_id: params.variant_id ?? null, label };
    const set = (state: Variant["state"], actions: Action[]) =>
      this.#setVariants((each) => (each.variant_id === params.variant_id ? { state, actions } : {}));
    set("loading", ["cancel_load"]);
    [0, 0.2, 0.4, 0.6, 0.8, 1].forEach((fraction, index) => {
      setTimeout(() => {
        const isReady = fraction === 1;
        this.#model.write({
          load: load({
            ...names,
            state: isReady ? "ready" : "loading",
            stage: isReady ? "ready" : "loading",
            fraction,
            n_ctx: 4096,
          }),
        });
        if (isReady) {
          set("loaded", ["unload"]);
        }
      }, index * 400);
    });
  }

  #move(job_id: string | undefined, state: Job["state"]): void {
    const job = this.#jobs.find((each) => each.job_id === job_id);
    if (job) {
      Object.assign(job, { state, actions: ACTIONS[state], error: null, rate: null, eta_seconds: null });
      this.#publishJobs();
    }
  }

  #tick(): void {
    const running = this.#jobs.filter(({ state }) => state === "downloading");
    if (running.length === 0) {
      return;
    }
    for (const job of running) {
      const rate = 25e6 + Math.random() * 20e6;
      const total = job.total ?? 1e9;
      job.received = Math.min(total, job.received + (rate * TICK_MS) / 1000);
      job.rate = rate;
      job.eta_seconds = (total - job.received) / rate;
      job.percent = Math.min(99, Math.floor((job.received / total) * 100));
      if (job.received >= total) {
        Object.assign(job, { state: "ready", percent: 100, actions: [] });
        this.#setVariants((each) =>
          each.variant_id === job.variant_id ? { state: "downloaded", actions: ["load", "remove"] } : {},
        );
        const message = `${job.label} of ${job.repo_id} is downloaded and verified.`;
        this.#model.tell({ kind: "modeldeck-toast", id: job.job_id, level: "success", message });
      }
    }
    this.#publishJobs();
  }

  #publishJobs(): void {
    this.#rev += 1;
    this.#model.write({ downloads: { rev: this.#rev, jobs: this.#jobs } });
  }
}
