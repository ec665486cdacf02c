import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import {
  DUMPED_SCENES,
  estimate,
  job,
  load,
  MODELS,
  repo,
  search,
  model as summary,
  toast,
  variant,
  view,
} from "../harness/samples";
import { NO_FILTERS } from "../src/filters";
import { languageOf } from "../src/texts/language";
import { meaningOf } from "../src/variant-list";
import type {
  AboutView,
  Action,
  CardToken,
  DeckState,
  DownloadState,
  Methods,
  RepoView,
  Request,
  SummaryView,
  VariantRowView,
  VariantState,
} from "../src/wire";
import { all, choose, click, get, type Mounted, nameOf, rowOf, settle, show, type } from "./dom";

const QWEN = "bartowski/Qwen2.5-7B-Instruct-GGUF";

const variants = [
  variant("Q8_0", { fit: estimate({ verdict: "too_large", needed_bytes: 9 * 2 ** 30, max_n_ctx: null }) }),
  variant("Q4_K_M", { sidecars: [{ kind: "mmproj", filename: "mmproj-F16.gguf", size: 1 }] }),
  variant("Q2_K", { state: "downloaded", filenames: ["a", "b", "c"] }),
];

const opened: Partial<DeckState> = {
  view: view(),
  search: search(MODELS),
  repos: { [QWEN]: repo(variants, { recommended: "model-Q4_K_M.gguf" }) },
};

const withJob = (changes: Parameters<typeof job>[0] = {}): Partial<DeckState> => ({
  ...opened,
  downloads: { jobs: [job(changes)] },
});

const wait = (milliseconds: number) =>
  act(async () => {
    await vi.advanceTimersByTimeAsync(milliseconds);
  });

const text = (element: Node | null | undefined) => (element?.textContent ?? "").replace(/\s+/g, " ").trim();

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe("header", () => {
  it("says what is browsed and what memory there is", () => {
    const { root, write } = show({ view: view() });
    expect(text(root.querySelector("header"))).toBe("modeldeckBrowsing huggingface.coAccount RAM 7.2 of 15.5 GiB free");
    write({ view: view({ endpoint: "http://127.0.0.1:8451/", is_default_endpoint: false, hardware: null }) });
    expect(text(root.querySelector("header"))).toBe("modeldeckBrowsing 127.0.0.1:8451Account");
  });
});

describe("filters", () => {
  const openFilters = (root: ParentNode) => {
    click(get(root, "button", "Filters"));
    return get(root, "group", "Filters");
  };
  const filtersOf = (request: Request | undefined) => (request?.params as Methods["search"] | undefined)?.filters;

  it("are sent to the Hub together, and are chips that can be taken off", () => {
    const { root, model, request } = show({ view: view(), search: search(MODELS, { text: "qwen" }) });
    const group = openFilters(root);
    choose(group, "Task", "chat");
    choose(group, "Model size", "4000000000-9000000000");
    choose(group, "Licence", "apache-2.0");
    choose(group, "Language", "pt");
    choose(group, "Quantization", "Q4_K_M");
    click(get(group, "checkbox", "Not gated"));
    const author = get(group, "textbox", "Author") as HTMLInputElement;
    act(() => {
      author.value = " bartowski ";
      author.dispatchEvent(new Event("change", { bubbles: true }));
    });
    const filters = {
      task: "chat",
      license: "apache-2.0",
      language: "pt",
      author: "bartowski",
      quantization: "Q4_K_M",
      is_open: true,
      min_parameters: 4e9,
      max_parameters: 9e9,
    };
    expect(request("search")?.params).toEqual({ text: "qwen", sort: "downloads", filters });
    act(() => {
      model.write({ search: search(MODELS, { text: "qwen", filters }) });
      model.answer(request("search") as never);
    });
    const chips = ["4B to 9B", "Chat", "apache-2.0", "Portuguese", "by bartowski", "Not gated", "Q4_K_M"];
    expect(all(root, "button").map(nameOf)).toEqual(
      expect.arrayContaining(chips.map((chip) => `Remove filter ${chip}`)),
    );
    click(get(root, "button", "Remove filter 4B to 9B"));
    expect(filtersOf(request("search"))).toEqual({ ...filters, min_parameters: null, max_parameters: null });
    click(get(root, "button", "Clear all filters"));
    expect(filtersOf(request("search"))).toEqual(NO_FILTERS);
  });

  it("that apply here hide results without a request, and say so", () => {
    const local = MODELS[1]?.repo_id as string;
    const found = search(MODELS, { text: "q", local: [local, "an/other"] });
    const { root, request, write } = show({ view: view(), search: found });
    const group = openFilters(root);
    expect(text(group)).toContain("Filtered here, among the results so far:");
    click(get(group, "checkbox", "On this machine"));
    expect(all(root, "heading").map(nameOf)).toEqual([local]);
    expect(text(root)).toContain(`1 model, ${MODELS.length - 1} hidden by filters`);
    const running = MODELS[2]?.repo_id as string;
    write({ downloads: { jobs: [job({ repo_id: running })] } });
    expect(all(root, "heading").map(nameOf)).toEqual([local, running]);
    click(get(root, "button", "Remove filter On this machine"));
    expect(all(root, "heading")).toHaveLength(MODELS.length);
    expect(request("search")).toBeUndefined();
  });

  it("close with Escape, and give the focus back to their button", () => {
    const { root } = show({ view: view() });
    const group = openFilters(root);
    expect(group.contains(root.activeElement)).toBe(true);
    act(() => void group.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true })));
    expect(all(root, "group", "Filters")).toEqual([]);
    const button = get(root, "button", "Filters");
    expect(root.activeElement).toBe(button);
    openFilters(root);
    act(() => void button.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true })));
    expect(all(root, "group", "Filters")).toEqual([]);
  });

  it("are named where nothing was found", () => {
    const filters = { ...NO_FILTERS, task: "vision" };
    const { root } = show({ view: view(), search: search([], { text: "qwen", filters }) });
    expect(text(root)).toContain("Take off a filter, or try fewer words.");
    expect(get(root, "button", "Remove filter Vision")).toBeDefined();
  });
});

