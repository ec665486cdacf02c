// Keys that are pressed in the deck are meant for it: letters are typed, Enter and Space press buttons. Hosts have
// shortcuts on the same keys (`d d` deletes a cell) and cannot see what has the focus inside a shadow root.

const TEXT_FIELD = "textarea, input:not([type=checkbox], [type=radio], [type=range])";

/** Keep keys from the host's shortcuts until `signal` aborts. Shortcuts with Ctrl, Alt or Meta still work on buttons. */
export function keepKeys(host: HTMLElement, root: ShadowRoot, signal: AbortSignal): void {
  const suppress = (isSuppressed: boolean) => {
    if (isSuppressed) {
      host.dataset.lmSuppressShortcuts = "true";
    } else {
      delete host.dataset.lmSuppressShortcuts;
    }
  };
  suppress(true);
  // JupyterLab listens on the document and obeys this mark. The window hears of a key before the document does.
  window.addEventListener(
    "keydown",
    (event) => {
      if (event.composedPath().includes(host)) {
        suppress(!isModified(event) || isTyping(root.activeElement));
      }
    },
    { capture: true, signal },
  );
  for (const type of ["keydown", "keypress", "keyup"] as const) {
    root.addEventListener(
      type,
      (event) => {
        if (isForDeck(event as KeyboardEvent)) {
          event.stopPropagation();
        }
      },
      { signal },
    );
  }
}

function isModified({ ctrlKey, metaKey, altKey }: KeyboardEvent): boolean {
  return ctrlKey || metaKey || altKey;
}

/** Whether a key is typed, chooses from a list, or presses a button. */
function isForDeck(event: KeyboardEvent): boolean {
  const target = event.target as Element;
  return !isModified(event) && (isTyping(target) || target.matches("select") || /^(Enter| )$/.test(event.key));
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof Element && target.matches(TEXT_FIELD);
}
