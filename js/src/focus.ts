// Buttons come and go with the state of their row. When the focused one goes, the focus moves to its nearest
// neighbour instead of falling back to the page.

/** Keep the focus inside a view until `signal` aborts. */
export function keepFocus(root: ShadowRoot, signal: AbortSignal): void {
  /** The focused element and its ancestors, from inside out. */
  let path: HTMLElement[] = [];

  const remember = ({ target }: Event) => {
    path = [];
    for (let element = target as HTMLElement | null; element; element = element.parentElement) {
      path.push(element);
    }
  };
  const forget = () =>
    // An element that is being removed is still in place here, and gone in the next microtask.
    queueMicrotask(() => {
      if (path[0]?.isConnected && root.activeElement !== path[0]) {
        path = [];
      }
    });
  const observer = new MutationObserver(() => {
    if (path[0] && !path[0].isConnected && !root.activeElement) {
      neighbour(path)?.focus({ preventScroll: true });
    }
  });

  root.addEventListener("focusin", remember, { signal });
  root.addEventListener("focusout", forget, { signal });
  observer.observe(root, { childList: true, subtree: true });
  signal.addEventListener("abort", () => observer.disconnect());
}

/** The first button in the smallest part of the page that is still there; a row without buttons takes the focus itself. */
function neighbour(path: HTMLElement[]): HTMLElement | null {
  for (const element of path.filter(({ isConnected }) => isConnected)) {
    const next =
      element.querySelector<HTMLElement>("[data-first]") ??
      // A summary comes before the buttons that it hides.
      element.querySelector<HTMLElement>("summary, button:not(:disabled)") ??
      (element.matches("[tabindex]") ? element : null);
    if (next) {
      return next;
    }
  }
  return null;
}
