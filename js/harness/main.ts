// The widget on a page of its own, beside a fake model: ?scene=NAME&theme=NAME&width=PIXELS&locale=TAG

import widget from "../src/widget";
import type { DeckState, Locale } from "../src/wire";
import { FakeModel } from "./fake-model";
import { SCENES } from "./scenes";
import "../tests/setup";
import { applyTheme, THEMES } from "./themes";

const query = new URLSearchParams(location.search);
const scene = SCENES[query.get("scene") ?? "variants"];
if (!scene) {
  throw new Error(`There is no such scene. Choose from ${Object.keys(SCENES).join(", ")}`);
}
applyTheme(query.get("theme") ?? "lab-light");
const el = document.getElementById("output") as HTMLElement;
if (query.has("width")) {
  el.style.width = `${query.get("width")}px`;
}

const locale = query.get("locale") as Locale | null;
const traits = locale && scene.traits.view ? { ...scene.traits, view: { ...scene.traits.view, locale } } : scene.traits;
const model = new FakeModel(traits);
model.onRequest = (request) => {
  if (!window.harnessIsBusy) {
    queueMicrotask(() => model.answer(request));
  }
};
const { initialize, render } = widget();
const { signal } = new AbortController();
initialize({ model: model.asModel(), signal, experimental: null as never });
render({ model: model.asModel(), el, signal, host: null as never, experimental: null as never });
const page = el.querySelector(".modeldeck")?.shadowRoot;
if (page) {
  scene.play?.(model, page);
}

declare global {
  interface Window {
    /** The kernel runs a cell, and answers nothing. */
    harnessIsBusy?: boolean;
    harness: { model: FakeModel; traits: Partial<DeckState>; scenes: string[]; themes: string[] };
  }
}
window.harness = { model, traits, scenes: Object.keys(SCENES), themes: Object.keys(THEMES) };