describe("an empty box", () => {
  it("shows what is trending, until an order is chosen", async () => {
    const { root, request } = show({ view: view(), search: search(MODELS, { sort: "trending" }) });
    expect(text(root)).toContain(`${MODELS.length} models, trending on the Hub now`);
    type(get(root, "searchbox"), "qwen");
    await vi.advanceTimersByTimeAsync(300);
    expect(request("search")?.params).toMatchObject({ text: "qwen", sort: "downloads" });
    type(get(root, "searchbox"), "");
    await vi.advanceTimersByTimeAsync(300);
    expect(request("search")?.params).toMatchObject({ text: "", sort: "trending" });
    choose(root, "Sort by", "created");
    type(get(root, "searchbox"), "llama");
    await vi.advanceTimersByTimeAsync(300);
    expect(request("search")?.params).toMatchObject({ text: "llama", sort: "created" });
  });

  it("offers the searches that led somewhere", async () => {
    localStorage.setItem("modeldeck-recent-searches", '["smollm2"]');
    onTestFinished(() => localStorage.clear());
    const { root, request, write } = show({ view: view(), search: search(MODELS, { text: "qwen" }) });
    expect(all(root, "button", "Search for smollm2")).toEqual([]);
    click(get(root, "button", `Show files of ${QWEN}`));
    write({ search: search(MODELS) });
    await settle();
    expect(all(root, "button").map(nameOf)).toEqual(expect.arrayContaining(["Search for qwen", "Search for smollm2"]));
    click(get(root, "button", "Search for smollm2"));
    expect(request("search")?.params).toMatchObject({ text: "smollm2" });
  });

  it("does not search for what is shown already", async () => {
    const { root, request } = show({ view: view(), search: search(MODELS, { text: "qwen" }) });
    type(get(root, "searchbox"), "qwe");
    type(get(root, "searchbox"), "qwen");
    await vi.advanceTimersByTimeAsync(300);
    expect(request("search")).toBeUndefined();
  });
});

describe("search", () => {
  it("starts 300 ms after the last key", async () => {
    const { root, request } = show({ view: view() });
    const box = get(root, "searchbox", "Search models");
    type(box, "sm");
    await vi.advanceTimersByTimeAsync(200);
    type(box, "smollm2 ");
    await vi.advanceTimersByTimeAsync(299);
    expect(request("search")).toBeUndefined();
    await vi.advanceTimersByTimeAsync(2);
    expect(request("search")?.params).toEqual({ text: "smollm2", sort: "downloads", filters: NO_FILTERS });
  });

  it("starts at once with Enter, and only once", async () => {
    const { root, model, request } = show({ view: view() });
    type(get(root, "searchbox"), "qwen");
    act(() => {
      root.querySelector("form")?.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true }));
    });
    expect(request("search")?.params).toEqual({ text: "qwen", sort: "downloads", filters: NO_FILTERS });
    await vi.advanceTimersByTimeAsync(500);
    expect(model.sent.filter(({ method, id }) => method === "search" && id !== request("search")?.id)).toEqual([]);
  });

  it("follows another view, but not while somebody types", async () => {
    const { root, write } = show({ view: view(), search: search(MODELS, { text: "qwen" }) });
    const box = get(root, "searchbox") as HTMLInputElement;
    expect(box.value).toBe("qwen");
    write({ search: search([], { text: "llama" }) });
    await settle();
    expect(box.value).toBe("llama");
    box.focus();
    type(box, "gemma");
    write({ search: search([], { text: "gem" }) });
    await settle();
    expect(box.value).toBe("gemma");
  });

  it("searches for what was typed last, also when an older search arrives after the box was left", async () => {
    const { root, request, write } = show({ view: view() });
    const box = get(root, "searchbox") as HTMLInputElement;
    box.focus();
    type(box, "qwen");
    await vi.advanceTimersByTimeAsync(300);
    type(box, "qwen3");
    box.blur();
    write({ search: search([], { text: "qwen", state: "searching" }) });
    await settle();
    expect(box.value).toBe("qwen3");
    await vi.advanceTimersByTimeAsync(300);
    expect(request("search")?.params).toEqual({ text: "qwen3", sort: "downloads", filters: NO_FILTERS });
    write({ search: search([], { text: "llama" }) });
    await settle();
    expect(box.value).toBe("llama");
  });

  it("keeps the order that was chosen while Python has not answered, and searches once", async () => {
    const { root, model } = show({ view: view() });
    type(get(root, "searchbox"), "qwen");
    choose(root, "Sort by", "likes");
    await vi.advanceTimersByTimeAsync(300);
    type(get(root, "searchbox"), "qwen3");
    await vi.advanceTimersByTimeAsync(300);
    expect(model.sent.filter(({ method }) => method === "search").map(({ params }) => params)).toEqual([
      { text: "qwen", sort: "likes", filters: NO_FILTERS },
      { text: "qwen3", sort: "likes", filters: NO_FILTERS },
    ]);
  });

  it("sorts, sets the context length, and filters", () => {
    const large = summary("a/large", { parameter_count: 70e9 });
    const { root, request, model } = show({ ...opened, search: search([...MODELS.slice(0, 2), large], { text: "x" }) });
    choose(root, "Sort by", "likes");
    expect(request("search")?.params).toEqual({ text: "x", sort: "likes", filters: NO_FILTERS });
    choose(root, "Context length", "16384");
    expect(request("set_n_ctx")?.params).toEqual({ n_ctx: 16_384 });
    act(() => model.answer(model.sent.find(({ method }) => method === "search") as never));

    const check = root.querySelector("input[type=checkbox]") as HTMLInputElement;
    expect(text(check.closest("label"))).toBe("Fits here");
    click(check);
    expect(all(root, "heading").map(nameOf)).not.toContain("a/large");
    expect(rowOf(root, "Q8_0")).toBeUndefined();
    expect(rowOf(root, "Q2_K")).toBeDefined();
    expect(text(root)).toContain("1 that cannot run on this machine, hidden by “Fits here”.");
    click(get(root, "button", "Show all"));
    expect(rowOf(root, "Q8_0")).toBeDefined();
  });

  it("shows the chosen context length while Python has not answered, and Python's when it refuses", async () => {
    const { root, model, request } = show({ view: view() });
    const select = get(root, "combobox", "Context length") as HTMLSelectElement;
    choose(root, "Context length", "16384");
    await settle();
    expect(select.value).toBe("16384");
    act(() => model.refuse(request("set_n_ctx") as never, "protocol", "No."));
    await settle();
    expect(select.value).toBe("4096");
  });

  it("offers a context length of its own that Python has", () => {
    const { root } = show({ view: view({ n_ctx: 5000 }) });
    const select = get(root, "combobox", "Context length") as HTMLSelectElement;
    expect(select.value).toBe("5000");
    expect([...select.options].map(({ value }) => value).slice(0, 4)).toEqual(["2048", "4096", "5000", "8192"]);
  });

  it("shows that it searches, that nothing was found, and how many were", async () => {
    const { root, write } = show({ view: view() });
    await settle();
    const results = root.querySelector("[aria-label=Results]");
    expect(text(results)).toBe("Type to search the Hub for GGUF models");
    write({ search: search([], { state: "searching" }) });
    expect(results?.getAttribute("aria-busy")).toBe("true");
    expect(text(results)).toBe("Searching…");
    write({ search: search([], { text: "xyz" }) });
    expect(results?.getAttribute("aria-busy")).toBe("false");
    expect(text(results)).toContain("No GGUF models for “xyz”");
    write({ search: search(MODELS) });
    expect(text(results?.querySelector("p"))).toBe("6 models");
    write({ search: search(MODELS.slice(0, 1), { has_more: true }) });
    expect(text(results?.querySelector("p"))).toBe("First 1 model");
  });

  it("keeps a failed search in place, with a way to try again", () => {
    const error = { code: "offline", message: "The Hub cannot be reached.", details: {} };
    const { root, request } = show({
      view: view(),
      search: search([], { state: "failed", text: "qwen", sort: "likes", error }),
    });
    expect(text(get(root, "alert"))).toContain("The Hub cannot be reached.");
    click(get(root, "button", "Retry the search"));
    expect(request("search")?.params).toEqual({ text: "qwen", sort: "likes", filters: NO_FILTERS });
  });

  it("loads more", () => {
    const { root, model, request } = show({ view: view(), search: search(MODELS, { has_more: true }) });
    click(get(root, "button", "Load more"));
    expect(request("search_more")?.params).toEqual({});
    click(get(root, "button", "Loading…"));
    expect(model.sent.filter(({ method }) => method === "search_more")).toHaveLength(1);
  });

  it("says beside the button why there is no more, and keeps what it has", () => {
    const error = { code: "offline", message: "The Hub cannot be reached.", details: {} };
    const { root } = show({ view: view(), search: search(MODELS, { state: "failed", error, has_more: true }) });
    const more = get(root, "button", "Load more");
    const alert = get(root, "alert");
    const isBefore = (a: Node | null, b: Node) =>
      !!a && (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING) > 0;
    expect(isBefore(root.querySelector(".card:last-child"), alert)).toBe(true);
    expect(isBefore(alert, more)).toBe(true);
    expect(all(root, "button", "Retry the search")).toEqual([]);
  });
});

