import { effect } from "@preact/signals";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { FakeModel, fakeKernel } from "../harness/fake-model";
import {
  job,
  load,
  MODELS,
  QWEN_REPO,
  repo,
  toast as sampleToast,
  search,
  model as summary,
  variant,
  view,
} from "../harness/samples";
import type { ButtonAction } from "../src/buttons";
import { openJob, type Row } from "../src/row-table";
import { Store } from "../src/store";
import type { DeckState, Request } from "../src/wire";
import { lastAct } from "./dom";

const QWEN = "bartowski/Qwen2.5-7B-Instruct-GGUF";

function setUp(traits: Partial<DeckState> = {}, kernel?: ReturnType<typeof fakeKernel>) {
  const model = new FakeModel(traits, kernel);
  const abort = new AbortController();
  const store = new Store(model.asModel(), abort.signal);
  const last = (method: Request["method"]) => model.sent.findLast((request) => request.method === method) as Request;
  const acted = (action: ButtonAction) => lastAct(model, action) as Request;
  return { model, store, abort, last, acted };
}

/** What a comm message on the control channel asks for. */
function method(content: Record<string, unknown>): string {
  return (content.data as { content: Request }).content.method;
}

/** How often something that reads signals is run. */
function counter(read: () => unknown): () => number {
  let runs = 0;
  effect(() => {
    read();
    runs += 1;
  });
  return () => runs;
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe("traits", () => {
  it("are read at the start, and when Python writes them", () => {
    const { model, store } = setUp({ view: view({ n_ctx: 8192 }), search: search(MODELS) });
    expect(store.view.value.n_ctx).toBe(8192);
    expect(store.search.value.models).toHaveLength(MODELS.length);
    model.write({ view: view({ n_ctx: 2048 }) });
    expect(store.view.value.n_ctx).toBe(2048);
  });

  it("may be missing or empty", () => {
    const { model, store } = setUp();
    expect(store.search.value.state).toBe("idle");
    expect(store.load.value.state).toBe("none");
    expect(store.strayRows.value).toEqual([]);
    model.write({ repos: {}, downloads: {} as never, view: {} as never });
    expect(store.view.value.n_ctx).toBe(4096);
  });

  it("wake only what changed: one progress tick of 100 downloads, one of which moved", () => {
    const jobs = Array.from({ length: 100 }, (_, index) => job({ job_id: `j${index}`, variant_id: `v${index}` }));
    const { model, store } = setUp({ downloads: { jobs } });
    const counts = jobs.map(({ repo_id, variant_id }) => counter(() => store.row(repo_id, variant_id).job.value));
    const stray = counter(() => store.strayRows.value);
    model.write({ downloads: { jobs: jobs.map((each, i) => (i === 7 ? { ...each, received: 5 } : each)) } });
    expect(counts.map((runs) => runs()).filter((runs) => runs > 1)).toEqual([2]);
    expect(counts[7]?.()).toBe(2);
    expect(stray()).toBe(1);
  });

  it("keep the identity of what stays when more results come", () => {
    const { model, store } = setUp({ search: search(MODELS) });
    const before = store.search.value.models;
    model.write({ search: search([...MODELS, summary("new/one")]) });
    expect(store.search.value.models.slice(0, before.length)).toEqual(before);
    expect(store.search.value.models[0]).toBe(before[0]);
  });
});

describe("connection", () => {
  it("is live after the answer to hello", () => {
    const { model, store, last } = setUp();
    expect(store.connection.state.value).toBe("connecting");
    expect(store.connection.isUsable.value).toBe(true);
    model.answer(last("hello"));
    return vi.waitFor(() => expect(store.connection.state.value).toBe("live"));
  });

  it("is live as soon as Python writes anything", () => {
    const { model, store } = setUp();
    model.write({ view: view() });
    expect(store.connection.state.value).toBe("live");
  });

  it("is silent when nobody answers and the host shows no kernel, and live when somebody does after all", async () => {
    const { model, store, last } = setUp();
    await vi.advanceTimersByTimeAsync(6000);
    expect(store.connection.state.value).toBe("silent");
    expect(store.connection.isUsable.value).toBe(true);
    store.connection.markStatic();
    expect(store.connection.isUsable.value).toBe(false);
    model.answer(last("hello"));
    expect(store.connection.state.value).toBe("live");
  });

  it("stays connecting while a kernel is in sight: it may be busy", async () => {
    const { store } = setUp({}, fakeKernel());
    await vi.advanceTimersByTimeAsync(60_000);
    expect(store.connection.state.value).toBe("connecting");
  });

  it("is asked again and again in Colab, until there has been no news for a minute", async () => {
    vi.stubGlobal("google", { colab: {} });
    const { model, last, abort } = setUp();
    const hellos = () => model.sent.filter((request) => request.method === "hello").length;
    model.answer(last("hello"));
    model.write({ view: view() });
    model.onRequest = (request) => model.answer(request);
    await vi.advanceTimersByTimeAsync(70_000);
    const asked = hellos();
    expect(asked).toBeGreaterThan(20);
    await vi.advanceTimersByTimeAsync(70_000);
    expect(hellos()).toBe(asked);
    model.write({ view: view() });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(hellos()).toBeGreaterThan(asked);
    abort.abort();
    vi.unstubAllGlobals();
  });

  it("is not asked again elsewhere", async () => {
    const { model, last } = setUp();
    model.answer(last("hello"));
    await vi.advanceTimersByTimeAsync(70_000);
    expect(model.sent.filter((request) => request.method === "hello")).toHaveLength(1);
  });

  it("is lost when the kernel restarts, and asks whether it is back", async () => {
    const { model, store, last } = setUp();
    model.answer(last("hello"));
    model.sent.length = 0;
    model.trigger("comm_live_update");
    expect(store.connection.state.value).toBe("lost");
    expect(model.sent.map(({ method }) => method)).toEqual(["hello"]);
    model.answer(last("hello"));
    expect(store.connection.state.value).toBe("live");
  });

  it.each(["comm:close", "send"])("is lost by %s", (how) => {
    const { model, store, last } = setUp();
    model.answer(last("hello"));
    if (how === "send") {
      model.isDead = true;
      store.refine({ text: "x", sort: "downloads" });
    } else {
      model.trigger(how);
    }
    expect(store.connection.state.value).toBe("lost");
    expect(store.toasts.shown.value).toEqual([]);
  });

  it("is lost when the kernel is shut down, of which the comm says nothing", () => {
    const kernel = fakeKernel();
    const { model, store, last, abort } = setUp({}, kernel);
    model.answer(last("hello"));
    kernel.dispose();
    expect(store.connection.state.value).toBe("lost");
    model.answer(last("hello"));
    abort.abort();
    kernel.dispose();
    expect(store.connection.state.value).toBe("live");
  });

  it("sends its very first message on the control channel too: the shell may be busy", () => {
    const kernel = fakeKernel();
    const { store } = setUp({ view: view({ comm_id: "from-python" }) }, kernel);
    const sent = () => kernel.sent.map(({ content }) => [content.comm_id, method(content)]);
    expect(sent()).toEqual([["from-python", "hello"]]);
    store.setContext(2048);
    expect(sent()).toEqual([
      ["from-python", "hello"],
      ["from-python", "set_n_ctx"],
    ]);
  });

  it("leaves nothing behind when the widget is removed", async () => {
    const { model, abort } = setUp();
    expect(model.listenerCount()).toBeGreaterThan(0);
    abort.abort();
    expect(model.listenerCount()).toBe(0);
    model.sent.length = 0;
    await vi.advanceTimersByTimeAsync(120_000);
    expect(model.sent).toEqual([]);
  });
});

describe("rows", () => {
  it.each([
    ["ready", undefined],
    ["cancelled", undefined],
    ["paused", "paused"],
    ["failed", "failed"],
    ["verifying", "verifying"],
  ] as const)("a job that is %s speaks for its row: %s", (state, shown) => {
    expect(openJob(job({ state }))?.state).toBe(shown);
  });

  it("show the running one of several jobs", () => {
    const { store } = setUp({
      downloads: {
        jobs: [
          job({ job_id: "old", state: "failed" }),
          job({ job_id: "now", state: "downloading" }),
          job({ job_id: "done", state: "ready" }),
          job({ job_id: "gone", state: "cancelled" }),
        ],
      },
    });
    expect(store.row(QWEN, "model-Q4_K_M.gguf").job.value?.job_id).toBe("now");
  });

  it("go to Downloads unless their card shows them, folded or not", async () => {
    const running = job({ variant_id: "Qwen2.5-7B-Instruct-Q4_K_M.gguf" });
    const finished = job({ job_id: "2", repo_id: "a/b", variant_id: "c", state: "ready" });
    const { model, store, last } = setUp({ search: search(MODELS), downloads: { jobs: [running, finished] } });
    const ids = (rows: Row[]) => rows.map(({ variantId }) => variantId);
    const strays = () => ids(store.strayRows.value);
    expect(strays()).toEqual([]);
    expect(ids(store.rowsOf(QWEN))).toEqual([running.variant_id]);
    expect(store.historyRows.value.map(({ variantId }) => variantId)).toEqual(["c"]);
    model.write({ repos: { [QWEN]: QWEN_REPO } });
    expect(strays()).toEqual([]);
    void store.setUnfolded(QWEN, false);
    expect(strays()).toEqual([]);
    expect(last("close_repo").params).toEqual({ repo_id: QWEN });
    model.write({ search: search([]) });
    expect(strays()).toEqual([running.variant_id]);
  });

  it("send what a button says, with the job's id where there is one", () => {
    const { model, store } = setUp({ downloads: { jobs: [job()] } });
    const row = store.row(QWEN, "model-Q4_K_M.gguf");
    const variantParams = { repo_id: QWEN, variant_id: "model-Q4_K_M.gguf" };
    for (const action of ["pause", "resume", "cancel", "retry", "dismiss"] as const) {
      store.act(row, action);
      expect(model.sent.at(-1)).toMatchObject({ method: "act", params: { job_id: "job-1", action } });
    }
    for (const action of ["download", "load", "remove", "unload", "cancel_load"] as const) {
      store.act(row, action);
      expect(model.sent.at(-1)).toMatchObject({ method: "act_on_variant", params: { ...variantParams, action } });
    }
  });

  it("stay asked until the state follows, and not longer than it may take", async () => {
    const { model, store, acted } = setUp({ downloads: { jobs: [job()] } });
    const row = store.row(QWEN, "model-Q4_K_M.gguf");
    store.act(row, "pause");
    expect(row.asked.value?.what).toBe("pause");
    model.answer(acted("pause"));
    await vi.advanceTimersByTimeAsync(100);
    expect(row.asked.value?.what).toBe("pause");
    model.write({ downloads: { jobs: [job({ received: 9 })] } });
    expect(row.asked.value?.what).toBe("pause");
    model.write({ downloads: { jobs: [job({ state: "paused" })] } });
    expect(row.asked.value).toBeNull();
    store.act(row, "resume");
    model.answer(acted("resume"));
    await vi.advanceTimersByTimeAsync(2000);
    expect(row.asked.value).toBeNull();
  });

  it("keep a refusal until the next request or until it is dismissed", async () => {
    const { model, store, acted } = setUp();
    const row = store.row(QWEN, "v");
    store.act(row, "download");
    model.refuse(acted("download"), "disk_full", "No room.");
    await vi.advanceTimersByTimeAsync(0);
    expect(row.error.value?.code).toBe("disk_full");
    expect(row.asked.value).toBeNull();
    store.dismissError(row);
    expect(row.error.value).toBeNull();
    store.act(row, "download");
    model.refuse(acted("download"), "disk_full", "No room.");
    await vi.advanceTimersByTimeAsync(0);
    store.act(row, "download");
    expect(row.error.value).toBeNull();
  });

  it("keep the error of a load until it is dismissed or the next one begins", () => {
    const error = { code: "load_failed", message: "No.", details: {} };
    const failed = load({ state: "failed", repo_id: "a/b", variant_id: "v", error });
    const { model, store } = setUp({ load: failed });
    expect(store.loadError.value).toEqual(error);
    store.dismissError(store.row("a/b", "v"));
    expect(store.loadError.value).toBeNull();
    model.write({ load: failed });
    expect(store.loadError.value).toBeNull();
    model.write({ load: load({ ...failed, state: "loading", error: null }) });
    model.write({ load: failed });
    expect(store.loadError.value).toEqual(error);
  });
});

describe("cards", () => {
  it("unfold at once, and follow Python afterwards", () => {
    const { model, store, last } = setUp({ search: search(MODELS) });
    expect(store.isUnfolded(QWEN)).toBe(false);
    void store.setUnfolded(QWEN, true);
    expect(store.isUnfolded(QWEN)).toBe(true);
    expect(last("open_repo").params).toEqual({ repo_id: QWEN });
    model.write({ repos: { [QWEN]: repo([variant("Q4_K_M")]) } });
    expect(store.isUnfolded(QWEN)).toBe(true);
    model.write({ repos: {} });
    expect(store.isUnfolded(QWEN)).toBe(false);
  });

  it("fold again when Python refuses, and say why", async () => {
    const { model, store, last } = setUp({ search: search(MODELS) });
    void store.setUnfolded(QWEN, true);
    model.refuse(last("open_repo"), "invalid_request", "Not a repository.");
    await vi.advanceTimersByTimeAsync(0);
    expect(store.isUnfolded(QWEN)).toBe(false);
    expect(store.toasts.shown.value.map(({ message, level }) => [message, level])).toEqual([
      ["Not a repository.", "error"],
    ]);
  });

  it("fold and unfold what is here without a kernel, and ask nobody", () => {
    const { model, store } = setUp({ search: search(MODELS), repos: { [QWEN]: QWEN_REPO } });
    store.connection.markStatic();
    model.sent.length = 0;
    void store.setUnfolded(QWEN, false);
    expect(store.isUnfolded(QWEN)).toBe(false);
    void store.setUnfolded(QWEN, true);
    expect(store.isUnfolded(QWEN)).toBe(true);
    expect(model.sent).toEqual([]);
  });
});

describe("searching", () => {
  it("does not send an older search again, whose answer comes too late for anybody", async () => {
    const { model, store } = setUp();
    store.refine({ text: "a" });
    store.refine({ text: "ab" });
    await vi.advanceTimersByTimeAsync(5000);
    const searches = model.sent.filter((request) => request.method === "search");
    expect(searches.map(({ params }) => (params as { text: string }).text)).toEqual(["a", "ab", "ab", "ab", "ab"]);
    model.answer(searches[0] as Request);
    expect(store.choices.value.text).toBe("ab");
    expect(store.toasts.shown.value).toEqual([]);
  });

  it("shows what is asked last until that is answered", async () => {
    const { model, store } = setUp();
    store.refine({ text: "a", sort: "downloads" });
    const first = model.sent.at(-1) as Request;
    store.refine({ text: "ab", sort: "likes" });
    const second = model.sent.at(-1) as Request;
    expect(second.params).toMatchObject({ text: "ab", sort: "likes" });
    model.answer(first);
    await vi.advanceTimersByTimeAsync(0);
    expect(store.asked("search").value).toBeDefined();
    await vi.advanceTimersByTimeAsync(800);
    expect(store.asked("search").value?.isWaiting.value).toBe(true);
    model.answer(second);
    await vi.advanceTimersByTimeAsync(0);
    expect(store.asked("search").value).toBeUndefined();
  });
});

describe("messages", () => {
  it("acknowledge a request", async () => {
    const { model, store, last } = setUp();
    store.refine({ text: "a", sort: "downloads" });
    model.tell({ kind: "modeldeck-ack", id: last("search").id });
    await vi.advanceTimersByTimeAsync(5000);
    expect(store.asked("search").value?.isWaiting.value).toBe(false);
    expect(model.sent.filter(({ method }) => method === "search")).toHaveLength(1);
  });

  it("ask who is there", () => {
    const { model } = setUp();
    model.sent.length = 0;
    model.tell({ kind: "modeldeck-ping" });
    expect(model.sent.map(({ method }) => method)).toEqual(["hello"]);
  });

  it("refuse without a toast what the page already shows", async () => {
    const { model, store, last } = setUp({ search: search(MODELS) });
    const error = { code: "offline", message: "The Hub cannot be reached.", details: {} };
    store.refine({ text: "a", sort: "downloads" });
    model.write({ search: search([], { state: "failed", error }) });
    model.refuse(last("search"), error.code, error.message);
    void store.setUnfolded(QWEN, true);
    model.write({ repos: { [QWEN]: repo([], { state: "failed", error: { ...error, message: "Gone." } }) } });
    model.refuse(last("open_repo"), error.code, "Gone.");
    await vi.advanceTimersByTimeAsync(0);
    expect(store.toasts.shown.value).toEqual([]);
    expect(store.isUnfolded(QWEN)).toBe(true);
    store.setContext(1);
    model.refuse(last("set_n_ctx"), "protocol", "Too small.");
    await vi.advanceTimersByTimeAsync(0);
    expect(store.toasts.shown.value.map(({ message }) => message)).toEqual(["Too small."]);
  });
});

describe("toasts", () => {
  const toast = (id: string, message = "Done") => sampleToast(message, { id });

  it("are merged when they say the same, and few", () => {
    const { model, store } = setUp();
    model.tell(toast("1"));
    model.tell(toast("2"));
    expect(store.toasts.shown.value).toMatchObject([{ id: "1", count: 2 }]);
    for (const id of ["3", "4", "5", "6"]) {
      model.tell(toast(id, `Done ${id}`));
    }
    expect(store.toasts.shown.value.map(({ id }) => id)).toEqual(["4", "5", "6"]);
    store.toasts.dismiss("5");
    expect(store.toasts.shown.value.map(({ id }) => id)).toEqual(["4", "6"]);
  });

  it("ignore what is not for this page", () => {
    const { model, store } = setUp();
    model.tell(null as never);
    model.tell({ kind: "something-else" } as never);
    expect(store.toasts.shown.value).toEqual([]);
    expect(store.connection.state.value).toBe("connecting");
  });
});
