// Numbers as people read them. Files are in GB (10^9) as the Hub shows them, memory in GiB.

import type { Language } from "./language";

const KIB_BYTES = 2 ** 10;
const MIB_BYTES = 2 ** 20;
const GIB_BYTES = 2 ** 30;
const MINUTE_SECONDS = 60;
const DAY_SECONDS = 86_400;

export type Format = ReturnType<typeof formatFor>;

/** The formats of a language. */
export function formatFor(tag: string, t: Language["t"]) {
  const FILE_UNITS = [t("bytes"), "KB", "MB", "GB", "TB"];
  const plain = new Intl.NumberFormat(tag, { useGrouping: "min2", maximumFractionDigits: 2 });
  const compact = new Intl.NumberFormat(tag, {
    notation: "compact",
    maximumFractionDigits: 1,
    maximumSignificantDigits: 3,
    roundingPriority: "lessPrecision",
  });
  const relative = new Intl.RelativeTimeFormat(tag, { numeric: "always" });
  const list = new Intl.ListFormat(tag, { type: "unit", style: "narrow" });

  /** A number with a fixed count of digits after the point. */
  const fixed = (value: number, digits: number): string =>
    new Intl.NumberFormat(tag, {
      useGrouping: false,
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    }).format(value);

  /** Tokens per second as they were measured: "8.5", "42". */
  const speed = (value: number): string => fixed(value, value < 10 ? 1 : 0);

  const units = (value: number, unit: "second" | "minute" | "hour" | "day"): string =>
    new Intl.NumberFormat(tag, { style: "unit", unit, unitDisplay: "long" }).format(value);

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
    return plain.format(Number(value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)));
  }

  /** Size of a file: "4.68 GB", "105 MB". */
  function fileSize(bytes: number | null): string {
    if (bytes === null) {
      return t("sizeUnknown");
    }
    const unit = fileUnit(bytes);
    return `${significant(bytes / 1000 ** unit)} ${FILE_UNITS[unit]}`;
  }

  /** How far a download is, in one unit: "1.2 of 4.7 GB". */
  function received(bytes: number, total: number | null): string {
    if (total === null) {
      return fileSize(bytes);
    }
    const unit = fileUnit(total);
    const digits = unit === 0 || total >= 100 * 1000 ** unit ? 0 : 1;
    const show = (value: number) => fixed(value / 1000 ** unit, digits);
    return t("amountOf", { part: show(Math.min(bytes, total)), whole: show(total), unit: FILE_UNITS[unit] ?? "" });
  }

  /** Speed: "31 MB/s". */
  function rate(bytesPerSecond: number): string {
    const unit = Math.max(1, fileUnit(bytesPerSecond));
    const value = bytesPerSecond / 1000 ** unit;
    return `${plain.format(Number(value.toFixed(value < 10 ? 1 : 0)))} ${FILE_UNITS[unit]}/s`;
  }

  /** Memory in GiB without the unit: "1.9". */
  function gib(bytes: number): string {
    const value = bytes / GIB_BYTES;
    return value > 0 && value < 0.05 ? t("underTenth") : fixed(value, 1);
  }

  /** Memory needed of what there is: "5.1 of 7.2 GiB", in a smaller unit where both would look the same. */
  function memoryOf(needed: number, available: number): string {
    const [a, b] = [gib(needed), gib(available)];
    if (a !== b || needed === available) {
      const part = needed < GIB_BYTES ? fixed(needed / GIB_BYTES, 2) : a;
      return t("amountOf", { part, whole: b, unit: "GiB" });
    }
    const unit = Math.round(needed / MIB_BYTES) === Math.round(available / MIB_BYTES) ? KIB_BYTES : MIB_BYTES;
    const [part, whole] = [Math.round(needed / unit), Math.round(available / unit)];
    return t("amountOf", { part, whole, unit: unit === MIB_BYTES ? "MiB" : "KiB" });
  }

  /** A duration in its one or two largest units: "2 minutes", "1 hour 5 minutes". */
  function duration(seconds: number): string {
    // 59.5 would round to "60 seconds".
    if (seconds < MINUTE_SECONDS - 0.5) {
      return units(Math.max(1, Math.round(seconds)), "second");
    }
    const minutes = Math.round(seconds / MINUTE_SECONDS);
    if (minutes < 60) {
      return units(minutes, "minute");
    }
    if (seconds < DAY_SECONDS) {
      const hours = Math.floor(minutes / 60);
      const rest = minutes % 60;
      const whole = units(hours, "hour");
      return rest === 0 || hours >= 10 ? whole : list.format([whole, units(rest, "minute")]);
    }
    return units(Math.round(seconds / DAY_SECONDS), "day");
  }

  /** A count as the Hub shows it: 987, 12.3k, 1.2M. */
  function count(value: number): string {
    return compact.format(value).replace("K", "k");
  }

  /** Number of parameters, which people write alike in all languages: 135M, 7.6B. */
  function parameters(value: number): string {
    const [scaled, suffix] =
      value < 1000
        ? [value, ""]
        : value < 999_500
          ? [value / 1e3, "K"]
          : value < 999_500_000
            ? [value / 1e6, "M"]
            : [value / 1e9, "B"];
    return `${plain.format(Number(scaled.toFixed(scaled < 100 ? 1 : 0)))}${suffix}`;
  }

  /** A context length: 512, 8K, 128K, 1M. */
  function tokens(value: number): string {
    if (value >= 1024 ** 2 && value % 1024 ** 2 === 0) {
      return `${value / 1024 ** 2}M`;
    }
    if (value >= 1024 && value % 1024 === 0) {
      return `${value / 1024}K`;
    }
    return value < 10_000 ? String(value) : `${Math.round(value / 1000)}K`;
  }

  /** A moment in the past, roughly: "today", "3 days ago", "2 years ago". */
  function ago(iso: string, now: number = Date.now()): string | null {
    const then = Date.parse(iso);
    if (Number.isNaN(then)) {
      return null;
    }
    const days = Math.floor((now - then) / 1000 / DAY_SECONDS);
    if (days < 1) {
      return t("today");
    }
    if (days < 31) {
      return relative.format(-days, "day");
    }
    if (days < 365) {
      return relative.format(-Math.floor(days / 30.44), "month");
    }
    return relative.format(-(Math.floor(days / 365.25) || 1), "year");
  }

  /** The same for seconds since the epoch. */
  const since = (seconds: number): string => ago(new Date(seconds * 1000).toISOString()) ?? "";

  /** Seconds as a countdown: "4 s". */
  function seconds(value: number): string {
    return value < MINUTE_SECONDS ? `${Math.max(0, Math.ceil(value))} s` : duration(value);
  }

  /** A whole number, or one with two digits after the point. */
  const number = (value: number): string => plain.format(value);

  return {
    number,
    fixed,
    speed,
    fileSize,
    received,
    rate,
    gib,
    memoryOf,
    duration,
    count,
    parameters,
    tokens,
    ago,
    since,
    seconds,
  };
}
