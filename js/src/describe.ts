// What the parts of the state mean, in words.

import type { Language, PlainKey } from "./texts/language";
import type {
  FitEstimate,
  FitVerdict,
  JobView,
  LoadView,
  MachineView,
  MeasuredView,
  ReasonView,
  SummaryView,
  ToastMessage,
} from "./wire";

const VERDICT: Record<FitVerdict, PlainKey> = {
  fits: "fits",
  partial: "partly",
  too_large: "tooLarge",
  unusable: "notUsable",
  unknown: "fitUnknown",
};

/** A fit estimate in one line: "fits: 1.9 of 7.2 GiB at 4096 tokens". */
export function describeFit(fit: FitEstimate, { t, format }: Language): string {
  const { verdict, needed_bytes, available_bytes, n_gpu_layers } = fit;
  if (verdict === "partial" && n_gpu_layers !== null) {
    return t("gpuLayers", { count: n_gpu_layers });
  }
  const text = t(VERDICT[verdict] ?? "fitUnknown");
  if (verdict === "unusable" || verdict === "unknown" || !(verdict in VERDICT)) {
    return text;
  }
  const parts = [text];
  if (needed_bytes !== null && available_bytes !== null) {
    // What must stay free counts where it decides, so that the figures of "too large" differ.
    const needed = needed_bytes + (verdict === "too_large" ? fit.reserve_bytes : 0);
    const memory = format.memoryOf(needed, available_bytes);
    const tokens = t("tokens", { count: fit.n_ctx });
    const isAbout = fit.method === "size";
    parts[0] = t("fitWith", { verdict: text, memory: t(isAbout ? "aboutMemoryAt" : "memoryAt", { memory, tokens }) });
  }
  if (verdict === "too_large" && fit.max_n_ctx) {
    parts.push(t("fitsUpTo", { count: fit.max_n_ctx }));
  }
  return parts.join(", ");
}

/** Where a download stands, as the parts of one line. */
export function describeJob(job: JobView, language: Language): string[] {
  const { t, format } = language;
  const amount = format.received(job.received, job.total);
  switch (job.state) {
    case "queued":
      return [t("inQueue")];
    case "resolving":
      return [t("contacting")];
    case "verifying":
      return [t("checking"), amount];
    case "paused":
      return [t("paused"), amount];
    case "failed":
      return job.received > 0 ? [t("failed"), amount] : [t("failed")];
    default:
      return [amount, ...pace(job, language)];
  }
}

function pace({ attempt, eta_seconds, is_stalled, rate, retry_in_seconds }: JobView, language: Language): string[] {
  const { t, format } = language;
  if (retry_in_seconds !== null) {
    const time = format.seconds(retry_in_seconds);
    return [attempt > 1 ? t("retryingAttempt", { time, attempt }) : t("retryingIn", { time })];
  }
  if (is_stalled) {
    return [t("stalled")];
  }
  const parts = rate === null ? [] : [format.rate(rate)];
  return eta_seconds === null ? parts : [...parts, t("timeLeft", { time: format.duration(eta_seconds) })];
}

const STAGE: Record<NonNullable<LoadView["stage"]>, PlainKey> = {
  installing: "stageInstalling",
  reading: "stageReading",
  opening: "stageOpening",
  loading: "stageLoading",
  ready: "stageReady",
};

export function describeStage(load: LoadView, { t }: Language): string {
  const stage = t(load.stage ? STAGE[load.stage] : "stageStarting");
  return load.fraction === null ? stage : `${stage}, ${t("percent", { percent: Math.floor(load.fraction * 100) })}`;
}

export interface MemoryMeter {
  name: string;
  text: string;
  /** The used part, 0 to 1. */
  used: number | null;
}

/** The memory of the machine: the GPUs where there are any, and RAM. */
export function describeMemory(hardware: MachineView, { t, format }: Language): MemoryMeter[] {
  const meter = (name: string, free: number | null, total: number | null): MemoryMeter[] => {
    if (total === null) {
      return [];
    }
    if (free === null) {
      return [{ name, text: `${format.gib(total)} GiB`, used: null }];
    }
    const memory = t("amountOf", { part: format.gib(free), whole: format.gib(total), unit: "GiB" });
    const used = total === 0 ? null : Math.min(1, Math.max(0, 1 - free / total));
    return [{ name, text: t("memoryFree", { memory }), used }];
  };
  return [
    ...hardware.gpus.flatMap((gpu) => meter(gpu.name, gpu.free, gpu.total)),
    ...meter("RAM", hardware.ram_available, hardware.ram_total),
  ];
}

/** The expected speed: "about 12 tokens/s", or "12 tokens/s last time" where this file has been run here. */
export function describeSpeed(
  tokensPerSecond: number,
  source: FitEstimate["speed_source"],
  { t, format }: Language,
): string {
  const speed = format.number(Number(tokensPerSecond.toFixed(tokensPerSecond < 1 ? 1 : 0)));
  return t(source === "measured" ? "speedLastTime" : "aboutSpeed", { speed });
}

/** The number of a model's weights: "30.5B (3B active)". */
export function describeParameters(model: SummaryView, { t, format }: Language): string | null {
  const { parameter_count, active_parameter_count } = model;
  if (parameter_count === null) {
    return null;
  }
  const all = format.parameters(parameter_count);
  return active_parameter_count === null
    ? all
    : t("activeParameters", { all, active: format.parameters(active_parameter_count) });
}

/** Why a variant is the recommended one. */
export function describeReason(reason: ReasonView, language: Language): string {
  const { tokens_per_second, reading_pace } = reason;
  const speed = tokens_per_second === null ? null : describeSpeed(tokens_per_second, null, language);
  return language.said("reasons", reason.code, reason.text, { speed, pace: reading_pace });
}

/** Why a verdict is what it is, where it needs an explanation. */
export function describeFitReason(fit: FitEstimate, { said }: Language): string | undefined {
  return fit.reason === null ? undefined : said("fits", fit.reason_code, fit.reason, fit);
}

/** What a toast says. */
export function describeToast(toast: ToastMessage, language: Language): string {
  const { code, label, repo_id, message } = toast;
  const error = toast.error ? language.error(toast.error) : "";
  if (!code && toast.error) {
    return error;
  }
  const name = language.t("variantOf", { label: label ?? "", repo: repo_id ?? "" });
  // A code is one of a toast's own, or of a notice.
  return language.said("toasts", code, language.said("notices", code, message), { ...toast, name, error });
}

/** What the last load and its first generation took on this machine: "62 tokens/s, loaded in 0.3 s last time". */
export function describeMeasured(measured: MeasuredView, { t, format }: Language): string {
  const speed = format.speed(measured.tokens_per_second);
  return t("measured", { speed, seconds: format.fixed(measured.load_seconds, 1) });
}
