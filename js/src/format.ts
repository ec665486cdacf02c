// Numbers as people read them. Files are in GB (10^9) as the Hub shows them, memory in GiB.

const FILE_UNITS = ["bytes", "KB", "MB", "GB", "TB"] as const;
const KIB_BYTES = 2 ** 10;
const MIB_BYTES = 2 ** 20;
const GIB_BYTES = 2 ** 30;
const MINUTE_SECONDS = 60;
const DAY_SECONDS = 86_400;

function fileUnit(bytes: number): number {
  let unit = 0;
  // 999.5 of a unit would print as 1000: it belongs to the next one.
  while (unit < FILE_UNITS.length - 1 && bytes >= 999.5 * 1000 ** unit) {
    unit += 1;
  }
  return unit;
}

/** Three significant digits, without trailing zeros after the point: 4.68, 105, 1.2. */
function significant(value: number): string {
  const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return String(Number(value.toFixed(digits)));
}

/** Size of a file: "4.68 GB", "105 MB". */
export function fileSize(bytes: number | null): string {
  if (bytes === null) {
    return "size unknown";
  }
  const unit = fileUnit(bytes);
  return `${significant(bytes / 1000 ** unit)} ${FILE_UNITS[unit]}`;
}

/** How far a download is, in one unit: "1.2 of 4.7 GB". */
export function received(bytes: number, total: number | null): string {
  if (total === null) {
    return fileSize(bytes);
  }
  const unit = fileUnit(total);
  const digits = unit === 0 || total >= 100 * 1000 ** unit ? 0 : 1;
  const show = (value: number) => (value / 1000 ** unit).toFixed(digits);
  return `${show(Math.min(bytes, total))} of ${show(total)} ${FILE_UNITS[unit]}`;
}

/** Speed: "31 MB/s". */
export function rate(bytesPerSecond: number): string {
  const unit = Math.max(1, fileUnit(bytesPerSecond));
  const value = bytesPerSecond / 1000 ** unit;
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} ${FILE_UNITS[unit]}/s`;
}

/** Memory in GiB without the unit: "1.9". */
export function gib(bytes: number): string {
  const value = bytes / GIB_BYTES;
  return value > 0 && value < 0.05 ? "under 0.1" : value.toFixed(1);
}

/** Memory needed of what there is: "5.1 of 7.2 GiB", in a smaller unit where both would look the same. */
export function memoryOf(needed: number, available: number): string {
  const [a, b] = [gib(needed), gib(available)];
  if (a !== b || needed === available) {
    return `${a} of ${b} GiB`;
  }
  const unit = Math.round(needed / MIB_BYTES) === Math.round(available / MIB_BYTES) ? KIB_BYTES : MIB_BYTES;
  return `${Math.round(needed / unit)} of ${Math.round(available / unit)} ${unit === MIB_BYTES ? "MiB" : "KiB"}`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** A duration in its one or two largest units: "2 minutes", "1 hour 5 minutes". */
export function duration(seconds: number): string {
  // 59.5 would round to "60 seconds".
  if (seconds < MINUTE_SECONDS - 0.5) {
    return plural(Math.max(1, Math.round(seconds)), "second");
  }
  const minutes = Math.round(seconds / MINUTE_SECONDS);
  if (minutes < 60) {
    return plural(minutes, "minute");
  }
  if (seconds < DAY_SECONDS) {
    const hours = Math.floor(minutes / 60);
    const rest = minutes % 60;
    return rest === 0 || hours >= 10 ? plural(hours, "hour") : `${plural(hours, "hour")} ${plural(rest, "minute")}`;
  }
  return plural(Math.round(seconds / DAY_SECONDS), "day");
}

export function timeLeft(seconds: number): string {
  return `${duration(seconds)} left`;
}

/** A count as the Hub shows it: 987, 12.3k, 1.2M. */
export function count(value: number): string {
  if (value < 1000) {
    return String(value);
  }
  const [scaled, suffix] =
    value < 999_500 ? [value / 1e3, "k"] : value < 999_500_000 ? [value / 1e6, "M"] : [value / 1e9, "B"];
  return `${Number(scaled.toFixed(scaled < 100 ? 1 : 0))}${suffix}`;
}

/** Number of parameters: 135M, 7.6B. */
export function parameters(value: number): string {
  return count(value).replace("k", "K");
}

/** A context length: 512, 8K, 128K, 1M. */
export function tokens(value: number): string {
  if (value >= 1024 ** 2 && value % 1024 ** 2 === 0) {
    return `${value / 1024 ** 2}M`;
  }
  if (value >= 1024 && value % 1024 === 0) {
    return `${value / 1024}K`;
  }
  return value < 10_000 ? String(value) : `${Math.round(value / 1000)}K`;
}

/** A moment in the past, roughly: "today", "3 days ago", "2 years ago". */
export function ago(iso: string, now: number = Date.now()): string | null {
  const then = Date.parse(iso);
  if (Number.isNaN(then)) {
    return null;
  }
  const days = Math.floor((now - then) / 1000 / DAY_SECONDS);
  if (days < 1) {
    return "today";
  }
  if (days < 31) {
    return `${plural(days, "day")} ago`;
  }
  if (days < 365) {
    return `${plural(Math.floor(days / 30.44), "month")} ago`;
  }
  return `${plural(Math.floor(days / 365.25) || 1, "year")} ago`;
}

/** Seconds as a countdown: "4 s". */
export function seconds(value: number): string {
  return value < MINUTE_SECONDS ? `${Math.max(0, Math.ceil(value))} s` : duration(value);
}
