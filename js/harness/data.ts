// Made-up state in the shapes of the wire.

import type { FitEstimate, Job, Load, ModelSummary, Repo, Search, Variant, View } from "../src/wire";

const GIB = 2 ** 30;

export function view(changes: Partial<View> = {}): View {
  return {
    version: "0.1.0",
    endpoint: "https://huggingface.co",
    is_default_endpoint: true,
    n_ctx: 4096,
    hardware: { ram_total: 15.5 * GIB, ram_available: 7.2 * GIB, gpus: [] },
    llama: { is_available: true, message: null },
    engine: { mode: "process", notice: null },
    comm_id: null,
    ...changes,
  };
}

export function model(repo_id: string, changes: Partial<ModelSummary> = {}): ModelSummary {
  return {
    repo_id,
    downloads: 48_211,
    likes: 312,
    last_modified: "2026-11-02T10:00:00.000Z",
    gated: false,
    tags: ["gguf"],
    license: "apache-2.0",
    pipeline_tag: "text-generation",
    architecture: "llama",
    parameter_count: 7_615_616_512,
    context_length: 32_768,
    has_chat_template: true,
    ...changes,
  };
}

export function search(models: ModelSummary[], changes: Partial<Search> = {}): Search {
  return { rev: 1, text: "", sort: "downloads", state: "done", models, has_more: false, error: null, ...changes };
}

export function estimate(changes: Partial<FitEstimate> = {}): FitEstimate {
  return {
    verdict: "fits",
    n_ctx: 4096,
    needed_bytes: 1.9 * GIB,
    available_bytes: 7.2 * GIB,
    max_n_ctx: 32_768,
    n_gpu_layers: null,
    method: "native",
    reason: null,
    ...changes,
  };
}

export function variant(label: string, changes: Partial<Variant> = {}): Variant {
  const filename = `model-${label}.gguf`;
  return {
    variant_id: filename,
    label,
    quantization: label,
    filenames: [filename],
    size: 4_683_074_240,
    sidecars: [],
    fit: estimate(),
    state: "available",
    actions: ["download"],
    ...changes,
  };
}

export function repo(variants: Variant[], changes: Partial<Repo> = {}): Repo {
  return {
    state: "open",
    error: null,
    revision: "main",
    commit_hash: "0123456789abcdef0123456789abcdef01234567",
    gated: false,
    license: "apache-2.0",
    license_url: null,
    recommended: null,
    model: null,
    variants,
    ...changes,
  };
}

export function job(changes: Partial<Job> = {}): Job {
  return {
    job_id: "job-1",
    repo_id: "bartowski/Qwen2.5-7B-Instruct-GGUF",
    variant_id: "model-Q4_K_M.gguf",
    label: "Q4_K_M",
    state: "downloading",
    received: 1_214_000_000,
    total: 4_683_074_240,
    percent: 25,
    rate: 31_400_000,
    eta_seconds: 118,
    connections: 4,
    attempt: 1,
    retry_in_seconds: null,
    is_stalled: false,
    error: null,
    notice: null,
    actions: ["pause", "cancel"],
    ...changes,
  };
}

export function load(changes: Partial<Load> = {}): Load {
  return {
    state: "none",
    repo_id: null,
    variant_id: null,
    label: null,
    stage: null,
    fraction: null,
    error: null,
    n_ctx: null,
    ...changes,
  };
}

export const MODELS: ModelSummary[] = [
  model("bartowski/Qwen2.5-7B-Instruct-GGUF", { architecture: "qwen2", downloads: 1_204_332, likes: 1830 }),
  model("HuggingFaceTB/SmolLM2-135M-Instruct-GGUF", {
    parameter_count: 134_515_008,
    context_length: 8192,
    downloads: 9120,
    likes: 41,
    last_modified: "2025-02-17T08:30:00.000Z",
  }),
  model("ggml-org/gemma-3-4b-it-GGUF", {
    architecture: "gemma3",
    parameter_count: 3_880_099_328,
    context_length: 131_072,
    license: "gemma",
    gated: "manual",
    downloads: 310_554,
    likes: 207,
  }),
  model("unsloth/Qwen3-VL-235B-A22B-Instruct-1M-UD-Imatrix-Extended-Context-Preview-GGUF", {
    architecture: "qwen3vlmoe",
    parameter_count: 235_093_634_560,
    context_length: 1_048_576,
    downloads: 88_190,
    likes: 96,
  }),
  model("nomic-ai/nomic-embed-text-v1.5-GGUF", {
    architecture: "nomic-bert",
    parameter_count: 136_727_040,
    context_length: 2048,
    pipeline_tag: "sentence-similarity",
    downloads: 45_087,
    likes: 99,
  }),
  model("TheBloke/Mistral-7B-Instruct-v0.2-GGUF", {
    architecture: null,
    parameter_count: null,
    context_length: null,
    license: null,
    downloads: 987,
    likes: 0,
    last_modified: "2023-12-11T22:18:00.000Z",
  }),
];

const QWEN = "Qwen2.5-7B-Instruct";

export const QWEN_REPO: Repo = repo(
  [
    variant("Q8_0", {
      variant_id: `${QWEN}-Q8_0.gguf`,
      size: 8_098_525_888,
      fit: estimate({ verdict: "too_large", needed_bytes: 8.6 * GIB, max_n_ctx: null }),
    }),
    variant("Q6_K", {
      variant_id: `${QWEN}-Q6_K.gguf`,
      size: 6_254_199_488,
      fit: estimate({ needed_bytes: 6.6 * GIB }),
    }),
    variant("Q4_K_M", {
      variant_id: `${QWEN}-Q4_K_M.gguf`,
      fit: estimate({ needed_bytes: 5.1 * GIB }),
      sidecars: [{ kind: "mmproj", filename: "mmproj-F16.gguf", size: 1_350_000_000 }],
    }),
    variant("IQ3_XS", {
      variant_id: `${QWEN}-IQ3_XS.gguf`,
      size: 3_353_000_000,
      fit: estimate({ verdict: "partial", n_gpu_layers: 20 }),
    }),
    variant("Q2_K", {
      variant_id: `${QWEN}-Q2_K.gguf`,
      size: 3_015_940_000,
      fit: estimate({ verdict: "unknown", reason: "The header could not be read." }),
    }),
    variant("F16", {
      variant_id: `F16/${QWEN}-F16-00001-of-00004.gguf`,
      filenames: [1, 2, 3, 4].map((part) => `F16/${QWEN}-F16-0000${part}-of-00004.gguf`),
      size: 15_237_853_184,
      fit: estimate({ verdict: "too_large", needed_bytes: 14.9 * GIB, max_n_ctx: null, method: "size" }),
    }),
  ],
  { recommended: `${QWEN}-Q6_K.gguf` },
);
