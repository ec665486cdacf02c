// Signals by key.

import { type Signal, signal } from "@preact/signals";
import { share } from "./share";

/** Signals that are made on demand. Replacing all values wakes only those that changed. */
export class Family<T> {
  readonly #cells = new Map<string, Signal<T | undefined>>();

  get(key: string): Signal<T | undefined> {
    let cell = this.#cells.get(key);
    if (!cell) {
      cell = signal(undefined);
      this.#cells.set(key, cell);
    }
    return cell;
  }

  [Symbol.iterator](): Iterator<[string, Signal<T | undefined>]> {
    return this.#cells[Symbol.iterator]();
  }

  replace(values: ReadonlyMap<string, T>): void {
    for (const [key, cell] of this.#cells) {
      if (!values.has(key)) {
        cell.value = undefined;
      }
    }
    for (const [key, value] of values) {
      const cell = this.get(key);
      cell.value = share(cell.peek(), value);
    }
  }
}
