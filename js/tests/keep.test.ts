import { act } from "preact/test-utils";
import { describe, expect, it, vi } from "vitest";
import { DUMPED_SCENES, job, load, view } from "../harness/samples";
import { chooseModels, freedBytes } from "../src/library";
import { type DeckState, EMPTY_STATE, type FitEstimate, type LibraryRowView } from "../src/wire";
import { all, click, get, nameOf, settle, show, type } from "./dom";

const SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF";
const LLAMA = "unsloth/Llama-3.2-3B-Instruct-GGUF";
const scene = (name: string) => DUMPED_SCENES[name] as DeckState;
const MODELS = scene("library").library.models;
const text = (element: Element | null | undefined) => (element?.textContent ?? "").replace(/\s+/g, " ").trim();

const wholeText = (root: ShadowRoot) => text(root.querySelector(".deck"));

function open(tab: string, traits: Partial<DeckState>) {
  const mounted = show(traits);
  click(mounted.root.querySelector<HTMLElement>(`[data-tab=${tab.toLowerCase()}]`) as HTMLElement);
  return mounted;
}

function press(element: Element, key: string): void {
  act(() => void element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })));
}

function enter(element: HTMLElement, value: string): void {
  act(() => {
    (element as HTMLInputElement).value = value;
    element.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

describe("tabs", () => {
  it("have counts, and arrow keys go round", () => {
    const { root } = show(scene("queue"));
    expect(all(root, "tab").map(nameOf)).toEqual(["Discover", "Library", "Downloads"]);
    expect(all(root, "tab").map(({ dataset }) => dataset.count)).toEqual([undefined, undefined, "4"]);
    const [discover, library, downloads] = all(root, "tab") as [HTMLElement, HTMLElement, HTMLElement];
    discover.focus();
    press(discover, "ArrowLeft");
    expect(root.activeElement).toBe(downloads);
    expect(downloads.getAttribute("aria-selected")).toBe("true");
    expect(get(root, "tabpanel", "Downloads")).toBeDefined();
    press(downloads, "ArrowRight");
    press(discover, "ArrowRight");
    expect(root.activeElement).toBe(library);
    expect([discover.tabIndex, library.tabIndex]).toEqual([-1, 0]);
  });
});

describe("the library", () => {
  it("looks at the cache again when it is opened", () => {
    const { request } = open("Library", scene("library"));
    expect(request("act_on_library")?.params).toMatchObject({ action: "refresh" });
  });

  it("says what is verified, by what, and offers what each model allows", () => {
    const { root } = open("Library", scene("library"));
    const rows = [...root.querySelectorAll(".library .row")];
    const row = (repo: string) => rows.find((row) => text(row).includes(repo)) as HTMLElement;
    expect(text(row("SmolLM2"))).toMatch(/105 MB.*verified .* when downloaded/);
    expect(text(row("Qwen2.5"))).toContain("not verified here");
    expect(text(row("Llama-3.2"))).toContain("damaged");
    expect(get(row("Llama-3.2"), "button", `Repair Q8_0 of ${LLAMA}`)).toBeDefined();
    expect(all(row("SmolLM2"), "button", `Repair Q4_K_M of ${SMOL}`)).toEqual([]);
    expect(get(row("Mistral"), "progressbar").getAttribute("aria-valuenow")).toBe("37");
    expect(wholeText(root)).toContain("81 of 494 GB free");
  });

  it("acts on the commit of the row, and removes after another question with the bytes that come free", () => {
    const { root, acted } = open("Library", scene("library"));
    const { commit_hash, variant_id } = MODELS[0] as LibraryRowView;
    click(get(root, "button", `Verify Q4_K_M of ${SMOL}`));
    expect(acted("verify")?.params).toEqual({ repo_id: SMOL, variant_id, action: "verify", commit_hash });
    click(get(root, "button", `Remove Q4_K_M of ${SMOL}`));
    expect(acted("remove")).toBeUndefined();
    expect(text(get(root, "button", `Really remove Q4_K_M of ${SMOL}`))).toBe("Really remove 105 MB");
    expect(get(root, "button", `Really remove Q4_K_M of ${SMOL}`).title, "is heard, too").toBe("Really remove 105 MB");
    click(get(root, "button", `Really remove Q4_K_M of ${SMOL}`));
    expect(acted("remove")?.params).toMatchObject({ commit_hash });
  });

  it("verifies, repairs and removes all that the search leaves", () => {
    const { root, request } = open("Library", scene("library"));
    click(get(root, "button", "Repair 1 model"));
    expect(request("act_on_library")?.params).toMatchObject({ action: "repair", models: [{ repo_id: LLAMA }] });
    type(get(root, "searchbox", "Search the library"), "qwen q4");
    expect(root.querySelectorAll(".library .row")).toHaveLength(1);
    expect(all(root, "button", "Repair 1 model")).toEqual([]);
    expect(text(root.querySelector(".note.line"))).toMatch(/^1 model4.68 GB/);
    click(get(root, "button", "Verify 1 model"));
    expect(request("act_on_library")?.params).toMatchObject({
      action: "verify",
      models: [{ repo_id: MODELS[1]?.repo_id }],
    });
    type(get(root, "searchbox", "Search the library"), "");
    click(get(root, "button", "Remove 3 models…"));
    click(get(root, "button", "Really remove"));
    const { models } = (request("act_on_library")?.params as { models: unknown[] }) ?? {};
    expect(models).toHaveLength(3);
  });

  it("removes what the question was about, whatever has come or was searched for since", () => {
    const { library } = scene("library");
    const removable = library.models.filter(({ actions }) => actions.includes("remove"));
    const asked = removable.slice(0, 2);
    const { root, request, write } = open("Library", { ...scene("library"), library: { ...library, models: asked } });
    click(get(root, "button", "Remove 2 models…"));
    const question = text(get(root, "button", "Really remove"));
    write({ library: { ...library, models: removable } });
    type(get(root, "searchbox", "Search the library"), removable[2]?.repo_id ?? "");
    type(get(root, "searchbox", "Search the library"), "");
    click(get(root, "button", "Remove 3 models…"));
    write({ library: { ...library, models: removable.slice(1) } });
    expect(text(get(root, "button", "Really remove"))).not.toBe(question);
    click(get(root, "button", "Keep"));
    expect(request("act_on_library")?.params).toMatchObject({ action: "refresh" });

    write({ library: { ...library, models: asked } });
    click(get(root, "button", "Remove 2 models…"));
    write({ library: { ...library, models: removable } });
    expect(text(get(root, "button", "Really remove"))).toBe(question);
    click(get(root, "button", "Really remove"));
    const keys = asked.map(({ repo_id, variant_id, commit_hash }) => ({ repo_id, variant_id, commit_hash }));
    expect(request("act_on_library")?.params).toMatchObject({ action: "remove", models: keys });
  });

  it("offers to dismiss only what the page can forget", () => {
    const { library } = scene("library");
    const error = { code: "storage", message: "The disk cannot be read.", details: {} };
    const models = library.models.map((model) => ({ ...model, error: model.repo_id === SMOL ? error : null }));
    const { root } = open("Library", { ...scene("library"), library: { ...library, models } });
    expect(text(get(root, "alert"))).toContain("The disk cannot be read.");
    expect(all(root, "button", `Dismiss the error of Q4_K_M of ${SMOL}`)).toEqual([]);
  });

  it("removes leftovers that nobody uses", () => {
    const { root, request } = open("Library", scene("library"));
    click(get(root, "button", "Remove all leftovers…"));
    click(get(root, "button", "Really remove"));
    expect(request("act_on_library")?.params).toMatchObject({
      action: "remove_leftovers",
      leftovers: [scene("library").library.leftovers.find(({ is_in_use }) => !is_in_use)?.leftover_id],
    });
  });

  it("is shown where the Hub cannot be reached", () => {
    const { root } = show(scene("offline"));
    expect(get(root, "button", `Load Q4_K_M of ${SMOL}`)).toBeDefined();
  });

  it("counts bytes that models share once, and frees them with the last", () => {
    const [model] = MODELS as [LibraryRowView];
    const shared = { key: "b", size: 10, users: 2 };
    const a = { ...model, blobs: [{ key: "a", size: 5, users: 1 }, shared] };
    const b = { ...model, commit_hash: "f".repeat(40), blobs: [shared] };
    expect([freedBytes([a]), freedBytes([b]), freedBytes([a, b]), freedBytes([a, b], true)]).toEqual([5, 0, 15, 15]);
    expect(chooseModels(MODELS, "", "size")[0]?.size).toBe(4_683_074_240);
    expect(chooseModels(MODELS, "LLAMA q8", "name").map(({ repo_id }) => repo_id)).toEqual([LLAMA]);
  });
});

describe("the queue", () => {
  it("has an order that buttons change, and the focus goes along", async () => {
    const { root, acted, write } = open("Downloads", scene("queue"));
    const jobs = scene("queue").downloads.jobs;
    const up = get(root, "button", "Move up Q4_K_M of ggml-org/gemma-3-4b-it-GGUF");
    expect(get(root, "button", `Move up Q8_0 of ${LLAMA}`).getAttribute("aria-disabled")).toBe("true");
    up.focus();
    click(up);
    expect(acted("move_up")?.params).toEqual({ job_id: jobs[2]?.job_id, action: "move_up" });
    const place = [null, 1, 0, null, null];
    write({ downloads: { jobs: jobs.map((job, index) => ({ ...job, queue_position: place[index] ?? null })) } });
    await settle();
    expect([...root.querySelectorAll("li b")].map(text).slice(0, 3)).toEqual(["Q4_K_M", "Q4_K_M", "Q8_0"]);
    expect(nameOf(root.activeElement as Element)).toBe("Move up Q4_K_M of ggml-org/gemma-3-4b-it-GGUF");
  });

  it("has rows that Alt and an arrow key move, which keeps the focus and is announced", async () => {
    const { root, acted, write, model } = open("Downloads", scene("queue"));
    const jobs = scene("queue").downloads.jobs;
    const cancel = get(root, "button", `Cancel Q8_0 of ${LLAMA}`);
    const press = (key: string, altKey = true) =>
      act(() => void cancel.dispatchEvent(new KeyboardEvent("keydown", { key, altKey, bubbles: true })));
    cancel.focus();
    press("ArrowUp");
    press("ArrowDown", false);
    expect(acted("move_up") ?? acted("move_down"), "it is the first already").toBeUndefined();
    press("ArrowDown");
    expect(acted("move_down")?.params).toEqual({ job_id: jobs[1]?.job_id, action: "move_down" });
    const place = [null, 1, 0, null, null];
    write({ downloads: { jobs: jobs.map((job, index) => ({ ...job, queue_position: place[index] ?? null })) } });
    await settle();
    expect(root.activeElement).toBe(cancel);
    const said = [...root.querySelectorAll("[role=status]")].map(text);
    expect(said).toContain(`Q8_0 of ${LLAMA}: place 2 of 2 in the queue`);
    const running = get(root, "button", "Pause Q4_K_M of TheBloke/Mistral-7B-Instruct-v0.2-GGUF");
    const sent = model.sent.length;
    act(
      () => void running.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp", altKey: true, bubbles: true })),
    );
    expect(model.sent).toHaveLength(sent);
    const button = get(root, "button", `Move up Q8_0 of ${LLAMA}`);
    expect([button.title, button.getAttribute("aria-keyshortcuts")]).toEqual(["Move up (Alt+↑)", "Alt+ArrowUp"]);
  });

  it("has limits that can be changed", () => {
    const { root, request } = open("Downloads", scene("queue"));
    const [atOnce, bandwidth] = [...root.querySelectorAll<HTMLInputElement>("input[type=number]")];
    expect([atOnce && nameOf(atOnce), atOnce?.value, bandwidth?.value]).toEqual(["Downloads at once", "3", "20"]);
    enter(atOnce as HTMLElement, "5");
    expect(request("set_limits")?.params).toEqual({ max_active_jobs: 5, bandwidth_bytes_per_second: 20_000_000 });
    enter(bandwidth as HTMLElement, "");
    expect(request("set_limits")?.params, "the first is not answered yet").toEqual({
      max_active_jobs: 5,
      bandwidth_bytes_per_second: null,
    });
  });

  it("is paused, resumed and cleared as a whole", () => {
    const { root, request, write } = open("Downloads", scene("queue"));
    for (const [name, action] of [
      ["Pause all", "pause"],
      ["Resume all", "resume"],
      ["Dismiss", "dismiss"],
    ]) {
      click(get(root, "button", name));
      expect(request("act_on_downloads")?.params).toEqual({ action });
    }
    write({ downloads: { jobs: [job({ state: "paused" })] } });
    const pause = get(root, "button", "Pause all") as HTMLButtonElement;
    expect([pause.disabled, pause.getAttribute("aria-disabled")], "it keeps the focus").toEqual([false, "true"]);
  });

  it("says of a repair that it is one", () => {
    const { root } = open("Downloads", { view: view(), downloads: { jobs: [job({ purpose: "repair" })] } });
    expect(nameOf(get(root, "progressbar"))).toMatch(/^Repair of /);
  });
});

describe("load options", () => {
  it("show what would be taken and what it makes, and are sent with the load", async () => {
    const { root, request, acted } = open("Library", scene("library-options"));
    click(get(root, "button", `Load options of Q4_K_M of ${SMOL}`));
    await settle();
    expect(request("plan_load")?.params).toMatchObject({ repo_id: SMOL, choices: { n_ctx: null } });
    const context = root.querySelector<HTMLInputElement>(".options [aria-label='Context length']");
    expect(context?.placeholder).toBe("automatic (4096)");
    expect(root.querySelector(".options [aria-label='GPU layers']")).not.toBeNull();
    expect(text(root.querySelector(".options"))).toContain("fits: 0.30 of 7.2 GiB");
    enter(context as HTMLElement, "2048");
    expect(request("plan_load")?.params).toMatchObject({ choices: { n_ctx: 2048 } });
    const button = get(root, "button", `Load Q4_K_M of ${SMOL} with these options`);
    const threads = root.querySelector<HTMLInputElement>(".options [aria-label=Threads]");
    enter(threads as HTMLElement, "9");
    click(button);
    expect(acted("load"), "more threads than there are are refused").toBeUndefined();
    enter(threads as HTMLElement, "");
    click(button);
    expect(acted("load")?.params).toMatchObject({ choices: { n_ctx: 2048, n_threads: null, kv_type: null } });
  });

  it("keep what is being typed, and their own plan when other options are looked at", async () => {
    const { root, write } = open("Library", scene("library-options"));
    click(get(root, "button", `Load options of Q4_K_M of ${SMOL}`));
    await settle();
    const options = root.querySelector(".options");
    const context = options?.querySelector<HTMLInputElement>("[aria-label='Context length']") as HTMLInputElement;
    type(context, "20");
    const { plan } = scene("library-options");
    write({ plan: { ...plan, fit: { ...(plan.fit as FitEstimate), n_ctx: 8192 } } });
    expect(text(options)).toContain("at 8192 tokens");
    expect(context.value).toBe("20");
    write({ plan: { ...plan, repo_id: LLAMA, fit: null } });
    expect(text(options)).toContain("at 8192 tokens");
  });

  it("copy the code and the lock entry of what they make", async () => {
    const written: string[] = [];
    vi.stubGlobal("navigator", { clipboard: { writeText: async (text: string) => void written.push(text) } });
    const { root } = open("Library", scene("library-options"));
    click(get(root, "button", `Load options of Q4_K_M of ${SMOL}`));
    await settle();
    const code = scene("library-options").plan?.code;
    for (const name of ["code", "code without modeldeck", "lock entry"]) {
      click(get(root, "button", `Copy ${name} for Q4_K_M of ${SMOL}`));
    }
    await settle();
    expect(written).toEqual([code?.modeldeck, code?.llama_cpp, code?.lock_entry]);
    expect(text(root.querySelector(".options"))).toContain("Copied");
    vi.unstubAllGlobals();
  });
});

it("copies a lock entry in the row, and says so to those who do not see it", async () => {
  const given: Promise<Blob>[] = [];
  const take = async ([item]: Promise<Blob>[]) => {
    given.push(item as Promise<Blob>);
    await item;
  };
  vi.stubGlobal("navigator", { clipboard: { write: take } });
  vi.stubGlobal("ClipboardItem", function item(types: Record<string, Promise<Blob>>) {
    return types["text/plain"];
  });
  const { plan } = scene("library-options");
  const { root, model, request, write } = open("Library", { ...scene("library-options"), plan: EMPTY_STATE.plan });
  const button = get(root, "button", `Copy lock entry for Q4_K_M of ${SMOL}`);
  click(button);
  expect(given, "within the click, as WebKit demands").toHaveLength(1);
  write({ plan });
  act(() => model.answer(request("plan_load") as never));
  await settle();
  expect(await (await given[0])?.text()).toBe(plan.code?.lock_entry);
  expect(text(button.nextElementSibling)).toBe("Copied");
  click(button);
  act(() => model.refuse(request("plan_load") as never, "invalid_request", "No."));
  await settle();
  expect(text(button.nextElementSibling)).toBe("Copy failed");
  vi.unstubAllGlobals();
});

it("offers no lock entry without a kernel that can tell it", () => {
  const { root } = show(scene("library-options"), { isLive: false, isSaved: true });
  click(get(root, "tab", "Library"));
  expect(get(root, "button", `Copy lock entry for Q4_K_M of ${SMOL}`).matches(":disabled")).toBe(true);
});

it("copies what was loaded from its panel", () => {
  const { root } = show(scene("chat"));
  const copies = () => all(root, "button").filter((button) => / for Q4_K_M of /.test(nameOf(button)));
  expect(copies().map(nameOf)).toEqual(
    ["code", "code without modeldeck", "lock entry"].map((what) => `Copy ${what} for Q4_K_M of ${SMOL}`),
  );
  click(get(root, "tab", "Library"));
  expect(copies()).toHaveLength(2);
});

it("copies the lock entry and the code of a model whatever its state", async () => {
  const library = scene("library-options").library;
  const models = library.models.map((row) => ({ ...row, state: "loaded" as const, actions: ["unload" as const] }));
  const { root, request } = open("Library", { ...scene("library-options"), library: { ...library, models } });
  click(get(root, "button", `Load options of Q4_K_M of ${SMOL}`));
  await settle();
  expect(request("plan_load")?.params).toMatchObject({ repo_id: SMOL });
  expect(get(root, "button", `Copy lock entry for Q4_K_M of ${SMOL}`)).toBeDefined();
  expect(get(root, "button", `Copy code for Q4_K_M of ${SMOL}`)).toBeDefined();
  expect(get(root, "button", `Load Q4_K_M of ${SMOL} with these options`).matches(":disabled")).toBe(true);
});

it("removes one leftover after a question that says what comes free", () => {
  const { root, request } = open("Library", scene("library"));
  const { leftovers } = scene("library").library;
  const [stale] = leftovers.filter(({ is_in_use }) => !is_in_use);
  expect(root.querySelectorAll("details .row")).toHaveLength(2);
  click(get(root, "button", `Remove ${stale?.name}`));
  const sure = get(root, "button", `Really remove ${stale?.name}`);
  expect(text(sure)).toBe("Really remove 912 MB");
  click(sure);
  expect(request("act_on_library")?.params).toMatchObject({
    action: "remove_leftovers",
    leftovers: [stale?.leftover_id],
  });
});

describe("trying a model", () => {
  const names = { repo_id: SMOL, variant_id: "x", label: "Q4_K_M" };

  it("sends what is typed, and stops", async () => {
    const { root, request, write } = show(scene("chat"));
    const region = root.querySelector(`[aria-label='Try Q4_K_M of ${SMOL}']`) as HTMLElement;
    expect(text(region.querySelector("[role=log]"))).toContain("Why is the sky blue?");
    expect(text(region)).toContain("42 tokens/s");
    const box = region.querySelector("[aria-label=Message]") as HTMLTextAreaElement;
    type(box, " Hello? ");
    press(box, "Enter");
    expect(request("try")?.params).toEqual({ text: "Hello?", system: "", temperature: 0.7 });
    expect(box.value).toBe("");
    write({ chat: { ...scene("chat").chat, state: "answering" } });
    click(get(region, "button", "Stop"));
    expect(request("act_on_chat")?.params).toEqual({ action: "stop" });
    write({ chat: scene("chat-waiting").chat });
    expect(text(region)).toContain("Waiting: a cell is using the model");
  });

  it("gives the message back when it could not be sent", async () => {
    const { root, model, request } = show(scene("chat"));
    const box = root.querySelector("[aria-label=Message]") as HTMLTextAreaElement;
    type(box, "Hello?");
    press(box, "Enter");
    act(() => model.refuse(request("try") as never, "invalid_request", "No."));
    await settle();
    expect(box.value).toBe("Hello?");
  });

  it("compares two texts with an embedding model", () => {
    const { root, request } = show(scene("embedding"));
    expect(wholeText(root)).toContain("Similarity 0.83");
    type(root.querySelector("[aria-label='First text']") as HTMLElement, "a");
    type(root.querySelector("[aria-label='Second text']") as HTMLElement, "b");
    act(() => void root.querySelector(".trial form")?.dispatchEvent(new Event("submit", { cancelable: true })));
    expect(request("compare")?.params).toEqual({ first: "a", second: "b" });
  });

  it("goes on with a text for a base model, without a system prompt", () => {
    const { root } = show({ view: view(), load: load({ ...names, state: "ready", kind: "completion" }) });
    expect(root.querySelector("[aria-label=Message]")).not.toBeNull();
    expect(root.querySelector("[aria-label='System prompt']")).toBeNull();
  });
});
