import { expect, it } from "vitest";
import { estimate, job, load, model, variant } from "../harness/samples";
import {
  describeFit,
  describeJob,
  describeMeasured,
  describeMemory,
  describeSpeed,
  describeStage,
} from "../src/describe";
import { isKept, mayFit } from "../src/fits";
import { endpointName, repoPage, safeLink } from "../src/links";
import { share } from "../src/share";
import { languageOf } from "../src/texts/language";

const ENGLISH = languageOf("en");

const MIB = 2 ** 20;
const GIB = 2 ** 30;

it.each([
  [estimate(), "fits: 1.9 of 7.2 GiB at 4096 tokens"],
  [estimate({ method: "size" }), "fits: about 1.9 of 7.2 GiB at 4096 tokens"],
  [estimate({ needed_bytes: null }), "fits"],
  [estimate({ verdict: "partial", n_gpu_layers: 20 }), "partly: 20 layers on the GPU"],
  [estimate({ verdict: "partial", n_gpu_layers: 1 }), "partly: 1 layer on the GPU"],
  [estimate({ verdict: "partial" }), "partly: 1.9 of 7.2 GiB at 4096 tokens"],
  [
    estimate({ verdict: "too_large", needed_bytes: 9 * GIB, max_n_ctx: null }),
    "too large: 9.0 of 7.2 GiB at 4096 tokens",
  ],
  [
    estimate({ verdict: "too_large", needed_bytes: 9 * GIB, max_n_ctx: 2048 }),
    "too large: 9.0 of 7.2 GiB at 4096 tokens, fits up to 2048",
  ],
  [
    estimate({ verdict: "too_large", needed_bytes: 200 * MIB, available_bytes: 210 * MIB, reserve_bytes: 13 * MIB }),
    "too large: 213 of 210 MiB at 4096 tokens, fits up to 32,768",
  ],
  [
    estimate({ verdict: "too_large", needed_bytes: 7.21 * GIB, available_bytes: 7.2 * GIB, max_n_ctx: null }),
    "too large: 7383 of 7373 MiB at 4096 tokens",
  ],
  [estimate({ verdict: "unknown", needed_bytes: null }), "fit unknown"],
  [estimate({ verdict: "unusable", needed_bytes: null }), "not usable"],
])("fit %#", (fit, text) => {
  expect(describeFit(fit, ENGLISH)).toBe(text);
});

it.each([
  [job(), "1.2 of 4.7 GB, 31 MB/s, 2 minutes left"],
  [job({ rate: null, eta_seconds: null }), "1.2 of 4.7 GB"],
  [job({ retry_in_seconds: 3.4, attempt: 1 }), "1.2 of 4.7 GB, retrying in 4 s"],
  [job({ retry_in_seconds: 3.4, attempt: 3 }), "1.2 of 4.7 GB, retrying in 4 s (attempt 3)"],
  [job({ is_stalled: true }), "1.2 of 4.7 GB, stalled, no data received"],
  [job({ state: "queued" }), "Waiting in the queue"],
  [job({ state: "resolving" }), "Contacting the Hub"],
  [job({ state: "verifying" }), "Checking the sha256, 1.2 of 4.7 GB"],
  [job({ state: "paused" }), "Paused, 1.2 of 4.7 GB"],
  [job({ state: "failed" }), "Failed, 1.2 of 4.7 GB"],
  [job({ state: "failed", received: 0 }), "Failed"],
])("job %#", (state, text) => {
  expect(describeJob(state, ENGLISH).join(", ")).toBe(text);
});

it.each([
  [12.3, "estimated", "about 12 tokens/s"],
  [8.4, "calibrated", "about 8 tokens/s"],
  [0.44, "estimated", "about 0.4 tokens/s"],
  [62.4, "measured", "62 tokens/s last time"],
] as const)("speed %s, %s", (tokensPerSecond, source, text) => {
  expect(describeSpeed(tokensPerSecond, source, ENGLISH)).toBe(text);
});

it("names the stage of a load, with its percent where it is known", () => {
  expect(describeStage(load({ state: "loading", stage: "loading", fraction: 0.429 }), ENGLISH)).toBe(
    "Loading the weights, 42 %",
  );
  expect(describeStage(load({ state: "loading", stage: "opening" }), ENGLISH)).toBe("Opening the file");
});

