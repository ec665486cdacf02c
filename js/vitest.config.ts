import { readFile } from "node:fs/promises";
import { defineConfig } from "vitest/config";

export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [
    {
      name: "css-text",
      enforce: "pre",
      async load(id) {
        if (id.endsWith(".css")) {
          return `export default ${JSON.stringify(await readFile(id, "utf8"))}`;
        }
      },
    },
  ],
  test: {
    environment: "happy-dom",
    include: ["tests/**/*.test.{ts,tsx}"],
    setupFiles: "tests/setup.ts",
    restoreMocks: true,
  },
});
