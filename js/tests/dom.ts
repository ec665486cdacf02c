// A view of the widget in happy-dom, and ways to find things in it as a person or a screen reader would.

import { act } from "preact/test-utils";
import { onTestFinished } from "vitest";
import { type FakeKernel, FakeModel } from "../harness/fake-model";
import type { ButtonAction } from "../src/buttons";
import widget from "../src/widget";
import type { DeckState, Request } from "../src/wire";

export interface Mounted {
  model: FakeModel;
  root: ShadowRoot;
  /** Python writes traits, and the page has drawn them. */
  write(traits: Partial<DeckState>): void;
  /** The last request of a method. */
  request(method: Request["method"]): Request | undefined;
  /** The last request to do what a button says. */
  acted(action: ButtonAction): Request | undefined;
  remove(): void;
}

/** Put a widget on the page whose hello is answered. */
export function show(
  traits: Partial<DeckState>,
  options: { kernel?: FakeKernel; isLive?: boolean; isSaved?: boolean } = {},
): Mounted {
  const model = new FakeModel(traits, options.kernel);
  if (options.isLive ?? true) {
    model.onRequest = (request) => {
      if (request.method === "hello") {
        queueMicrotask(() => model.answer(request));
      }
    };
  }
  const abort = new AbortController();
  const el = document.createElement("div");
  el.classList.toggle("jupyter-widgets-disconnected", options.isSaved ?? false);
  document.body.append(el);
  const { initialize, render } = widget();
  const common = { model: model.asModel(), signal: abort.signal, experimental: null as never };
  act(() => {
    initialize(common);
    render({ ...common, el, host: null as never });
  });
  const remove = () => {
    // happy-dom keeps an element that was removed with the focus, and fails when it is asked for it.
    (el.querySelector(".modeldeck")?.shadowRoot?.activeElement as HTMLElement | null)?.blur();
    abort.abort();
    el.remove();
  };
  onTestFinished(remove);
  return {
    model,
    root: el.querySelector(".modeldeck")?.shadowRoot as ShadowRoot,
    write: (changes) => void act(() => model.write(changes)),
    request: (method) => model.sent.findLast((request) => request.method === method),
    acted: (action) => lastAct(model, action),
    remove,
  };
}

/** The last request to do what a button says. */
export function lastAct(model: FakeModel, action: ButtonAction): Request | undefined {
  return model.sent.findLast(({ params }) => "action" in params && params.action === action);
}

export function nameOf(element: Element): string {
  const copy = element.cloneNode(true) as Element;
  for (const hidden of copy.querySelectorAll("[aria-hidden=true]")) {
    hidden.remove();
  }
  const label = element.matches("[type=checkbox]") ? element.closest("label") : copy;
  return (element.getAttribute("aria-label") ?? label?.textContent ?? "").replace(/\s+/g, " ").trim();
}

const SELECTORS: Record<string, string> = {
  button: "button",
  listitem: "li",
  group: "fieldset, [role=group]",
  disclosure: "details[aria-label]",
  heading: "h1, h2, h3, h4",
  region: "section[aria-label]",
  link: "a[href]",
  combobox: "select",
  searchbox: "input[type=search]",
  checkbox: "input[type=checkbox]",
  textbox: "input[type=text]",
};

export function all(scope: ParentNode, role: string, name?: string): HTMLElement[] {
  const found = [...scope.querySelectorAll<HTMLElement>(SELECTORS[role] ?? `[role=${role}]`)];
  return name === undefined ? found : found.filter((element) => nameOf(element) === name);
}

/** The only element of a role and name. */
export function get(scope: ParentNode, role: string, name?: string): HTMLElement {
  const found = all(scope, role, name);
  if (found.length !== 1) {
    const names = all(scope, role).map(nameOf);
    throw new Error(`${found.length} × ${role} "${name}"; there are: ${names.join(" | ")}`);
  }
  return found[0] as HTMLElement;
}

/** The row of a variant, by its label. */
export function rowOf(scope: ParentNode, label: string): HTMLElement {
  const rows = [...scope.querySelectorAll<HTMLElement>("li.row")];
  return rows.find((row) => row.querySelector("b")?.textContent === label) as HTMLElement;
}

export function click(element: HTMLElement): void {
  act(() => element.click());
}

export function type(input: HTMLElement, text: string): void {
  act(() => {
    (input as HTMLInputElement).value = text;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
}

export function choose(scope: ParentNode, name: string, value: string): void {
  const select = get(scope, "combobox", name) as HTMLSelectElement;
  act(() => {
    select.value = value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

/** Let promises settle and the page draw. */
export async function settle(): Promise<void> {
  await act(async () => {
    for (let turn = 0; turn < 10; turn += 1) {
      await Promise.resolve();
    }
  });
}
