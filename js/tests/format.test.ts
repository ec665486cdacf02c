import { describe, expect, it } from "vitest";
import { languageOf } from "../src/texts/language";

const { format, t } = languageOf("en");

describe("fileSize", () => {
  it.each([
    [0, "0 bytes"],
    [999, "999 bytes"],
    [1000, "1 KB"],
    [105_454_432, "105 MB"],
    [999_499_999, "999 MB"],
    [999_600_000, "1 GB"],
    [4_683_074_240, "4.68 GB"],
    [15_237_853_184, "15.2 GB"],
    [1_340_000_000_000, "1.34 TB"],
    [null, "size unknown"],
  ])("%s is %s", (bytes, text) => {
    expect(format.fileSize(bytes)).toBe(text);
  });
});

describe("received", () => {
  it.each([
    [1_214_000_000, 4_683_074_240, "1.2 of 4.7 GB"],
    [0, 4_683_074_240, "0.0 of 4.7 GB"],
    [50_000_000, 105_454_432, "50 of 105 MB"],
    [900, null, "900 bytes"],
    [5_000_000_000, 4_683_074_240, "4.7 of 4.7 GB"],
  ])("%s of %s is %s", (bytes, total, text) => {
    expect(format.received(bytes, total)).toBe(text);
  });
});

it.each([
  [31_400_000, "31 MB/s"],
  [1_240_000, "1.2 MB/s"],
  [812, "0.8 KB/s"],
  [1_300_000_000, "1.3 GB/s"],
])("rate of %s is %s", (value, text) => {
  expect(format.rate(value)).toBe(text);
});

it.each([
  [0.2, "1 second left"],
  [45, "45 seconds left"],
  [59.7, "1 minute left"],
  [118, "2 minutes left"],
  [3600, "1 hour left"],
  [3900, "1 hour 5 minutes left"],
  [40_000, "11 hours left"],
  [90_000, "1 day left"],
])("%s seconds are %s", (value, text) => {
  expect(t("timeLeft", { time: format.duration(value) })).toBe(text);
});

it.each([
  [0, "0"],
  [987, "987"],
  [9120, "9.1k"],
  [310_554, "311k"],
  [99_960, "100k"],
  [999_499, "999k"],
  [999_500, "1M"],
  [999_960, "1M"],
  [1_204_332, "1.2M"],
  [2_500_000_000, "2.5B"],
])("count of %s is %s", (value, text) => {
  expect(format.count(value)).toBe(text);
});

it("speaks of parameters and contexts as model cards do", () => {
  expect(format.parameters(134_515_008)).toBe("135M");
  expect(format.parameters(999_885_952)).toBe("1B");
  expect(format.parameters(7_615_616_512)).toBe("7.6B");
  expect(format.tokens(512)).toBe("512");
  expect(format.tokens(8192)).toBe("8K");
  expect(format.tokens(1_048_576)).toBe("1M");
  expect(format.tokens(200_000)).toBe("200K");
});

it("gives memory in GiB", () => {
  expect(format.gib(1.9 * 2 ** 30)).toBe("1.9");
  expect(format.gib(2 ** 20)).toBe("under 0.1");
  expect(format.gib(0)).toBe("0.0");
});

it.each([
  ["2026-11-23T09:00:00Z", "today"],
  ["2026-11-22T08:00:00Z", "1 day ago"],
  ["2026-09-20T08:00:00Z", "2 months ago"],
  ["2025-11-23T08:00:00Z", "1 year ago"],
  ["2023-01-01T08:00:00Z", "3 years ago"],
  ["not a date", null],
])("%s is %s", (iso, text) => {
  expect(format.ago(iso, Date.parse("2026-11-23T12:00:00Z"))).toBe(text);
});
