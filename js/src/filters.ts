// The filters of a search: what there is to choose from, and how a choice is named.

import type { Language, PlainKey } from "./texts/language";
import { EMPTY_STATE, type FiltersView } from "./wire";

export const NO_FILTERS: FiltersView = EMPTY_STATE.search.filters;

/** Numbers of weights, from and to. */
export const SIZES: readonly (readonly [number | null, number | null])[] = [
  [null, 1e9],
  [1e9, 4e9],
  [4e9, 9e9],
  [9e9, 16e9],
  [16e9, 40e9],
  [40e9, null],
];

export const TASKS: Record<string, PlainKey> = {
  chat: "taskChat",
  embedding: "taskEmbedding",
  vision: "taskVision",
  code: "taskCode",
};

export const LICENCES = [
  "apache-2.0",
  "mit",
  "llama3.1",
  "llama3.2",
  "llama3.3",
  "gemma",
  "cc-by-4.0",
  "cc-by-nc-4.0",
  "openrail",
  "other",
] as const;

export const LANGUAGES = "en pt ar de es fr hi id it ja ko nl pl ru tr vi zh".split(" ");

export const QUANTIZATIONS = "Q2_K Q3_K_M IQ4_XS Q4_0 Q4_K_S Q4_K_M Q5_K_M Q6_K Q8_0 MXFP4 F16 BF16".split(" ");

/** The weights of a size: "1B to 4B". */
export function sizeName(min: number | null, max: number | null, { t, format }: Language): string {
  if (min === null) {
    return t("sizeUpTo", { max: format.parameters(max ?? 0) });
  }
  return max === null
    ? t("sizeFrom", { min: format.parameters(min) })
    : t("sizeBetween", { min: format.parameters(min), max: format.parameters(max) });
}

export interface Chip {
  name: string;
  /** The filters without this one. */
  rest: FiltersView;
}

/** The filters that are on, each with its name. */
export function chipsOf(filters: FiltersView, language: Language): Chip[] {
  const { t } = language;
  const { task, license, author, quantization, min_parameters: min, max_parameters: max } = filters;
  const chips: [string | null, Partial<FiltersView>][] = [
    [
      min === null && max === null ? null : sizeName(min, max, language),
      { min_parameters: null, max_parameters: null },
    ],
    [task && (TASKS[task] ? t(TASKS[task]) : task), { task: null }],
    [license, { license: null }],
    [filters.language && language.languageName(filters.language), { language: null }],
    [author && t("byAuthor", { author }), { author: null }],
    [filters.is_open ? t("notGated") : null, { is_open: false }],
    [quantization, { quantization: null }],
  ];
  return chips.flatMap(([name, off]) => (name ? [{ name, rest: { ...filters, ...off } }] : []));
}
