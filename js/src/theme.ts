// Whether the host is light or dark, as `data-theme` on the widget's own element. The colours come from the host's CSS
// variables; the theme sets `color-scheme`, which decides what `light-dark()` and the native controls show.

export type Theme = "light" | "dark";

/** The theme of the host: what it says itself, else what its background looks like. */
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
  return isDark(backgroundOf(element.parentElement)) ? "dark" : "light";
}

/** How browsers write a computed colour that does not show. */
const TRANSPARENT = /^transparent$|^rgba\(.*, 0\)$|\/ 0\)$/;

/** The colour that shows behind an element. */
function backgroundOf(element: Element | null): string {
  for (let place = element; place; place = parentOf(place)) {
    const { backgroundColor } = getComputedStyle(place);
    if (backgroundColor && !TRANSPARENT.test(backgroundColor)) {
      return backgroundColor;
    }
  }
  // Nothing is painted: the page shows the browser's own canvas, which is dark only for pages that allow it.
  const { colorScheme } = getComputedStyle(document.documentElement);
  const isDarkCanvas = /dark/.test(colorScheme) && (!/light/.test(colorScheme) || prefersDark().matches);
  return isDarkCanvas ? "rgb(0, 0, 0)" : "rgb(255, 255, 255)";
}

function parentOf(element: Element): Element | null {
  const root = element.getRootNode();
  return element.parentElement ?? (root instanceof ShadowRoot ? root.host : null);
}

/** Whether a computed colour is darker than a middle grey. */
function isDark(color: string): boolean {
  const [first = 0, second = 0, third = 0] = (color.replace(/^color\(\S+/, "color(").match(/[\d.]+/g) ?? []).map(
    Number,
  );
  if (/^(ok)?l(ab|ch)/.test(color)) {
    return first < (color.startsWith("ok") ? 0.6 : 50);
  }
  const full = color.startsWith("color(") ? 1 : 255;
  return 0.299 * first + 0.587 * second + 0.114 * third < full / 2;
}

function prefersDark(): MediaQueryList {
  return matchMedia("(prefers-color-scheme: dark)");
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
  prefersDark().addEventListener("change", update, { signal });
  update();
}
