// @vitest-environment node
import { build } from "esbuild";
import { expect, it } from "vitest";
import { buildOptions } from "../build-options.mjs";

/** 55 KiB are the browser of models, 10 KiB Preact with its signals, 7 KiB the texts of the page in two languages, and
 * 8 KiB what Python says in Portuguese. The rest is for the library, the filters and the model cards. */
const MAX_BYTES = 110 * 1024;

it("is one small module that loads nothing from anywhere", async () => {
  const { outputFiles = [] } = await build({ ...buildOptions(), write: false, outdir: "out" });
  expect(outputFiles).toHaveLength(1);
  const [file] = outputFiles;
  expect(file?.contents.byteLength).toBeLessThanOrEqual(MAX_BYTES);
  const code = file?.text ?? "";
  expect(code.slice(-60)).toMatch(/export\{[\w$]+ as default\};?\s*$/);
  expect(code.match(/\bimport\s*[({"'*]/g)).toBeNull();
  // The namespaces of SVG and MathML are names, not places.
  const addresses = code.match(/https?:\/\/[^"'`)\s]*/g) ?? [];
  expect(addresses.filter((address) => !address.startsWith("http://www.w3.org/"))).toEqual([]);
});

it("draws what it is told as text, never as HTML", () => {
  const sources = import.meta.glob("../src/**/*.{ts,tsx}", { query: "?raw", import: "default", eager: true });
  expect(Object.keys(sources).length).toBeGreaterThan(20);
  for (const [path, source] of Object.entries(sources)) {
    expect(source, path).not.toMatch(/innerHTML|outerHTML|insertAdjacent|document\.write|eval\(/i);
  }
});