describe("cards", () => {
  it("are list items with the repo id as heading, and facts", () => {
    const { root } = show({ view: view(), search: search(MODELS.slice(2, 3)) });
    const card = root.querySelector(".card") as HTMLElement;
    expect(card.querySelector("h3")?.textContent).toBe("ggml-org/gemma-3-4b-it-GGUF");
    const facts = text(card.querySelector("p"));
    for (const fact of ["gated", "3.9B", "gemma3", "128K context", "gemma", "311k", "207", "Updated"]) {
      expect(facts).toContain(fact);
    }
    expect(get(card, "link").getAttribute("href")).toBe("https://huggingface.co/ggml-org/gemma-3-4b-it-GGUF");
  });

  it("have no link where the endpoint has no pages", () => {
    const { root } = show({ view: view({ endpoint: "http://127.0.0.1:1" }), search: search(MODELS) });
    expect(all(root, "link")).toEqual([]);
  });

  it("unfold and fold", async () => {
    const { root, write, request } = show({ view: view(), search: search(MODELS) });
    const button = get(root, "button", `Show files of ${QWEN}`);
    expect(button.getAttribute("aria-expanded")).toBe("false");
    click(button);
    expect(button.getAttribute("aria-expanded")).toBe("true");
    expect(request("open_repo")?.params).toEqual({ repo_id: QWEN });
    expect(text(button.closest(".card"))).toContain("Reading the list of files…");
    await wait(800);
    expect(text(button.closest(".card"))).toContain("Waiting for the running cell to finish");
    write(opened);
    expect(root.querySelectorAll("li.row")).toHaveLength(3);
    click(button);
    expect(button.getAttribute("aria-expanded")).toBe("false");
    expect(root.querySelectorAll("li.row")).toHaveLength(0);
    expect(request("close_repo")?.params).toEqual({ repo_id: QWEN });
  });

  it("unfold and fold by a click beside the button too, but not by one on a link or while the button is off", () => {
    const { root, model } = show({ view: view(), search: search(MODELS) });
    const card = root.querySelector(".card") as HTMLElement;
    const button = get(card, "button", `Show files of ${QWEN}`);
    const isUnfolded = () => button.getAttribute("aria-expanded") === "true";
    click(get(card, "heading"));
    expect(isUnfolded()).toBe(true);
    const link = get(card, "link");
    link.addEventListener("click", (event) => event.preventDefault());
    click(link);
    expect(isUnfolded()).toBe(true);
    click(get(card, "heading"));
    expect(isUnfolded()).toBe(false);
    expect(model.sent.map(({ method }) => method).slice(1)).toEqual(["open_repo", "close_repo"]);
    act(() => {
      model.isDead = true;
      model.trigger("comm_live_update");
    });
    click(get(card, "heading"));
    expect(isUnfolded()).toBe(false);
  });

  it("say why they could not be opened, with the licence's address and a way to try again", () => {
    const error = {
      code: "gated",
      message: "Accept the licence first.",
      details: { url: "https://huggingface.co/a/b" },
    };
    const { root, request } = show({
      view: view(),
      search: search(MODELS),
      repos: { [QWEN]: repo([], { state: "failed", error }) },
    });
    const alert = get(root, "alert");
    expect(text(alert)).toContain("Accept the licence first.");
    expect(get(alert, "link").getAttribute("href")).toBe("https://huggingface.co/a/b");
    click(get(alert, "button", `Retry ${QWEN}`));
    expect(request("open_repo")?.params).toEqual({ repo_id: QWEN });
  });

  it.each([
    [false, false, true],
    [false, true, false],
    [true, false, false],
    [null, null, false],
  ])("chat template %s, embedding %s: a base model is told: %s", (has_chat_template, is_embedding, isTold) => {
    const model = { is_embedding, has_chat_template };
    const { root } = show({ ...opened, repos: { [QWEN]: repo([variant("Q4_K_M")], { model }) } });
    expect(text(root).includes("a base model, for completion rather than chat")).toBe(isTold);
  });

  it("show text of the Hub as text", () => {
    const evil = '<img src=x onerror="alert(1)">';
    const { root } = show({
      view: view({ endpoint: evil }),
      search: search([
        summary(`a/${evil}`, {
          license: evil,
          license_url: "javascript:alert(1)",
          architecture: evil,
          base_model: evil,
        }),
      ]),
      repos: {
        [`a/${evil}`]: repo([variant(evil, { filenames: [evil] })], {
          steps: [{ code: "gated_accept", text: evil, state: "now", url: "javascript:alert(1)" }],
        }),
      },
    });
    expect(root.querySelector("img")).toBeNull();
    expect(root.querySelector("h3")?.textContent).toBe(`a/${evil}`);
    expect(all(root, "link")).toEqual([]);
  });
});

