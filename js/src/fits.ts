// The "Fits here" filter. It hides only models that certainly do not fit.

import type { MachineView, SummaryView, VariantRowView } from "./wire";

/** Weights at 4 bits a parameter. With fewer bits a model's answers are rarely useful. */
const BYTES_PER_PARAMETER = 0.5;

/** Whether a model could run on this machine at 4 bits a parameter, all its memory taken together. */
export function mayFit(model: SummaryView, hardware: MachineView | null): boolean {
  if (model.parameter_count === null || hardware === null || hardware.ram_available === null) {
    return true;
  }
  const memory = hardware.gpus.reduce((sum, gpu) => sum + (gpu.free ?? gpu.total ?? 0), hardware.ram_available);
  return model.parameter_count * BYTES_PER_PARAMETER <= memory;
}

/** Whether the filter keeps a variant. One that is on this machine is always kept. */
export function isKept(variant: VariantRowView): boolean {
  return variant.state !== "available" || variant.fit?.verdict !== "too_large";
}
