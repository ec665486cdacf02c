// Choices that the browser remembers from page to page.

import { effect, type Signal, signal } from "@preact/signals";

/** A signal that begins with its last value, where the host lets the page keep one. */
export function remembered(key: string, initial: boolean): Signal<boolean> {
  const choice = signal(read(key) ?? initial);
  effect(() => {
    try {
      localStorage.setItem(key, String(choice.value));
    } catch {
      // Sandboxed frames have no storage: the choice is kept for this page only.
    }
  });
  return choice;
}

function read(key: string): boolean | null {
  try {
    const text = localStorage.getItem(key);
    return text === null ? null : text === "true";
  } catch {
    return null;
  }
}
