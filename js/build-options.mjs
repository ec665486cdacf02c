// How the widget's sources become one ES module.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

export const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** In the bundle, the custom properties of our own style sheet have short names. Those with a prefix are of hosts. */
const shortVariables = (css) => {
  const names = [...new Set(css.match(/--(?!jp-|vscode-|modeldeck-)[a-z][\w-]*/g))];
  return css.replace(/--[a-z][\w-]*/g, (name) =>
    names.includes(name) ? `--${names.indexOf(name).toString(36)}` : name,
  );
};

/** Properties of our own objects, whose names are in no data, in no library and not in the DOM: short in the bundle. */
export const OWN_NAMES = [
  ..."isOff isWaiting isUsable isUnfolded isAmbiguous isRecommended repoId variantId fileSize memoryOf".split(" "),
  ..."fitsOnly localOnly loadError loadKey openRows historyRows strayRows shownKeys pickKeys".split(" "),
  ..."setUnfolded setContext setAbout searchMore rememberSearch dismissError languageName".split(" "),
  ..."connection commitHash acknowledge askPlan planOf markStatic showJobs onToast hasLock canLoad".split(" "),
  ..."rowsOf refusedRow refine abandon beside commId isInCard isFirst isHeld isWarning onLost".split(" "),
  ..."store downloadTone onDismiss onRetry onValue onAnswer onSure onChoose".split(" "),
];

/** Imports of `.css` become the text of the file. */
const cssText = (minify) => ({
  name: "css-text",
  setup(build) {
    build.onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      const { code } = await esbuild.transform(minify ? shortVariables(source) : source, {
        loader: "css",
        minify,
        target: "es2022",
      });
      return { contents: code.trim(), loader: "text" };
    });
  },
});

/** Read the table that a module of texts exports. */
async function readTable(path) {
  const { code } = await esbuild.transform(await readFile(path, "utf8"), { loader: "ts", format: "esm" });
  return Object.values(await import(`data:text/javascript,${encodeURIComponent(code)}`))[0];
}

/** Names of texts that cannot be anything else: `loadMore`, but not `load`, which is a request too. */
const isLongName = (name) => /^[a-z]+[A-Z]\w*$/.test(name);

/** In the bundle, long names of texts are short. */
const shortTexts = {
  name: "short-texts",
  setup(build) {
    const english = readTable(here("src/texts/en.ts"));
    const short = (name, index) => (isLongName(name) ? `$${index.toString(36)}` : name);
    build.onLoad({ filter: /[\\/]src[\\/].*\.tsx?$/ }, async ({ path }) => {
      const texts = Object.entries(await english);
      const loader = path.endsWith("x") ? "tsx" : "ts";
      if (path === here("src/texts/en.ts")) {
        const table = Object.fromEntries(texts.map(([name, text], index) => [short(name, index), text]));
        return { contents: `export const EN = ${JSON.stringify(table)};`, loader };
      }
      const names = new Map(texts.map(([name], index) => [name, short(name, index)]));
      const source = await readFile(path, "utf8");
      return { contents: source.replace(/(?<=")\w+(?=")/g, (name) => names.get(name) ?? name), loader };
    });
  },
};

/** @returns {esbuild.BuildOptions} */
export function buildOptions({ entry = "src/widget.tsx", minify = true } = {}) {
  return {
    entryPoints: [here(entry)],
    bundle: true,
    format: "esm",
    target: "es2022",
    // The classic transform: children as arguments are 1.5 KB shorter than as properties.
    jsx: "transform",
    jsxFactory: "h",
    jsxFragment: "Fragment",
    inject: [here("jsx-shim.mjs")],
    tsconfigRaw: "{}",
    minify,
    charset: "utf8",
    legalComments: "none",
    // A host's AMD loader must not catch a dependency's UMD wrapper.
    define: { "define.amd": "false" },
    ...(minify ? { mangleProps: new RegExp(`^(?:${OWN_NAMES.join("|")})$`) } : {}),
    plugins: [cssText(minify), ...(minify ? [shortTexts] : [])],
  };
}

/** The other languages, as JSON that Python sends with the state of a widget. */
export async function translationsText() {
  const texts = Object.values(await readTable(here("src/texts/pt-BR.ts")));
  return JSON.stringify({ "pt-BR": { texts, python: await readTable(here("src/texts/python.pt-BR.ts")) } });
}
