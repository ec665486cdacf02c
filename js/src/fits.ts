// The "Fits here" filter. It hides only models that certainly do not run here.

import type { FitVerdict, MachineView, SummaryView, VariantRowView } from "./wire";

/** Weights at 4 bits a parameter. With fewer bits a model's answers are rarely useful. */
const BYTES_PER_PARAMETER = 0.5;

const NEVER_RUNS: ReadonlySet<FitVerdict | undefined> = new Set<FitVerdict>(["too_large", "unusable"]);

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
  const { state, fit, hosts } = variant;
  return state !== "available" || (hosts ? hosts.fitting > 0 : !NEVER_RUNS.has(fit?.verdict));
}
