// State for tests and scenes: what Python has dumped into scenes.json (`python -m tools.scenes`), and variations of it.

import type {
  DeckState,
  DeckView,
  DownloadState,
  FitEstimate,
  JobView,
  LoadView,
  RepoView,
  SearchView,
  SummaryView,
  ToastMessage,
  VariantRowView,
  VariantState,
} from "../src/wire";
import { EMPTY_STATE } from "../src/wire";
import dump from "./scenes.json";

interface Dump {
  scenes: Record<string, DeckState>;
  samples: {
    view: DeckView;
    models: SummaryView[];
    fit: FitEstimate;
    repo: RepoView;
    variants: Record<VariantState, VariantRowView>;
    jobs: Record<DownloadState, JobView>;
    loads: Record<LoadView["state"], LoadView>;
  };
}

const { scenes, samples } = dump as unknown as Dump;

export const DUMPED_SCENES = scenes;
export const MODELS = samples.models;
export const QWEN = "bartowski/Qwen2.5-7B-Instruct-GGUF";
export const QWEN_REPO = samples.repo;

export function view(changes: Partial<DeckView> = {}): DeckView {
  return { ...samples.view, ...changes };
}

export function model(repo_id: string, changes: Partial<SummaryView> = {}): SummaryView {
  return { ...(samples.models[0] as SummaryView), repo_id, ...changes };
}

export function search(models: SummaryView[], changes: Partial<SearchView> = {}): SearchView {
  return { ...EMPTY_STATE.search, state: "done", models, ...changes };
}

export function estimate(changes: Partial<FitEstimate> = {}): FitEstimate {
  return { ...samples.fit, ...changes };
}

/** A variant in a state, with the buttons that Python gives it. */
export function variant(label: string, changes: Partial<VariantRowView> = {}): VariantRowView {
  const filename = `model-${label}.gguf`;
  const names = { variant_id: filename, label, quantization: label, filenames: [filename] };
  const sample = samples.variants[changes.state ?? "available"];
  return { ...sample, ...names, size: 4_683_074_240, fit: estimate(), ...changes };
}

export function repo(variants: VariantRowView[], changes: Partial<RepoView> = {}): RepoView {
  return { ...samples.repo, recommended: null, variants, ...changes };
}

/** A download in a state, with the buttons that Python gives it. */
export function job(changes: Partial<JobView> = {}): JobView {
  return { ...samples.jobs[changes.state ?? "downloading"], job_id: "job-1", error: null, ...changes };
}

/** A message for some seconds. */
export function toast(message: string, changes: Partial<ToastMessage> = {}): ToastMessage {
  const names = { code: null, label: null, repo_id: null, error: null, models: null };
  return { kind: "modeldeck-toast", id: "1", level: "success", message, ...names, ...changes };
}

/** A load in a state, with the buttons that Python gives it. */
export function load(changes: Partial<LoadView> = {}): LoadView {
  const { state, actions } = samples.loads[changes.state ?? "none"];
  return { ...EMPTY_STATE.load, state, actions, ...changes };
}
