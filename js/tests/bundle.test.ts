// @vitest-environment node
import { build } from "esbuild";
import { expect, it } from "vitest";
import { buildOptions, OWN_NAMES } from "../build-options.mjs";

/** Of 109 KiB, the search, cards and lists of files are 21, Preact with its signals and what they need 21, the styles 12,
 * library and downloads 10, the English texts 8, load options, chat, account and cluster 8, and what they share 28. */
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

it("shortens only names that are in no data and no string", () => {
  const sources = import.meta.glob("../src/**/*.{ts,tsx}", { query: "?raw", import: "default", eager: true });
  for (const name of OWN_NAMES) {
    expect(sources["../src/wire.ts"], name).not.toMatch(new RegExp(`\\b${name}\\b`));
    for (const [path, source] of Object.entries(sources)) {
      expect(source, `${name} in ${path}`).not.toMatch(new RegExp(`["'\`]${name}["'\`]`));
    }
  }
});

it("draws what it is told as text, never as HTML", () => {
  const sources = import.meta.glob("../src/**/*.{ts,tsx}", { query: "?raw", import: "default", eager: true });
  expect(Object.keys(sources).length).toBeGreaterThan(20);
  for (const [path, source] of Object.entries(sources)) {
    expect(source, path).not.toMatch(/innerHTML|outerHTML|insertAdjacent|document\.write|eval\(/i);
  }
});
