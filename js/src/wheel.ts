// VS Code scrolls the notebook on each turn of the wheel that it hears of, unless the element under the pointer scrolls.
// It cannot see which elements scroll inside a shadow root.

/** Keep turns of the wheel that something in the deck scrolls on from the host, until `signal` aborts. */
export function keepWheel(root: ShadowRoot, signal: AbortSignal): void {
  root.addEventListener(
    "wheel",
    (event) => {
      const { target, deltaY } = event as WheelEvent;
      for (let place = target as Element | null; place; place = place.parentElement) {
        if (scrolls(place, deltaY)) {
          event.stopPropagation();
          return;
        }
      }
    },
    { passive: true, signal },
  );
}

function scrolls(element: Element, deltaY: number): boolean {
  const { scrollTop, scrollHeight, clientHeight } = element;
  const room = deltaY < 0 ? scrollTop : scrollHeight - clientHeight - scrollTop;
  return room >= 1 && /auto|scroll/.test(getComputedStyle(element).overflowY);
}
