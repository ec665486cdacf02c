// The states that the harness can show, by name: ?scene=…

import type { DeckState } from "../src/wire";
import type { FakeModel } from "./fake-model";
import { DUMPED_SCENES, job, model, repo, search, toast, variant, view } from "./samples";

export interface Scene {
  traits: Partial<DeckState>;
  /** What happens after the widget is on the page. */
  play?: (model: FakeModel, page: ParentNode) => void;
}

function dumped(name: string): Partial<DeckState> {
  const traits = DUMPED_SCENES[name];
  if (!traits) {
    throw new Error(`tools/scenes.py has no scene ${name}`);
  }
  return traits;
}

function openTab(tab: string): NonNullable<Scene["play"]> {
  return (_, page) => setTimeout(() => page.querySelector<HTMLElement>(`[data-tab=${tab}]`)?.click());
}

const MANY = "owner/Many-GGUF";
const labels = Array.from({ length: 100 }, (_, index) => `Q4_K_M-${index}`);

export const SCENES: Record<string, Scene> = {
  ...Object.fromEntries(Object.keys(DUMPED_SCENES).map((name) => [name, { traits: dumped(name) }])),
  loaded: {
    traits: dumped("loaded"),
    play: (model) => model.tell(toast("Q4_K_M is loaded.")),
  },
  filters: {
    traits: dumped("filtered"),
    play: (_, page) => page.querySelector<HTMLElement>(".filter")?.click(),
  },
  "all-files": {
    traits: dumped("long"),
    play: (_, page) => {
      page.querySelector<HTMLElement>("[aria-label^='Files'] + .more, ul + .more")?.click();
      // When the list has been drawn.
      setTimeout(() => page.querySelector<HTMLElement>("li:nth-child(3) ~ .row .explained")?.focus(), 50);
    },
  },
  library: { traits: dumped("library"), play: openTab("library") },
  "library-options": {
    traits: dumped("library-options"),
    play: (model, page) => {
      openTab("library")(model, page);
      setTimeout(() => page.querySelector<HTMLElement>(".library [aria-expanded]")?.click(), 50);
    },
  },
  "library-empty": { traits: dumped("library-empty"), play: openTab("library") },
  queue: { traits: dumped("queue"), play: openTab("downloads") },
  lost: {
    traits: dumped("downloading"),
    play: (model) => {
      model.isDead = true;
      // After the answer to hello.
      setTimeout(() => model.trigger("comm_live_update"));
    },
  },
  waiting: {
    traits: dumped("variants"),
    play: (model) => {
      model.onRequest = () => {};
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
      search: search([model(MANY)]),
      repos: { [MANY]: repo(labels.map((label) => variant(label))) },
      downloads: {
        jobs: labels.map((label) => job({ job_id: label, repo_id: MANY, variant_id: `model-${label}.gguf`, label })),
      },
    },
  },
};
