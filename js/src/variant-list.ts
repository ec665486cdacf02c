// What of a long list of variants is shown first, and what the label of a variant means.

import type { Language, PlainKey } from "./texts/language";
import type { VariantRowView } from "./wire";

/** A longer list is folded. */
const LONG_LIST = 8;
/** How many variants on either side of the recommended one are shown. */
const NEIGHBOURS = 2;

/** The variants to show first, in their order; all of a list that is not long. */
export function firstVariants(
  variants: VariantRowView[],
  recommended: string | null,
  isInUse: (variant: VariantRowView) => boolean,
): VariantRowView[] {
  if (variants.length <= LONG_LIST) {
    return variants;
  }
  const index = variants.findIndex(({ variant_id }) => variant_id === recommended);
  const fitting = variants.findIndex(({ fit }) => fit?.verdict === "fits");
  const middle = Math.max(NEIGHBOURS, index >= 0 ? index : fitting);
  return variants.filter((variant, place) => Math.abs(place - middle) <= NEIGHBOURS || isInUse(variant));
}

export type Bits = 1 | 2 | 3 | 4 | 5 | 6 | 8 | 16;

const QUALITY: Record<Bits, PlainKey> = {
  1: "quality1",
  2: "quality2",
  3: "quality3",
  4: "quality4",
  5: "quality5",
  6: "quality6",
  8: "quality8",
  16: "quality16",
};

/** The bits of each weight that a label tells; 16 stands for all that is not quantized. */
export function bitsOf(label: string): Bits | null {
  const name = label.toUpperCase().replace(/^UD-/, "");
  if (/^(BF16|FP?16|FP?32)/.test(name)) {
    return 16;
  }
  const digit = Number(name.match(/^(?:I?Q|TQ|MXFP|NVFP)(\d)/)?.[1]);
  return digit in QUALITY ? (digit as Bits) : null;
}

/** How many bits those are, in words. */
export function nameOfBits(bits: Bits | null, { t }: Language): string {
  return bits === null ? t("bitsUnknown") : bits === 16 ? t("bits16") : t("bits", { count: bits });
}

export interface Group {
  bits: Bits | null;
  variants: VariantRowView[];
}

/** The variants by their bits, in the order in which they come. */
export function groupsOf(variants: VariantRowView[]): Group[] {
  const groups = new Map<Bits | null, VariantRowView[]>();
  for (const variant of variants) {
    const bits = bitsOf(variant.quantization ?? variant.label);
    groups.set(bits, [...(groups.get(bits) ?? []), variant]);
  }
  return [...groups].map(([bits, members]) => ({ bits, variants: members }));
}

/** What a label means: "About 4 bits for each weight, k-quants, medium mix: …"; `null` for one that nobody knows. */
export function meaningOf(label: string, language: Language): string | null {
  const { t } = language;
  const bits = bitsOf(label);
  if (bits === null) {
    return null;
  }
  const name = label.toUpperCase();
  const parts = [nameOfBits(bits, language)];
  if (/IQ\d/.test(name)) {
    parts.push(t("methodI"));
  } else if (/Q\d_K/.test(name)) {
    parts.push(t("methodK"));
  } else if (/Q\d_[01]$/.test(name)) {
    parts.push(t("methodOld"));
  } else if (/FP4/.test(name)) {
    parts.push(t("methodFloat"));
  }
  const mix = name.match(/_(XXS|XS|S|M|L|XL)$/)?.[1];
  if (mix) {
    parts.push(t(mix === "M" ? "mixMedium" : mix.endsWith("S") ? "mixSmall" : "mixLarge"));
  }
  if (name.startsWith("UD-")) {
    parts.push(t("mixDynamic"));
  }
  return `${parts.join(", ")}. ${t(QUALITY[bits])}`;
}
