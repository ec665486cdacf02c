interface ImportMeta {
  /** Vite's: the texts of the files that match. */
  glob(pattern: string, options: { query: "?raw"; import: "default"; eager: true }): Record<string, string>;
}
