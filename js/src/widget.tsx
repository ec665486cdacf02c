// The widget's front end: an anywidget module. One store per model, one shadow root per view.

import type { AnyModel, InitializeProps, RenderProps } from "@anywidget/types";
import { render as mount } from "preact";
import { keepFocus } from "./focus";
import { keepKeys } from "./keys";
import { tellMarimo } from "./marimo";
import { Store } from "./store";
import styles from "./styles.css";
import { followTheme } from "./theme";
import { Browser } from "./ui/Browser";
import { iconStyles } from "./ui/icons";
import { keepWheel } from "./wheel";
import type { Traits } from "./wire";

export default () => {
  let store: Store | undefined;
  const storeOf = (model: AnyModel<Traits>, signal: AbortSignal): Store => {
    store ??= new Store(model, signal);
    return store;
  };

  return {
    initialize({ model, signal = never() }: InitializeProps<Traits>): void {
      storeOf(model, signal);
      tellMarimo(model, signal);
    },

    render({ model, el, signal = never() }: RenderProps<Traits>): () => void {
      const view = new AbortController();
      const shared = storeOf(model, signal);
      // An element of our own: a shadow root cannot be attached twice, and hot reload renders into the same `el`.
      const host = document.createElement("div");
      host.className = "modeldeck";
      host.dataset.jpSuppressContextMenu = "true";
      if (window.parent !== window) {
        host.dataset.framed = "";
      }
      const root = host.attachShadow({ mode: "open" });
      const style = document.createElement("style");
      style.textContent = styles + iconStyles;
      const deck = document.createElement("div");
      deck.style.display = "contents";
      root.append(style, deck);
      el.append(host);
      followTheme(host, view.signal);
      keepFocus(root, view.signal);
      keepKeys(host, root, view.signal);
      keepWheel(root, view.signal);
      if (el.closest(".jupyter-widgets-disconnected")) {
        shared.connection.markStatic();
      }
      mount(<Browser store={shared} />, deck);

      const remove = () => {
        view.abort();
        mount(null, deck);
        host.remove();
      };
      signal.addEventListener("abort", remove);
      return remove;
    },
  };
};

/** Hosts older than anywidget 0.11 give no signal. */
function never(): AbortSignal {
  return new AbortController().signal;
}