it("has a box for what goes with every file, which leaves it out", () => {
  const { root, request, write } = show(DUMPED_SCENES.long as DeckState);
  const repoId = "unsloth/Llama-3.2-3B-Instruct-GGUF";
  const box = get(root, "checkbox", "With each file: vision projector, 1.35 GB") as HTMLInputElement;
  expect(box.checked).toBe(true);
  click(box);
  expect(request("set_projector")?.params).toEqual({ repo_id: repoId, is_wanted: false });
  const before = (DUMPED_SCENES.long as DeckState).repos[repoId] as RepoView;
  write({ repos: { [repoId]: { ...before, has_projector: false } } });
  expect(box.checked).toBe(false);
});

describe("the account", () => {
  it("is looked at when it is opened, and says its name, what the token may read and where tokens are made", () => {
    const { root, request, write } = show({ ...(DUMPED_SCENES["no-account"] as DeckState) });
    expect(request("look_at_account")).toBeUndefined();
    click(get(root, "button", "Account"));
    expect(request("look_at_account")).toBeDefined();
    expect(text(get(root, "region", "Account"))).toContain("No token is in use.");
    write({ account: (DUMPED_SCENES.gated as DeckState).account });
    const region = get(root, "region", "Account");
    expect(text(region)).toContain("The token in use belongs to ana-souza.");
    expect(text(region)).toContain("It may read gated models");
    expect(get(region, "link", "Tokens on the Hub (opens in a new tab)")).toBeDefined();
    click(get(root, "button", "Account ana-souza"));
    expect(all(root, "region").map(nameOf)).not.toContain("Account");
  });

  it("says that its token is refused, and asks again on request", () => {
    const { root, model } = show(DUMPED_SCENES.account as DeckState);
    click(get(root, "button", "Account"));
    expect(text(get(root, "alert"))).toContain("does not accept the token");
    click(get(root, "button", "Retry Account"));
    expect(model.sent.filter(({ method }) => method === "look_at_account")).toHaveLength(2);
  });

  it("has the steps to a gated model in order, with the one to do now, and asks the Hub again", () => {
    const GEMMA = "ggml-org/gemma-3-4b-it-GGUF";
    const { root, model } = show(DUMPED_SCENES.gated as DeckState);
    const steps = [...root.querySelectorAll<HTMLElement>(".steps li")];
    expect(steps.map((step) => [step.dataset.state, step.getAttribute("aria-current")])).toEqual([
      ["done", null],
      ["now", "step"],
      ["later", null],
    ]);
    expect(text(steps[1])).toContain("Accept the conditions on the model's page.");
    expect(steps[1]?.querySelector("a")?.href).toBe(`https://huggingface.co/${GEMMA}`);
    click(get(root, "button", "Check again"));
    expect(model.sent.at(-1)).toMatchObject({ method: "open_repo", params: { repo_id: GEMMA } });
  });
});

describe("a long list of files", () => {
  const LLAMA = "unsloth/Llama-3.2-3B-Instruct-GGUF";
  const rows = (root: ParentNode) => [...root.querySelectorAll("li.row b")].map((label) => label.textContent);
  const long = DUMPED_SCENES.long as DeckState;

  it("begins with the recommended one and its neighbours, and unfolds to all in groups", () => {
    const { root } = show(long);
    expect(rows(root)).toEqual(["Q6_K", "Q5_K_L", "Q5_K_M", "Q5_K_S", "Q4_K_L"]);
    click(get(root, "button", `Show all 28 files of ${LLAMA}`));
    expect(rows(root)).toHaveLength(28);
    expect([...root.querySelectorAll("h4")].map(text)).toEqual([
      "Full precision",
      "8 bits",
      "6 bits",
      "5 bits",
      "4 bits",
      "3 bits",
      "2 bits",
    ]);
    click(get(root, "button", `Show fewer files of ${LLAMA}`));
    expect(rows(root)).toHaveLength(5);
  });

  it("keeps what is downloaded or being downloaded in sight", () => {
    const repo = long.repos[LLAMA] as RepoView;
    const last = repo.variants.at(-1) as VariantRowView;
    const [first] = repo.variants as [VariantRowView];
    const variants = repo.variants.map((each) => (each === first ? { ...each, state: "downloaded" as const } : each));
    const { root } = show({
      ...long,
      repos: { [LLAMA]: { ...repo, variants } },
      downloads: { jobs: [job({ repo_id: LLAMA, variant_id: last.variant_id, label: last.label })] },
    });
    expect(rows(root)).toEqual(["BF16", "Q6_K", "Q5_K_L", "Q5_K_M", "Q5_K_S", "Q4_K_L", "IQ2_XXS"]);
  });

  it("says once what goes with all, and which split models are incomplete", () => {
    const { root } = show(long);
    expect(text(root).match(/vision projector/g)).toHaveLength(1);
    expect(text(root)).toContain("With each file: vision projector, 1.35 GB");
    expect(text(root)).toContain("F32/Llama-3.1-8B-F32: the Hub has only 3 of its 4 parts, so it cannot be used.");
  });

  it("explains a label to those who point at it or reach it with the keyboard", () => {
    const { root } = show(long);
    const label = rowOf(root, "Q5_K_M").querySelector("[tabindex='0']") as HTMLElement;
    act(() => label.focus());
    expect(text(get(root, "tooltip"))).toBe("5 bits, k-quants, medium mix. Close to the original.");
    expect(label.getAttribute("aria-describedby")).toBe(get(root, "tooltip").id);
    act(() => void label.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true })));
    expect(all(root, "tooltip")).toEqual([]);
    act(() => void label.dispatchEvent(new Event("pointerenter")));
    expect(all(root, "tooltip")).toHaveLength(1);
    act(() => void label.dispatchEvent(new Event("pointerleave")));
    expect(all(root, "tooltip")).toEqual([]);
  });

  it.each([
    ["UD-Q4_K_XL", "4 bits, k-quants, large mix, which keeps important tensors in more bits, chosen layer by layer"],
    ["IQ2_XXS", "2 bits, i-quants, small for their quality and slower on a CPU, small mix."],
    ["Q8_0", "8 bits, an older and simpler method. Practically the original."],
    ["MXFP4", "4 bits, 4-bit floating point."],
    ["fp16", "Full precision. The original weights."],
  ])("%s means %s", (label, meaning) => {
    expect(meaningOf(label, languageOf("en"))).toContain(meaning);
  });

  it("does not explain what nobody knows", () => {
    expect(meaningOf("model", languageOf("en"))).toBeNull();
    expect(meaningOf("Q7", languageOf("en"))).toBeNull();
  });
});

