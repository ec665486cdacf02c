// The "Fits here" filter. It only hides what is certain not to fit; what is unknown stays.

import type { Hardware, ModelSummary, Variant } from "./wire";

/** Weights at 4 bits a parameter: below that a model is rarely worth its name. */
const BYTES_PER_PARAMETER = 0.5;

/** Whether a model could run on this machine at 4 bits a parameter, all its memory taken together. */
export function mayFit(model: ModelSummary, hardware: Hardware | null): boolean {
  if (model.parameter_count === null || hardware === null || hardware.ram_available === null) {
    return true;
  }
  const memory = hardware.gpus.reduce((sum, gpu) => sum + (gpu.free ?? gpu.total ?? 0), hardware.ram_available);
  return model.parameter_count * BYTES_PER_PARAMETER <= memory;
}

/** Whether the filter keeps a variant; what is already here is always kept. */
export function isKept(variant: Variant): boolean {
  return variant.state !== "available" || variant.fit?.verdict !== "too_large";
}
