import type { BuildOptions } from "esbuild";

export const OWN_NAMES: readonly string[];
export function here(path: string): string;
export function buildOptions(options?: { entry?: string; minify?: boolean }): BuildOptions;

export function translationsText(): Promise<string>;