describe("about a model", () => {
  const card = (tokens: Partial<CardToken>[], changes: Partial<AboutView> = {}): AboutView => ({
    state: "open",
    error: null,
    is_cut: false,
    tokens: tokens.map((token) => ({ tag: "text", nesting: 0, text: "", url: null, ...token })),
    ...changes,
  });
  const about = (root: ParentNode) => get(root, "region", `About ${QWEN}`);

  it("tells the licence in plain words, what it was made from, its languages and its task", () => {
    const { root } = show(opened);
    expect(text(about(root))).toContain("Licenceapache-2.0 (opens in a new tab): free to use, also commercially");
    expect(text(about(root))).toContain("Base modelquantized from Qwen/Qwen2.5-7B-Instruct");
    expect(text(about(root))).toContain("LanguagesEnglish, Portuguese");
    expect(text(about(root))).toContain("TaskText generation");
  });

  it("asks for the model card, and shows it as elements and text", () => {
    const { root, request, write } = show(opened);
    click(get(root, "button", `About ${QWEN}`));
    expect(request("open_about")?.params).toEqual({ repo_id: QWEN });
    write({ about: { [QWEN]: { ...card([]), state: "opening" } } });
    expect(text(about(root))).toContain("Reading the model card…");
    write({
      about: {
        [QWEN]: card(
          [
            { tag: "h1", text: "<img src=x>" },
            { tag: "p", nesting: 1 },
            { text: "See " },
            { tag: "a", nesting: 1, url: "https://example.org/" },
            { tag: "strong", text: "this" },
            { tag: "a", nesting: -1 },
            { tag: "a", nesting: 1, url: "javascript:alert(1)" },
            { text: " and that" },
            { tag: "a", nesting: -1 },
            { tag: "p", nesting: -1 },
            { tag: "img", text: "A chart" },
            { tag: "pre", text: "x = 1" },
            { tag: "script" as "p", text: "alert(1)" },
            { tag: "ul", nesting: 1 },
            { tag: "li", text: "not closed" },
          ],
          { is_cut: true },
        ),
      },
    });
    const shown = about(root).querySelector(".card-text") as HTMLElement;
    expect(nameOf(get(shown, "heading"))).toBe("<img src=x>");
    expect(all(shown, "link").map((link) => link.getAttribute("href"))).toEqual(["https://example.org/"]);
    expect(text(shown)).toContain("this (opens in a new tab) and that");
    expect(text(shown)).toContain("[image: A chart]");
    expect(shown.querySelectorAll("img, script, h1")).toHaveLength(0);
    expect(shown.querySelector("ul > li")?.textContent).toBe("not closed");
    expect(text(about(root))).toContain("The rest of the model card is on the Hub.");
    click(get(root, "button", `About ${QWEN}`));
    expect(request("close_about")?.params).toEqual({ repo_id: QWEN });
  });

  it("says why there is none, with a way to try again", () => {
    const error = { code: "file_not_found", message: "There is no model card.", details: {} };
    const { root, request } = show({ ...opened, about: { [QWEN]: card([], { state: "failed", error }) } });
    expect(text(get(about(root), "alert"))).toContain("There is no model card.");
    click(get(root, "button", `Retry About ${QWEN}`));
    expect(request("open_about")).toBeDefined();
  });
});

describe("the short way", () => {
  const [first] = MODELS as [SummaryView];
  const name = `Q2_K of ${first.repo_id}`;
  const picked = (state: VariantState): Partial<DeckState> => ({
    view: view(),
    search: search(MODELS),
    picks: { [first.repo_id]: variant("Q2_K", { state }) },
  });

  afterEach(() => localStorage.clear());

  it("asks for the first card by itself, and for another when somebody points at it", async () => {
    const { root, model } = show({ view: view(), search: search(MODELS) });
    const peeked = () => model.sent.filter(({ method }) => method === "peek").map(({ params }) => params);
    await wait(1000);
    const ids = [...new Set(peeked().map((params) => (params as { repo_id: string }).repo_id))];
    expect(ids).toEqual([first.repo_id]);
    act(() => void root.querySelectorAll(".card")[2]?.dispatchEvent(new Event("pointerenter")));
    await wait(200);
    expect(peeked().at(-1)).toEqual({ repo_id: MODELS[2]?.repo_id });
  });

  it("gets the recommended variant, with its size, and loads it when it is ready", () => {
    const { root, acted } = show(picked("available"));
    const button = get(root, "button", `Get ${name}`);
    expect(text(button)).toBe(`Get ${name}4.68 GB`);
    click(button);
    expect(acted("get")?.params).toMatchObject({ repo_id: first.repo_id, variant_id: "model-Q2_K.gguf" });
    expect(button.getAttribute("aria-disabled")).toBe("true");
  });

  it("only downloads when Load when ready is off, also on the next page", () => {
    const one = show(picked("available"));
    const boxes = [...one.root.querySelectorAll<HTMLInputElement>("input[type=checkbox]")];
    const box = boxes.find((each) => text(each.closest("label")) === "Load when ready") as HTMLInputElement;
    expect(box.checked).toBe(true);
    click(box);
    const two = show(picked("available"));
    click(get(two.root, "button", `Get ${name}`));
    expect(two.acted("get")).toBeUndefined();
    expect(two.acted("download")).toBeDefined();
  });

  it("loads what is here, unloads what is loaded, and leaves both to the rows of an unfolded card", () => {
    const { root, write, acted } = show(picked("downloaded"));
    click(get(root, "button", `Load ${name}`));
    expect(acted("load")).toBeDefined();
    write(picked("loaded"));
    click(get(root, "button", `Unload ${name}`));
    expect(acted("unload")).toBeDefined();
    write({ repos: { [first.repo_id]: repo([variant("Q2_K", { state: "loaded" })]) } });
    expect(all(root, "button", `Unload ${name}`)).toHaveLength(1);
  });

  it("shows how far the download is, and why it was refused", async () => {
    const { root, write, model, acted } = show(picked("available"));
    click(get(root, "button", `Get ${name}`));
    model.refuse(acted("get") as never, "gated", "Accept the licence first.");
    await settle();
    expect(text(get(root, "alert"))).toContain("Accept the licence first.");
    write({ picks: { [first.repo_id]: variant("Q4_K_M") } });
    expect(text(get(root, "alert")), "another one is recommended now").toContain("Accept the licence first.");
    write(picked("available"));
    write({ downloads: { jobs: [job({ variant_id: "model-Q2_K.gguf", label: "Q2_K" })] } });
    expect(text(root.querySelector(".card"))).toContain("25 %");
    expect(all(root, "button", `Get ${name}`)).toEqual([]);
    expect(root.querySelector("section[aria-label=Downloads]"), "nothing appears above the card").toBeNull();
  });
});

