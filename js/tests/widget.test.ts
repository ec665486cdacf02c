import { act } from "preact/test-utils";
import { afterEach, describe, expect, it, vi } from "vitest";
import { FakeModel } from "../harness/fake-model";
import { MODELS, search, view } from "../harness/samples";
import { followTheme, hostTheme } from "../src/theme";
import widget from "../src/widget";
import { settle } from "./dom";

afterEach(() => {
  document.body.replaceChildren();
  for (const element of [document.body, document.documentElement]) {
    for (const { name } of [...element.attributes]) {
      element.removeAttribute(name);
    }
  }
});

describe("the module", () => {
  function start() {
    const model = new FakeModel({ view: view(), search: search(MODELS) });
    const controller = new AbortController();
    const definition = widget();
    const common = { model: model.asModel(), experimental: null as never };
    definition.initialize({ ...common, signal: controller.signal });
    const render = (el: HTMLElement) => {
      const view = new AbortController();
      const remove = definition.render({ ...common, el, signal: view.signal, host: null as never });
      return { view, remove };
    };
    const place = () => document.body.appendChild(document.createElement("div"));
    return { model, controller, render, place };
  }

  it("gives two views of one model one state", async () => {
    const { model, render, place } = start();
    const [one, two] = [place(), place()];
    act(() => {
      render(one);
      render(two);
    });
    expect(model.sent.filter(({ method }) => method === "hello")).toHaveLength(1);
    act(() => model.write({ search: search([]) }));
    for (const el of [one, two]) {
      expect(el.querySelector(".modeldeck")?.shadowRoot?.textContent).toContain("No GGUF models here");
    }
  });

  it("can be drawn again into the same element", () => {
    const { render, place } = start();
    const el = place();
    const { view } = render(el);
    view.abort();
    expect(el.childElementCount).toBe(0);
    render(el);
    expect(el.querySelectorAll(".modeldeck")).toHaveLength(1);
  });

  it("goes on with one view when the other is removed, and lets go of the model at the end", () => {
    const { model, controller, render, place } = start();
    const [one, two] = [place(), place()];
    const { remove } = render(one);
    render(two);
    remove();
    act(() => model.write({ search: search([]) }));
    expect(two.querySelector(".modeldeck")?.shadowRoot?.textContent).toContain("No GGUF models here");
    controller.abort();
    expect(model.listenerCount()).toBe(0);
  });

  it("keeps single letters from the host's shortcuts", () => {
    const { render, place } = start();
    const el = place();
    render(el);
    expect(el.querySelector("[data-lm-suppress-shortcuts]")).not.toBeNull();
  });

  it("keeps typed keys to itself, and leaves shortcuts to the host while a button has the focus", () => {
    const { render, place } = start();
    const el = place();
    act(() => {
      render(el);
    });
    const host = el.querySelector(".modeldeck") as HTMLElement;
    const heard: string[] = [];
    const listen = (event: Event) => heard.push((event as KeyboardEvent).key);
    document.addEventListener("keydown", listen);
    const press = (selector: string, init: KeyboardEventInit) => {
      const target = host.shadowRoot?.querySelector(selector) as HTMLElement;
      target.focus();
      target.dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, composed: true, ...init }));
      return host.dataset.lmSuppressShortcuts === "true";
    };
    expect(press("input[type=search]", { key: "d" })).toBe(true);
    expect(press("input[type=search]", { key: "Escape" })).toBe(true);
    expect(press("input[type=search]", { key: "z", ctrlKey: true })).toBe(true);
    expect(press("button", { key: "d" })).toBe(true);
    expect(press("button", { key: "Enter" })).toBe(true);
    expect(press("select", { key: "d" })).toBe(true);
    expect(press("button", { key: "s", ctrlKey: true })).toBe(false);
    expect(heard).toEqual(["z", "d", "s"]);
    document.removeEventListener("keydown", listen);
  });

  it("takes the host's word that there is no kernel", async () => {
    const { render, place } = start();
    const el = place();
    el.className = "jupyter-widgets-disconnected";
    act(() => {
      render(el);
    });
    await settle();
    expect(el.querySelector(".modeldeck")?.shadowRoot?.textContent).toContain("No kernel.");
  });
});

describe("the theme", () => {
  const el = () => document.body.appendChild(document.createElement("div"));

  it.each([
    ["JupyterLab, light", "data-jp-theme-light", "true", "light"],
    ["JupyterLab, dark", "data-jp-theme-light", "false", "dark"],
    ["VS Code, light", "class", "vscode-light", "light"],
    ["VS Code, dark", "class", "vscode-dark", "dark"],
    ["VS Code, high contrast", "class", "vscode-high-contrast", "dark"],
    ["VS Code, light high contrast", "class", "vscode-high-contrast vscode-high-contrast-light", "light"],
    ["VS Code by kind", "data-vscode-theme-kind", "vscode-dark", "dark"],
  ])("%s", (_host, attribute, value, theme) => {
    document.body.setAttribute(attribute, value);
    expect(hostTheme(el())).toBe(theme);
  });

  it("of Colab is on the root element", () => {
    document.documentElement.setAttribute("theme", "dark");
    expect(hostTheme(el())).toBe("dark");
  });

  it.each([
    ["rgb(17, 17, 17)", "dark"],
    ["rgb(255, 255, 255)", "light"],
    ["rgb(0, 0, 0)", "dark"],
    ["rgba(0, 0, 0, 0)", "light"],
    ["oklch(0.2 0.01 250)", "dark"],
    ["oklch(0.98 0 0)", "light"],
    ["lab(12 0 0)", "dark"],
    ["color(srgb 0.1 0.1 0.1)", "dark"],
    ["color(display-p3 0.9 0.9 0.9)", "light"],
  ])("elsewhere is that of the background: %s is %s", (background, theme) => {
    const inner = el().appendChild(document.createElement("div"));
    const computed = { backgroundColor: background, colorScheme: "normal" };
    const clear = { backgroundColor: "rgba(0, 0, 0, 0)", colorScheme: "normal" };
    vi.stubGlobal("getComputedStyle", (each: Element) => (each === document.body ? computed : clear));
    expect(hostTheme(inner)).toBe(theme);
    vi.unstubAllGlobals();
  });

  it("is followed until the view goes", async () => {
    const element = el();
    const controller = new AbortController();
    document.body.setAttribute("data-jp-theme-light", "true");
    followTheme(element, controller.signal);
    expect(element.dataset.theme).toBe("light");
    document.body.setAttribute("data-jp-theme-light", "false");
    await vi.waitFor(() => expect(element.dataset.theme).toBe("dark"));
    controller.abort();
    document.body.setAttribute("data-jp-theme-light", "true");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(element.dataset.theme).toBe("dark");
  });
});
