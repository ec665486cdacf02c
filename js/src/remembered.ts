// Choices that the browser remembers from page to page.

import { effect, type Signal, signal } from "@preact/signals";

/** A signal that begins with its last value, where the host lets the page keep one. `isValid` checks what was kept. */
export function remembered<T>(key: string, initial: T, isValid: (value: unknown) => value is T): Signal<T> {
  const kept = read(key);
  const choice = signal(isValid(kept) ? kept : initial);
  effect(() => {
    try {
      localStorage.setItem(key, JSON.stringify(choice.value));
    } catch {
      // Sandboxed frames have no storage: the choice is kept for this page only.
    }
  });
  return choice;
}

export const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";

export const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((each) => typeof each === "string");

function read(key: string): unknown {
  try {
    return JSON.parse(localStorage.getItem(key) ?? "null");
  } catch {
    return null;
  }
}
