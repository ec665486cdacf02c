// What the parts of the state mean, in words.

import * as format from "./format";
import type { FitEstimate, JobView, LoadView, MachineView, MeasuredView } from "./wire";

/** A fit estimate in one line: "fits: 1.9 of 7.2 GiB at 4096 tokens". */
export function describeFit(fit: FitEstimate): string {
  const about = fit.method === "size" ? "about " : "";
  // What must stay free counts where it decides, so that the figures of "too large" differ.
  const needed = (fit.needed_bytes ?? 0) + (fit.verdict === "too_large" ? fit.reserve_bytes : 0);
  const memory =
    fit.needed_bytes === null || fit.available_bytes === null
      ? null
      : `${about}${format.memoryOf(needed, fit.available_bytes)} at ${fit.n_ctx} tokens`;
  switch (fit.verdict) {
    case "fits":
      return `fits${memory ? `: ${memory}` : ""}`;
    case "partial":
      return fit.n_gpu_layers === null
        ? `partly${memory ? `: ${memory}` : ""}`
        : `partly: ${fit.n_gpu_layers} ${fit.n_gpu_layers === 1 ? "layer" : "layers"} on the GPU`;
    case "too_large":
      return `too large${memory ? `: ${memory}` : ""}${fit.max_n_ctx ? `, fits up to ${fit.max_n_ctx}` : ""}`;
    case "unusable":
      return "not usable";
    default:
      return "fit unknown";
  }
}

/** Where a download stands, as the parts of one line. */
export function describeJob(job: JobView): string[] {
  const amount = format.received(job.received, job.total);
  switch (job.state) {
    case "queued":
      return ["Waiting in the queue"];
    case "resolving":
      return ["Contacting the Hub"];
    case "verifying":
      return ["Checking the sha256", amount];
    case "paused":
      return ["Paused", amount];
    case "failed":
      return job.received > 0 ? ["Failed", amount] : ["Failed"];
    default:
      return [amount, ...pace(job)];
  }
}

function pace(job: JobView): string[] {
  if (job.retry_in_seconds !== null) {
    return [`retrying in ${format.seconds(job.retry_in_seconds)}${job.attempt > 1 ? ` (attempt ${job.attempt})` : ""}`];
  }
  if (job.is_stalled) {
    return ["stalled, no data received"];
  }
  const parts = job.rate === null ? [] : [format.rate(job.rate)];
  return job.eta_seconds === null ? parts : [...parts, format.timeLeft(job.eta_seconds)];
}

const STAGE: Record<NonNullable<LoadView["stage"]>, string> = {
  reading: "Reading the header",
  opening: "Opening the file",
  loading: "Loading the weights",
  ready: "Ready",
};

export function describeStage(load: LoadView): string {
  const stage = load.stage ? STAGE[load.stage] : "Starting";
  return load.fraction === null ? stage : `${stage}, ${Math.floor(load.fraction * 100)} %`;
}

export interface MemoryMeter {
  name: string;
  text: string;
  /** The used part, 0 to 1. */
  used: number | null;
}

/** The memory of the machine: the GPUs where there are any, and RAM. */
export function describeMemory(hardware: MachineView): MemoryMeter[] {
  const meter = (name: string, free: number | null, total: number | null): MemoryMeter[] =>
    total === null
      ? []
      : [
          {
            name,
            text: free === null ? `${format.gib(total)} GiB` : `${format.gib(free)} of ${format.gib(total)} GiB free`,
            used: free === null || total === 0 ? null : Math.min(1, Math.max(0, 1 - free / total)),
          },
        ];
  return [
    ...hardware.gpus.flatMap((gpu) => meter(gpu.name, gpu.free, gpu.total)),
    ...meter("RAM", hardware.ram_available, hardware.ram_total),
  ];
}

/** The expected speed: "about 12 tokens/s", or "12 tokens/s last time" where this file has been run here. */
export function describeSpeed(tokensPerSecond: number, source: FitEstimate["speed_source"]): string {
  const rounded = tokensPerSecond < 1 ? Number(tokensPerSecond.toFixed(1)) : Math.round(tokensPerSecond);
  return source === "measured" ? `${rounded} tokens/s last time` : `about ${rounded} tokens/s`;
}

/** What the last load and its first generation took on this machine: "62 tokens/s, loaded in 0.3 s last time". */
export function describeMeasured({ load_seconds, tokens_per_second }: MeasuredView): string {
  const rate = tokens_per_second < 10 ? tokens_per_second.toFixed(1) : tokens_per_second.toFixed(0);
  return `${rate} tokens/s, loaded in ${load_seconds.toFixed(1)} s last time`;
}
