import { afterAll, expect, it, vi } from "vitest";
import { tellMarimo } from "../src/marimo";
import type { Traits } from "../src/wire";

/** A model as marimo's: setting a trait is heard at once, also by those who set it. */
function model() {
  const listeners = new Set<() => void>();
  let loaded: unknown = null;
  let changed: Record<string, unknown> = {};
  const saved: unknown[] = [];
  const set = (name: string, value: unknown) => {
    changed[name] = value;
    loaded = value;
    for (const listener of [...listeners]) {
      listener();
    }
  };
  return {
    saved,
    get: () => loaded,
    set,
    save_changes: () => {
      saved.push(changed);
      changed = {};
    },
    on: (_event: string, listener: () => void) => listeners.add(listener),
    off: (_event: string, listener: () => void) => listeners.delete(listener),
    /** Python says what is loaded. */
    write: (value: unknown) => {
      set("loaded", value);
      changed = {};
    },
  };
}

const start = () => {
  const one = model();
  const abort = new AbortController();
  tellMarimo(one as unknown as Parameters<typeof tellMarimo>[0], abort.signal);
  return { one, abort };
};

afterAll(() => {
  vi.unstubAllGlobals();
});

it("writes no trait on the page of another host", () => {
  const { one } = start();
  one.write({ label: "Q8_0" });
  expect(one.saved).toEqual([]);
});

it("says in marimo once what is loaded, until the widget goes", () => {
  customElements.define("marimo-anywidget", class extends HTMLElement {});
  const { one, abort } = start();
  one.write({ label: "Q8_0" } satisfies Partial<Traits>);
  one.write(null);
  expect(one.saved).toEqual([{ loaded: { label: "Q8_0" } }, { loaded: null }]);
  abort.abort();
  one.write({ label: "Q8_0" });
  expect(one.saved).toHaveLength(2);
});