it("shows the memory of GPUs and RAM, and nothing it does not know", () => {
  const gpus = [{ name: "RTX 4090", total: 24 * GIB, free: 6 * GIB }];
  expect(
    describeMemory({ ram_total: 16 * GIB, ram_available: null, gpus, notice: null, notice_code: null }, ENGLISH),
  ).toEqual([
    { name: "RTX 4090", text: "6.0 of 24.0 GiB free", used: 0.75 },
    { name: "RAM", text: "16.0 GiB", used: null },
  ]);
  expect(
    describeMemory({ ram_total: null, ram_available: 1, gpus: [], notice: null, notice_code: null }, ENGLISH),
  ).toEqual([]);
});

it("hides only what cannot fit", () => {
  const gpus = [{ name: "g", total: 8 * GIB, free: 2 * GIB }];
  const hardware = { ram_total: 8 * GIB, ram_available: 4 * GIB, gpus, notice: null, notice_code: null };
  expect(mayFit(model("a/b", { parameter_count: 12e9 }), hardware)).toBe(true);
  expect(mayFit(model("a/b", { parameter_count: 14e9 }), hardware)).toBe(false);
  expect(mayFit(model("a/b", { parameter_count: null }), hardware)).toBe(true);
  expect(mayFit(model("a/b", { parameter_count: 14e9 }), null)).toBe(true);
  const tooLarge = estimate({ verdict: "too_large" });
  expect(isKept(variant("Q4", { fit: tooLarge }))).toBe(false);
  expect(isKept(variant("Q4", { fit: tooLarge, state: "downloaded" }))).toBe(true);
  expect(isKept(variant("Q4", { fit: estimate({ verdict: "unusable" }) }))).toBe(false);
  expect(isKept(variant("Q4", { fit: estimate({ verdict: "unknown" }) }))).toBe(true);
  expect(isKept(variant("Q4", { fit: null }))).toBe(true);
});

it.each([
  ["https://huggingface.co/a/b", "https://huggingface.co/a/b"],
  ["http://127.0.0.1:8000/a", "http://127.0.0.1:8000/a"],
  ["http://localhost/a", "http://localhost/a"],
  ["http://huggingface.co/a", null],
  ["javascript:alert(1)", null],
  ["data:text/html,x", null],
  ["https://user:secret@host/", null],
  ["//host", null],
  [42, null],
  [undefined, null],
])("a link to %s is %s", (address, url) => {
  expect(safeLink(address)).toBe(url);
});

it("makes the address of a repository and the name of an endpoint", () => {
  expect(repoPage("https://huggingface.co/", "a/b?c")).toBe("https://huggingface.co/a/b%3Fc");
  expect(endpointName("http://127.0.0.1:8451/")).toBe("127.0.0.1:8451");
});

it("shares what has not changed", () => {
  const before = {
    jobs: [
      { id: 1, nested: { a: 1 } },
      { id: 2, nested: { a: 2 } },
    ],
    gone: 1,
  };
  const after = share(before, {
    jobs: [
      { id: 1, nested: { a: 1 } },
      { id: 2, nested: { a: 3 } },
    ],
  });
  expect(after).toEqual({
    jobs: [
      { id: 1, nested: { a: 1 } },
      { id: 2, nested: { a: 3 } },
    ],
  });
  expect(after.jobs[0]).toBe(before.jobs[0]);
  expect(after.jobs[1]).not.toBe(before.jobs[1]);
  expect(share(before, structuredClone(before))).toBe(before);
  expect(share([1, 2], [1])).toEqual([1]);
  expect(share({ a: undefined }, { b: undefined })).toEqual({ b: undefined });
  expect(share(null, { a: 1 })).toEqual({ a: 1 });
  expect(share([], {})).toEqual({});
});

it.each([
  [62.4, 0.31, "62 tokens/s, loaded in 0.3 s last time"],
  [4.06, 12.5, "4.1 tokens/s, loaded in 12.5 s last time"],
])("tells what %s tokens a second and %s s were", (tokens_per_second, load_seconds, words) => {
  expect(describeMeasured({ tokens_per_second, load_seconds }, ENGLISH)).toBe(words);
});
