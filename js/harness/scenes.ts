// The states that the harness can show, by name: ?scene=…

import type { State } from "../src/wire";
import { estimate, job, load, MODELS, model, QWEN_REPO, repo, search, variant, view } from "./data";
import type { FakeModel } from "./fake-model";
import { FakePython } from "./fake-python";

const QWEN = "bartowski/Qwen2.5-7B-Instruct-GGUF";
const SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF";
const GEMMA = "ggml-org/gemma-3-4b-it-GGUF";

export interface Scene {
  traits: Partial<State>;
  /** What happens after the widget is on the page. */
  play?: (model: FakeModel) => void;
}

const results = search(MODELS, { text: "", has_more: true });
const qwenFile = (label: string) => `Qwen2.5-7B-Instruct-${label}.gguf`;

const downloading = [
  job({ variant_id: qwenFile("Q4_K_M") }),
  job({
    job_id: "job-2",
    variant_id: qwenFile("Q6_K"),
    label: "Q6_K",
    state: "paused",
    percent: 61,
    received: 3.8e9,
    total: 6.25e9,
    actions: ["resume", "cancel"],
  }),
  job({
    job_id: "job-3",
    variant_id: qwenFile("Q2_K"),
    label: "Q2_K",
    state: "verifying",
    percent: 99,
    received: 3.01e9,
    total: 3.015e9,
    actions: ["cancel"],
  }),
  job({
    job_id: "job-4",
    variant_id: qwenFile("IQ3_XS"),
    label: "IQ3_XS",
    retry_in_seconds: 3.4,
    attempt: 2,
    rate: null,
    eta_seconds: null,
    percent: 12,
    received: 0.4e9,
    total: 3.353e9,
  }),
];

const strays = [
  job({ job_id: "s-1", repo_id: "TheBloke/Mistral-7B-Instruct-v0.2-GGUF" }),
  job({
    job_id: "s-2",
    repo_id: "unsloth/Llama-3.2-3B-Instruct-GGUF",
    label: "Q8_0",
    variant_id: "x.gguf",
    state: "queued",
    percent: null,
    received: 0,
    total: 3.42e9,
    actions: ["cancel"],
  }),
  job({
    job_id: "s-3",
    repo_id: SMOL,
    label: "F16",
    variant_id: "y.gguf",
    state: "ready",
    percent: 100,
    received: 2.7e8,
    total: 2.7e8,
    actions: ["dismiss"],
  }),
];

const diskFull = {
  code: "disk_full",
  message:
    "Not enough room in the cache. Free some space, or choose another cache_dir, then press Retry: what is there is kept.",
  details: { needed_bytes: 4_683_074_240, free_bytes: 1_204_000_000 },
};
const gated = {
  code: "gated",
  message: "The licence of this model must be accepted first. Open its page, accept, and set HF_TOKEN.",
  details: { url: "https://huggingface.co/ggml-org/gemma-3-4b-it-GGUF" },
};

const downloaded = repo(
  [
    variant("Q8_0", {
      state: "downloaded",
      actions: ["load", "remove"],
      size: 144_811_392,
      fit: estimate({ needed_bytes: 0.4 * 2 ** 30 }),
    }),
    variant("Q4_K_M", {
      state: "loaded",
      actions: ["unload"],
      size: 105_454_432,
      fit: estimate({ needed_bytes: 0.3 * 2 ** 30 }),
    }),
  ],
  { recommended: "model-Q8_0.gguf" },
);

