import { describe, expect, it } from "vitest";
import { DUMPED_SCENES, estimate, search, toast, view } from "../harness/samples";
import { describeFitReason, describeReason, describeToast } from "../src/describe";
import { EN, type Message } from "../src/texts/en";
import { type Key, type Language, type Locale, languageOf } from "../src/texts/language";
import { PT_BR } from "../src/texts/pt-BR";
import type { DeckState } from "../src/wire";
import { get, show } from "./dom";

const portuguese = languageOf("pt-BR");

const SOURCES = import.meta.glob("../src/**/*.{ts,tsx}", { query: "?raw", import: "default", eager: true });

function valuesIn(message: Message): string[] {
  const forms = typeof message === "string" ? [message] : Object.values(message);
  return [...new Set(forms.flatMap((form) => form.match(/\{\w+\}/g) ?? []))].sort();
}

describe("the table of texts", () => {
  const keys = Object.keys(EN) as Key[];

  it("has the same texts with the same values in every language", () => {
    expect(Object.keys(PT_BR)).toEqual(keys);
    for (const key of keys) {
      expect(valuesIn(PT_BR[key]), key).toEqual(valuesIn(EN[key]));
    }
  });

  it("has no empty text and none that nobody reads", () => {
    const code = Object.entries(SOURCES)
      .filter(([path]) => !/texts\/(en|pt-BR|python.pt-BR)\.ts$/.test(path))
      .map(([, source]) => source)
      .join("\n");
    for (const key of keys) {
      expect(code.includes(`"${key}"`), key).toBe(true);
      for (const table of [EN, PT_BR]) {
        expect(
          Object.values({ text: table[key] }).flatMap((text) => Object.values(text)),
          key,
        ).not.toContain("");
      }
    }
  });
});

/** What a person can see or hear of a widget in a language. */
function wordsOf(traits: Partial<DeckState>, locale: Locale): string[] {
  const { root, remove } = show({ ...traits, view: view({ ...traits.view, locale }) });
  const words = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (walker.currentNode.parentElement?.closest("style, pre") === null) {
      words.push(walker.currentNode.textContent ?? "");
    }
  }
  for (const name of ["aria-label", "aria-valuetext", "title", "placeholder"]) {
    words.push(...[...root.querySelectorAll(`[${name}]`)].map((element) => element.getAttribute(name) ?? ""));
  }
  remove();
  return words.map((word) => word.trim());
}

it.each(Object.keys(DUMPED_SCENES))("has every word of the scene %s", (name) => {
  const scene = DUMPED_SCENES[name] as DeckState;
  const data = JSON.stringify(scene);
  const english = new Set(wordsOf(scene, "en"));
  const isKnown = (word: string) =>
    !/[a-z]{3}/i.test(word) || data.includes(word) || SAME.has(word.replace(/[\d.,]+/g, "0"));
  expect(wordsOf(scene, "pt-BR").filter((word) => english.has(word) && !isKnown(word))).toEqual([]);
});

/** Words of the page that are the same in both languages. */
const SAME = new Set([
  "modeldeck",
  "Chat",
  "Downloads",
  "Flash attention",
  "RAM",
  "Threads",
  "tokens",
  "0 tokens",
  "0 tokens/s",
]);

