// The messages that are shown for some seconds.

import { type ReadonlySignal, signal } from "@preact/signals";
import type { ToastMessage } from "./wire";

export interface Toast extends ToastMessage {
  count: number;
}

const MAX_TOASTS = 3;

export class ToastList {
  readonly #shown = signal<Toast[]>([]);

  get shown(): ReadonlySignal<Toast[]> {
    return this.#shown;
  }

  /** Add a toast. One that says the same as a visible one is counted there. */
  add(message: ToastMessage): void {
    const toasts = this.#shown.peek().filter(({ id }) => id !== message.id);
    const twin = toasts.find((toast) => toast.level === message.level && toast.message === message.message);
    this.#shown.value = twin
      ? toasts.map((toast) => (toast === twin ? { ...twin, count: twin.count + 1 } : toast))
      : [...toasts, { ...message, count: 1 }].slice(-MAX_TOASTS);
  }

  dismiss(id: string): void {
    this.#shown.value = this.#shown.peek().filter((toast) => toast.id !== id);
  }
}