export const SCENES: Record<string, Scene> = {
  start: { traits: { view: view() } },
  results: { traits: { view: view(), search: results } },
  variants: { traits: { view: view(), search: results, repos: { [QWEN]: QWEN_REPO } } },
  downloading: {
    traits: { view: view(), search: results, repos: { [QWEN]: QWEN_REPO }, downloads: { rev: 1, jobs: downloading } },
  },
  strays: { traits: { view: view(), search: results, downloads: { rev: 1, jobs: strays } } },
  error: {
    traits: {
      view: view({
        hardware: {
          ram_total: 64 * 2 ** 30,
          ram_available: 51.3 * 2 ** 30,
          gpus: [{ name: "NVIDIA GeForce RTX 4090", total: 24 * 2 ** 30, free: 22.1 * 2 ** 30 }],
        },
      }),
      search: results,
      repos: { [QWEN]: QWEN_REPO, [GEMMA]: repo([], { state: "failed", error: gated }) },
      downloads: {
        rev: 1,
        jobs: [
          job({
            variant_id: qwenFile("Q4_K_M"),
            state: "failed",
            error: diskFull,
            rate: null,
            actions: ["retry", "dismiss"],
          }),
        ],
      },
    },
  },
  "search-failed": {
    traits: {
      view: view({ endpoint: "http://127.0.0.1:8451", is_default_endpoint: false }),
      search: search([], {
        text: "llama",
        state: "failed",
        error: {
          code: "offline",
          message: "127.0.0.1:8451 cannot be reached. Check the network or the endpoint, then try again.",
          details: {},
        },
      }),
    },
  },
  empty: { traits: { view: view(), search: search([], { text: "no such model" }) } },
  searching: { traits: { view: view(), search: search([], { text: "qwen", state: "searching" }) } },
  opening: { traits: { view: view(), search: results, repos: { [QWEN]: repo([], { state: "opening" }) } } },
  loading: {
    traits: {
      view: view(),
      search: results,
      repos: {
        [SMOL]: repo([
          variant("Q8_0", { state: "downloaded", actions: ["load", "remove"] }),
          variant("Q4_K_M", { state: "loading", actions: ["cancel_load"] }),
        ]),
      },
      load: load({
        state: "loading",
        repo_id: SMOL,
        variant_id: "model-Q4_K_M.gguf",
        label: "Q4_K_M",
        stage: "loading",
        fraction: 0.42,
      }),
    },
  },
  loaded: {
    traits: {
      view: view({ endpoint: "http://127.0.0.1:8451", is_default_endpoint: false }),
      search: results,
      repos: { [SMOL]: downloaded },
      load: load({
        state: "ready",
        repo_id: SMOL,
        variant_id: "model-Q4_K_M.gguf",
        label: "Q4_K_M",
        stage: "ready",
        fraction: 1,
        n_ctx: 4096,
      }),
    },
    play: (model) =>
      model.tell({
        kind: "modeldeck-toast",
        id: "t",
        level: "success",
        message: `Q4_K_M of ${SMOL} is ready: use browser.llm.`,
      }),
  },
  lost: {
    traits: { view: view(), search: results, repos: { [QWEN]: QWEN_REPO }, downloads: { rev: 1, jobs: downloading } },
    play: (model) => {
      model.isDead = true;
      // After the answer to hello.
      setTimeout(() => model.trigger("comm_live_update"));
    },
  },
  waiting: {
    traits: { view: view(), search: results, repos: { [QWEN]: QWEN_REPO } },
    play: (model) => {
      model.onRequest = () => {};
    },
  },
  notices: {
    traits: {
      view: view({
        llama: { is_available: false, message: "Loading needs llama-cpp-python: pip install modeldeck[llama]" },
        engine: {
          mode: "inline",
          notice: "No download process could be started; downloads run in this kernel and end with it.",
        },
      }),
      search: results,
    },
  },
  many: {
    traits: {
      view: view(),
      search: search(Array.from({ length: 500 }, (_, index) => model(`owner-${index % 37}/Model-${index}-GGUF`))),
    },
  },
  busy: {
    traits: {
      view: view(),
      search: search([model("owner/Many-GGUF")]),
      repos: { "owner/Many-GGUF": repo(Array.from({ length: 100 }, (_, index) => variant(`Q4_K_M-${index}`))) },
    },
    play: (model) => {
      const python = new FakePython(model);
      python.addJobs(
        Array.from({ length: 100 }, (_, index) =>
          job({
            job_id: `job-${index}`,
            repo_id: "owner/Many-GGUF",
            variant_id: `model-Q4_K_M-${index}.gguf`,
            label: `Q4_K_M-${index}`,
            received: index * 1e7,
            total: 40e9,
          }),
        ),
      );
    },
  },
  live: {
    traits: { view: view(), search: results },
    play: (model) => {
      new FakePython(model);
    },
  },
};
