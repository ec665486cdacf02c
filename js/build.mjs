// Builds the widget: one ES module with its CSS inside, where hatchling finds it.
//   node build.mjs            minified
//   node build.mjs --watch    readable, rebuilt on every change
//   node build.mjs --harness  serves the harness page instead (PORT, else 5199)

import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import * as esbuild from "esbuild";
import { buildOptions, here, translationsText } from "./build-options.mjs";

const outfile = here("../src/modeldeck/widget/static/widget.js");

if (process.argv.includes("--harness")) {
  const context = await esbuild.context({
    ...buildOptions({ entry: "harness/main.ts" }),
    outdir: here("harness"),
    write: false,
  });
  const { port } = await context.serve({
    servedir: here("harness"),
    host: "127.0.0.1",
    port: Number(process.env.PORT ?? 5199),
  });
  console.log(`http://127.0.0.1:${port}/`);
} else if (process.argv.includes("--watch")) {
  await writeTranslations();
  const context = await esbuild.context({ ...buildOptions({ minify: false }), outfile, logLevel: "info" });
  await context.watch();
} else {
  await writeTranslations();
  await esbuild.build({ ...buildOptions(), outfile, logLevel: "info" });
}

async function writeTranslations() {
  await mkdir(dirname(outfile), { recursive: true });
  await writeFile(here("../src/modeldeck/widget/static/texts.json"), await translationsText());
}