describe("what Python says", () => {
  const error = { code: "rate_limited", message: "Too many requests.", details: { retry_after_seconds: 30 } };

  it("is shown as it is in English, and by its code in another language", () => {
    expect(languageOf("en").error(error)).toBe("Too many requests.");
    expect(portuguese.error(error)).toBe(
      "O Hub recebeu requisições demais. Aguarde 30 s e tente de novo; com um token, o limite é maior.",
    );
    expect(portuguese.error({ ...error, details: {} })).toContain("Aguarde e tente de novo");
    expect(portuguese.error({ ...error, code: "of_a_newer_version" })).toBe("Too many requests.");
    expect(portuguese.error({ ...error, code: "toString" })).toBe("Too many requests.");
  });

  it("in toasts, notices and reasons is made of the values that came with the code", () => {
    const failed = toast("Q4_K_M of a/b failed. Too many requests.", {
      code: "download_failed",
      label: "Q4_K_M",
      repo_id: "a/b",
      error: { ...error, code: "timeout" },
    });
    expect(describeToast(failed, portuguese)).toBe(
      "Falha em Q4_K_M de a/b. O servidor não respondeu a tempo. Verifique a conexão e tente de novo.",
    );
    expect(describeToast(failed, languageOf("en"))).toBe(failed.message);
    expect(describeToast(toast("Loaded without its.", { code: "without_projector" }), portuguese)).toContain(
      "sem o projetor",
    );
    expect(describeToast(toast("Not known."), portuguese)).toBe("Not known.");
    const fit = estimate({ reason: "English.", reason_code: "beyond_training", trained_n_ctx: 32_768 });
    expect(describeFitReason(fit, portuguese)).toBe(
      "O modelo foi treinado com 32.768 tokens. Com mais, as respostas pioram.",
    );
    const reason = { code: "reading_pace", tokens_per_second: 8.4, reading_pace: 8, text: "English." } as const;
    expect(describeReason(reason, portuguese)).toMatch(/nesta máquina: cerca de 8 tokens\/s\.$/);
    expect(describeReason({ ...reason, tokens_per_second: null }, portuguese)).toMatch(/nesta máquina\.$/);
  });

  it("keeps the English sentence of an error at hand", () => {
    const { root } = show({
      view: view({ locale: "pt-BR" }),
      search: search([], { state: "failed", error: { ...error, code: "server_error" } }),
    });
    const box = get(root, "alert");
    expect(box.querySelector("p")?.textContent).toContain("O servidor falhou");
    expect(box.querySelector("details [lang=en]")?.textContent).toBe("Too many requests.");
  });
});

describe("a language", () => {
  it.each([
    ["en", "en"],
    ["en-GB", "en"],
    ["pt-BR", "pt-BR"],
    ["pt_BR", "pt-BR"],
    ["pt", "pt-BR"],
    ["de", "en"],
    ["", "en"],
  ])("of the tag %s is %s", (tag, chosen) => {
    expect(languageOf(tag).tag).toBe(chosen);
  });

  it("fills in values and chooses plurals", () => {
    const { t, parts } = languageOf("en");
    expect(t("models", { count: 1 })).toBe("1 model");
    expect(t("models", { count: 12_000 })).toBe("12,000 models");
    expect(portuguese.t("models", { count: 12_000 })).toBe("12.000 modelos");
    expect(portuguese.t("hiddenModels", { count: 1 })).toBe("1 oculto pelos filtros");
    expect(portuguese.t("hiddenModels", { count: 2 })).toBe("2 ocultos pelos filtros");
    expect(t("variantOf", { label: "{repo}", repo: "a/b" })).toBe("{repo} of a/b");
    expect(parts("loadedModel", { name: 7 })).toEqual(["Loaded ", 7, ""]);
  });

  const BRAZILIAN: [(language: Language["format"]) => string | null, string][] = [
    [(format) => format.fileSize(4_683_074_240), "4,68 GB"],
    [(format) => format.received(1_214_000_000, 4_683_074_240), "1,2 de 4,7 GB"],
    [(format) => format.rate(1_240_000), "1,2 MB/s"],
    [(format) => format.memoryOf(1.9 * 2 ** 30, 7.2 * 2 ** 30), "1,9 de 7,2 GiB"],
    [(format) => format.duration(3900), "1 hora 5 minutos"],
    [(format) => format.count(310_554), "311 mil"],
    [(format) => format.count(1_204_332), "1,2 mi"],
    [(format) => format.parameters(7_615_616_512), "7,6B"],
    [(format) => format.ago("2026-11-20T09:00:00Z", Date.parse("2026-11-23T12:00:00Z")), "há 3 dias"],
    [(format) => format.ago("2026-11-23T09:00:00Z", Date.parse("2026-11-23T12:00:00Z")), "hoje"],
  ];
  it.each(BRAZILIAN)("writes numbers as Brazilians do %#", (write, text) => {
    expect(write(portuguese.format)?.replace(/\u00a0/g, " ")).toBe(text);
  });
});