describe("rows", () => {
  it("tell the expected speed, unless this file has been run here", () => {
    const fit = estimate({ tokens_per_second: 12.3, speed_source: "estimated" });
    const measured = { load_seconds: 0.3, tokens_per_second: 9.4 };
    const rows = [variant("Q4_K_M", { fit }), variant("Q2_K", { fit, measured })];
    const { root } = show({ ...opened, repos: { [QWEN]: repo(rows) } });
    expect(text(rowOf(root, "Q4_K_M"))).toContain("about 12 tokens/s");
    expect(text(rowOf(root, "Q2_K"))).toContain("9.4 tokens/s, loaded in 0.3 s last time");
    expect(text(rowOf(root, "Q2_K"))).not.toContain("about 12");
  });

  it("tell why a variant cannot be used", () => {
    const fit = estimate({ verdict: "unusable", needed_bytes: null, reason: "It is damaged.", reason_code: "damaged" });
    const { root } = show({ ...opened, repos: { [QWEN]: repo([variant("Q2_K", { fit })]) } });
    expect(text(rowOf(root, "Q2_K"))).toContain("not usableIt is damaged.");
  });

  it("tell label, size, fit, what is recommended, and what comes with it", () => {
    const { root } = show(opened);
    expect(text(rowOf(root, "Q4_K_M"))).toBe(
      "Q4_K_M4.68 GBfits: 1.9 of 7.2 GiB at 4096 tokensRecommended+ vision projector" +
        "The best quality that still answers at reading pace on this machine: about 8 tokens/s.Download",
    );
    expect(text(rowOf(root, "Q8_0"))).toBe("Q8_04.68 GBtoo large: 9.0 of 7.2 GiB at 4096 tokensDownload");
    expect(text(rowOf(root, "Q2_K"))).toContain("On this machine3 files");
    expect(rowOf(root, "Q4_K_M").dataset.state).toBe("available");
    expect(rowOf(root, "Q2_K").dataset.state).toBe("downloaded");
  });

  it("name their buttons after the variant", () => {
    const { root, acted } = show(opened);
    click(get(root, "button", `Download Q4_K_M of ${QWEN}`));
    const ids = (variant_id: string) => ({ repo_id: QWEN, variant_id });
    expect(acted("download")?.params).toEqual({ ...ids("model-Q4_K_M.gguf"), action: "download" });
    click(get(root, "button", `Load Q2_K of ${QWEN}`));
    expect(acted("load")?.params).toEqual({ ...ids("model-Q2_K.gguf"), action: "load" });
  });

  it("name them uniquely when two variants share a label", () => {
    const twins = ["a/model.gguf", "b/model.gguf"].map((variant_id) => variant("Q4_K_M", { variant_id }));
    const { root } = show({ ...opened, repos: { [QWEN]: repo(twins) } });
    for (const { variant_id } of twins) {
      expect(get(root, "button", `Download Q4_K_M (${variant_id}) of ${QWEN}`)).toBeDefined();
      expect(text(root)).toContain(variant_id);
    }
  });

  it("show a running download with its bar and buttons", () => {
    const { root, write } = show(withJob());
    const row = rowOf(root, "Q4_K_M");
    expect(row.dataset.state).toBe("downloading");
    const bar = get(row, "progressbar", `Download of Q4_K_M of ${QWEN}`);
    expect(bar.getAttribute("aria-valuenow")).toBe("25");
    expect(bar.getAttribute("aria-valuetext")).toBe("1.2 of 4.7 GB, 31 MB/s, 2 minutes left");
    expect(text(row)).toContain("25 %1.2 of 4.7 GB31 MB/s2 minutes left");
    expect(all(row, "button").map(nameOf)).toEqual([`Pause Q4_K_M of ${QWEN}`, `Cancel Q4_K_M of ${QWEN}`]);
    write(withJob({ percent: null, total: null, received: 0, state: "queued" }));
    expect(bar.hasAttribute("aria-valuenow")).toBe(false);
    expect(bar.getAttribute("aria-valuetext")).toBe("Waiting in the queue");
  });

  it.each<[Action, DownloadState]>([
    ["pause", "downloading"],
    ["resume", "paused"],
    ["cancel", "paused"],
    ["retry", "failed"],
    ["cancel", "failed"],
    ["dismiss", "failed"],
  ])("%s by job id", (action, state) => {
    const { root, acted } = show(withJob({ state }));
    const verb = `${action[0]?.toUpperCase()}${action.slice(1)}`;
    click(get(root, "button", `${verb} Q4_K_M of ${QWEN}`));
    expect(acted(action)?.params).toEqual({ job_id: "job-1", action });
  });

  it("give way to the variant once the job is ready", () => {
    const { root } = show({ ...withJob({ state: "ready", percent: 100, variant_id: "model-Q2_K.gguf" }) });
    expect(rowOf(root, "Q2_K").dataset.state).toBe("downloaded");
    expect(all(root, "progressbar")).toEqual([]);
  });

  it("keep the error of a failed download, with what is missing", () => {
    const error = { code: "disk_full", message: "Not enough room.", details: { needed_bytes: 4.7e9, free_bytes: 1e9 } };
    const { root } = show(withJob({ state: "failed", error }));
    const alert = get(rowOf(root, "Q4_K_M"), "alert");
    expect(text(alert)).toBe("Not enough room. Needed: 4.7 GB, free: 1 GB");
    expect(alert.dataset.code).toBe("disk_full");
  });

  it("show a refused request until it is dismissed", async () => {
    const { root, model, acted } = show(opened);
    click(get(root, "button", `Download Q4_K_M of ${QWEN}`));
    model.refuse(acted("download") as never, "ambiguous_variant", "Which one?", { choices: ["a.gguf", "b.gguf"] });
    await settle();
    expect(text(get(rowOf(root, "Q4_K_M"), "alert"))).toBe("Which one? Choices: a.gguf, b.gguf");
    click(get(root, "button", `Dismiss the error of Q4_K_M of ${QWEN}`));
    expect(all(root, "alert")).toEqual([]);
  });

  it("say when a click waits for the running cell, and do not send it twice", async () => {
    const { root, model } = show(opened);
    const button = get(root, "button", `Download Q4_K_M of ${QWEN}`);
    click(button);
    expect(button.getAttribute("aria-disabled")).toBe("true");
    click(button);
    await wait(800);
    expect(text(rowOf(root, "Q4_K_M"))).toContain("Waiting for the running cell to finish");
    expect(new Set(model.sent.filter(({ method }) => method === "act_on_variant").map(({ id }) => id)).size).toBe(1);
  });

  it("do not cancel a download by the second click of the double click that began it", () => {
    const { root, write, acted } = show(opened);
    const clickAs = (detail: number, name: string) =>
      act(() => {
        get(root, "button", name).dispatchEvent(new MouseEvent("click", { bubbles: true, detail }));
      });
    clickAs(1, `Download Q4_K_M of ${QWEN}`);
    expect(acted("download")).toBeDefined();
    write(withJob());
    clickAs(2, `Cancel Q4_K_M of ${QWEN}`);
    expect(acted("cancel")).toBeUndefined();
    clickAs(1, `Cancel Q4_K_M of ${QWEN}`);
    expect(acted("cancel")).toBeDefined();
  });

  it("ask before they remove, in place", () => {
    const { root, acted } = show(opened);
    click(get(root, "button", `Remove Q2_K of ${QWEN}`));
    expect(acted("remove")).toBeUndefined();
    click(get(root, "button", `Keep Q2_K of ${QWEN}`));
    expect(acted("remove")).toBeUndefined();
    click(get(root, "button", `Remove Q2_K of ${QWEN}`));
    act(() => {
      const keep = get(root, "button", `Keep Q2_K of ${QWEN}`);
      keep.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    });
    expect(acted("remove")).toBeUndefined();
    click(get(root, "button", `Remove Q2_K of ${QWEN}`));
    click(get(root, "button", `Really remove Q2_K of ${QWEN}`));
    expect(acted("remove")?.params).toEqual({ repo_id: QWEN, variant_id: "model-Q2_K.gguf", action: "remove" });
  });

  it("redraw only what moved", async () => {
    const jobs = variants.map(({ variant_id, label }) => job({ job_id: label, variant_id, label }));
    const { root, write } = show({ ...opened, downloads: { jobs } });
    await settle();
    const observer = new MutationObserver(() => {});
    observer.observe(root, { subtree: true, childList: true, characterData: true, attributes: true });
    write({
      downloads: { jobs: jobs.map((each, i) => (i === 1 ? { ...each, received: 3e9, percent: 64 } : each)) },
    });
    const changed = observer.takeRecords().map(({ target }) => target);
    observer.disconnect();
    const row = rowOf(root, "Q4_K_M");
    expect(changed.length).toBeGreaterThan(0);
    expect(changed.filter((node) => !row.contains(node)).length).toBe(0);
  });
});

