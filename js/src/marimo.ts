// marimo runs the cells that use a widget when its page changes one of the widget's traits, and not when Python does. So
// there the page says again what Python has said is loaded. Python ignores it, and the cells run.

import type { AnyModel } from "@anywidget/types";
import type { Traits } from "./wire";

/** Have cells run when a model is loaded or unloaded, where the page is marimo's. */
export function tellMarimo(model: AnyModel<Traits>, signal: AbortSignal): void {
  if (!customElements.get("marimo-anywidget")) {
    return;
  }
  let isTelling = false;
  const tell = () => {
    if (!isTelling) {
      isTelling = true;
      model.set("loaded", model.get("loaded"));
      model.save_changes();
      isTelling = false;
    }
  };
  model.on("change:loaded", tell);
  signal.addEventListener("abort", () => model.off("change:loaded", tell));
}
