// The languages of the page: which one is shown, and how its texts and numbers are written.

import type { ComponentChildren } from "preact";
import type { ErrorCode, ErrorInfo, FitReasonCode, Locale, NoticeCode, ReasonCode, ToastCode } from "../wire";
import { EN, type Message } from "./en";
import { type Format, formatFor } from "./format";

export type Key = keyof typeof EN;
export type Texts = Record<Key, Message>;

/** The names of the values in a text: "a" | "b" for "{a} of {b}". */
type NamesIn<Text> = Text extends `${string}{${infer Name}}${infer Rest}` ? Name | NamesIn<Rest> : never;
type FormsOf<Text> = Text extends string ? Text : Text[keyof Text];
type NamesOf<K extends Key> = NamesIn<FormsOf<(typeof EN)[K]>>;

/** A text without values. */
export type PlainKey = { [K in Key]: [NamesOf<K>] extends [never] ? K : never }[Key];

/** A number is written as the language writes numbers, and chooses the plural if it is the `count`. */
type Values<K extends Key, V> = [NamesOf<K>] extends [never] ? [] : [values: Record<NamesOf<K>, V>];

/** Sentences for what Python says in English, by kind and code. */
export interface PythonTexts {
  errors: Record<ErrorCode, string>;
  fits: Record<FitReasonCode, string>;
  reasons: Record<ReasonCode, string>;
  notices: Record<NoticeCode, string>;
  toasts: Record<ToastCode, string>;
}

export interface Language {
  /** The tag of the language, as HTML and Intl know it. */
  readonly tag: Locale;
  readonly format: Format;
  /** A text with its values filled in. */
  t<K extends Key>(key: K, ...values: Values<K, string | number>): string;
  /** The same in parts, of which some can be elements: `["Loading ", <b>…</b>]`. */
  parts<K extends Key>(key: K, ...values: Values<K, ComponentChildren>): ComponentChildren[];
  /** What Python said: in English its own sentence, else the one of its code, and its own where the code is unknown. */
  said(kind: keyof PythonTexts, code: string | null, english: string, values?: object): string;
  /** The name of a language that people speak, by its code. */
  languageName(code: string): string;
  /** The sentence of an error. */
  error(error: ErrorInfo): string;
}

export type { Locale };

/** A translation: its texts in the order of the English ones, and its sentences for what Python says. */
export interface Translation {
  texts: readonly Message[];
  python: PythonTexts;
}

const made = new Map<Locale, Language>();
const translations: Partial<Record<Locale, Translation>> = {};

/** Learn other languages than English, which only come with the state of a widget: they are data, and not code. */
export function addTranslations(more: typeof translations | undefined): void {
  Object.assign(translations, more);
}

/** The language of a tag: its own if there is a translation, else English. */
export function languageOf(tag: string): Language {
  const locale = translations["pt-BR"] && /^pt(?![a-z])/i.test(tag) ? "pt-BR" : "en";
  let language = made.get(locale);
  if (!language) {
    language = makeLanguage(locale);
    made.set(locale, language);
  }
  return language;
}

/** The language of the page around the widget: what the host says, else what the browser prefers. */
export function hostLanguage(): string {
  return document.documentElement.lang || navigator.language;
}

function makeLanguage(tag: Locale): Language {
  const translation = translations[tag];
  const keys = Object.keys(EN) as Key[];
  const table: Texts = translation
    ? (Object.fromEntries(keys.map((key, index) => [key, translation.texts[index] ?? EN[key]])) as Texts)
    : EN;
  const rules = new Intl.PluralRules(tag);
  const parts = <V>(key: Key, values: Record<string, V> = {}): (string | V)[] => {
    const message = table[key];
    // Every other piece is the name of a value.
    return formOf(message, values.count)
      .split(/\{(\w+)\}/)
      .map((piece, index) => (index % 2 ? (values[piece] as V) : piece));
  };
  const formOf = (message: Message, count: unknown): string => {
    if (typeof message === "string") {
      return message;
    }
    return rules.select(Number(count)) === "one" ? message.one : message.other;
  };
  const write = (value: string | number) => (typeof value === "number" ? format.number(value) : value);
  const t = (key: Key, values?: Record<string, string | number>) => parts(key, values).map(write).join("");
  const format = formatFor(tag, t as Language["t"]);

  const said = (kind: keyof PythonTexts, code: string | null, english: string, values: object = {}): string => {
    const sentences: Record<string, string> | undefined = translation?.python[kind];
    const sentence = sentences && Object.hasOwn(sentences, code ?? "") ? sentences[code ?? ""] : undefined;
    if (sentence === undefined) {
      return english;
    }
    const known: Record<string, unknown> = { ...values, english };
    const fill = (text: string) => text.replace(/\{(\w+)\}/g, (_, name) => writeValue(name, known[name]));
    const hasAll = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].every(([, name]) => known[name ?? ""] != null);
    return fill(sentence.replace(/\[(.*?)\]/g, (_, part) => (hasAll(part) ? part : "")));
  };
  const writeValue = (name: string, value: unknown): string => {
    if (typeof value !== "number") {
      return String(value);
    }
    return name.endsWith("_seconds") ? format.seconds(value) : format.number(value);
  };
  const error = ({ code, message, details }: ErrorInfo) => said("errors", code, message, details);
  const names = new Intl.DisplayNames(tag, { type: "language" });
  const languageName = (code: string): string => {
    try {
      return names.of(code) ?? code;
    } catch {
      return code;
    }
  };
  return { tag, format, t, parts, said, error, languageName } as Language;
}