describe("focus", () => {
  const focused = ({ root }: Mounted) => (root.activeElement ? nameOf(root.activeElement) : null);

  it("stays in the row when its buttons change", async () => {
    const mounted = show(opened);
    get(mounted.root, "button", `Download Q4_K_M of ${QWEN}`).focus();
    mounted.write(withJob());
    await settle();
    expect(focused(mounted)).toBe(`Pause Q4_K_M of ${QWEN}`);
    mounted.write(withJob({ state: "verifying", actions: [] }));
    await settle();
    expect(mounted.root.activeElement).toBe(rowOf(mounted.root, "Q4_K_M"));
  });

  it("goes from Load over Cancel to Unload", async () => {
    const row = (state: VariantState) => ({ repos: { [QWEN]: repo([variant("Q2_K", { state })]) } });
    const use = { repo_id: QWEN, variant_id: "model-Q2_K.gguf", label: "Q2_K" };
    const mounted = show({ ...opened, ...row("downloaded") });
    get(mounted.root, "button", `Load Q2_K of ${QWEN}`).focus();
    // In the order in which Python writes.
    mounted.write({ load: load({ ...use, state: "loading" }) });
    mounted.write(row("loading"));
    await settle();
    expect(focused(mounted)).toBe(`Cancel Q2_K of ${QWEN}`);
    mounted.write({ load: load({ ...use, state: "ready" }) });
    await settle();
    mounted.write(row("loaded"));
    await settle();
    expect(focused(mounted)).toBe(`Unload Q2_K of ${QWEN}`);
  });

  it("goes to Keep when a removal asks, and back", async () => {
    const mounted = show(opened);
    const remove = get(mounted.root, "button", `Remove Q2_K of ${QWEN}`);
    remove.focus();
    click(remove);
    await settle();
    expect(focused(mounted)).toBe(`Keep Q2_K of ${QWEN}`);
    click(get(mounted.root, "button", `Keep Q2_K of ${QWEN}`));
    await settle();
    expect(focused(mounted)).toBe(`Remove Q2_K of ${QWEN}`);
  });

  it("stays in the list that a finished download has left", async () => {
    const jobs = (state: "downloading" | "ready") => ({ downloads: { jobs: [job({ repo_id: "a/b", state })] } });
    const mounted = show({ view: view(), ...jobs("downloading") });
    get(mounted.root, "button", "Pause Q4_K_M of a/b").focus();
    mounted.write(jobs("ready"));
    await settle();
    expect(mounted.root.activeElement?.className).toBe("body");
  });

  it("stays at the end of the results when the last page has come", async () => {
    const mounted = show({ view: view(), search: search(MODELS.slice(0, 2), { has_more: true }) });
    get(mounted.root, "button", "Load more").focus();
    mounted.write({ search: search(MODELS) });
    await settle();
    const cards = [...mounted.root.querySelectorAll(".card")];
    const position = cards.at(-1)?.compareDocumentPosition(mounted.root.activeElement as Node) ?? 0;
    expect(position & Node.DOCUMENT_POSITION_FOLLOWING).toBeTruthy();
  });

  it("is left alone when it is elsewhere", async () => {
    const mounted = show(opened);
    const outside = document.createElement("button");
    document.body.append(outside);
    get(mounted.root, "button", `Download Q4_K_M of ${QWEN}`).focus();
    outside.focus();
    await settle();
    mounted.write(withJob());
    await settle();
    expect(document.activeElement).toBe(outside);
    outside.remove();
  });
});

describe("downloads without a card", () => {
  const stray = job({ repo_id: "other/Repo-GGUF", variant_id: "x.gguf" });

  it("are listed on top with their buttons", () => {
    const { root } = show({ ...opened, downloads: { jobs: [stray] } });
    const section = root.querySelector("section[aria-label=Downloads]") as HTMLElement;
    expect(text(section)).toContain("other/Repo-GGUF");
    expect(get(section, "button", "Pause Q4_K_M of other/Repo-GGUF")).toBeDefined();
  });

  it("leave the finished to their tab", () => {
    const { root } = show({ ...opened, downloads: { jobs: [job({ ...stray, state: "ready" })] } });
    expect(root.querySelector("section[aria-label=Downloads]")).toBeNull();
  });
});

