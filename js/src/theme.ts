// Whether the host is light or dark, as `data-theme` on the widget's own element. The colours themselves come from the
// host's CSS variables; this sets `color-scheme`, which decides what `light-dark()` and the native controls show.

export type Theme = "light" | "dark";

/** The theme of the host: what it says itself, else what the page computes, else what the system prefers. */
export function hostTheme(element: Element): Theme {
  const { body, documentElement } = document;
  const lab = body.getAttribute("data-jp-theme-light");
  if (lab !== null) {
    return lab === "false" ? "dark" : "light";
  }
  const vscode = body.getAttribute("data-vscode-theme-kind") ?? body.className;
  if (/\bvscode-/.test(vscode)) {
    return /-light\b/.test(vscode) ? "light" : "dark";
  }
  const colab = documentElement.getAttribute("theme");
  if (colab === "dark" || colab === "light") {
    return colab;
  }
  const scheme = getComputedStyle(element.parentElement ?? documentElement).colorScheme;
  if (scheme === "dark" || scheme === "light") {
    return scheme;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Keep `data-theme` of an element right until `signal` aborts. */
export function followTheme(element: HTMLElement, signal: AbortSignal): void {
  const update = () => {
    element.dataset.theme = hostTheme(element);
  };
  const observer = new MutationObserver(update);
  for (const target of [document.documentElement, document.body]) {
    observer.observe(target, {
      attributeFilter: ["class", "style", "theme", "data-jp-theme-light", "data-vscode-theme-kind", "data-theme"],
    });
  }
  signal.addEventListener("abort", () => observer.disconnect());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update, { signal });
  update();
}
