// Builds the widget: one ES module with its CSS inside, where hatchling finds it.
//   node build.mjs            minified
//   node build.mjs --watch    readable, rebuilt on every change
//   node build.mjs --harness  serves the harness page instead (PORT, else 5199)
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const harness = process.argv.includes("--harness");
const watch = process.argv.includes("--watch");

/** Imports of `.css` become the (minified) text of the file. */
const cssText = {
  name: "css-text",
  setup(build) {
    build.onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      const { code } = await esbuild.transform(source, { loader: "css", minify: !watch, target: "es2022" });
      return { contents: code, loader: "text" };
    });
  },
};

const options = {
  entryPoints: [here("src/widget.tsx")],
  outfile: here("../src/modeldeck/widget/static/widget.js"),
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: !watch,
  charset: "utf8",
  legalComments: "none",
  logLevel: "info",
  // A host's AMD loader must not catch a dependency's UMD wrapper.
  define: { "define.amd": "false" },
  plugins: [cssText],
};

if (harness) {
  const { outfile, ...rest } = options;
  const entryPoints = [here("harness/main.ts")];
  const context = await esbuild.context({ ...rest, entryPoints, outdir: here("harness"), write: false });
  const { port } = await context.serve({
    servedir: here("harness"),
    host: "127.0.0.1",
    port: Number(process.env.PORT ?? 5199),
  });
  console.log(`http://127.0.0.1:${port}/`);
} else if (watch) {
  const context = await esbuild.context(options);
  await context.watch();
} else {
  await esbuild.build(options);
}