describe("loading", () => {
  const names = { repo_id: QWEN, variant_id: "model-Q2_K.gguf", label: "Q2_K" };

  it("shows its stage, and can be cancelled in the row", () => {
    const { root, acted } = show({
      ...opened,
      repos: { [QWEN]: repo([variant("Q2_K", { state: "loading" })]) },
      load: load({ ...names, state: "loading", stage: "loading", fraction: 0.42 }),
    });
    const bar = get(root, "progressbar", `Loading of Q2_K of ${QWEN}`);
    expect(bar.getAttribute("aria-valuenow")).toBe("42");
    expect(bar.getAttribute("aria-valuetext")).toBe("Loading the weights, 42 %");
    click(get(root, "button", `Cancel Q2_K of ${QWEN}`));
    expect(acted("cancel_load")).toBeDefined();
  });

  it("ends with code for the next cell", async () => {
    const written: string[] = [];
    vi.stubGlobal("navigator", { clipboard: { writeText: async (code: string) => written.push(code) } });
    const { root, write } = show({ ...opened, load: load({ ...names, state: "ready", n_ctx: 4096 }) });
    expect(text(root.querySelector("[aria-label='Model in use']"))).toContain(
      `Loaded Q2_K of ${QWEN}, context of 4096 tokens`,
    );
    click(get(root, "button", "Copy the code"));
    await settle();
    expect(written).toEqual([root.querySelector("pre")?.textContent]);
    expect(written[0]).toContain("browser.llm.create_chat_completion(");
    expect(text(get(root, "button", "Copy the code"))).toBe("Copied");
    write({ load: load({ ...names, state: "ready", kind: "embedding" }) });
    expect(text(root.querySelector("pre"))).toContain("browser.llm.create_embedding(");
    write({ load: load({ ...names, state: "ready", kind: "completion" }) });
    expect(text(root.querySelector("pre"))).toMatch(/^browser\.llm\("/);
    vi.unstubAllGlobals();
  });

  it("offers in the panel what no row offers", () => {
    const { root, acted } = show({ view: view(), load: load({ ...names, state: "ready" }) });
    click(get(root, "button", `Unload Q2_K of ${QWEN}`));
    expect(acted("unload")).toBeDefined();
  });

  it("keeps its error on the row, or in the panel without one, until it is dismissed", () => {
    const error = { code: "does_not_fit", message: "Too little memory. Choose a smaller context.", details: {} };
    const failed = { load: load({ ...names, state: "failed", error }) };
    const { root, write, acted } = show({ ...opened, ...failed });
    expect(text(get(rowOf(root, "Q2_K"), "alert"))).toContain("Too little memory.");
    expect(root.querySelector("[aria-label='Model in use']")).toBeNull();
    write({ search: search([]) });
    expect(text(get(root, "alert"))).toContain("Too little memory.");
    click(get(root, "button", `Retry Q2_K of ${QWEN}`));
    expect(acted("load")?.params).toMatchObject({ repo_id: QWEN, is_retry: true });
    click(get(root, "button", `Dismiss the error of Q2_K of ${QWEN}`));
    expect(all(root, "alert")).toEqual([]);
  });
});

describe("toasts", () => {
  it("are in one status region, merged, and leave by themselves", async () => {
    const { root, model } = show({ view: view() });
    const region = get(root, "status");
    const tell = (id: string) => act(() => model.tell(toast("Q4_K_M is ready.", { id })));
    tell("1");
    expect(text(region)).toBe("Q4_K_M is ready.");
    tell("2");
    expect(text(region)).toBe("Q4_K_M is ready. (2 times)");
    await wait(7000);
    expect(text(region)).toBe("");
  });

  it("stay while somebody points at them", async () => {
    const { root, model } = show({ view: view() });
    const region = get(root, "status");
    act(() => model.tell(toast("Hello", { level: "info" })));
    act(() => void region.dispatchEvent(new Event("pointerenter")));
    await wait(20_000);
    expect(text(region)).toBe("Hello");
    act(() => void region.dispatchEvent(new Event("pointerleave")));
    await wait(7000);
    expect(text(region)).toBe("");
  });

  it("can be closed", () => {
    const { root, model } = show({ view: view() });
    act(() => model.tell(toast("Oh", { level: "error" })));
    click(get(root, "button", "Close"));
    expect(text(get(root, "status"))).toBe("");
  });
});

describe("without a kernel", () => {
  const isOff = (root: ParentNode) =>
    all(root, "button").filter((button) => button.role !== "tab" && !(button as HTMLButtonElement).disabled);

  it("the last state stays readable and the buttons are off, saying why", async () => {
    const { root } = show(withJob(), { isLive: false, isSaved: true });
    await settle();
    expect(text(root)).toContain("No kernel. Showing the last saved state; buttons are disabled.");
    expect(get(root, "progressbar").getAttribute("aria-valuenow")).toBe("25");
    expect(isOff(root).map(nameOf)).toEqual([`Show files of ${QWEN}`]);
    expect((get(root, "searchbox") as HTMLInputElement).disabled).toBe(true);
  });

  it("a kernel that does not answer may be busy: the buttons stay on", async () => {
    const { root } = show(withJob(), { isLive: false });
    await wait(6000);
    expect(text(root)).toContain("The kernel has not answered yet");
    expect((get(root, "searchbox") as HTMLInputElement).disabled).toBe(false);
  });

  it("a restarted kernel is said aloud, with the way back", async () => {
    const { root, model } = show(withJob());
    await settle();
    model.isDead = true;
    act(() => model.trigger("comm_live_update"));
    expect(text(get(root, "alert"))).toBe(
      "Kernel restarted or stopped. Downloads continue in the background. Run the cell again to reconnect.",
    );
    expect(isOff(root).map(nameOf)).toEqual([`Show files of ${QWEN}`]);
  });

  it("notices of the engine, the machine and of llama are shown", () => {
    const { root } = show({
      view: view({
        engine: { mode: "inline", notice: "Runs here.", limits: null, notice_code: null },
        hardware: { ram_total: null, ram_available: null, gpus: [], notice: "An unused GPU.", notice_code: null },
        llama: { is_available: false, message: "Install it.", code: "llama_missing", remaining_seconds: null },
      }),
    });
    expect(all(root, "note").map(text)).toEqual(["Runs here.", "An unused GPU.", "Install it."]);
  });
});
